"""The metrics of the admin port: ours prefixed `cardcash_proxy_`, those of any process and of Python under their own names.

Labels are bounded: routes are templates, methods and codes come from fixed sets, and every series of a closed set is
there from the start, at 0 (`labels.py`). What is counted for every request has a collector of its own; everything else
happens seldom enough for prometheus-client's own classes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from proxy.telemetry import labels

#: Seconds: from a pooled answer on loopback to CardCash's own time-outs (50-90 s, API.md 1).
_BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0),
)


class _Timing:
    """Durations in buckets."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.total = 0.0

    def cumulated(self) -> list[tuple[str, float]]:
        """Return the buckets as Prometheus wants them: upper bound, and how many were not longer."""
        bounds = [*map(floatToGoString, _BUCKETS), "+Inf"]
        return [(bound, float(count)) for bound, count in zip(bounds, accumulate(self.counts), strict=True)]


class Answered(Collector):
    """The metrics of every request, counted without a lock or an object per label: three times as fast.

    Use from one thread; a scrape reads them there too.
    """

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int], int] = {}
        self._timings: dict[str, tuple[_Timing, _Timing]] = {route: (_Timing(), _Timing()) for route in labels.ROUTES}

    def add(self, method: str, route: str, status: int, seconds: float, upstream_seconds: float | None) -> None:
        """Count one request; `route` is a template."""
        key = (method, route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        timings = self._timings.get(route)
        if timings is None:
            timings = self._timings[route] = (_Timing(), _Timing())
        timing, upstream = timings
        timing.counts[bisect_left(_BUCKETS, seconds)] += 1
        timing.total += seconds
        if upstream_seconds is not None:
            upstream.counts[bisect_left(_BUCKETS, upstream_seconds)] += 1
            upstream.total += upstream_seconds

    def collect(self) -> Iterable[Metric]:
        """Give everything to a scrape."""
        names = ("method", "route", "status")
        requests = CounterMetricFamily("cardcash_proxy_requests_total", "Requests answered.", labels=names)
        for (method, route, status), count in self._requests.items():
            requests.add_metric((method, route, str(status)), count)
        yield requests
        texts = {
            "request_duration_seconds": "From a request's head to the end of its answer.",
            "upstream_duration_seconds": "From sending to the head of CardCash's last answer.",
        }
        for place, (name, text) in enumerate(texts.items()):
            family = HistogramMetricFamily(f"cardcash_proxy_{name}", text, labels=("route",))
            for route, timings in self._timings.items():
                timing = timings[place]
                family.add_metric((route,), timing.cumulated(), timing.total)
            yield family


class Metrics:
    """All metrics of one proxy, on a registry of its own. Use from one thread."""

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = process_registry()

        def counter(name: str, text: str, *names: str, born: Iterable[Sequence[str]] = ()) -> Counter:
            made = Counter(f"cardcash_proxy_{name}", text, names, registry=registry)
            for values in born:
                made.labels(*values)
            return made

        def gauge(name: str, text: str, *names: str) -> Gauge:
            return Gauge(f"cardcash_proxy_{name}", text, names, registry=registry)

        self._answered = Answered()
        registry.register(self._answered)
        self.in_flight = gauge("requests_in_flight", "Requests being served.")
        self.errors = errors_counter(registry)
        self._unknown = counter(
            *(
                "outcome_unknown_total",
                "Requests that may have been processed, and whose callers were told so.",
                "route",
            ),
            born=_each(labels.ROUTES),
        )
        #: All of them.
        self.outcomes_unknown = 0
        self.upstream_errors = counter(
            *("upstream_errors_total", "Failed exchanges with CardCash, by kind.", "kind"),
            born=_each(labels.UPSTREAM_FAILURES),
        )
        self._connections = gauge("upstream_connections", "Connections to CardCash.", "state")
        self._expiry = gauge("session_expiry_timestamp_seconds", "Unix time at which the held token ends; 0: none.")
        #: Unix time at which CardCash last gave or refreshed a session; 0: never.
        self.last_success = 0.0
        #: CardCash has accepted our credentials, at least once.
        self.accepted = False
        gauge(
            "session_last_success_timestamp_seconds",
            "Unix time at which CardCash last gave or refreshed the session; 0: never.",
        ).set_function(lambda: self.last_success)
        self.renewals = counter(
            "session_renewals_total", "Renewals of the session.", "reason", "result", born=labels.RENEWALS
        )
        self.renewal_seconds = Histogram(
            "cardcash_proxy_session_renewal_seconds", "Renewals, retries included.", buckets=_BUCKETS, registry=registry
        )
        self.harvests = counter(
            "session_harvests_total", "Tokens seen in answers.", "result", born=_each(labels.HARVESTS)
        )
        self.retries = counter(
            *("session_retries_total", "Requests sent once more after a rejection.", "result"),
            born=_each(labels.RETRIES),
        )
        self._waiters = gauge("session_waiters", "Callers waiting for a renewal.")
        self._replay = gauge("replay_buffer_bytes", "Request bodies kept so that they can be sent again.")
        self.store_operations = counter(
            *("store_operations_total", "Uses of the session store.", "operation", "result"),
            born=labels.STORE_OPERATIONS,
        )
        self.identity_lost = counter("session_identity_lost_total", "Logins of callers that were lost.")
        self._latched = gauge("session_latched", "1 while CardCash's refusal of it is not tried again.", "what")
        workers = gauge("workers", "Worker processes; a single process is one that is up.", "state")
        for state, number in (("up", 1), ("down", 0)):
            workers.labels(state).set(number)
        gauge("build_info", "Always 1; the version is the label.", "version").labels(version).set(1)
        #: Count one request: method, route template, status, seconds, and seconds until CardCash's answer began.
        self.answered = self._answered.add

    def outcome_unknown(self, route: str) -> None:
        """Count a request that may have been processed, and whose caller was told so; `route` is a template."""
        self._unknown.labels(route).inc()
        self.outcomes_unknown += 1

    def watch(
        self,
        *,
        expiry: Callable[[], float],
        waiters: Callable[[], float],
        replay_bytes: Callable[[], float],
        idle: Callable[[], float],
        active: Callable[[], float],
        latched: Callable[[str], float],
    ) -> None:
        """Bind the gauges that are read when scraped, so that they cost nothing in between."""
        self._expiry.set_function(expiry)
        self._waiters.set_function(waiters)
        self._replay.set_function(replay_bytes)
        self._connections.labels("idle").set_function(idle)
        self._connections.labels("active").set_function(active)
        for what in ("app_id", "login"):
            self._latched.labels(what).set_function(partial(latched, what))

    def render(self, accept: str) -> tuple[bytes, str]:
        """Write all metrics in the format the scraper accepts; returns body and content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type


def process_registry() -> CollectorRegistry:
    """Make a registry with the metrics of any process and of Python, under their own names."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def errors_counter(registry: CollectorRegistry) -> Counter:
    """Make the counter of errors by code; the admin port of several workers has one of its own."""
    text = "Requests the proxy ended with an error of its own, by code."
    errors = Counter("cardcash_proxy_request_errors_total", text, ["code"], registry=registry)
    for code in labels.error_codes():
        errors.labels(code)
    return errors


def _each(values: Iterable[str]) -> list[tuple[str]]:
    return [(value,) for value in values]
