"""What fails of session calls is counted by kind, once per try."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trustme

from proxy.core.token import Token
from proxy.session import call_sender
from proxy.session.cardcash_calls import Credentials, SessionCalls, SessionOutage
from proxy.telemetry.history import Events
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.watch import SessionWatch
from proxy.upstream import ProxyTunnel, tls_context
from tests.conftest import StartProxy
from tests.server.harness import Peer, RawUpstream, until
from tests.session.calls import calls_to
from tests.session.fakes import FakeClock
from tests.session.raw_server import CLOSE, HANG, answer, serving

GOOD = answer("200 OK", b"{}", "authorization: a.b.c", "x-token-exp-seconds: 900")
BROKEN_BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nBREAK"

Make = Callable[..., SessionCalls]


@pytest.fixture
def counted() -> list[str]:
    return []


@pytest.fixture
async def calls(counted: list[str]) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        def make(origin: str, **more: Any) -> SessionCalls:
            return calls_to(origin, stack, Credentials("app", "me@example.com", "p"), failed=counted.append, **more)

        yield make


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (CLOSE, "reset_before_head"),
        (BROKEN_BODY, "reset_in_body"),
        (b"nonsense\r\n\r\n", "invalid"),
        (answer("200 OK", b"x" * 70_000), "invalid"),
        (answer("200 OK", b"plain", "Content-Encoding: gzip"), "invalid"),
    ],
    ids=["closed", "broken off", "no HTTP", "too long", "not in its coding"],
)
async def test_what_the_upstream_breaks_is_counted_by_kind(
    calls: Make, counted: list[str], reply: bytes | str, kind: str
) -> None:
    async with serving(reply) as server:
        with pytest.raises(SessionOutage):
            await calls(server.url).session(tries=1)
    assert counted == [kind]


async def test_every_try_counts_and_the_one_that_works_does_not(calls: Make, counted: list[str]) -> None:
    async with serving(CLOSE, BROKEN_BODY, GOOD) as server:
        await calls(server.url).session(tries=3)
    assert counted == ["reset_before_head", "reset_in_body"]


async def test_a_login_counts_too(calls: Make, counted: list[str]) -> None:
    async with serving(CLOSE) as server:
        with pytest.raises(SessionOutage):
            await calls(server.url).login(Token("a.b.c", FakeClock().now(), 600), tries=2)
    assert counted == ["reset_before_head"] * 2


async def test_a_refused_connection_is_refused(calls: Make, counted: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(SessionOutage):
        await calls(f"http://127.0.0.1:{port}").session(tries=1)
    assert counted == ["refused"]


async def test_a_name_that_cannot_be_resolved_is_dns(calls: Make, counted: list[str]) -> None:
    with pytest.raises(SessionOutage):
        await calls("http://nowhere.invalid").session(tries=1)
    assert counted == ["dns"]


async def test_a_certificate_nobody_trusts_is_tls(calls: Make, counted: list[str]) -> None:
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(server_side)
    async with serving(GOOD, tls=server_side) as server:
        with pytest.raises(SessionOutage):
            await calls(server.url, ssl_context=tls_context(None)).session(tries=1)
    assert counted == ["tls"]


async def test_an_upstream_that_does_not_accept_is_connect_timeout(calls: Make, counted: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        address = deaf.getsockname()
        waiting = []
        for _ in range(4):  # more than the backlog takes
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(address)
        with pytest.raises(SessionOutage):
            await calls(f"http://127.0.0.1:{address[1]}", connect_timeout=0.1).session(tries=1)
        for each in waiting:
            each.close()
    assert counted == ["connect_timeout"]


async def test_a_proxy_that_refuses_is_proxy(calls: Make, counted: list[str]) -> None:
    async with serving(answer("407 Proxy Authentication Required")) as proxy:
        tunnel = ProxyTunnel("localhost", int(proxy.url.rpartition(":")[2]))
        with pytest.raises(SessionOutage):
            await calls("https://upstream.test", ssl_context=tls_context(None), tunnel=tunnel).session(tries=1)
    assert counted == ["proxy"]


@pytest.mark.parametrize(
    ("reply", "kind"), [(HANG, "head_timeout"), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", "body_timeout")]
)
async def test_a_call_that_was_long_silent_when_it_was_cut_off_is_a_time_out(
    calls: Make, counted: list[str], monkeypatch: pytest.MonkeyPatch, reply: bytes | str, kind: str
) -> None:
    monkeypatch.setattr(call_sender, "SILENT", 0.0)
    async with serving(reply) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await calls(server.url).session(tries=1)
    assert counted == [kind]


async def test_a_call_that_we_stop_ourselves_is_no_failure(calls: Make, counted: list[str]) -> None:
    async with serving(HANG) as server:
        task = asyncio.create_task(calls(server.url).session(tries=1))
        await server.arrived.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert counted == []


async def test_a_refusal_is_no_failure_of_the_exchange(calls: Make, counted: list[str]) -> None:
    async with serving(answer("503 Service Unavailable"), GOOD) as server:
        await calls(server.url).session(tries=2)
    assert counted == []


def test_the_watch_counts_them_beside_those_of_ordinary_requests() -> None:
    metrics = Metrics("1")
    SessionWatch(metrics, Events(lambda: 0.0)).call_failed("refused")
    assert metrics.registry.get_sample_value("cardcash_proxy_upstream_errors_total", {"kind": "refused"}) == 1


async def test_a_running_proxy_counts_its_session_calls(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    async def rude(peer: Peer) -> None:
        peer.writer.close()

    upstream.session_answers.append(rude)
    proxy = await start_proxy()
    await until(lambda: proxy.sample("upstream_errors_total", kind="reset_before_head") == 1)
