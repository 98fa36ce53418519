"""The admin port that all workers have in common: any of them answers, for all.

Of itself a worker tells what is so now; of the others what they wrote into the folder, which is at most a second old.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, cast

from prometheus_client import CollectorRegistry

from proxy import __version__
from proxy.process import described
from proxy.processes import summed_metrics, summed_status
from proxy.processes.folder import Folder, read, write
from proxy.server.admin import OneProcess
from proxy.server.admin_port import AdminAnswers, Standing
from proxy.telemetry import history
from proxy.telemetry.logs import log
from proxy.telemetry.metrics import exposed

#: Seconds without a word after which a worker counts as one that does not answer.
SILENT_AFTER: Final = 2.5
#: What `workers` of `/status` tells of each; `processes` tells more.
_OF_A_WORKER: Final = ("worker", "pid", "state", "since", "restarts", "requests_in_flight")

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """One worker: what the supervisor says of it, and what it says of itself."""

    known: State
    said: State

    @property
    def answers(self) -> bool:
        """Say whether it is up, and has told of itself just now."""
        if self.known["state"] != "up" or self.said.get("pid") != self.known["pid"]:
            return False
        age: float = time.monotonic() - self.said.get("at", 0.0)
        return age < SILENT_AFTER

    @property
    def is_well(self) -> bool:
        """Say whether it would say at its own `/healthz` that it is alive."""
        return self.answers and not self.said["not_alive"]

    def against(self, what: str) -> list[str]:
        """List what stands against this worker, by its own words or by the supervisor's; `what`: a field of `Standing`."""
        if self.known["state"] == "starting":
            return ["starting"]
        if self.known["state"] == "down":
            return [f"worker {self.known['worker']} has died and is being started again"]
        return self.said[what] if self.answers else [f"worker {self.known['worker']} does not answer"]

    def metrics(self) -> summed_metrics.Families:
        """Give all its metrics, if it does not answer only what it had counted; and what those before it had counted."""
        now = summed_metrics.read(self.said.get("metrics", ()))
        before = summed_metrics.read(self.said.get("left", ()))
        return (now if self.answers else summed_metrics.counted(now)) + before


class AllWorkers(AdminAnswers):
    """What one worker tells for all, and what it tells the others; `own` is what it would tell alone."""

    def __init__(self, own: OneProcess, *, worker: int, folder: Folder) -> None:
        self._own = own
        self._worker = worker
        self._pid = os.getpid()
        self._folder = folder
        #: When the last reading of all files that may change began that is over by now, on the monotonic clock.
        self.read_again_at = 0.0
        #: What it tells could not be written the last time.
        self._is_cut_off = False
        before = read(folder.worker(worker))
        counts = (summed_metrics.read(before.get("left", ())), summed_metrics.read(before.get("metrics", ())))
        # What holds for all once it has been so, whichever worker saw it.
        self.was_ready = bool(before.get("was_ready"))
        #: What the processes before this one had counted: no counter goes backwards when a worker is started again.
        self._left = summed_metrics.written(summed_metrics.counted(summed_metrics.total(counts)))

    def tell(self) -> State:
        """Tell the others how it is with this process."""
        standing = self._own.standing()
        said = {
            "pid": self._pid,
            "at": time.monotonic(),
            "read_again_at": self.read_again_at,
            "was_ready": self.was_ready,
            "not_alive": self._own.not_alive(),
            **standing._asdict(),
            "status": self._own.status(),
            "metrics": summed_metrics.written(self._own.counted.registry.collect()),
            "left": self._left,
        }
        error = write(self._folder.worker(self._worker), said)
        if error is not None and not self._is_cut_off:
            advice = (
                "the other workers take this one for silent until it can: make room, or set TMPDIR to another place"
            )
            log.warning("worker_cannot_tell", folder=str(self._folder.path), why=described(error), advice=advice)
        self._is_cut_off = error is not None
        return said

    def _all(self) -> tuple[State, list[Report]]:
        """Read what the supervisor says, and how all workers stand.

        What this process tells now is written first: whoever asks another one next must not be told of less.
        """
        said, there = self.tell(), read(self._folder.workers)
        known = [{**one, "state": "up"} if one["pid"] == self._pid else one for one in there.get("workers", ())]
        all_workers = [
            Report(one, said if one["pid"] == self._pid else read(self._folder.worker(one["worker"]))) for one in known
        ]
        self.was_ready = self.was_ready or any(one.said.get("was_ready") for one in all_workers)
        return there, all_workers

    def not_alive(self) -> list[str]:
        """Name what has died here; nothing while another worker is well: a restart of all would cure nothing then."""
        dead = self._own.not_alive()
        others = [one for one in read(self._folder.workers).get("workers", ()) if dead and one["pid"] != self._pid]
        well = any(Report(one, read(self._folder.worker(one["worker"]))).is_well for one in others)
        return [] if well else dead

    def standing(self) -> Standing:
        """List what stands against start and readiness of any worker, and what of the credentials is refused."""
        return self._standing(*self._all())

    def _standing(self, there: State, all_workers: list[Report]) -> Standing:
        starting = _once(one.against("starting") for one in all_workers)
        if there.get("draining"):
            return Standing(starting, ["draining"], [], accepted=False)
        against = _once(one.against("against") for one in all_workers)
        accepted = any(one.said.get("accepted") for one in all_workers)
        refusals = [] if accepted else _once(one.said["refusals"] for one in all_workers if one.answers)
        return Standing(starting, against, refusals, accepted)

    def status(self) -> State:
        """Describe all workers as one proxy, and each; holds no token and no application id."""
        return self._sum()

    def _sum(self, *, renewed: bool = False) -> State:
        there, all_workers = self._all()
        because = self.not_ready_because(self._standing(there, all_workers))
        answering = [one for one in all_workers if one.answers]
        statuses = [one.said["status"] for one in answering]
        here = next((index for index, one in enumerate(answering) if renewed and one.known["pid"] == self._pid), None)
        counts = summed_metrics.session_counts(family for one in all_workers for family in one.metrics())
        processes = [_process(one) for one in all_workers]
        return {
            "version": __version__,
            "since": there.get("since"),
            "ready": not because,
            "not_ready_because": because,
            "refusals": _once(status["refusals"] for status in statuses),
            "not_alive": self.not_alive(),
            "draining": bool(there.get("draining")),
            **history.merged(statuses),
            "traffic": history.added([status["traffic"] for status in statuses]),
            "session": {**summed_status.session(statuses, newest=here), **counts},
            "store": summed_status.store(statuses),
            "upstream": summed_status.upstream(statuses),
            "requests_in_flight": sum(status["requests_in_flight"] for status in statuses),
            "workers": [{name: row[name] for name in _OF_A_WORKER} for row in processes],
            "processes": processes,
        }

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Write the sum of all processes in the format the scraper accepts; returns body and content type."""
        # Adding up takes some 10 ms for each worker: in a thread, so that callers are served meanwhile.
        return await asyncio.to_thread(_rendered, self._all()[1], accept)

    async def renew(self) -> State:
        """Make a new session; the other workers take it over from the store within a second. Raises `SessionUnavailable`."""
        await self._own.renew()
        session: State = self._sum(renewed=True)["session"]
        return session


def _process(one: Report) -> State:
    """Describe a worker as a single process describes itself, and what the supervisor knows of it."""
    if one.answers:
        return {**one.known, **one.said["status"]["processes"][0], "since": one.known["since"]}
    state = "silent" if one.known["state"] == "up" else one.known["state"]
    return {**one.known, "state": state, "requests_in_flight": None, "requests": None, "memory_mb": None}


def _once(reasons: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(reason for some in reasons for reason in some))


def _rendered(all_workers: list[Report], accept: str) -> tuple[bytes, str]:
    silent = summed_metrics.silent_workers(sum(not one.answers for one in all_workers))
    families = summed_metrics.total([*(one.metrics() for one in all_workers), [silent]])
    # All that is asked of a registry there.
    return exposed(cast("CollectorRegistry", SimpleNamespace(collect=lambda: families)), accept)
