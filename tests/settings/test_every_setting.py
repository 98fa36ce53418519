"""Every setting does something that is seen from outside, with one process and with several workers.

`PROOFS` has an entry for each setting of the catalogue: what it is changed to, what is then looked at, what is seen when
it is as usual and when it is changed. Proofs of one group are changed together, in one proxy, and looked at in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from proxy.core.secret import Secret
from proxy.session.stores import Binding
from proxy.session.stores.redis.vault import Vaults
from proxy.settings import SettingsError
from proxy.settings.model import leaves
from tests.server.harness import APP_ID, REJECTION, Peer, Truncated
from tests.settings.scene import A_WHILE, KEY, LONG, Scene, around, customer, scene
from tests.whole.processes import TERM

#: Settings that all proofs of a group have in common.
COMMON: dict[str, dict[str, str]] = {
    "callers": {"LOGIN__EMAIL": "usual@example.com", "LOGIN__PASSWORD": "usual"},
    "files": {"LOGIN__EMAIL": "usual@example.com", "LOGIN__PASSWORD": "usual", "LIMITS__REPLAY_BODY": "100"},
    "plain": {"UPSTREAM__ORIGIN": "http://0.0.0.0:<up>"},
    "trusted": {"UPSTREAM__ORIGIN": "https://localhost:<tls>"},
    "web proxy": {"UPSTREAM__ORIGIN": "https://x.invalid"},
    "environment": {"UPSTREAM__ORIGIN": "", "UPSTREAM__TRUST_ENV": "true"},
    "origin": {"UPSTREAM__ORIGIN": "", "UPSTREAM__TRUST_ENV": "true"},
    "deaf": {"UPSTREAM__ORIGIN": "http://127.0.0.1:<deaf>"},
    # Requests that wait for a connection wait as long as it takes to count them.
    "stopping": {
        "LISTEN": "unix:<folder>/callers",
        "ADMIN__LISTEN": "unix:<folder>/admin",
        "UPSTREAM__CONNECT_TIMEOUT": "60s",
    },
    "stopped": {"LISTEN": "unix:<folder>/callers", "ADMIN__LISTEN": "unix:<folder>/admin"},
    "encrypted": {"SESSION__STORE": "redis://127.0.0.1:<redis>"},
    "encrypted by a file": {"SESSION__STORE": "redis://127.0.0.1:<redis>"},
    "sentinel": {"SESSION__STORE": "redis+sentinel://127.0.0.1:<redis>/main"},
    "sentinel's file": {"SESSION__STORE": "redis+sentinel://127.0.0.1:<redis>/main"},
    "store's tls": {"SESSION__STORE": "rediss://localhost:<tls>"},
}
#: Groups whose proxy is a process of its own in any case: a log, an end.
PROCESSES = {"stopping", "stopped", "workers"}
#: Seconds that a session lives in groups where its end is the matter.
LIFETIMES = {"kept": 4, "ahead": 4, "idle": 4}

Look = Callable[[Scene], Awaitable[object]]


@dataclass(frozen=True)
class Proof:
    """How it is seen that a setting does something. `also`: what has to change with it."""

    group: str
    value: str
    look: Look
    usual: object
    changed: object
    also: tuple[tuple[str, str], ...] = ()


def status_of(line: str, *headers: bytes, **how: Any) -> Look:
    """Look at the status of one answer."""

    async def look(s: Scene) -> object:
        return (await s.ask(line, *headers, **how)).status

    return look


def received(name: str) -> Look:
    """Look at a header of the request that CardCash gets."""

    async def look(s: Scene) -> object:
        await s.ask("GET /carts")
        return s.upstream.requests[-1].values(name)[0].decode()

    return look


def at_socket(name: str, path: str) -> Look:
    """Look at whether one more address is listened at."""

    async def look(s: Scene) -> object:
        try:
            return (await s.ask(f"GET {path}", at=s.here.folder / name)).status
        except OSError:
            return None

    return look


async def sessions_when_ready(s: Scene) -> object:
    await s.ready()
    return len(s.upstream.sessions)


async def path_upstream(s: Scene) -> object:
    await s.ask("GET /carts")
    return s.upstream.requests[-1].line


async def email(s: Scene) -> object:
    return customer(s.upstream).get("email")


async def password(s: Scene) -> object:
    await s.ask("GET /carts")
    return customer(s.upstream).get("password")


async def has_a_file(s: Scene) -> object:
    return await s.comes((s.here.folder / "session").exists)


def opens_with(secret: str) -> Look:
    """Look whether what is stored in Redis was encrypted with this secret."""

    async def look(s: Scene) -> object:
        assert await s.comes(lambda: s.here.redis.saved, seconds=10)
        app_id = APP_ID if s.process is None else "demo-app-id"
        vault = await Vaults().vault(Binding(s.upstream.url, app_id, None), (Secret(secret),))
        return vault.unseal("token", s.here.redis.saved[0]) is not None

    return look


async def password_of_sentinels(s: Scene) -> object:
    def asked() -> bool:
        return any(words[0] == b"SENTINEL" for words in s.here.redis.commands)

    assert await s.comes(asked, seconds=10)
    return next((words[-1].decode() for words in s.here.redis.commands if words[0] == b"AUTH"), None)


async def handshake_with_redis(s: Scene) -> object:
    return await s.comes(lambda: s.here.handshakes)


async def shows_a_certificate(s: Scene) -> object:
    return await s.comes(lambda: s.here.shown)


async def is_repeated(s: Scene) -> object:
    s.upstream.answers.append(REJECTION)
    return (await s.ask("POST /carts", body=b"x" * 50)).status


async def the_fourth_at_a_time(s: Scene) -> object:
    async with s.holding(3, "GET /carts"):
        return (await s.ask("GET /carts")).status


async def one_caller_more_than_twelve(s: Scene) -> object:
    """All at once, and open until it is known what the last ones are told."""
    told = []
    callers = [await s.caller() for _ in range(32)]  # more than twelve at each of two workers
    for caller in callers:
        try:
            told.append((await s.ask("GET /carts", on=caller)).status)
        except (OSError, Truncated):
            told.append(0)
    for caller in callers:
        await caller.close()
    return 503 in told


async def idle_connections_end(s: Scene) -> object:
    await s.ask("GET /carts")
    return await s.comes(lambda: s.upstream.open == 0)


async def one_connection_for_all(s: Scene) -> object:
    caller = await s.caller()
    used = []
    for _ in range(2):
        await s.ask("GET /carts", on=caller)
        used.append(s.upstream.requests[-1].connection)
        await asyncio.sleep(0.1)
    return used[0] == used[1]


async def is_repeated_while_others_are_kept(s: Scene) -> object:
    # So many that every worker has one.
    async with s.holding(14, "POST /carts", body=b"x" * 80):
        s.meanwhile.append(REJECTION)
        return (await s.ask("POST /carts", body=b"x" * 80)).status


async def reaches_cardcash(s: Scene) -> object:
    return (await s.ask("GET /carts")).status


async def handshake(s: Scene) -> object:
    async def refused() -> bool:
        return bool(s.here.handshakes) or await s.sample("upstream_errors_total", kind="tls") > 0

    assert await s.comes(refused, seconds=10)
    return bool(s.here.handshakes)


async def web_proxy_is_asked(s: Scene) -> object:
    async def decided() -> bool:
        return bool(s.here.connects) or await s.sample("upstream_errors_total", kind="dns") > 0

    assert await s.comes(decided, seconds=10)
    return bool(s.here.connects)


async def tunnel(s: Scene) -> object:
    assert await s.comes(lambda: s.here.connects, seconds=10)
    return s.here.connects[0].split()[1]


async def gives_up_connecting(s: Scene) -> object:
    async def failed() -> bool:
        return await s.sample("upstream_errors_total", kind="connect_timeout") > 0

    return await s.comes(failed, seconds=min(4.0, s.patience))  # it would be given up after 5 as usual


async def kept_alive_by(s: Scene) -> object:
    body = b'{"customer":{"email":"a@example.com","password":"p"}}'
    assert (await s.ask("POST /customers/login", b"Content-Type: application/json", body=body)).status == 200
    before = len(s.upstream.requests)
    assert await s.comes(lambda: len(s.upstream.requests) > before, seconds=10)
    return s.upstream.requests[before].line


async def no_answer(s: Scene) -> object:
    async def silent(peer: Peer) -> None:
        await peer.body()
        await peer.gone()

    s.upstream.answers.append(silent)
    asked = asyncio.ensure_future(s.ask("POST /orders", body=b"{}"))
    done, _ = await asyncio.wait([asked], timeout=s.patience)
    if not done:
        asked.cancel()
        return None
    return asked.result().status


async def is_renewed_before_its_end(s: Scene) -> object:
    """Wait until the session is renewed, or its time is nearly over."""
    await s.ready()
    first = s.upstream.tokens[0]
    ended = asyncio.get_running_loop().time() + 3.3
    while asyncio.get_running_loop().time() < ended and len(s.upstream.tokens) == 1:
        await asyncio.sleep(0.05)
    return s.upstream.tokens[-1] != first


async def processes(s: Scene) -> object:
    return len((await s.status()).get("workers", [0]))


async def log_lines(s: Scene) -> object:
    assert s.process is not None
    await s.ask("GET /carts")
    await s.process.says(lambda out: b"/v3/carts" in out)
    line = next(line for line in bytes(s.process.out).splitlines() if b"/v3/carts" in line)
    with contextlib.suppress(ValueError):
        return type(json.loads(line)).__name__
    return "text"


async def at_a_time_upstream(s: Scene) -> object:
    before = len(s.upstream.requests)
    async with s.holding(4, "GET /carts"):
        return await s.comes(lambda: len(s.upstream.requests) == before + 4)


async def served_while_stopping(s: Scene) -> object:
    assert s.process is not None
    s.process.signal(TERM)
    await s.process.says(lambda out: b"draining" in out)
    try:
        return (await s.ask("GET /carts")).status
    except (OSError, Truncated):
        return None
    finally:
        s.process.signal(TERM)  # the delay is not waited for, by no worker either
        await s.process.ended()


async def cut_off(s: Scene) -> object:
    assert s.process is not None
    async with s.holding(1, "POST /orders", body=b"{}") as asking:
        s.process.signal(TERM)
        done, _ = await asyncio.wait(asking, timeout=s.patience)
    assert await s.process.ended() == 0
    return bool(done)


async def requests_are_logged(s: Scene) -> object:
    assert s.process is not None
    return b"/v3/orders" in s.process.out


PROOFS: dict[str, Proof] = {
    # Without a session at first, so that its making can be seen.
    "session.eager": Proof("callers", "false", sessions_when_ready, 1, 0),
    "app_id": Proof("callers", "another-id", received("x-cc-app"), APP_ID, "another-id"),
    "login.password": Proof("callers", "another", password, "usual", "another"),
    "login.email": Proof("callers", "b@example.com", email, "usual@example.com", "b@example.com"),
    "upstream.base_path": Proof("callers", "/v4", path_upstream, "GET /v3/carts HTTP/1.1", "GET /v4/carts HTTP/1.1"),
    "upstream.user_agent": Proof(
        "callers", "an-agent/1", received("user-agent"), leaves()["upstream.user_agent"].default, "an-agent/1"
    ),
    "session.store": Proof("callers", "file://<folder>/session", has_a_file, False, True),
    "listen": Proof("callers", "127.0.0.1:0,unix:<folder>/callers", at_socket("callers", "/carts"), None, 200),
    "admin.listen": Proof("callers", "127.0.0.1:0,unix:<folder>/admin", at_socket("admin", "/healthz"), None, 200),
    "callers.allowed_hosts": Proof(
        "callers", "localhost,127.0.0.1,*.shop.example", status_of("GET /carts", host=b"a.shop.example"), 421, 200
    ),
    "callers.allowed_origins": Proof(
        "callers", "https://shop.example", status_of("GET /carts", b"Origin: https://shop.example"), 403, 200
    ),
    "callers.allowed_networks": Proof("callers", "127.0.0.1/32", status_of("GET /carts", local="127.0.0.2"), 200, 403),
    "callers.require_header": Proof("callers", KEY.decode(), status_of("GET /carts", key=False), 200, 403),
    "rules": Proof("callers", '[{"deny": "**/wallets"}]', status_of("GET /wallets"), 200, 403),
    "limits.request_body": Proof("callers", "300", status_of("POST /carts", body=b"x" * 301), 200, 413),
    "limits.replay_body": Proof("callers", "10", is_repeated, 200, 503),
    "limits.in_flight": Proof("callers", "3", the_fourth_at_a_time, 200, 503),
    "limits.connections": Proof("callers", "12", one_caller_more_than_twelve, False, True),
    "upstream.idle_timeout": Proof("callers", "200ms", idle_connections_end, False, True),
    "app_id_file": Proof("files", "<folder>/id", received("x-cc-app"), APP_ID, "id-of-a-file", also=(("APP_ID", ""),)),
    "login.password_file": Proof(
        "files", "<folder>/password", password, "usual", "password-of-a-file", also=(("LOGIN__PASSWORD", ""),)
    ),
    "session.store_file": Proof("files", "<folder>/store", has_a_file, False, True),
    "session.store_secret": Proof("encrypted", "a-secret\nanother", opens_with("a-secret"), False, True),
    "session.store_secret_file": Proof(
        "encrypted by a file", "<folder>/password", opens_with("password-of-a-file"), False, True
    ),
    "session.store_sentinel_password": Proof("sentinel", "of-sentinels", password_of_sentinels, None, "of-sentinels"),
    "session.store_sentinel_password_file": Proof(
        "sentinel's file", "<folder>/password", password_of_sentinels, None, "password-of-a-file"
    ),
    "session.store_ca_file": Proof("store's tls", "<folder>/ca.pem", handshake_with_redis, False, True),
    "session.store_cert_file": Proof("store's tls", "<folder>/cert.pem", shows_a_certificate, False, True),
    "session.store_cert_key_file": Proof("store's tls", "<folder>/key.pem", shows_a_certificate, False, True),
    "upstream.max_age": Proof("files", "50ms", one_connection_for_all, True, False),
    "limits.replay_total": Proof("files", "200", is_repeated_while_others_are_kept, 200, 503),
    "upstream.allow_plain_http": Proof("plain", "true", reaches_cardcash, "refused", 200),
    "upstream.ca_file": Proof("trusted", "<folder>/ca.pem", handshake, False, True),
    "upstream.trust_env": Proof("web proxy", "true", web_proxy_is_asked, False, True),
    "environment": Proof(
        "environment", "production", tunnel, "sandbox-api.cardcash.com:443", "production-api.cardcash.com:443"
    ),
    "upstream.origin": Proof(
        "origin", "https://other.example", tunnel, "sandbox-api.cardcash.com:443", "other.example:443"
    ),
    "upstream.connect_timeout": Proof("deaf", "100ms", gives_up_connecting, False, True),
    "upstream.response_timeout": Proof("kept", "300ms", no_answer, None, 504),
    "session.keepalive_path": Proof(
        "kept", "/v3/wallets", kept_alive_by, "GET /v3/carts HTTP/1.1", "GET /v3/wallets HTTP/1.1"
    ),
    "session.renew_ahead": Proof("ahead", "0", is_renewed_before_its_end, True, False),
    "session.idle_after": Proof("idle", "10ms", is_renewed_before_its_end, True, False),
    "workers": Proof("workers", "3", processes, 1, 3),
    "log.format": Proof("stopping", "console", log_lines, "dict", "text"),
    "upstream.max_connections": Proof("stopping", "2", at_a_time_upstream, True, False),
    "drain.delay": Proof("stopping", "10s", served_while_stopping, None, 200),
    "drain.timeout": Proof("stopped", "100ms", cut_off, False, True),
    "log.level": Proof("stopped", "error", requests_are_logged, True, False),
}
GROUPS = list(dict.fromkeys(proof.group for proof in PROOFS.values()))


def test_every_setting_has_a_proof() -> None:
    assert set(PROOFS) == set(leaves()), "a setting is proved to do something by an entry of PROOFS"


def _of(group: str) -> dict[str, Proof]:
    return {path: proof for path, proof in PROOFS.items() if proof.group == group}


def _changes(group: str) -> dict[str, str]:
    changes: dict[str, str] = {}
    for path, proof in _of(group).items():
        changes |= {path.upper().replace(".", "__"): proof.value, **dict(proof.also)}
    return changes


async def _seen(
    monkeypatch: pytest.MonkeyPatch,
    group: str,
    settings: dict[str, str],
    *,
    expected: dict[str, object],
    as_process: bool,
) -> dict[str, object]:
    """Start a proxy and look at everything of a group, longer at what is to come than at what is not."""
    async with around() as here:
        here.upstream.lifetime = LIFETIMES.get(group, 3600)
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{here.web_proxy_port}")
        monkeypatch.setenv("NO_PROXY", "")
        try:
            async with scene(here, COMMON.get(group, {}) | settings, as_process=as_process) as s:
                seen = {}
                for path, proof in _of(group).items():
                    s.patience = A_WHILE if expected[path] in (False, None) else LONG
                    seen[path] = await proof.look(s)
                return seen
        except SettingsError:
            return dict.fromkeys(_of(group), "refused")


@pytest.mark.parametrize("group", GROUPS)
async def test_with_one_process_each_setting_is_seen_to_do_something(
    monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    own = group in PROCESSES
    usual = {path: proof.usual for path, proof in _of(group).items()}
    assert await _seen(monkeypatch, group, {}, expected=usual, as_process=own) == usual
    changed = {path: proof.changed for path, proof in _of(group).items()}
    assert await _seen(monkeypatch, group, _changes(group), expected=changed, as_process=own) == changed
    assert [path for path, proof in _of(group).items() if proof.usual == proof.changed] == []


@pytest.mark.parametrize("group", GROUPS)
async def test_with_two_workers_each_setting_is_seen_to_do_the_same(
    monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    changed = {path: proof.changed for path, proof in _of(group).items()}
    settings = {"WORKERS": "2", **_changes(group)}
    assert await _seen(monkeypatch, group, settings, expected=changed, as_process=True) == changed
