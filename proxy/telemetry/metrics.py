"""The metrics of CONTRACT "Admin port", all prefixed `cardcash_proxy_`.

Labels are bounded: routes are templates, methods and codes come from fixed sets. Children are cached by label values,
because looking one up costs more than counting (AIOHTTP.md 7).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector

#: Seconds: from a pooled answer on loopback to CardCash's own time-outs (50-90 s, API.md 1).
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """All metrics of one proxy, on a registry of its own. Use from one thread."""

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        ProcessCollector(namespace="cardcash_proxy", registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"cardcash_proxy_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"cardcash_proxy_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"cardcash_proxy_{name}", text, ("route",), registry=registry, buckets=_BUCKETS)

        self._requests = counter("requests_total", "Requests answered.", "method", "route", "status")
        self._duration = histogram("request_duration_seconds", "From a request's head to the end of its answer.")
        self._upstream = histogram("upstream_duration_seconds", "From sending to the head of CardCash's last answer.")
        self.in_flight = gauge("requests_in_flight", "Requests being served.")
        self.errors = counter(
            "request_errors_total", "Requests the proxy ended with an error of its own, by code.", "code"
        )
        self.upstream_errors = counter("upstream_errors_total", "Failed exchanges with CardCash, by kind.", "kind")
        self._connections = gauge("upstream_connections", "Connections to CardCash.", "state")
        self._expiry = gauge("session_expiry_timestamp_seconds", "Unix time at which the held token ends; 0: none.")
        self.renewals = counter("session_renewals_total", "Renewals of the session.", "reason", "result")
        self.harvests = counter("session_harvests_total", "Tokens seen in answers.", "result")
        self.retries = counter("session_retries_total", "Requests sent once more after a rejection.", "result")
        self._waiters = gauge("session_waiters", "Callers waiting for a renewal.")
        self._replay = gauge("replay_buffer_bytes", "Request bodies kept so that they can be sent again.")
        self.store_operations = counter("store_operations_total", "Uses of the session store.", "operation", "result")
        self.identity_lost = counter("session_identity_lost_total", "Logins of callers that were lost.")
        self._latched = gauge("session_latched", "1 while CardCash's refusal of it is not tried again.", "what")
        gauge("build_info", "Always 1; the version is the label.", "version").labels(version).set(1)
        self._request_children: dict[tuple[str, str, int], Callable[[float], None]] = {}
        self._duration_children: dict[str, tuple[Callable[[float], None], Callable[[float], None]]] = {}

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

    def answered(self, method: str, route: str, status: int, seconds: float, upstream_seconds: float | None) -> None:
        """Count one request; `route` is a template, durations in seconds."""
        key = (method, route, status)
        count = self._request_children.get(key)
        if count is None:
            count = self._request_children[key] = self._requests.labels(method, route, str(status)).inc
        count(1)
        observe = self._duration_children.get(route)
        if observe is None:
            observe = (self._duration.labels(route).observe, self._upstream.labels(route).observe)
            self._duration_children[route] = observe
        observe[0](seconds)
        if upstream_seconds is not None:
            observe[1](upstream_seconds)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Write all metrics in the format the scraper accepts; returns body and content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type
