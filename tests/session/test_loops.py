"""What runs for the life of the process is watched: a death is logged, ended by a restart, and named meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from proxy import loops as module
from proxy.loops import Loops
from tests.server.harness import until


@pytest.fixture
async def loops(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Loops]:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.02)
    loops = Loops()
    yield loops
    await loops.close()


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    with capture_logs() as lines:
        yield lines


async def test_a_loop_that_dies_is_logged_as_a_bug_and_started_again(loops: Loops, lines: list[EventDict]) -> None:
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise ZeroDivisionError("4111111111111111")

    loops.every(0.001, "secrets", look)
    await until(lambda: looks > 4)
    (line,) = lines
    assert (line["event"], line["log_level"], line["loop"], line["error"]) == (
        *("bug", "error", "secrets"),
        "ZeroDivisionError",
    )
    assert "4111111111111111" not in repr(line)
    assert loops.not_alive() == []


async def test_a_dead_loop_is_named_until_it_got_through_a_look_again(loops: Loops, lines: list[EventDict]) -> None:
    broken = True

    async def look() -> None:
        if broken:
            raise OSError

    loops.every(0.001, "store", look)
    loops.every(0.001, "callers", lambda: None)
    await until(lambda: len(lines) > 1)
    assert loops.not_alive() == ["store"]
    broken = False
    await until(lambda: loops.not_alive() == [])


async def test_the_pause_grows_while_it_dies_again_and_again(loops: Loops, lines: list[EventDict]) -> None:
    def look() -> None:
        raise OSError

    loops.every(0.0, "store", look)
    await until(lambda: len(lines) > 2)
    assert [line["restart_in"] for line in lines[:3]] == [0.02, 0.04, 0.08]


async def test_a_cancellation_that_comes_out_of_a_look_does_not_end_the_loop(
    loops: Loops, lines: list[EventDict]
) -> None:
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise asyncio.CancelledError

    loops.every(0.001, "store", look)
    await until(lambda: looks > 2)
    assert [line["event"] for line in lines] == ["bug"]


async def test_closing_ends_them_all(lines: list[EventDict]) -> None:
    loops, looks, ended = Loops(), 0, False

    async def look() -> None:
        nonlocal looks, ended
        looks += 1
        try:
            await asyncio.sleep(3600)
        finally:
            ended = True

    loops.every(0.001, "store", look)
    await until(lambda: looks == 1)
    await loops.close()
    assert ended
    assert lines == []
    assert loops.not_alive() == []  # whoever asks at the very end is not told of a death


async def test_to_look_now_is_to_wait_for_a_look_of_all_that_began_afterwards(loops: Loops) -> None:
    begun, go = 0, asyncio.Event()

    async def look() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            await go.wait()

    loops.every(3600, "secrets", look)
    loops.every(3600, "ca", lambda: None)
    first = asyncio.create_task(loops.look_now())
    await until(lambda: begun == 1)
    looked = asyncio.create_task(loops.look_now())
    await asyncio.sleep(0)
    go.set()  # the look that was under way may have read before it was asked
    await first
    await looked
    assert begun == 2


async def test_a_look_that_fails_is_over_too(loops: Loops, lines: list[EventDict]) -> None:
    def look() -> None:
        raise OSError

    loops.every(3600, "secrets", look)
    await loops.look_now()
    await until(lambda: lines)


async def test_processes_that_begin_at_one_moment_do_not_stay_in_step(
    loops: Loops, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, waits = asyncio.Event(), list[tuple[float, float]]()

    def chosen(shortest: float, longest: float) -> float:
        waits.append((shortest, longest))
        return 0.001

    monkeypatch.setattr("proxy.loops.random.uniform", chosen)
    loops.every(1.0, "store", looked.set, spread=0.2)
    async with asyncio.timeout(20):
        await looked.wait()
    assert waits[0] == (0.8, 1.2)
