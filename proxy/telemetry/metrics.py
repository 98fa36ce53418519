"""The metrics of the admin port: ours prefixed `cardcash_proxy_`, those of any process and of Python under their own names.

Labels are bounded: routes are templates, methods and codes come from fixed sets, and every series of a closed set is
there from the start, at 0 (`labels.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from proxy.telemetry import labels
from proxy.telemetry.request_metrics import RequestMetrics

#: Seconds: from a pooled answer on loopback to CardCash's own time-outs (50-90 s, `core/README.md`).
BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0),
)
#: Seconds of one use of a store on a network, which may be quicker than any answer.
_STORE_BUCKETS: Final = (0.0005, *BUCKETS)


class Metrics:
    """All metrics of one proxy, on a registry of its own. Use from one thread."""

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        for of_any_process in (ProcessCollector, PlatformCollector, GCCollector):
            of_any_process(registry=registry)
        counter = partial(_counter, registry)
        gauge = partial(_gauge, registry)
        self.requests = RequestMetrics(labels.ROUTES, BUCKETS)
        registry.register(self.requests)
        #: Counts one request: method, route (a template), status, seconds, seconds until CardCash's answer began or None.
        self.answered = self.requests.answered
        self.in_flight = gauge("requests_in_flight", "Requests being served.")
        self.errors = counter(
            "request_errors_total",
            "Requests the proxy ended with an error of its own, by code.",
            "code",
            initial=labels.error_codes(),
        )
        self._unknown = counter(
            "outcome_unknown_total",
            "Requests that may have been processed, and whose callers were told so.",
            "route",
            initial=labels.ROUTES,
        )
        #: All of them.
        self.outcomes_unknown = 0
        self.upstream_errors = counter(
            "upstream_errors_total",
            "Failed exchanges with CardCash, by kind.",
            "kind",
            initial=labels.UPSTREAM_FAILURES,
        )
        self.connections = gauge("upstream_connections", "Connections to CardCash.", "state")
        self.expiry = gauge("session_expiry_timestamp_seconds", "Unix time at which the held token ends; 0: none.")
        #: Unix time at which CardCash last gave or refreshed a session; 0: never.
        self.last_success = 0.0
        #: CardCash has accepted our credentials, at least once.
        self.accepted = False
        gauge(
            "session_last_success_timestamp_seconds",
            "Unix time at which CardCash last gave or refreshed the session; 0: never.",
        ).set_function(lambda: self.last_success)
        self.renewals = counter(
            "session_renewals_total", "Renewals of the session.", "reason", "result", initial=labels.RENEWALS
        )
        self.renewal_seconds = Histogram(
            *("cardcash_proxy_session_renewal_seconds", "Renewals, retries included."),
            buckets=BUCKETS,
            registry=registry,
        )
        self.harvests = counter("session_harvests_total", "Tokens seen in answers.", "result", initial=labels.HARVESTS)
        self.retries = counter(
            "session_retries_total",
            "Requests sent once more after a rejection.",
            "result",
            initial=labels.RETRIES,
        )
        self.waiters = gauge("session_waiters", "Callers waiting for a renewal.")
        self.replay_bytes = gauge("replay_buffer_bytes", "Request bodies buffered so that they can be sent again.")
        self.store_operations = counter(
            "store_operations_total",
            "Uses of the session store.",
            "operation",
            "result",
            initial=labels.STORE_OPERATIONS,
        )
        self.store_seconds = Histogram(
            *("cardcash_proxy_store_seconds", "Uses of a Redis.", ["operation"]),
            buckets=_STORE_BUCKETS,
            registry=registry,
        )
        for operation in labels.REDIS_OPERATIONS:
            self.store_seconds.labels(operation)
        self.store_reconnects = counter("store_reconnects_total", "Connections to a Redis after the first.")
        self.store_up = gauge("store_up", "1 while the session store can be used.")
        self.alone = gauge("session_alone", "1 while the held token is not the one in the store.")
        self.identity_lost = counter("session_identity_lost_total", "Logins of callers that were lost.")
        self.refused = gauge("session_latched", "1 while CardCash's refusal of it is not tried again.", "what")
        workers = gauge("workers", "Worker processes; a single process is one that is up.", "state")
        for state, number in (("up", 1), ("down", 0)):
            workers.labels(state).set(number)
        gauge("build_info", "Always 1; the version is the label.", "version").labels(version).set(1)

    def outcome_unknown(self, route: str) -> None:
        """Count a request that may have been processed, and whose caller was told so; `route` is a template."""
        self._unknown.labels(route).inc()
        self.outcomes_unknown += 1

    def refused_by_us(self, code: str) -> None:
        """Count an error of our own by its code."""
        self.errors.labels(code).inc()


def _counter(
    registry: CollectorRegistry, name: str, text: str, *names: str, initial: Iterable[str | Sequence[str]] = ()
) -> Counter:
    made = Counter(f"cardcash_proxy_{name}", text, names, registry=registry)
    for values in initial:
        made.labels(*((values,) if isinstance(values, str) else values))
    return made


def _gauge(registry: CollectorRegistry, name: str, text: str, *names: str) -> Gauge:
    return Gauge(f"cardcash_proxy_{name}", text, names, registry=registry)
