"""The two clocks, read together; tests put a fake in their place."""

from __future__ import annotations

import time
from typing import Protocol

from proxy.core.token import Moment

# CLOCK_BOOTTIME goes on while the machine sleeps (Linux); elsewhere the wall clock notices the sleep (Windows.freshness).
_STEADY: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Clock(Protocol):
    """Anything that tells the time."""

    def now(self) -> Moment:
        """Read both clocks, in seconds."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> Moment:
        """Read both clocks, in seconds."""
        return Moment(time.monotonic() if _STEADY is None else time.clock_gettime(_STEADY), time.time())
