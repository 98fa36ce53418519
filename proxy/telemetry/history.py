"""What happened lately, for the admin port's page: traffic of the last 15 minutes, the last renewals and failures.

Bounded rings in memory. Traffic is the difference of counters between two looks, so a request pays nothing for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

#: Seconds of one step, and how many are kept: 15 minutes.
STEP: Final = 15.0
STEPS: Final = 60
#: Renewals and failures that are kept.
LAST_RENEWALS: Final = 20
LAST_FAILURES: Final = 5


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters at one moment: requests, those that failed, and how many took how long (one count per bucket)."""

    requests: int
    errors: int
    buckets: tuple[int, ...]


class Traffic:
    """Traffic step by step. `totals` reads the counters; `bounds` are the buckets' upper ends in seconds."""

    def __init__(self, totals: Callable[[], Totals], bounds: Sequence[float]) -> None:
        self._totals = totals
        self._bounds = tuple(bounds)
        self._steps: deque[Totals] = deque(maxlen=STEPS)
        self._base: Totals | None = None
        self._next = 0.0

    def look(self, steady: float) -> None:
        """Close the step that is over; to be called every second or so. Steps nobody looked in count as quiet."""
        if self._base is None:
            self._base, self._next = self._totals(), steady + STEP
            return
        while steady >= self._next:
            now, base = self._totals(), self._base
            buckets = tuple(late - early for late, early in zip(now.buckets, base.buckets, strict=True))
            self._steps.append(Totals(now.requests - base.requests, now.errors - base.errors, buckets))
            self._base, self._next = now, self._next + STEP

    def told(self) -> dict[str, Any]:
        """Tell all steps, the oldest first, as `/status` does; buckets are told so that processes can be added up."""
        return {
            "step_seconds": STEP,
            "bounds_seconds": list(self._bounds),
            "requests": [step.requests for step in self._steps],
            "errors": [step.errors for step in self._steps],
            "buckets": [list(step.buckets) for step in self._steps],
        }


def added(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add up the traffic of several processes; their steps end within a second of each other."""
    longest = max((len(part["requests"]) for part in parts), default=0)
    total: dict[str, Any] = {**parts[0]} if parts else {}
    for name in ("requests", "errors"):
        padded = [[0] * (longest - len(part[name])) + part[name] for part in parts]
        total[name] = [sum(counts) for counts in zip(*padded, strict=True)]
    width = len(total.get("bounds_seconds", ())) + 1
    padded = [[[0] * width] * (longest - len(part["buckets"])) + part["buckets"] for part in parts]
    total["buckets"] = [[sum(counts) for counts in zip(*steps, strict=True)] for steps in zip(*padded, strict=True)]
    return total


def quantile(buckets: Sequence[int], bounds: Sequence[float], share: float) -> float | None:
    """Return the upper end (seconds) of the bucket in which that share of requests is reached; None: there were none."""
    sums = list(accumulate(buckets))
    if not sums or not sums[-1]:
        return None
    place = bisect_left(sums, sums[-1] * share)
    return bounds[min(place, len(bounds) - 1)]


class Events:
    """The last renewals, and the last failures with their sentences. Times are Unix seconds."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self.renewals: deque[dict[str, Any]] = deque(maxlen=LAST_RENEWALS)
        self.failures: deque[dict[str, Any]] = deque(maxlen=LAST_FAILURES)

    def renewal(self, reason: str, result: str, seconds: float | None, sentence: str | None) -> None:
        """Note a renewal that ended; a `sentence` says why it failed, and holds nothing secret."""
        at = self._wall()
        self.renewals.append({"at": at, "reason": reason, "result": result, "seconds": seconds})
        if sentence:
            self.failed(f"renewal ({reason})", sentence)

    def failed(self, what: str, sentence: str) -> None:
        """Note a failure; the same one again only moves its time."""
        if self.failures and (self.failures[-1]["what"], self.failures[-1]["sentence"]) == (what, sentence):
            self.failures.pop()
        self.failures.append({"at": self._wall(), "what": what, "sentence": sentence})
