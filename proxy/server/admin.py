"""What the admin port of one proxy process tells: health, readiness, metrics, status; and the renewal it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from proxy import __version__
from proxy.core.errors import SessionUnavailable
from proxy.core.identity import shortened
from proxy.server.admin_port import AdminAnswers, Standing
from proxy.server.guard import Guard
from proxy.session.keeper import SessionKeeper
from proxy.telemetry.metrics import Metrics, exposed
from proxy.upstream import Upstream


@dataclass(slots=True)
class Lifecycle:
    """Where the process is in its life; set by the composition root, read here."""

    started: bool = False
    draining: bool = False
    eager: bool = True


@dataclass(kw_only=True)
class OneProcess(AdminAnswers):
    """What one proxy process tells."""

    origin: str
    keeper: SessionKeeper
    upstream: Upstream
    guard: Guard
    counted: Metrics
    life: Lifecycle
    dead_loops: Callable[[], list[str]]
    store: Callable[[], dict[str, Any]]
    #: What happened lately: traffic, renewals, failures.
    recent: Callable[[], dict[str, Any]]
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def not_alive(self) -> list[str]:
        """Name the loops that have died."""
        return self.dead_loops()

    def standing(self) -> Standing:
        """List what stands against start and readiness; a refusal only until CardCash has accepted the credentials once."""
        starting = []
        if not self.life.started:
            starting.append("starting")
        if self.life.eager and not self.keeper.first_renewal_over.is_set():
            starting.append("the first session is being made")
        against = [*starting, "draining"] if self.life.draining else starting
        accepted = self.counted.accepted
        return Standing(starting, against, [] if accepted else self._refusals(), accepted)

    def _refusals(self) -> list[str]:
        return [f"{what} refused: {sentence}" for what, sentence in self.keeper.refusals.items()]

    def status(self) -> dict[str, Any]:
        """Describe the running proxy; holds no token and no application id."""
        session = self.keeper.status()
        because = self.not_ready_because(self.standing())
        return {
            "version": __version__,
            "since": self.since,
            "ready": not because,
            "not_ready_because": because,
            "refusals": self._refusals(),
            "not_alive": self.not_alive(),
            "draining": self.life.draining,
            **self.recent(),
            "session": {
                "state": session.state,
                "expires_at": _iso(session.expires_wall),
                "expires_in_seconds": _rounded(session.expires_in),
                "renews_in_seconds": _rounded(session.renews_in),
                "lifetime_seconds": _rounded(session.lifetime),
                "window_seconds": _rounded(session.window),
                "source": session.source,
                "identity": shortened(session.identity),
                "identity_from_caller": session.own_login,
                "identity_lost": session.identity_lost,
                "latched": session.refused,
                "advice": session.refusal,
                "refused": sorted(self.keeper.refusals),
                "paused_seconds": round(session.paused_for, 3),
                "failures_in_a_row": session.failures,
                "renewing": session.renewing,
                "waiters": session.waiters,
                "renewals": session.renewals,
                "harvests": session.harvests,
            },
            "store": {**self.store(), "pending": self.keeper.pending, "alone": self.keeper.alone},
            "upstream": {
                "origin": self.origin,
                "connections_idle": self.upstream.idle_connections,
                "connections_active": self.upstream.active_connections,
                "connections_opened": self.upstream.opened_total,
            },
            "requests_in_flight": self.guard.in_flight,
            "processes": [
                {
                    "pid": os.getpid(),
                    "state": "draining" if self.life.draining else "up",
                    "since": self.since,
                    "requests_in_flight": self.guard.in_flight,
                    "requests": self.counted.requests.total,
                    "memory_mb": _resident_mb(),
                }
            ],
        }

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Write all metrics in the format the scraper accepts; returns body and content type."""
        return exposed(self.counted.registry, accept)

    async def renew(self) -> dict[str, Any]:
        """Make a new session now and tell of it. Raises `SessionUnavailable`."""
        await self.keeper.renew_now()
        for sentence in self.keeper.refusals.values():
            raise SessionUnavailable(sentence)
        session: dict[str, Any] = self.status()["session"]
        return session


def _resident_mb() -> float | None:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None  # not Linux
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def _iso(wall: float | None) -> str | None:
    return None if wall is None else datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
