"""The two clocks, read together; tests put a fake in their place."""

from __future__ import annotations

import time
from typing import Protocol

from proxy.core.token import Moment

# CLOCK_BOOTTIME goes on while the machine sleeps (Linux); elsewhere the wall clock notices the sleep (Windows.freshness).
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Anything that tells the time."""

    def now(self) -> Moment:
        """Read both clocks, in seconds."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> Moment:
        """Read both clocks, in seconds."""
        return Moment(steady=time.clock_gettime(_STEADY), wall=time.time())
