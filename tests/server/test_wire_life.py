"""How long a caller may keep things waiting, and what a connection gets at its ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from proxy.core.errors import CallerGone, ProxyError
from proxy.server import wire
from proxy.server.callers import ProxyServer
from proxy.server.exchange import Exchange
from tests.server.harness import until


class BothWays:
    """Answers more than a caller reads and reads more than it sends, both at once; notes how each wait ended."""

    def __init__(self) -> None:
        self.ends: dict[str, str] = {}
        self.server = ProxyServer(self.serve, lambda *_: None, most_connections=10)

    async def serve(self, exchange: Exchange) -> None:
        await asyncio.gather(self._read(exchange), self._write(exchange))

    async def _read(self, exchange: Exchange) -> None:
        try:
            while await exchange.read():
                pass
            self.ends["body"] = "whole"
        except (ProxyError, CallerGone) as error:
            self.ends["body"] = type(error).__name__

    async def _write(self, exchange: Exchange) -> None:
        try:
            exchange.send(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(20_000_000))
            await exchange.drained()
            self.ends["answer"] = "taken"
        except (CallerGone, asyncio.CancelledError):
            self.ends["answer"] = "given up"

    def late(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the time for either wait pass, and look."""
        then = self.server.time() + wire.CALLER_IDLE + 1
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


async def test_an_answer_that_nobody_takes_is_given_up_though_the_body_came_meanwhile(
    both_ways: BothWays, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(both_ways) as (_, writer):
        writer.write(b"b")
        await until(lambda: both_ways.ends == {"body": "whole"})
        both_ways.late(monkeypatch)
        both_ways.late(monkeypatch)  # it had not taken anything since the look before
        await until(lambda: both_ways.ends == {"body": "whole", "answer": "given up"}, seconds=3)


async def test_a_body_that_stops_is_given_up_though_the_answer_was_taken_meanwhile(
    both_ways: BothWays, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(both_ways) as (reader, _):
        await reader.readexactly(20_000_000)
        await until(lambda: both_ways.ends == {"answer": "taken"})
        both_ways.late(monkeypatch)
        await until(lambda: both_ways.ends == {"answer": "taken", "body": "BadRequest"}, seconds=3)


async def test_a_body_that_stops_is_given_up_while_the_answer_is_being_taken(
    both_ways: BothWays, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(both_ways) as (reader, _):
        await reader.readexactly(1_000_000)
        both_ways.late(monkeypatch)
        await until(lambda: both_ways.ends == {"body": "BadRequest"}, seconds=3)


async def test_a_reader_that_is_slow_but_reads_is_not_cut_off(
    both_ways: BothWays, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(both_ways) as (reader, writer):
        writer.write(b"b")
        for _ in range(5):
            await reader.readexactly(3_000_000)
            both_ways.late(monkeypatch)
            assert "answer" not in both_ways.ends
        await reader.readexactly(5_000_000)
        await until(lambda: both_ways.ends == {"body": "whole", "answer": "taken"}, seconds=3)
