"""An answer that is complete before its request: the rest of the request still goes out (RFC 9110, section 7.5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.core.errors import CallerGone
from proxy.upstream import Response
from tests.upstream.conftest import Connect, body_of
from tests.upstream.wire import GET, OK, POST_CHUNKED, Peer, pieces, post, until

BIG = bytes(range(256)) * 4096 * 12  # 12 MiB: more than any socket buffers
SIZE = 65536


async def sent(response: Response) -> None:
    while response.uploading:
        await response.wait()


def early(answer: bytes, got: bytearray, *, end: str = "read on") -> object:
    """A script that answers after the head, and then reads on, or does what `end` says."""

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(answer)
        if end == "half-close":
            peer.writer.write_eof()
        elif end == "close":
            peer.finish()
            return
        elif end == "stop reading":
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.Event().wait()
        while data := await peer.reader.read(SIZE):
            got.extend(data)
            if len(got) >= len(BIG) and bytes(got[-len(GET) :]) == GET:
                await peer.send(OK)

    return script


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        OK + b"stray",
    ],
)
@pytest.mark.parametrize("kind", ["bytes", "stream"])
async def test_the_rest_of_an_upload_goes_out_after_an_early_complete_success(
    connect: Connect, answer: bytes, kind: str
) -> None:
    got = bytearray()
    _, up = await connect(early(answer, got))
    body = BIG if kind == "bytes" else pieces([BIG[start : start + SIZE] for start in range(0, len(BIG), SIZE)])
    response = await up.send(method="PUT", head=post(len(BIG)), body=body)
    assert await body_of(response) in {b"ok", b""}
    assert response.complete
    await sent(response)
    await until(lambda: len(got) == len(BIG))
    assert bytes(got) == BIG
    await until(lambda: up.active_connections == 0)


async def test_its_connection_is_used_again_when_both_have_ended(connect: Connect) -> None:
    got = bytearray()
    _, up = await connect(early(OK, got))
    response = await up.send(method="PUT", head=post(len(BIG)), body=BIG)
    await until(lambda: up.idle_connections)
    assert not response.uploading
    assert (await up.send(method="GET", head=GET)).status == 200
    assert bytes(got) == BIG + GET
    assert up.opened_total == 1


async def test_an_upstream_that_only_ends_its_own_side_gets_the_rest(connect: Connect) -> None:
    got = bytearray()
    _, up = await connect(early(b"HTTP/1.1 200 OK\r\n\r\nok", got, end="half-close"))
    response = await up.send(method="PUT", head=post(len(BIG)), body=pieces([BIG]))
    assert await body_of(response) == b"ok"
    await until(lambda: len(got) == len(BIG))
    await until(lambda: up.active_connections == 0)
    assert up.idle_connections == 0


async def test_an_upstream_that_reads_no_more_is_given_up_after_the_timeout(connect: Connect) -> None:
    _, up = await connect(early(OK, bytearray(), end="stop reading"), response_timeout=0.2)
    response = await up.send(method="PUT", head=post(len(BIG)), body=pieces([BIG]))
    assert await body_of(response) == b"ok"
    assert response.uploading
    await sent(response)
    assert (response.complete, response.error) == (True, None)
    assert up.active_connections == up.idle_connections == 0


@pytest.mark.parametrize("how", ["the upstream hangs up", "the caller leaves", "nobody wants it"])
async def test_an_answer_stays_whole_whatever_ends_its_upload(connect: Connect, how: str) -> None:
    go = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * SIZE
        await go.wait()
        if how == "the caller leaves":
            raise CallerGone
        while True:
            yield b"x" * SIZE

    _, up = await connect(early(OK, bytearray(), end="close" if how == "the upstream hangs up" else "read on"))
    response = await up.send(method="PUT", head=POST_CHUNKED, body=body(), chunked=True)
    await until(lambda: response.complete)
    go.set()
    if how == "nobody wants it":
        response.close()
    await sent(response)
    assert response.complete
    assert up.active_connections == up.idle_connections == 0
