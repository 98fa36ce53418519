"""What runs for the life of the process: each loop is watched here, and a death is neither silent nor the end of it.

A look that raises has a bug: that is logged, the loop goes on after a pause, and `/healthz` names it meanwhile. What is
meant to end by itself is a plain task of `tasks.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.core.backoff import backoff
from proxy.tasks import Tasks
from proxy.telemetry.logs import describe, log

#: Seconds before a loop that died goes on: doubled with each death in a row, up to the longest.
FIRST_PAUSE = 1.0
LONGEST_PAUSE: Final = 30.0
#: Seconds after which one look that has not ended is a stuck one; all that looks wait for has deadlines far below.
STUCK_AFTER: Final = 60.0


class Loops:
    """The loops of one owner, in one event loop. `close` must be called."""

    def __init__(self) -> None:
        self._tasks = Tasks()
        self._loops: dict[_Loop, asyncio.Task[Any]] = {}
        self._one_is_over = asyncio.Event()

    def every(
        self, seconds: float, name: str, look: Callable[[], Awaitable[object] | object], *, spread: float = 0.0
    ) -> None:
        """Call `look`, and wait for it if it is to be waited for, every so many seconds until closed.

        `spread` is the part of them by which each wait is longer or shorter, so that many processes do not stay in step.
        """
        loop = _Loop(name, look, seconds * (1 - spread), seconds * (1 + spread), self._one_is_over)
        self._loops[loop] = self._tasks.spawn(loop.run(), name=name)

    async def look_now(self) -> None:
        """Let everything look at once, and wait until all have, in a look that began after this was called."""
        before = {loop: loop.begun for loop in self._loops}
        for loop in before:
            loop.run_now.set()
        while any(loop.over <= looks for loop, looks in before.items()):
            self._one_is_over.clear()
            await self._one_is_over.wait()

    def not_alive(self) -> list[str]:
        """Name the loops that have died and did not get through a look since, and those that are stuck in one."""
        return sorted(loop.name for loop, task in self._loops.items() if not loop.is_well or task.done())

    async def close(self) -> None:
        """End them all; none of them counts as dead for that."""
        self._loops.clear()
        await self._tasks.close()


@dataclass(eq=False, slots=True)
class _Loop:
    """One look that is taken again and again, after waits between `shortest` and `longest`."""

    name: str
    look: Callable[[], Awaitable[object] | object]
    shortest: float
    longest: float
    one_is_over: asyncio.Event
    run_now: asyncio.Event = field(default_factory=asyncio.Event)
    #: How many looks have begun, and how many of those are over.
    begun: int = 0
    over: int = 0
    #: When the look began that is under way, on the monotonic clock.
    since: float | None = None
    #: Deaths since the last look that ended well.
    deaths: int = 0

    @property
    def is_well(self) -> bool:
        """Whether the last look ended well, and the one that is under way does not last too long."""
        return not self.deaths and (self.since is None or time.monotonic() - self.since <= STUCK_AFTER)

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(self.shortest, self.longest)):  # noqa: S311 - spreads
                    await self.run_now.wait()
            self.run_now.clear()
            self.since = time.monotonic()
            self.begun += 1
            try:
                if isinstance(result := self.look(), Awaitable):
                    await result
                self.deaths, pause = 0, 0.0
            except (Exception, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise  # we are told to end; any other cancellation came out of the look and is a bug of its own
                self.deaths += 1
                pause = backoff(self.deaths, first=FIRST_PAUSE, cap=LONGEST_PAUSE)
                log.error("bug", loop=self.name, restart_in=pause, **describe(error))
            finally:
                self.since, self.over = None, self.begun
                self.one_is_over.set()
            if pause:
                await asyncio.sleep(pause)
