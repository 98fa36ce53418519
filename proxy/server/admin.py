"""What the admin port of one proxy process tells: health, readiness, metrics, status; and the renewal it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from proxy.core.errors import SessionUnavailable
from proxy.core.identity import shortened
from proxy.server.admin_port import AdminPort, in_json
from proxy.server.guard import Guard
from proxy.session.keeper import SessionKeeper
from proxy.telemetry.metrics import Metrics
from proxy.upstream import Upstream


@dataclass(slots=True)
class Lifecycle:
    """Where the process is in its life; set by the composition root, read here."""

    started: bool = False
    draining: bool = False
    eager: bool = True


class Admin(AdminPort):
    """The admin port of one proxy."""

    def __init__(
        self,
        *,
        version: str,
        origin: str,
        keeper: SessionKeeper,
        upstream: Upstream,
        guard: Guard,
        metrics: Metrics,
        life: Lifecycle,
        not_alive: Callable[[], list[str]],
        accepted: Callable[[], bool],
        shutdown: Callable[[], None],
        store: Callable[[], dict[str, Any]],
        recent: Callable[[], dict[str, Any]],
    ) -> None:
        super().__init__(
            version=version, guard=guard, shutdown=shutdown, refused=lambda code: metrics.errors.labels(code).inc()
        )
        self._origin = origin
        self._keeper = keeper
        self._upstream = upstream
        self._counted = metrics
        self._life = life
        self._not_alive = not_alive
        #: CardCash has accepted our credentials, once since the start.
        self._accepted = accepted
        self._store = store
        #: What happened lately: traffic, renewals, failures.
        self._recent = recent
        self._since = datetime.now(UTC)

    def not_alive(self) -> list[str]:
        """Name what should run for the life of the process and does not."""
        return self._not_alive()

    async def not_started_because(self) -> list[str]:
        """List what the start still waits for: the first attempt at a session, well or not."""
        because = []
        if not self._life.started:
            because.append("starting")
        if self._life.eager and not self._keeper.first_attempt_over.is_set():
            because.append("the first session is being made")
        return because

    async def against_readiness(self) -> tuple[list[str], list[str]]:
        """List what stands against readiness, and what of the credentials is refused; nothing is dialled."""
        because = await self.not_started_because()
        if self._life.draining:
            because.append("draining")
        return because, [] if self._accepted() else self._refusals()

    def _refusals(self) -> list[str]:
        return [f"{what} refused: {sentence}" for what, sentence in self._keeper.refusals.items()]

    async def status(self) -> dict[str, Any]:
        """Describe the running proxy; holds no token and no application id."""
        session = self._keeper.status()
        because = await self.not_ready_because()
        return {
            "version": self._version,
            "since": self._since.isoformat(timespec="seconds"),
            "ready": not because,
            "not_ready_because": because,
            "refusals": self._refusals(),
            "not_alive": self._not_alive(),
            "draining": self._life.draining,
            **self._recent(),
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
                "refused": sorted(self._keeper.refusals),
                "paused_seconds": round(session.paused_for, 3),
                "failures_in_a_row": session.failures,
                "renewing": session.renewing,
                "waiters": session.waiters,
                "renewals": session.renewals,
                "harvests": session.harvests,
            },
            "store": {**self._store(), "pending": self._keeper.pending, "alone": self._keeper.alone},
            "upstream": {
                "origin": self._origin,
                "connections_idle": self._upstream.idle_connections,
                "connections_active": self._upstream.active_connections,
                "connections_opened": self._upstream.opened_total,
            },
            "requests_in_flight": self._guard.in_flight,
            "processes": [
                {
                    "pid": os.getpid(),
                    "state": "draining" if self._life.draining else "up",
                    "since": self._since.isoformat(timespec="seconds"),
                    "requests_in_flight": self._guard.in_flight,
                    "requests": self._counted.requests,
                    "memory_mb": _resident_mb(),
                }
            ],
        }

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Write all metrics in the format the scraper accepts; returns body and content type."""
        return self._counted.render(accept)

    async def renew(self, _: web.Request) -> web.Response:
        """Make a new session now and tell of it. Raises `SessionUnavailable`."""
        await self._keeper.renew_now()
        for sentence in self._keeper.refusals.values():
            raise SessionUnavailable(sentence)
        return in_json({"status": "renewed", "session": (await self.status())["session"]})


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
