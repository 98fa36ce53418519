"""Request bodies: exact on the wire, stopped by an early answer, never sent short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.core.errors import BadRequest, CallerGone
from tests.upstream.conftest import Connect, body_of
from tests.upstream.wire import GET, OK, POST_CHUNKED, Peer, answers, pieces, post, until

BIG = bytes(range(256)) * 4096  # 1 MiB


def collector(into: bytearray, end: bytes) -> object:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        while not into.endswith(end):
            into.extend(await peer.reader.read(65536))
        await peer.send(OK)
        await peer.gone()

    return script


@pytest.mark.parametrize("body", [b"x", BIG[:65536], BIG[:65537], BIG])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_body_of_known_length_arrives_exactly(connect: Connect, body: bytes, *, streamed: bool) -> None:
    wire, up = await connect(answers(OK))
    source = pieces([body[:1], b"", body[1:]]) if streamed else body
    response = await up.send(method="POST", head=post(len(body)), body=source)
    assert response.status == 200
    assert wire.requests == [post(len(body)) + body]
    assert up.idle_connections == 1


async def test_a_small_body_leaves_with_its_head_in_one_write(connect: Connect) -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.reader.read(100000))
        await peer.send(OK)
        await peer.gone()

    _, up = await connect(script)
    await up.send(method="POST", head=post(3), body=b"abc")
    assert seen == [post(3) + b"abc"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_chunks_are_framed_here_and_empty_ones_skipped(connect: Connect, *, streamed: bool) -> None:
    got = bytearray()
    _, up = await connect(collector(got, b"0\r\n\r\n"))
    source = pieces([b"", b"ab", b"", b"c" * 17]) if streamed else b"ab" + b"c" * 17
    response = await up.send(method="POST", head=POST_CHUNKED, body=source, chunked=True)
    assert response.status == 200
    expected = b"2\r\nab\r\n11\r\n" + b"c" * 17 if streamed else b"13\r\nab" + b"c" * 17
    assert bytes(got) == expected + b"\r\n0\r\n\r\n"
    assert up.idle_connections == 1


@pytest.mark.parametrize("kind", ["none", "bytes", "stream"])
async def test_an_empty_chunked_body_is_its_last_chunk(connect: Connect, kind: str) -> None:
    got = bytearray()
    _, up = await connect(collector(got, b"0\r\n\r\n"))
    body = {"none": None, "bytes": b"", "stream": pieces([])}[kind]
    await up.send(method="POST", head=POST_CHUNKED, body=body, chunked=True)
    assert bytes(got) == b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "body", "chunked"),
    [
        (post(3), b"ab", False),
        (post(3), None, False),
        (GET, b"ab", False),
        (GET, pieces([b"x"]), False),
        (POST_CHUNKED, b"ab", False),
        (GET, b"ab", True),
        (post(2), b"ab", True),
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\n", b"ab", False),
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", b"ab", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", None, False),
    ],
)
async def test_a_head_that_lies_about_its_body_is_never_sent(
    connect: Connect, head: bytes, body: bytes | None, *, chunked: bool
) -> None:
    wire, up = await connect(answers(OK))
    with pytest.raises(ValueError, match="request"):
        await up.send(method="POST", head=head, body=body, chunked=chunked)
    assert wire.accepted == 0


@pytest.mark.parametrize("items", [[b"abc"], [b"ab", b"cdef"], []])
async def test_a_stream_of_the_wrong_length_is_broken_off(connect: Connect, items: list[bytes]) -> None:
    wire, up = await connect(answers(OK))
    with pytest.raises(BadRequest):
        await up.send(method="POST", head=post(5), body=pieces(items))
    assert up.idle_connections == up.active_connections == 0
    await wire.ended.wait()
    assert wire.requests == []


@pytest.mark.parametrize("error", [CallerGone(), BadRequest("no"), KeyError("bug")])
async def test_what_the_body_raises_comes_out_unchanged(connect: Connect, error: Exception) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"ab"
        raise error

    wire, up = await connect(answers(OK))
    with pytest.raises(type(error)) as caught:
        await up.send(method="POST", head=POST_CHUNKED, body=body(), chunked=True)
    assert caught.value is error
    assert up.idle_connections == up.active_connections == 0
    await wire.ended.wait()


async def test_what_the_body_raises_after_the_head_comes_out_of_read(connect: Connect) -> None:
    error, go = CallerGone(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"ab"
        await go.wait()
        raise error

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart")
        await peer.gone()

    _, up = await connect(script)
    response = await up.send(method="POST", head=POST_CHUNKED, body=body(), chunked=True)
    assert await response.read() == b"part"
    go.set()
    with pytest.raises(CallerGone) as caught:
        await response.read()
    assert caught.value is error
    assert up.active_connections == 0


class Endless:
    """A body without end that notices when it is stopped."""

    def __init__(self) -> None:
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            self.closed = True


@pytest.mark.parametrize("finish", ["stay", "close", "reset"])
@pytest.mark.parametrize("kind", ["bytes", "stream", "silent"])
async def test_an_early_refusal_is_returned_and_the_upload_stops(connect: Connect, kind: str, finish: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        if finish == "close":
            peer.finish()
        elif finish == "reset":
            peer.reset()
        await peer.gone()

    endless = Endless()
    stopped = asyncio.Event()

    async def silent() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await asyncio.Event().wait()
        finally:
            stopped.set()

    _, up = await connect(script)
    if kind == "bytes":
        body = b"x" * 20_000_000
        response = await up.send(method="POST", head=post(len(body)), body=body)
    elif kind == "stream":
        response = await up.send(method="POST", head=POST_CHUNKED, body=aiter(endless), chunked=True)
        assert endless.closed
    else:
        response = await up.send(method="POST", head=POST_CHUNKED, body=silent(), chunked=True)
        assert stopped.is_set()
    assert response.status == 413
    assert await body_of(response) == b"no"
    assert up.idle_connections == up.active_connections == 0


async def test_an_early_success_lets_the_upload_go_on(connect: Connect) -> None:
    got = bytearray()
    go = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        await go.wait()
        yield b"second"

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not got.endswith(b"0\r\n\r\n"):
            got.extend(await peer.reader.read(100))
        await peer.send(b"4\r\ndone\r\n0\r\n\r\n")
        await peer.gone()

    _, up = await connect(script)
    response = await up.send(method="POST", head=POST_CHUNKED, body=body(), chunked=True)
    assert not response.complete
    go.set()
    assert await body_of(response) == b"done"
    assert b"second" in got
    assert up.idle_connections == 1


async def test_an_upload_waits_for_an_upstream_that_does_not_read(connect: Connect) -> None:
    produced = 0
    go = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        nonlocal produced
        for _ in range(1000):
            produced += 1
            yield b"x" * 65536

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await go.wait()
        await peer.send(b"HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n")
        await peer.gone()

    _, up = await connect(script)
    task = asyncio.create_task(up.send(method="POST", head=POST_CHUNKED, body=body(), chunked=True))
    still = -1
    while still != produced or not produced:
        still = produced
        await asyncio.sleep(0.05)
    assert produced < 300
    go.set()
    assert (await task).status == 413


async def test_cancelling_an_upload_closes_its_body(connect: Connect) -> None:
    endless = Endless()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.gone()

    wire, up = await connect(script)
    task = asyncio.create_task(up.send(method="POST", head=POST_CHUNKED, body=aiter(endless), chunked=True))
    await until(lambda: up.opened_total)
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert endless.closed
    assert up.active_connections == up.idle_connections == 0
    await wire.ended.wait()
