"""What one process reports of itself at the admin port, and the renewal it is asked for there."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from proxy.core.errors import SessionUnavailable
from proxy.server.guard import Guard
from proxy.server.reports import Process, Processes
from proxy.session.keeper import SessionKeeper
from proxy.telemetry.history import Events, Traffic
from proxy.telemetry.metrics import Metrics
from proxy.upstream import Upstream


@dataclass(slots=True)
class Lifecycle:
    """Where the process is in its life; set by the composition root."""

    started: bool = False
    draining: bool = False
    #: It has been ready, or one of its predecessors as this worker, when somebody asked.
    was_ready: bool = False

    @property
    def serving(self) -> bool:
        """Say whether the start is over, and the stop has not begun."""
        return self.started and not self.draining


@dataclass(kw_only=True)
class OwnProcess:
    """The process whose admin port is asked."""

    origin: str
    #: The first session is made at the start.
    eager: bool
    keeper: SessionKeeper
    upstream: Upstream
    guard: Guard
    counted: Metrics
    life: Lifecycle
    #: Names what should run for the life of the process and does not.
    not_alive: Callable[[], list[str]]
    #: What is to be said of the store itself.
    store: Callable[[], dict[str, Any]]
    events: Events
    traffic: Traffic
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def report(self) -> dict[str, Any]:
        """Tell how it is with this process, in what JSON can hold; dials nothing. No token, no application id."""
        starting = []
        if not self.life.started:
            starting.append("starting")
        if self.eager and not self.keeper.first_renewal_over.is_set():
            starting.append("the first session is being made")
        return {
            "starting": starting,
            "draining": self.life.draining,
            # CardCash has accepted the credentials since the start.
            "accepted": self.counted.accepted,
            "was_ready": self.life.was_ready,
            "refusals": [f"{what} refused: {sentence}" for what, sentence in self.keeper.refusals.items()],
            "forgotten": [f"{what} was refused and is tried again" for what in self.keeper.forgotten],
            "not_alive": self.not_alive(),
            "events": self.events.snapshot(),
            "traffic": self.traffic.snapshot(),
            "session": self.keeper.status(),
            "store": {**self.store(), "pending": self.keeper.pending, "alone": self.keeper.alone},
            "upstream": {
                "origin": self.origin,
                "connections_idle": self.upstream.idle_connections,
                "connections_active": self.upstream.active_connections,
                "connections_opened": self.upstream.opened_total,
            },
            "process": {
                "pid": os.getpid(),
                "state": "draining" if self.life.draining else "up",
                "requests_in_flight": self.guard.in_flight,
                "requests": self.counted.requests.total,
                "memory_mb": _resident_mb(),
            },
        }

    def alone(self) -> Processes:
        """Tell of it as the only process of its proxy."""
        known = {"pid": os.getpid(), "state": "up", "since": self.since}
        own = Process(known, self.report(), answers=True, measured=self.counted.registry.collect)
        return Processes(self.since, self.life.draining, own, [own])

    async def renew(self) -> None:
        """Make a new session now; other processes take it over from the store. Raises `SessionUnavailable`."""
        await self.keeper.renew_now()
        for sentence in self.keeper.refusals.values():
            raise SessionUnavailable(sentence)


def _resident_mb() -> float | None:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None  # not Linux
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
