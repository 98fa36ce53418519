"""Deadlines of the phases, and what a slow reader costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.core.errors import UpstreamReset, UpstreamTimeout
from tests.upstream.conftest import Connect, body_of
from tests.upstream.wire import GET, OK, Peer, answers, once, post, until


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


async def test_a_head_that_does_not_come_is_a_timeout(connect: Connect) -> None:
    _, up = await connect(silent, response_timeout=0.1)
    with pytest.raises(UpstreamTimeout) as caught:
        await up.send(method="GET", head=GET)
    assert (caught.value.kind, caught.value.sent, caught.value.status) == ("head_timeout", True, 504)
    assert up.active_connections == 0


async def test_a_head_that_drips_is_a_timeout(connect: Connect) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nX: ")
        while not peer.reader.at_eof():
            await peer.send(b"a")
            await asyncio.sleep(0.01)

    _, up = await connect(script, response_timeout=0.1)
    with pytest.raises(UpstreamTimeout) as caught:
        await up.send(method="GET", head=GET)
    assert caught.value.kind == "head_timeout"


async def test_an_interim_answer_restarts_the_deadline(connect: Connect) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for _ in range(4):
            await asyncio.sleep(0.08)
            await peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        await peer.send(OK)
        await peer.gone()

    _, up = await connect(script, response_timeout=0.2)
    assert (await up.send(method="GET", head=GET)).status == 200


async def test_a_body_that_stops_is_a_timeout(connect: Connect) -> None:
    _, up = await connect(once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart"), response_timeout=0.1)
    response = await up.send(method="GET", head=GET)
    assert await response.read() == b"part"
    with pytest.raises(UpstreamTimeout) as caught:
        await response.read()
    assert (caught.value.kind, caught.value.sent) == ("body_timeout", True)
    assert not response.complete


@pytest.mark.parametrize("kind", ["bytes", "stream"])
async def test_an_upstream_that_stops_reading_is_a_timeout(connect: Connect, kind: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    _, up = await connect(script, response_timeout=0.2)
    body = b"x" * 30_000_000

    async def stream() -> AsyncIterator[bytes]:
        yield body

    with pytest.raises(UpstreamTimeout) as caught:
        await up.send(method="POST", head=post(len(body)), body=body if kind == "bytes" else stream())
    assert (caught.value.kind, caught.value.sent) == ("send_timeout", True)


async def test_a_slow_caller_is_no_timeout_of_the_upstream(connect: Connect) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(4):
            await asyncio.sleep(0.08)
            yield b"x"

    _, up = await connect(answers(OK), response_timeout=0.1)
    assert (await up.send(method="POST", head=post(4), body=slowly())).status == 200


async def test_a_slow_reader_stops_the_upstream_and_is_no_timeout(connect: Connect) -> None:
    total = 30_000_000
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        piece = b"x" * 50_000
        while sent < total:
            await peer.send(piece)
            sent += len(piece)
        await peer.gone()

    _, up = await connect(script, response_timeout=0.1)
    response = await up.send(method="GET", head=GET)
    still = -1
    while still != sent:
        still = sent
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.3)  # three times the deadline
    assert sent < total / 2
    assert response.buffered <= 400_000
    peak = received = 0
    while piece := await response.read():
        received += len(piece)
        peak = max(peak, response.buffered)
    assert received == total
    assert peak <= 400_000
    assert up.idle_connections == 1


BIG = b"".join(b"%07d\n" % number for number in range(1_000_000))


class Taker:
    """Takes what is poured, and has room for a piece only when it is told so."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.room = asyncio.Event()

    def write(self, piece: bytes) -> bool:
        self.taken.append(piece)
        self.room.clear()
        return False

    async def drained(self) -> None:
        await self.room.wait()


@pytest.mark.parametrize("head", [b"Content-Length: 8000000", b"Transfer-Encoding: chunked"])
async def test_what_is_poured_comes_in_order_and_nothing_is_read_without_room(connect: Connect, head: bytes) -> None:
    chunked = b"".join(b"%x\r\n%b\r\n" % (80_000, BIG[at : at + 80_000]) for at in range(0, len(BIG), 80_000))
    body = chunked + b"0\r\n\r\n" if b"chunked" in head else BIG
    _, up = await connect(once(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % head + body))
    response, taker = await up.send(method="GET", head=GET), Taker()
    pouring = asyncio.create_task(response.pour(taker.write, taker.drained, lambda: 0))
    while not pouring.done():
        pieces = len(taker.taken)
        taker.room.set()
        await until(lambda at=pieces: len(taker.taken) > at or pouring.done())  # type: ignore[misc]
        assert len(taker.taken) <= pieces + 1
        assert response.buffered <= 400_000
    await pouring
    assert b"".join(taker.taken) == BIG
    assert response.complete
    assert up.idle_connections == 1


async def test_a_body_that_breaks_off_is_poured_as_far_as_it_came(connect: Connect) -> None:
    _, up = await connect(once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", close=True))
    response, taken = await up.send(method="GET", head=GET), bytearray()

    def write(piece: bytes) -> bool:
        taken.extend(piece)
        return True

    with pytest.raises(UpstreamReset):
        await response.pour(write, _at_once, lambda: 0)
    assert taken == b"half"


async def _at_once() -> None:
    pass


async def test_one_timer_serves_all_connections(connect: Connect) -> None:
    _, up = await connect(answers(OK))
    loop = asyncio.get_running_loop()
    calls = 0
    real = loop.call_later, loop.call_at

    def counted(which: int):  # type: ignore[no-untyped-def]
        def call(*args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            return real[which](*args, **kwargs)

        return call

    await up.send(method="GET", head=GET)
    try:
        loop.call_later, loop.call_at = counted(0), counted(1)  # type: ignore[method-assign]
    except AttributeError:
        pytest.skip("uvloop's methods cannot be replaced")
    for _ in range(100):
        await up.send(method="GET", head=GET)
    assert calls <= 1


async def test_a_closed_download_leaves_nothing(connect: Connect) -> None:
    _, up = await connect(once(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    response = await up.send(method="GET", head=GET)
    assert await body_of(response) == b"ok"
    assert up.active_connections == 0
