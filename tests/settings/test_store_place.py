"""Where the Redis is follows its files; what cannot be used leaves the last good value, with one warning."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs

from proxy.core.secret import Secret
from proxy.core.store_url import StoreUrl
from proxy.session.stores.redis.connection import connect
from proxy.settings import Settings, SettingsError, describe, load_settings
from proxy.store_place import StorePlace, store_file
from proxy.watched_files import SecretsWatch
from tests.session.redis.servers import Tls


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return Tls(tmp_path / "tls")


def loaded(**session: object) -> Settings:
    given = {f"CARDCASH_SESSION__{name.upper()}": str(value) for name, value in session.items()}
    return load_settings(environ={"CARDCASH_APP_ID": "x", **given})


def placed(**session: object) -> tuple[StorePlace, SecretsWatch]:
    settings = loaded(**session)
    assert isinstance(settings.session.store, StoreUrl)
    secrets = SecretsWatch(settings)
    return StorePlace(settings, settings.session.store, secrets), secrets


async def test_a_url_in_a_file_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("redis://:one@h\n")
    place, _ = placed(store_file=file)
    before = place()
    await place.look()
    assert place() is before
    file.write_text("rediss://:two@h2\n")
    await place.look()
    assert (place().url.password, place().url.hosts, place().url.tls) == (Secret("two"), (("h2", 6379),), True)
    assert place().tls is not None


@pytest.mark.parametrize("content", ["", "hush://h", "redis://me:hush@h:x", "memory://", "redis://a\nredis://b"])
async def test_a_url_that_is_none_changes_nothing(tmp_path: Path, content: str) -> None:
    file = tmp_path / "url"
    file.write_text("redis://:one@h")
    place, _ = placed(store_file=file)
    before = place()
    file.write_text(content)
    await place.look()
    assert place() is before


async def test_secrets_are_followed(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("old\n")
    place, secrets = placed(store="redis://h", store_secret_file=file)
    assert place().secrets == (Secret("old"),)
    file.write_text("new\nold\n")
    await secrets.look()
    await place.look()
    assert place().secrets == (Secret("new"), Secret("old"))


async def test_a_common_name_alone_is_no_name_of_a_redis(tmp_path: Path) -> None:
    authority, ca = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    for certificate, accepted in (
        (authority.issue_cert("localhost"), True),
        (authority.issue_cert(common_name="localhost"), False),
    ):
        server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(server_side)
        async with await asyncio.start_server(
            lambda _, writer: writer.close(), "localhost", 0, ssl=server_side
        ) as server:
            port = server.sockets[0].getsockname()[1]
            place, _ = placed(store=f"rediss://localhost:{port}", store_ca_file=ca)
            with contextlib.nullcontext() if accepted else pytest.raises(ssl.SSLCertVerificationError):
                (await connect(place(), ("localhost", port))).abort()


async def test_an_authority_is_followed(tmp_path: Path, tls: Tls) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(tls.ca.read_bytes())
    place, _ = placed(store="rediss://h", store_ca_file=file)
    first = place().tls
    assert isinstance(first, ssl.SSLContext)
    assert (first.minimum_version, first.check_hostname) == (ssl.TLSVersion.TLSv1_2, True)
    assert not first.hostname_checks_common_name
    await place.look()
    assert place().tls is first
    file.write_text("half a")
    await place.look()
    assert place().tls is first
    file.write_bytes(Tls(tmp_path / "other").ca.read_bytes())
    await place.look()
    assert place().tls is not first


@pytest.mark.parametrize("emptied", ["ca", "client_cert"])
async def test_an_emptied_file_does_not_mean_that_there_is_none(tmp_path: Path, tls: Tls, emptied: str) -> None:
    files = {name: tmp_path / name for name in ("ca", "client_cert", "client_key")}
    for name, file in files.items():
        file.write_bytes(getattr(tls, name).read_bytes())
    place, _ = placed(
        store="rediss://h",
        store_ca_file=files["ca"],
        store_cert_file=files["client_cert"],
        store_cert_key_file=files["client_key"],
    )
    first = place().tls
    files[emptied].write_bytes(b"")
    await place.look()
    assert place().tls is first


async def test_a_certificate_is_taken_with_its_own_key_only(tmp_path: Path, tls: Tls) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(tls.client_cert.read_bytes())
    key.write_bytes(tls.client_key.read_bytes())
    place, _ = placed(store="rediss://h", store_cert_file=cert, store_cert_key_file=key)
    first = place().tls
    other = Tls(tmp_path / "other")
    cert.write_bytes(other.client_cert.read_bytes())
    await place.look()
    assert place().tls is first
    key.write_bytes(other.client_key.read_bytes())
    await place.look()
    assert place().tls is not first


@pytest.mark.parametrize(
    ("session", "sentence"),
    [
        ({"store": "redis://h", "store_ca_file": "<ca>"}, "is for TLS"),
        ({"store": "memory://", "store_ca_file": "<ca>"}, "is for TLS"),
        ({"store": "rediss://h", "store_cert_file": "<client_cert>"}, "store_cert_key_file is missing"),
        ({"store": "rediss://h", "store_cert_key_file": "<client_key>"}, "store_cert_file is missing"),
        (
            {"store": "rediss://h", "store_cert_file": "<client_cert>", "store_cert_key_file": "<key>"},
            "no certificate, or not with its own key",
        ),
        (
            {"store": "rediss://h", "store_cert_file": "<client_cert>", "store_cert_key_file": "/nowhere/key.pem"},
            "cannot be read: No such file",
        ),
        ({"store": "redis://h", "store_secret": "\n"}, None),
    ],
)
def test_what_does_not_go_together_is_a_fault(tls: Tls, session: dict[str, str], sentence: str | None) -> None:
    paths = {f"<{name}>": str(getattr(tls, name)) for name in ("ca", "key", "client_cert", "client_key")}
    given = {name: paths.get(value, value) for name, value in session.items()}
    if sentence is None:
        assert loaded(**given).session.store_secret is None
        return
    with pytest.raises(SettingsError, match=sentence):
        loaded(**given)


def test_check_shows_where_a_redis_is_and_not_as_whom_it_is_used() -> None:
    assert "store: redis://********@h:6379/2\n" in describe(loaded(store="redis://me:hush@h/2"))
    assert "store: redis://h:6379\n" in describe(loaded(store="redis://h"))


def test_a_password_is_no_flag() -> None:
    with pytest.raises(SettingsError, match="can be read by others") as caught:
        load_settings(environ={"CARDCASH_APP_ID": "x"}, flags={"session.store": "redis://:hush@h"})
    assert "hush" not in str(caught.value)
    flags = {"session.store": "redis://h"}
    assert load_settings(environ={"CARDCASH_APP_ID": "x"}, flags=flags).session.store == StoreUrl((("h", 6379),))


def looks_at(settings: Settings) -> Callable[[], Awaitable[object]]:
    """Return what looks at `session.store_file`, whatever kind of store it holds."""
    url, file = settings.session.store, settings.session.store_file
    assert file is not None
    if isinstance(url, StoreUrl):
        return StorePlace(settings, url, SecretsWatch(settings)).look
    return store_file(file, url).look


@pytest.mark.parametrize(
    ("held", "new"),
    [
        ("file:///held", "file:///new"),
        ("file:///held", "memory://"),
        ("memory://", "file:///new"),
        ("memory://", "redis://me:hush@h"),
        ("file:///held", "rediss://me:hush@h"),
        ("redis://me:hush@h", "file:///new"),
        ("redis+sentinel://me:hush@h/m", "memory://"),
    ],
)
async def test_another_kind_of_store_or_another_file_is_told_once_to_need_a_restart(
    tmp_path: Path, held: str, new: str
) -> None:
    file = tmp_path / "url"
    file.write_text(held)
    look = looks_at(loaded(store_file=file))
    with capture_logs() as lines:
        await look()
        assert lines == []
        file.write_text(new)
        for _ in range(3):
            await look()
    (line,) = lines
    assert (line["log_level"], line["event"], line["setting"]) == ("warning", "secret_file_unreadable", "session.store")
    assert "restart" in line["reason"]
    assert "hush" not in str(line)


async def test_another_kind_of_store_that_is_taken_back_and_put_again_is_told_again(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("memory://")
    look = looks_at(loaded(store_file=file))
    with capture_logs() as lines:
        for content in ("file:///new", "memory://\n", "file:///new"):
            file.write_text(content)
            await look()
    assert [line["event"] for line in lines] == ["secret_file_unreadable"] * 2


@pytest.mark.parametrize("held", ["memory://", "file:///held", "redis://h"])
async def test_what_is_no_store_at_all_is_told_whatever_is_held(tmp_path: Path, held: str) -> None:
    file = tmp_path / "url"
    file.write_text(held)
    look = looks_at(loaded(store_file=file))
    file.write_text("hush://h")
    with capture_logs() as lines:
        await look()
    assert [(line["event"], line["setting"]) for line in lines] == [("secret_file_unreadable", "session.store")]
    assert "hush" not in str(lines)
