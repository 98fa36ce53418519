"""How long a caller may keep things waiting, and what a connection gets at its ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from proxy.core.errors import CallerGone, ProxyError
from proxy.listening import CannotListen
from proxy.server import connection, proxy_port
from proxy.server.exchange import Exchange
from proxy.server.proxy_port import ProxyServer
from tests.conftest import StartProxy
from tests.server.harness import OK, Caller, Peer, RawUpstream, Running, running_proxy, until


class BothWays:
    """Answers more than a caller reads and reads more than it sends, both at once; notes how each wait ended."""

    def __init__(self) -> None:
        self.ends: dict[str, str] = {}
        self.server = ProxyServer(self.serve, lambda *_: None, most_connections=10)

    async def serve(self, exchange: Exchange) -> None:
        await asyncio.gather(self._read(exchange), self._write(exchange))

    async def _read(self, exchange: Exchange) -> None:
        assert exchange.body is not None
        try:
            while await exchange.body.read():
                pass
            self.ends["body"] = "whole"
        except (ProxyError, CallerGone) as error:
            self.ends["body"] = type(error).__name__

    async def _write(self, exchange: Exchange) -> None:
        try:
            exchange.send((b"HTTP/1.1 200 OK\r\n\r\n", bytes(20_000_000)))
            await exchange.link.drained()
            self.ends["answer"] = "taken"
        except (CallerGone, asyncio.CancelledError):
            self.ends["answer"] = "given up"

    def late(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the time for either wait pass, and look."""
        then = self.server.time() + connection.CALLER_IDLE + 1
        monkeypatch.setattr(self.server, "time", lambda: then)
        self.server.look()


@pytest.fixture
async def both_ways() -> AsyncIterator[BothWays]:
    both = BothWays()
    yield both
    await both.server.shutdown(1)


@contextlib.asynccontextmanager
async def calling(both: BothWays) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Send half of a body to it, and read nothing yet."""
    listener = await asyncio.get_running_loop().create_server(both.server, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname(), limit=1 << 16)
    try:
        writer.write(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
        await reader.readexactly(10)
        yield reader, writer
    finally:
        writer.transport.abort()
        listener.close()


async def settled(value: Callable[[], int]) -> None:
    """Let the loop run until a value stands: 0.3 s of turns that have not changed it."""
    seen, turns = value(), 0
    while turns < 30:
        await asyncio.sleep(0.01)
        seen, turns = (now, turns + 1) if (now := value()) == seen else (now, 0)


async def test_an_answer_that_nobody_takes_is_given_up_though_the_body_came_meanwhile(
    both_ways: BothWays, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(both_ways) as (_, writer):
        writer.write(b"b")
        await until(lambda: both_ways.ends == {"body": "whole"})
        both_ways.late(monkeypatch)
        both_ways.late(monkeypatch)  # it had not taken anything since the look before
        await until(lambda: both_ways.ends == {"body": "whole", "answer": "given up"})


async def test_a_reader_that_stops_is_given_up_after_60_seconds(
    both_ways: BothWays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its system takes by itself after the wait began does not count as taken at the end of the time."""
    async with calling(both_ways) as (_, writer):
        writer.write(b"b")
        (link,) = both_ways.server.connections
        await until(lambda: both_ways.ends == {"body": "whole"})
        await settled(link.unread)
        began = both_ways.server.time()
        for second in (*range(1, 60), 61):
            assert link.is_open()
            monkeypatch.setattr(both_ways.server, "time", lambda then=began + second: then)
            both_ways.server.look()
        assert not link.is_open()
        await until(lambda: both_ways.ends == {"body": "whole", "answer": "given up"})


async def test_a_body_that_stops_is_given_up_though_the_answer_was_taken_meanwhile(
    both_ways: BothWays, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(both_ways) as (reader, _):
        await reader.readexactly(20_000_000)
        await until(lambda: both_ways.ends == {"answer": "taken"})
        both_ways.late(monkeypatch)
        await until(lambda: both_ways.ends == {"answer": "taken", "body": "BadRequest"})


async def test_a_body_that_stops_is_given_up_while_the_answer_is_being_taken(
    both_ways: BothWays, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(both_ways) as (reader, _):
        await reader.readexactly(1_000_000)
        both_ways.late(monkeypatch)
        await until(lambda: both_ways.ends == {"body": "BadRequest"})


async def test_a_reader_that_is_slow_but_reads_is_not_cut_off(
    both_ways: BothWays, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(both_ways) as (reader, writer):
        writer.write(b"b")
        for _ in range(3):
            await reader.readexactly(2_000_000)
            both_ways.late(monkeypatch)
            assert "answer" not in both_ways.ends
        await reader.readexactly(14_000_000)
        await until(lambda: both_ways.ends == {"body": "whole", "answer": "taken"})


async def from_address(proxy: Running, address: str) -> Caller:
    """Connect from another address of loopback."""
    return Caller(*await asyncio.open_connection("127.0.0.1", proxy.port, local_addr=(address, 0), limit=1 << 22))


async def test_a_stranger_is_turned_away_when_he_connects(start_proxy: StartProxy) -> None:
    proxy = await start_proxy(CALLERS__ALLOWED_NETWORKS="10.0.0.0/8")
    stranger = await proxy.caller()
    got = await stranger.answer()  # he has not sent anything
    assert (got.status, got.code, got.value("connection")) == (403, "client_not_allowed", b"close")
    assert await stranger.ended() == b""
    assert proxy.sample("request_errors_total", code="client_not_allowed") == 1


async def test_a_stranger_that_sends_all_the_same_can_read_his_refusal(start_proxy: StartProxy) -> None:
    proxy = await start_proxy(CALLERS__ALLOWED_NETWORKS="10.0.0.0/8")
    for more in (b"GET / HTTP/1.1\r\nX: " + b"a" * 80_000, proxy.request("GET /a"), b"\0"):
        stranger = await proxy.caller()
        await stranger.send(more)
        assert (await stranger.answer()).code == "client_not_allowed"
        assert await stranger.ended() == b""


async def test_strangers_take_no_place_of_a_good_caller(
    upstream: RawUpstream, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_port, "IDLE_ENOUGH", 0.0)
    proxy = await start_proxy(CALLERS__ALLOWED_NETWORKS="127.0.0.2/32", LIMITS__CONNECTIONS="2")
    good = [await from_address(proxy, "127.0.0.2") for _ in range(2)]
    for caller in good:
        assert (await caller.ask(proxy.request("GET /a"))).status == 200
    strangers = [await from_address(proxy, "127.0.0.3") for _ in range(300)]
    for stranger in strangers:
        assert (await stranger.answer()).code == "client_not_allowed"
    for caller in good:
        assert (await caller.ask(proxy.request("GET /a"))).status == 200
    for caller in (*good, *strangers):
        await caller.close()


def slow(go: asyncio.Event) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        await go.wait()
        await peer.send(OK)

    return script


async def test_more_callers_than_there_may_be_are_told(
    upstream: RawUpstream,
    start_proxy: StartProxy,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go = asyncio.Event()
    upstream.default = slow(go)
    proxy = await start_proxy(LIMITS__CONNECTIONS="2")
    busy = [asyncio.create_task(proxy.ask("GET /a")) for _ in range(2)]
    await until(lambda: len(upstream.requests) == 2)
    for _ in range(3):
        caller = await proxy.caller()
        got = await caller.ask(proxy.request("GET /a"))
        assert (got.status, got.code, got.value("retry-after")) == (503, "overloaded", b"1")
        assert await caller.ended() == b""
    silent = await proxy.caller()
    assert (await silent.answer()).code == "overloaded"
    assert proxy.sample("request_errors_total", code="overloaded") == 4
    assert capsys.readouterr().out.count("too_many_callers") == 1
    monkeypatch.setattr(proxy_port, "_WARN_EVERY", 0.0)
    proxy.proxy.server.look()
    assert "turned_away=3" in capsys.readouterr().out  # and of the others, once, some time later
    proxy.proxy.server.look()
    assert "too_many_callers" not in capsys.readouterr().out
    go.set()
    assert [(await task).status for task in busy] == [200, 200]


async def test_a_caller_between_two_requests_keeps_its_place_and_one_that_is_idle_for_long_makes_room(
    proxy: Running, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = await start_proxy(LIMITS__CONNECTIONS="2")
    half, idle = await proxy.caller(), await proxy.caller()
    await half.send(b"GET /a HTTP/1.1\r\nX-")
    assert (await idle.ask(proxy.request("GET /a"))).status == 200
    assert (await proxy.ask("GET /a")).code == "overloaded"
    monkeypatch.setattr(proxy_port, "IDLE_ENOUGH", 0.0)
    await until(lambda: len(proxy.proxy.server.connections) == 2)
    await asyncio.sleep(0.1)  # it is not asked again at once whether somebody can make room
    first = await proxy.caller()
    assert (await first.ask(proxy.request("GET /a"))).status == 200
    assert (await half.answer()).code == "overloaded"  # it had begun
    second = await proxy.caller()
    assert (await second.ask(proxy.request("GET /a"))).status == 200
    assert await idle.ended() == b""


async def test_who_makes_room_before_its_first_request_is_told_so(
    upstream: RawUpstream, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_port, "IDLE_ENOUGH", 0.0)
    proxy = await start_proxy(LIMITS__CONNECTIONS="1")
    slow_starter = await proxy.caller()
    await until(lambda: proxy.proxy.server.connections)
    caller = await proxy.caller()
    assert (await caller.ask(proxy.request("GET /a"))).status == 200
    got = await slow_starter.answer()
    assert (got.status, got.code) == (503, "overloaded")
    assert await slow_starter.ended() == b""


async def test_who_has_half_a_head_in_when_the_proxy_stops_is_served(upstream: RawUpstream, proxy: Running) -> None:
    caller = await proxy.caller()
    assert (await caller.ask(proxy.request("GET /a"))).status == 200
    request = proxy.request("POST /orders", body=b"{}")
    await caller.send(request[:20])
    await until(lambda: any(connection.has_partial_head for connection in proxy.proxy.server.connections))
    running = asyncio.create_task(proxy.proxy.run())
    proxy.proxy.request_stop()
    await until(lambda: proxy.proxy.server.draining)
    got = await caller.ask(request[20:])
    assert (got.status, got.value("connection")) == (200, b"close")
    assert await caller.ended() == b""
    await caller.close()
    await running


async def test_only_the_socket_that_was_bound_is_removed_at_the_end(
    upstream: RawUpstream, start_proxy: StartProxy, tmp_path: Path
) -> None:
    """A new proxy at the same path, while the old one drains; and whatever else somebody puts there."""
    for put in ("nothing", "a file", "a new proxy"):
        path, admin = tmp_path / "proxy", tmp_path / "admin"
        async with running_proxy(upstream.url, LISTEN=f"unix:{path}", ADMIN__LISTEN=f"unix:{admin}") as old:
            running = asyncio.create_task(old.proxy.run())
            busy = await old.caller(path=str(path))
            await busy.send(b"POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n")
            await until(lambda: any(each.exchange for each in old.proxy.server.connections))
            old.proxy.request_stop()
            await until(lambda: old.proxy.server.draining)
            admin.unlink()
            if put == "a new proxy":
                new = await start_proxy(LISTEN=f"unix:{path}", ADMIN__LISTEN=f"unix:{admin}")
            elif put == "a file":
                path.unlink()
                path.write_text("mine")
            await busy.send(b"x")
            assert (await busy.answer("POST")).status == 200
            await busy.close()
            await running
        if put == "a new proxy":
            for each, line in ((path, b"GET /a"), (admin, b"GET /healthz")):
                caller = await new.caller(path=str(each))
                assert (await caller.ask(line + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")).status == 200
            path.unlink()
        elif put == "a file":
            assert path.read_text() == "mine"
            path.unlink()
        else:
            assert not path.exists()


@pytest.mark.parametrize("setting", ["LISTEN", "ADMIN__LISTEN"])
async def test_a_plain_file_at_the_path_is_an_error_at_start_and_stays(
    start_proxy: StartProxy, tmp_path: Path, setting: str
) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(CannotListen, match="is no socket"):
        await start_proxy(**{setting: f"unix:{path}"})
    assert path.read_text() == "mine"
