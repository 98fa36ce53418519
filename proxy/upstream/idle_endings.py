"""How long the upstream keeps idle connections, learnt from those that it ended.

A request that must not be repeated rides only on a connection that is safely younger: its FIN may be on the way.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final

#: A request that must not be repeated never rides on a connection idle for longer (seconds): keep-alive time-outs of
#: servers start at 2 s (gunicorn), and what ended on the way cannot be seen from here.
YOUNG: Final = 1.0
#: Seconds for which an end is remembered: upstreams are reconfigured, and a crash is no time-out.
MEMORY: Final = 600.0


class IdleEndings:
    """The shortest idle times that ended a connection lately. Times are the loop's seconds."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        #: (when, idle for), both rising: what is followed by a shorter one never counts again.
        self._ends: deque[tuple[float, float]] = deque()

    def note(self, now: float, idle: float) -> None:
        """Remember that a connection ended, or was found ended, after `idle` seconds without a request."""
        if idle / 2 >= YOUNG:
            return  # would change nothing
        ends = self._ends
        while ends and ends[-1][1] >= idle:
            ends.pop()
        ends.append((now, idle))

    def shortest(self, now: float) -> float:
        """Return the shortest such time of the last minutes, inf when there was none."""
        ends = self._ends
        while ends and ends[0][0] < now - MEMORY:
            ends.popleft()
        return ends[0][1] if ends else inf

    def trusted(self, now: float) -> float:
        """Return how long a connection may have been idle to carry what must not be repeated."""
        return min(YOUNG, self.shortest(now) / 2)
