"""upstream.ca_file: whom it names is trusted, for traffic and session calls alike, and it is followed."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpServer
from structlog.testing import capture_logs

from proxy.watched_files import CaWatch
from tests.cardcash import CardCash
from tests.conftest import StartProxy
from tests.server.harness import Running, until


@pytest.fixture(scope="module")
def authorities() -> tuple[trustme.CA, trustme.CA]:
    return trustme.CA(), trustme.CA()


@pytest.fixture
async def origin(authorities: tuple[trustme.CA, trustme.CA], aiohttp_server: AiohttpServer) -> str:
    """CardCash, with a certificate of the second authority; every answer ends its connection."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authorities[1].issue_cert("localhost").configure_cert(tls)
    cardcash = CardCash()

    async def once(_: web.Request, answer: web.StreamResponse) -> None:
        answer.force_close()

    app = cardcash.application()
    app.on_response_prepare.append(once)
    server = await aiohttp_server(app, ssl=tls)
    return f"https://localhost:{server.port}"


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.app.POLL_EVERY", 0.02)
    monkeypatch.setattr("proxy.session.call_sender.FIRST_WAIT", 0.01)


def pem(authority: trustme.CA) -> bytes:
    return authority.cert_pem.bytes()


async def works(proxy: Running) -> tuple[bool, bool]:
    """Say whether session calls and traffic reach CardCash."""
    renewed = await proxy.admin.ask("POST /session/renew")
    return renewed.status == 200, (await proxy.ask("GET /merchants/buy")).status == 200


@pytest.mark.parametrize("how", ["written over", "put in its place", "behind a link"])
async def test_a_new_bundle_is_trusted_without_a_restart_and_the_old_one_no_more(
    authorities: tuple[trustme.CA, trustme.CA],
    origin: str,
    start_proxy: StartProxy,
    tmp_path: Path,
    how: str,
) -> None:
    file = tmp_path / "ca.pem"

    def trust(authority: trustme.CA) -> None:
        if how == "written over":
            file.write_bytes(pem(authority))
            return
        new = tmp_path / f"new-{pem(authority)[40:50].hex()}.pem"
        new.write_bytes(pem(authority))
        if how == "behind a link":
            link = tmp_path / "link"
            link.symlink_to(new)
            new = link
        new.replace(file)

    trust(authorities[0])
    proxy = await start_proxy(origin=origin, UPSTREAM__CA_FILE=str(file))
    assert await works(proxy) == (False, False)
    with capture_logs() as lines:
        trust(authorities[1])
        await until(lambda: any(line["event"] == "ca_changed" for line in lines))
        assert await works(proxy) == (True, True)
        trust(authorities[0])
        await until(lambda: sum(line["event"] == "ca_changed" for line in lines) == 2)
    assert (await proxy.ask("GET /merchants/buy")).code == "upstream_unreachable"
    assert (await proxy.admin.ask("POST /session/renew")).status == 503


@pytest.mark.parametrize("spoilt", [b"", b"half of a certificate", None], ids=["empty", "no PEM", "gone"])
async def test_a_bundle_that_cannot_be_used_leaves_the_last_good_one_and_is_told_of_once(
    authorities: tuple[trustme.CA, trustme.CA],
    origin: str,
    start_proxy: StartProxy,
    tmp_path: Path,
    spoilt: bytes | None,
) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(pem(authorities[1]))
    proxy = await start_proxy(origin=origin, UPSTREAM__CA_FILE=str(file))
    with capture_logs() as lines:
        if spoilt is None:
            file.unlink()
        else:
            file.write_bytes(spoilt)
        await until(lambda: any(line["event"] == "ca_file_unreadable" for line in lines))
        assert await works(proxy) == (True, True)
        file.write_bytes(pem(authorities[1]) + b"# a comment \xc3\xa9\n")
        await until(lambda: any(line["event"] == "ca_changed" for line in lines))
    told = [line["event"] for line in lines if line["event"].startswith("ca_")]
    assert told == ["ca_file_unreadable", "ca_changed"]
    assert await works(proxy) == (True, True)


async def test_a_bundle_that_cannot_be_used_at_the_start_is_one_sentence(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for path in (empty, tmp_path / "absent.pem"):
        with pytest.raises(ValueError, match=r"\AThe CA file .*\.\Z"):
            CaWatch(path)
