"""CardCash may answer an upload before it has all of it; the upload goes on, the answer comes down at once."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.harness import OK, Peer, RawUpstream, Running, until

SIZE = 3_000_000
HALF = b"x" * (SIZE // 2)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_upload_goes_on_after_an_early_success(upstream: RawUpstream, proxy: Running, framing: str) -> None:
    got: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.send(OK)
        got.append((await peer.body())[1])

    upstream.answers.append(script)
    caller = await proxy.caller()
    if framing == "length":
        head, pieces = b"Content-Length: %d" % SIZE, [HALF, HALF]
    else:
        head = b"Transfer-Encoding: chunked"
        pieces = [b"%x\r\n%b\r\n" % (len(HALF), HALF)] * 2 + [b"0\r\n\r\n"]
    await caller.send(proxy.request("PUT /a", head) + pieces[0])
    answer = await caller.answer()
    assert (answer.status, answer.body) == (200, b"{}")
    assert answer.value("connection") is None  # RFC 9112, 9.6: who reads "close" stops sending
    for piece in pieces[1:]:
        await caller.send(piece)
    await until(lambda: got)
    assert len(got[0]) == SIZE
    assert (await caller.ask(proxy.request("GET /b"))).status == 200


async def test_a_caller_that_leaves_after_an_early_success_ends_its_upload(
    upstream: RawUpstream, proxy: Running
) -> None:
    ended = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.send(OK)
        await peer.gone()
        ended.set()

    upstream.answers.append(script)
    caller = await proxy.caller()
    await caller.send(proxy.request("PUT /a", b"Content-Length: %d" % SIZE) + HALF)
    assert (await caller.answer()).status == 200
    caller.reset()
    await asyncio.wait_for(ended.wait(), 5)
    await proxy.quiet()


async def test_an_upstream_that_takes_no_more_after_its_answer_ends_the_callers_connection_too(
    upstream: RawUpstream, proxy: Running
) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(OK)
        peer.writer.close()

    upstream.answers.append(script)
    caller = await proxy.caller()
    await caller.send(proxy.request("PUT /a", b"Content-Length: %d" % SIZE) + HALF)
    assert (await caller.answer()).status == 200
    await caller.send(b"x" * (SIZE - len(HALF) - 1))
    assert await caller.ended() == b""
    await proxy.quiet()


@pytest.mark.parametrize(
    "told", [b"HTTP/1.1 200 OK\r\nConnection: close\r\n", b"HTTP/1.0 200 OK\r\n"], ids=["close", "1.0"]
)
async def test_a_caller_is_told_when_its_connection_will_end_with_that_of_its_upload(
    upstream: RawUpstream, proxy: Running, told: bytes
) -> None:
    """RFC 9112, 9.6: whoever asks on after that would be lost without a word."""

    async def script(peer: Peer) -> None:
        await peer.send(told + b"Content-Length: 2\r\n\r\n{}")
        peer.writer.close()

    upstream.answers.append(script)
    caller = await proxy.caller()
    await caller.send(proxy.request("PUT /a", b"Content-Length: %d" % SIZE) + HALF)
    answer = await caller.answer()
    assert (answer.status, answer.body, answer.value("connection")) == (200, b"{}", b"close")
    await caller.send(HALF + proxy.request("GET /b"))
    assert await caller.ended() == b""
    assert [got.line for got in upstream.requests] == ["PUT /v3/a HTTP/1.1"]


async def test_an_upload_goes_on_after_an_early_success_that_announces_the_end(
    upstream: RawUpstream, proxy: Running
) -> None:
    got: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
        got.append((await peer.body())[1])
        peer.writer.close()

    upstream.answers.append(script)
    caller = await proxy.caller()
    await caller.send(proxy.request("PUT /a", b"Content-Length: %d" % SIZE) + HALF)
    assert (await caller.answer()).value("connection") == b"close"
    await caller.send(HALF)
    assert await caller.ended() == b""
    assert [len(body) for body in got] == [SIZE]
