"""The two clocks, read together; tests put a fake in their place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from proxy.core.token import Moment

# CLOCK_BOOTTIME goes on while the machine sleeps (Linux); elsewhere the wall clock notices the sleep (Windows.freshness).
_STEADY: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def _read() -> Moment:
    return Moment(time.monotonic() if _STEADY is None else time.clock_gettime(_STEADY), time.time())


class Clock(Protocol):
    """Anything that tells the time."""

    def now(self) -> Moment:
        """Read both clocks, in seconds."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> Moment:
        """Read both clocks, in seconds."""
        return _read()


class TurnClock:
    """The same, read once per turn of the event loop: a request asks several times, and each reading has its price.

    Leans on uvloop, whose own time (in milliseconds) stands still within a turn; on other loops every reading is new.
    """

    def __init__(self) -> None:
        self._time: Callable[[], float] | None = None
        self._turn = -1.0
        self._moment = Moment(0.0, 0.0)

    def now(self) -> Moment:
        """Return the reading of this turn."""
        if self._time is None:
            self._time = asyncio.get_running_loop().time
        turn = self._time()
        if turn != self._turn:
            self._turn = turn
            self._moment = _read()
        return self._moment
