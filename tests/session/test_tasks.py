"""Background tasks are kept, reported and ended."""

from __future__ import annotations

import asyncio

from proxy.clock import SystemClock
from proxy.tasks import Tasks


async def test_closing_ends_every_task_also_those_begun_meanwhile() -> None:
    tasks = Tasks()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            tasks.spawn(asyncio.Event().wait(), name="late")

    first = tasks.spawn(stubborn(), name="first")
    await asyncio.sleep(0)
    await tasks.close()
    assert first.cancelled()
    assert len(tasks) == 0


async def test_a_failure_is_reported_by_name() -> None:
    failures: list[tuple[str, BaseException]] = []
    tasks = Tasks(lambda name, error: failures.append((name, error)))
    error = ZeroDivisionError()

    async def fails() -> None:
        raise error

    await asyncio.wait({tasks.spawn(fails(), name="broken")})
    await asyncio.sleep(0)
    assert failures == [("broken", error)]
    assert len(tasks) == 0


def test_the_steady_clock_never_goes_back() -> None:
    readings = [SystemClock().now().steady for _ in range(100)]
    assert readings == sorted(readings)


async def test_close_ends_even_if_a_task_has_just_ended_and_nobody_was_told_yet() -> None:
    tasks = Tasks()
    task = tasks.spawn(asyncio.sleep(0), name="short")
    while not task.done():
        await asyncio.sleep(0)
    await tasks.close()  # without end on Python 3.12 and later, once
    assert len(tasks) == 0
