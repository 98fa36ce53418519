"""What is counted of every request: by prometheus_client's own way of exposing numbers that are kept elsewhere.

Its counters and histograms take a lock for each number and look through the buckets from the first; for every request that
is 6 % of it (0.26, measured under callgrind). Requests are counted in one thread, so plain numbers do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from proxy.telemetry.history import Totals
from proxy.telemetry.labels import of_a_request


class _Durations:
    """How long requests of one route took: in the buckets, the last of which has no end, and in all (seconds)."""

    __slots__ = ("counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0


class RequestMetrics(Collector):
    """Requests by method, route and status, and their durations by route; `routes` are there from the start."""

    def __init__(self, routes: Iterable[str], bounds: tuple[float, ...]) -> None:
        #: Upper ends of the buckets in seconds, in ascending order.
        self._bounds: Final = bounds
        self._counts: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        #: Of each route: until the end of the answer, and until CardCash's began.
        self._durations: defaultdict[str, tuple[_Durations, _Durations]] = defaultdict(
            lambda: (_Durations(bounds), _Durations(bounds))
        )
        for route in routes:
            self._durations[route]

    def answered(self, method: str, route: str, status: int, seconds: float, upstream_seconds: float | None) -> None:
        """Count one request; `route` is a template."""
        self._counts[method, route, status] += 1
        whole, upstream = self._durations[route]
        whole.counts[bisect_left(self._bounds, seconds)] += 1
        whole.sum += seconds
        if upstream_seconds is not None:
            upstream.counts[bisect_left(self._bounds, upstream_seconds)] += 1
            upstream.sum += upstream_seconds

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self._counts.values())

    def totals(self) -> Totals:
        """Add up all, those answered 5xx by whomever, and how many took how long."""
        errors = sum(count for (_, _, status), count in self._counts.items() if status >= 500)
        buckets = zip(*(whole.counts for whole, _ in self._durations.values()), strict=True)
        return Totals(self.total, errors, tuple(map(sum, buckets)))

    def collect(self) -> Iterator[Metric]:
        """Tell of all; prometheus_client calls this when somebody asks."""
        text = "Requests answered."
        requests = CounterMetricFamily("cardcash_proxy_requests", text, labels=("method", "route", "status"))
        # Brought together here, where it costs no request anything.
        counts: Counter[tuple[str, str, str]] = Counter()
        for of, count in self._counts.items():
            counts[of_a_request(*of)] += count
        for labels, count in counts.items():
            requests.add_metric(labels, count)
        text = "From a request's head to the end of its answer."
        whole = HistogramMetricFamily("cardcash_proxy_request_duration_seconds", text, labels=("route",))
        text = "From sending to the head of CardCash's last answer."
        upstream = HistogramMetricFamily("cardcash_proxy_upstream_duration_seconds", text, labels=("route",))
        ends = [*map(floatToGoString, self._bounds), "+Inf"]
        for route, durations in self._durations.items():
            for family, each in zip((whole, upstream), durations, strict=True):
                family.add_metric([route], list(zip(ends, accumulate(map(float, each.counts)), strict=True)), each.sum)
        yield from (requests, whole, upstream)
