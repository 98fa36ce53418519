"""What happens to the session, as log lines and metrics. Stands behind `session.ports.Observer` and
`session.stores.StoreWatch`."""

from __future__ import annotations

import time
from collections.abc import Mapping

from proxy.telemetry.history import Events
from proxy.telemetry.logs import log
from proxy.telemetry.metrics import Metrics

_WORTH_A_WARNING = frozenset({"failed", "refused", "login_refused", "same_token"})
_LOGIN_REJECTED = "CardCash rejected the login that a caller made."
_NOT_KEPT = "The call that keeps a caller's login going failed."


class SessionWatch:
    """Counts, logs, and keeps what `/status` tells of; never raises, never waits."""

    def __init__(self, metrics: Metrics, events: Events) -> None:
        self._metrics = metrics
        self._events = events
        # Operations of the store that failed and do not work again yet: each is told of once, not once per request.
        self._failing: set[str] = set()

    def renewal(self, reason: str, result: str, fields: Mapping[str, object]) -> None:
        """Tell of a renewal that ended."""
        self._metrics.renewals.labels(reason, result).inc()
        if result == "ok" and reason != "store":
            self._metrics.last_success = time.time()
            self._metrics.accepted = True
        source, sentence = fields.get("source"), fields.get("sentence")
        if reason == "keepalive" and result == "failed":
            sentence = _LOGIN_REJECTED if fields.get("rejected") else _NOT_KEPT
        self._events.renewal(
            reason, result, source=None if source is None else str(source), sentence=str(sentence) if sentence else None
        )
        write = log.warning if result in _WORTH_A_WARNING else log.info
        write("session_renewal", reason=reason, result=result, **fields)

    def harvest(self, result: str) -> None:
        """Tell of a token seen in an answer."""
        self._metrics.harvests.labels(result).inc()
        if result == "adopted":
            self._metrics.last_success = time.time()
        log.debug("session_harvest", result=result)

    def renewal_took(self, seconds: float) -> None:
        """Measure a renewal that ended, well or not."""
        self._metrics.renewal_seconds.observe(seconds)
        self._events.renewal_took(seconds)

    def call_failed(self, kind: str) -> None:
        """Count a failed try of a session call beside those of ordinary requests; the renewal's line tells of it."""
        self._metrics.upstream_errors.labels(kind).inc()

    def identity_lost(self) -> None:
        """Tell that the login of a caller is gone."""
        self._metrics.identity_lost.inc()
        self._events.failed("login of a caller", "It is lost; the caller must log in again.")
        log.warning("session_identity_lost", advice="the caller must log in again; requests go on anonymously")

    def store(self, operation: str, result: str, why: str = "") -> None:
        """Tell of a use of the store; logs when an operation begins to fail, and when it works again."""
        self._metrics.store_operations.labels(operation, result).inc()
        if result == "failed":
            if operation not in self._failing:
                self._failing.add(operation)
                self._events.failed("session store", why)
                advice = (
                    "the session is kept in memory only meanwhile, requests go on; `doctor --no-login` tries the store"
                )
                log.warning("session_store_failed", operation=operation, why=why, advice=advice)
        elif operation in self._failing:
            self._recovered(operation)

    def store_works(self) -> None:
        """Tell of every operation that failed that it works again, though it was not used since: the outage is one."""
        for operation in sorted(self._failing):
            self._recovered(operation)

    def took(self, operation: str, seconds: float) -> None:
        """Measure a use of a Redis that was tried, well or not."""
        self._metrics.store_seconds.labels(operation).observe(seconds)

    def reconnected(self) -> None:
        """Count a connection to a Redis that is not the first."""
        self._metrics.store_reconnects.inc()

    def _recovered(self, operation: str) -> None:
        self._failing.discard(operation)
        log.info("session_store_recovered", operation=operation)
