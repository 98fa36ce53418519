"""What is known of one request, for its log line and its metrics; nothing that could be a secret."""

from __future__ import annotations

import os
import random
import time
from datetime import UTC, datetime
from typing import Final

from proxy.core.route_names import OTHER
from proxy.core.target import METHODS
from proxy.telemetry.logs import request_log
from proxy.telemetry.metrics import Metrics

#: Seeded by the system; ids must differ, not be hard to guess, and asking the system for each costs more than all the rest.
_ids: Final = random.Random()  # noqa: S311
# Forked workers would go on alike.
os.register_at_fork(after_in_child=_ids.seed)


class Record:
    """Filled while the request is served, written once at its end."""

    __slots__ = (
        "attempts",
        "caller_gone",
        "client",
        "code",
        "method",
        "query",
        "renewed",
        "request_id",
        "route",
        "started",
        "status",
        "upstream_seconds",
    )

    def __init__(self, method: str, client: str | None) -> None:
        self.started = time.perf_counter()
        self.method = method if method in METHODS else OTHER
        self.client = client
        self.request_id = ""
        self.route = OTHER
        #: Keys of its query.
        self.query: tuple[str, ...] = ()
        self.status = 0
        self.code: str | None = None
        #: It left before its answer was out.
        self.caller_gone = False
        self.attempts = 0
        self.renewed = False
        self.upstream_seconds: float | None = None

    def close(self, metrics: Metrics) -> None:
        """Count the request and write its line; status 499 stands for a caller that left before its answer."""
        seconds = time.perf_counter() - self.started
        status = self.status or 499
        upstream = self.upstream_seconds
        metrics.answered(self.method, self.route, status, seconds, upstream)
        if self.code is not None:
            metrics.errors.labels(self.code).inc()
        fields = {
            "event": "request",
            "level": "info",
            "timestamp": datetime.now(UTC),
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": status,
            "duration_ms": seconds * 100_000.0 // 1.0 / 100.0,
            "upstream_ms": None if upstream is None else upstream * 100_000.0 // 1.0 / 100.0,
            "attempts": self.attempts,
            "client": self.client or "unix",
        }
        if self.query:
            fields["query"] = self.query
        if self.code is not None:
            fields["code"] = self.code
        if self.caller_gone and self.status:
            fields["caller_gone"] = True
        if self.renewed:
            fields["renewed"] = True
        request_log.write(fields)


def new_request_id() -> str:
    """Make an id for a request whose caller gave none."""
    return _ids.getrandbits(128).to_bytes(16, "big").hex()
