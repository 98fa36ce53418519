"""What runs for the life of the process: each loop is watched here, and a death is neither silent nor the end of it.

A loop that raises has a bug: that is logged, it is started again after a pause, and `/healthz` names it meanwhile. Only
what is meant to end by itself is a plain task of `tasks.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from proxy.tasks import Tasks
from proxy.telemetry.logs import describe, log

T = TypeVar("T")

#: Seconds before a loop that died is started again: doubled with each death in a row, up to the longest.
FIRST_PAUSE = 1.0
LONGEST_PAUSE: Final = 30.0
#: Seconds after which one look that has not ended is a stuck one; all that looks wait for has deadlines far below.
STUCK_AFTER: Final = 60.0


class Loops:
    """The loops of one owner, in one event loop. `close` must be called."""

    def __init__(self) -> None:
        self._tasks = Tasks()
        self._kept: dict[str, asyncio.Task[Any]] = {}
        self._dead: set[str] = set()
        #: When the look began that is under way, on the monotonic clock.
        self._looking: dict[str, float] = {}
        self._hurry: dict[str, asyncio.Event] = {}
        #: How many looks have begun, and how many of those are over.
        self._begun: dict[str, int] = {}
        self._over: dict[str, int] = {}
        self._one_is_over = asyncio.Event()

    def every(self, seconds: float, name: str, look: Callable[[], Awaitable[object] | object]) -> None:
        """Call `look`, and wait for it if it is to be waited for, every so many seconds until closed."""

        async def going() -> None:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._hurry[name].wait()
                self._hurry[name].clear()
                self._looking[name] = time.monotonic()
                self._begun[name] += 1
                try:
                    if isinstance(result := look(), Awaitable):
                        await result
                finally:
                    del self._looking[name]
                    self._over[name] = self._begun[name]
                    self._one_is_over.set()
                self._dead.discard(name)

        self._hurry[name] = asyncio.Event()
        self._begun[name] = self._over[name] = 0
        self._kept[name] = self._tasks.spawn(self._kept_going(name, going, looks=True), name=name)

    def keep(self, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Run `work` until it returns; begin it anew, after a pause, whenever it raises."""
        task = self._kept[name] = self._tasks.spawn(self._kept_going(name, work, looks=False), name=name)
        return task

    def hurry(self) -> None:
        """Let everything that looks every so many seconds look at once."""
        for event in self._hurry.values():
            event.set()

    async def look_now(self) -> None:
        """Let everything that looks look at once, and wait until all have, in a look that began after this was called."""
        before = dict(self._begun)
        self.hurry()
        while any(self._over[name] <= looks for name, looks in before.items()):
            self._one_is_over.clear()
            await self._one_is_over.wait()

    def not_alive(self) -> list[str]:
        """Name the loops that have died and did not get through a look since, and those that are stuck in one."""
        now = time.monotonic()
        stuck = {name for name, since in self._looking.items() if now - since > STUCK_AFTER}
        return sorted(self._dead | stuck | {name for name, task in self._kept.items() if task.done()})

    async def close(self) -> None:
        """End them all; none of them counts as dead for that."""
        self._kept.clear()
        self._dead.clear()
        await self._tasks.close()

    async def _kept_going(self, name: str, work: Callable[[], Coroutine[Any, Any, T]], *, looks: bool) -> T:
        deaths = 0
        while True:
            try:
                return await work()
            except (Exception, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise  # we are told to end; any other cancellation came out of `work` and is a bug of its own
                deaths = deaths + 1 if name in self._dead else 1
                self._dead.add(name)
                pause = min(FIRST_PAUSE * 2.0 ** min(deaths - 1, 10), LONGEST_PAUSE)
                log.error("bug", loop=name, restart_in=pause, **describe(error))
            await asyncio.sleep(pause)
            if not looks:  # nothing but its next death tells that it is not well
                self._dead.discard(name)
