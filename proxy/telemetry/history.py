"""What happened lately, for the admin port's page: traffic of the last 15 minutes, the last renewals and failures.

Bounded rings in memory. Traffic is the difference of counters between two looks, so a request pays nothing for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate, zip_longest
from operator import itemgetter
from typing import Any, Final

#: Seconds of one step, and how many are kept: 15 minutes.
STEP: Final = 15.0
STEPS: Final = 60
#: Renewals and failures that are kept.
LAST_RENEWALS: Final = 20
LAST_FAILURES: Final = 10


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
        self._base = totals()
        self._next: float | None = None

    def look(self, steady: float) -> None:
        """Close the step that is over; to be called every second or so. Steps nobody looked in count as quiet."""
        if self._next is None:
            # At whole multiples, so that the steps of all processes of a host end at the same time.
            self._next = (steady // STEP + 1) * STEP
        if steady < self._next:
            return
        now, base = self._totals(), self._base
        buckets = tuple(late - early for late, early in zip(now.buckets, base.buckets, strict=True))
        self._steps.append(Totals(now.requests - base.requests, now.errors - base.errors, buckets))
        quiet = min(STEPS, int((steady - self._next) // STEP))
        self._steps.extend([Totals(0, 0, (0,) * len(buckets))] * quiet)
        self._base, self._next = now, (steady // STEP + 1) * STEP

    def snapshot(self) -> dict[str, Any]:
        """Return all steps, the oldest first, as `/status` shows them; with buckets, so that processes can be added up."""
        return {
            "step_seconds": STEP,
            "bounds_seconds": list(self._bounds),
            "requests": [step.requests for step in self._steps],
            "errors": [step.errors for step in self._steps],
            "buckets": [list(step.buckets) for step in self._steps],
        }


def added(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add up the traffic of the processes of one host; their steps end within a second of each other."""

    def steps(name: str, nothing: Any) -> Iterator[tuple[Any, ...]]:
        # From the last one on: a process that is younger has fewer.
        return zip_longest(*(part[name][::-1] for part in parts), fillvalue=nothing)

    none = [0] * (len(parts[0]["bounds_seconds"]) + 1)
    return {
        **parts[0],
        **{name: [sum(counts) for counts in steps(name, 0)][::-1] for name in ("requests", "errors")},
        "buckets": [[sum(counts) for counts in zip(*each, strict=True)] for each in steps("buckets", none)][::-1],
    }


def quantile(buckets: Sequence[int], bounds: Sequence[float], share: float) -> float | None:
    """Return the upper end (seconds) of the bucket in which that share of requests is reached; None: there were none."""
    sums = list(accumulate(buckets))
    if not sums or not sums[-1]:
        return None
    place = bisect_left(sums, sums[-1] * share)
    return bounds[min(place, len(bounds) - 1)]


class Events:
    """The last renewals, and the last failures with their sentences. `wall` gives Unix seconds."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._renewals: deque[dict[str, Any]] = deque(maxlen=LAST_RENEWALS)
        self._failures: deque[dict[str, Any]] = deque(maxlen=LAST_FAILURES)
        #: The one whose seconds are shown next.
        self._untimed: dict[str, Any] | None = None

    def renewal(self, reason: str, result: str, *, source: str | None = None, sentence: str | None = None) -> None:
        """Note a renewal that ended.

        `source` says where its token is from; a `sentence` why it failed or was not logged in, and holds nothing secret.
        """
        one = {"time": self._time(), "reason": reason, "result": result, "source": source, "seconds": None}
        self._renewals.append(one)
        self._untimed = one
        if sentence:
            self.failed(f"renewal ({reason})", sentence)

    def renewal_took(self, seconds: float) -> None:
        """Note how long the renewal took that was noted last."""
        if self._untimed is not None:
            self._untimed["seconds"] = round(seconds, 3)
            self._untimed = None

    def failed(self, what: str, sentence: str) -> None:
        """Note a failure; the same one again only moves its time."""
        same = next((one for one in self._failures if (one["what"], one["sentence"]) == (what, sentence)), None)
        if same is not None:
            self._failures.remove(same)
        times = 1 if same is None else same["times"] + 1
        self._failures.append({"time": self._time(), "what": what, "sentence": sentence, "times": times})

    def snapshot(self) -> dict[str, Any]:
        """Tell all, the oldest first."""
        return {
            "recent_failures": [dict(one) for one in self._failures],
            "recent_renewals": [dict(one) for one in self._renewals],
        }

    def _time(self) -> str:
        return datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds")


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge the events of processes by time. Of several, who only took over what another has made tells nothing new."""
    when = itemgetter("time")
    renewals = [one for part in parts for one in part["recent_renewals"] if one["source"] != "store" or len(parts) == 1]
    same: dict[tuple[str, str], dict[str, Any]] = {}
    for one in sorted((one for part in parts for one in part["recent_failures"]), key=when):
        known = same.pop((one["what"], one["sentence"]), None)
        same[one["what"], one["sentence"]] = one if known is None else {**one, "times": one["times"] + known["times"]}
    failures = list(same.values())[-LAST_FAILURES:]
    return {
        "last_failure": failures[-1] if failures else None,
        "recent_failures": failures,
        "recent_renewals": sorted(renewals, key=when)[-LAST_RENEWALS:],
    }
