"""Callers that stop sending or reading hold no connection while others wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.core.errors import BadRequest, CallerGone
from proxy.http.flow import HIGH
from proxy.upstream import Response, Upstream
from proxy.upstream.pool import STALLED
from tests.upstream.conftest import Connect, body_of
from tests.upstream.wire import GET, OK, Peer, answers, post, until

SIZE = 30_000_000


async def big(peer: Peer) -> None:
    while True:
        line = await peer.request()
        if b"/small" in line:
            await peer.send(OK)
            continue
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE // 50_000):
            await peer.send(b"x" * 50_000)


SMALL = GET.replace(b"/x", b"/small")


class Upload:
    """An upload whose caller sends when it is told to."""

    def __init__(self, up: Upstream, size: int = 10) -> None:
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.task = asyncio.create_task(up.send(method="POST", head=post(size), body=self._body()))

    async def _body(self) -> AsyncIterator[bytes]:
        while piece := await self.pieces.get():
            yield piece


def pass_by(up: Upstream, seconds: float) -> None:
    """Let so many seconds pass in which no caller moves, and look at all connections as the ticker does."""
    now = asyncio.get_running_loop().time()
    for connection in up._pool._live:
        connection.stall.since -= seconds
    up._pool._look_for_stalls(now)


async def paused(up: Upstream) -> Response:
    response = await up.send(method="GET", head=GET)
    await until(lambda: response.buffered > HIGH)
    return response


async def waiter(up: Upstream) -> asyncio.Task[Response]:
    task = asyncio.create_task(up.send(method="GET", head=SMALL))
    await until(lambda: up._pool._waiters)
    return task


async def test_a_stalled_upload_gives_way_to_whoever_waits(connect: Connect) -> None:
    wire, up = await connect(answers(OK), max_connections=1)
    upload = Upload(up)
    upload.pieces.put_nowait(b"ab")
    await until(lambda: any(connection.used for connection in up._pool._live))
    task = await waiter(up)
    pass_by(up, STALLED + 0.1)
    assert (await task).status == 200
    with pytest.raises(BadRequest, match="stopped coming"):
        await upload.task
    assert wire.requests == [SMALL]


async def test_a_stalled_reader_gives_way_and_finds_its_answer_broken_off(connect: Connect) -> None:
    _, up = await connect(big, max_connections=1)
    response = await paused(up)
    task = await waiter(up)
    pass_by(up, STALLED + 0.1)
    assert (await task).status == 200
    assert not response.complete
    with pytest.raises(CallerGone):
        await body_of(response)


async def test_who_comes_when_another_has_stalled_long_does_not_wait_for_the_ticker(connect: Connect) -> None:
    _, up = await connect(big, max_connections=1)
    await paused(up)
    pass_by(up, STALLED + 0.1)
    assert (await up.send(method="GET", head=SMALL)).status == 200


async def test_the_ticker_looks_for_stalls(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.upstream.pool.STALLED", 0.05)
    _, up = await connect(big, max_connections=1, response_timeout=0.1)
    await paused(up)
    assert (await up.send(method="GET", head=SMALL)).status == 200


async def test_who_has_stalled_for_less_is_left_alone(connect: Connect) -> None:
    _, up = await connect(big, max_connections=1)
    response = await paused(up)
    task = await waiter(up)
    pass_by(up, STALLED - 1)
    assert response.buffered > HIGH and response.error is None
    task.cancel()
    response.close()


async def test_nobody_is_cut_off_while_nobody_waits(connect: Connect) -> None:
    _, up = await connect(big, max_connections=1)
    response = await paused(up)
    pass_by(up, 1000)
    assert response.error is None
    assert len(await body_of(response)) == SIZE


async def test_a_reader_that_moves_is_not_stalled(connect: Connect) -> None:
    _, up = await connect(big, max_connections=1)
    response = await paused(up)
    task = await waiter(up)
    for _ in range(40):
        pass_by(up, STALLED - 1)
        await response.read()
        await until(lambda: response.buffered > HIGH)
    assert response.error is None
    task.cancel()
    response.close()


async def test_a_sender_that_moves_is_not_stalled(connect: Connect) -> None:
    _, up = await connect(answers(OK), max_connections=1)
    upload = Upload(up, 10 * 1024)
    await until(lambda: any(connection.used for connection in up._pool._live))
    task = await waiter(up)
    (connection,) = up._pool._live
    for _ in range(10):
        pass_by(up, STALLED - 1)
        sent = connection._written
        upload.pieces.put_nowait(b"a" * 1024)
        await until(lambda sent=sent: connection._written > sent)  # type: ignore[misc]
    assert (await upload.task).status == 200
    assert (await task).status == 200


async def test_an_exchange_that_waits_for_the_upstream_is_not_stalled(connect: Connect) -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    wire, up = await connect(silent, max_connections=1)
    first = asyncio.create_task(up.send(method="GET", head=GET))
    await until(lambda: wire.requests)
    second = await waiter(up)
    pass_by(up, 50)
    assert not first.done()
    for task in (first, second):
        task.cancel()


async def test_the_longest_stalled_go_first_and_no_more_than_are_needed(connect: Connect) -> None:
    _, up = await connect(big, max_connections=3)
    responses = []
    for _ in range(3):
        responses.append(await paused(up))
        pass_by(up, 100)
    assert (await up.send(method="GET", head=SMALL)).status == 200
    assert [response.error is not None for response in responses] == [True, False, False]
    for response in responses:
        response.close()
