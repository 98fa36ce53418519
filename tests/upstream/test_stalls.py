"""Callers that stop sending or reading hold no connection while others wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.core.errors import BadRequest, CallerGone
from proxy.http.flow import HIGH
from proxy.upstream import Response, Upstream
from proxy.upstream.pool import STALLED
from tests.upstream.conftest import Connect, LoopClock, body_of
from tests.upstream.wire import GET, OK, Peer, answers, post, until

SIZE = 30_000_000
#: No other time-out but the one for stalls, however far the clock is set.
PATIENT = {"connect_timeout": 1e6, "response_timeout": 1e6, "idle_timeout": 1e6}

PassBy = Callable[[Upstream, float], None]


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
        #: How often the next piece was asked for: all before it are written.
        self.asked = 0
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.task = asyncio.create_task(up.send(method="POST", head=post(size), body=self._body()))

    async def _body(self) -> AsyncIterator[bytes]:
        while True:
            self.asked += 1
            yield await self.pieces.get()


@pytest.fixture
def pass_by(clock: LoopClock) -> PassBy:
    """Let so many seconds pass in which no caller moves, and look at all connections each second, as the ticker does."""

    def pass_by(up: Upstream, seconds: float) -> None:
        up.look()
        while seconds > 0:
            clock.on(min(seconds, 1.0))
            seconds -= 1.0
            up.look()

    return pass_by


async def paused(up: Upstream) -> Response:
    response = await up.send(method="GET", head=GET)
    await until(lambda: response.buffered > HIGH)
    return response


async def waiter(up: Upstream) -> asyncio.Task[Response]:
    task = asyncio.create_task(up.send(method="GET", head=SMALL))
    await asyncio.sleep(0)  # it stands in line with its first step
    assert not task.done()
    return task


async def test_a_stalled_upload_gives_way_to_whoever_waits(connect: Connect, pass_by: PassBy) -> None:
    wire, up = await connect(answers(OK), max_connections=1, **PATIENT)
    upload = Upload(up)
    upload.pieces.put_nowait(b"ab")
    await until(lambda: upload.asked == 2)
    task = await waiter(up)
    pass_by(up, STALLED + 0.1)
    assert (await task).status == 200
    with pytest.raises(BadRequest, match="stopped coming"):
        await upload.task
    assert wire.requests == [SMALL]


async def test_a_stalled_reader_gives_way_and_finds_its_answer_broken_off(connect: Connect, pass_by: PassBy) -> None:
    _, up = await connect(big, max_connections=1, **PATIENT)
    response = await paused(up)
    task = await waiter(up)
    pass_by(up, STALLED + 0.1)
    assert (await task).status == 200
    assert not response.complete
    with pytest.raises(CallerGone):
        await body_of(response)


async def test_who_comes_when_another_has_stalled_long_does_not_wait_for_the_ticker(
    connect: Connect, pass_by: PassBy
) -> None:
    _, up = await connect(big, max_connections=1, **PATIENT)
    await paused(up)
    pass_by(up, STALLED + 0.1)
    assert (await up.send(method="GET", head=SMALL)).status == 200


async def test_the_ticker_looks_for_stalls(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.upstream.pool.STALLED", 0.05)
    _, up = await connect(big, max_connections=1, response_timeout=0.1)
    await paused(up)
    assert (await up.send(method="GET", head=SMALL)).status == 200


async def test_who_has_stalled_for_less_is_left_alone(connect: Connect, pass_by: PassBy) -> None:
    _, up = await connect(big, max_connections=1, **PATIENT)
    response = await paused(up)
    task = await waiter(up)
    pass_by(up, STALLED - 1)
    assert response.buffered > HIGH and response.error is None
    task.cancel()
    response.close()


async def test_nobody_is_cut_off_while_nobody_waits(connect: Connect, pass_by: PassBy) -> None:
    _, up = await connect(big, max_connections=1, **PATIENT)
    response = await paused(up)
    pass_by(up, 1000)
    assert response.error is None
    assert len(await body_of(response)) == SIZE


async def test_a_reader_that_moves_is_not_stalled(connect: Connect, pass_by: PassBy) -> None:
    _, up = await connect(big, max_connections=1, **PATIENT)
    response = await paused(up)
    task = await waiter(up)
    for _ in range(40):
        pass_by(up, STALLED - 1)
        await response.read()
        await until(lambda: response.buffered > HIGH)
    assert response.error is None
    task.cancel()
    response.close()


@pytest.mark.parametrize("taken", [1024, 512])
async def test_a_reader_that_takes_a_kib_in_time_of_what_was_poured_is_not_stalled(
    connect: Connect, pass_by: PassBy, taken: int
) -> None:
    _, up = await connect(big, max_connections=1, **PATIENT)
    response = await up.send(method="GET", head=GET)
    unread, room = 0, asyncio.Event()

    def write(piece: bytes) -> bool:
        nonlocal unread
        unread += len(piece)
        room.clear()
        return False

    async def drained() -> None:
        await room.wait()

    room.set()
    pouring = asyncio.create_task(response.pour(write, drained, lambda: unread))
    await until(lambda: unread and not room.is_set())
    task = await waiter(up)
    for _ in range(4):
        unread -= taken
        pass_by(up, STALLED - 1)
    await asyncio.sleep(0)
    assert (response.error is None) is (taken == 1024)
    for each in (task, pouring):
        each.cancel()
    await asyncio.gather(task, pouring, return_exceptions=True)
    response.close()


async def test_a_sender_that_moves_is_not_stalled(connect: Connect, pass_by: PassBy) -> None:
    _, up = await connect(answers(OK), max_connections=1, **PATIENT)
    upload = Upload(up, 10 * 1024)
    await until(lambda: upload.asked)
    task = await waiter(up)
    for number in range(1, 11):
        pass_by(up, STALLED - 1)
        upload.pieces.put_nowait(b"a" * 1024)
        await until(lambda number=number: upload.asked > number or upload.task.done())  # type: ignore[misc]
    assert (await upload.task).status == 200
    assert (await task).status == 200


async def test_an_exchange_that_waits_for_the_upstream_is_not_stalled(connect: Connect, pass_by: PassBy) -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    wire, up = await connect(silent, max_connections=1, **PATIENT)
    first = asyncio.create_task(up.send(method="GET", head=GET))
    await until(lambda: wire.requests)
    second = await waiter(up)
    pass_by(up, 50)
    assert not first.done()
    for task in (first, second):
        task.cancel()


async def test_the_longest_stalled_go_first_and_no_more_than_are_needed(connect: Connect, pass_by: PassBy) -> None:
    _, up = await connect(big, max_connections=3, **PATIENT)
    responses = []
    for _ in range(3):
        responses.append(await paused(up))
        pass_by(up, 100)
    assert (await up.send(method="GET", head=SMALL)).status == 200
    assert [response.error is not None for response in responses] == [True, False, False]
    for response in responses:
        response.close()
