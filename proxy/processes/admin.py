"""The admin port that all workers have in common: any of them answers, for all.

Of itself a worker tells what is so now; of the others what they wrote into the folder, which is at most a second old.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder

from proxy import __version__
from proxy.processes import summed_metrics, summed_status
from proxy.processes.folder import Folder, read, write
from proxy.server.admin import Admin
from proxy.server.admin_port import AdminPort, in_json
from proxy.server.guard import Guard
from proxy.telemetry import history
from proxy.telemetry.metrics import Metrics

#: Seconds without a word after which a worker counts as one that does not answer.
SILENT_AFTER: Final = 2.5

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
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

    def against(self, what: str) -> list[str]:
        """List what stands against the start or the readiness of this worker."""
        if self.known["state"] == "starting":
            return ["starting"]
        if self.known["state"] == "down":
            return [f"worker {self.known['worker']} has died and is being started again"]
        return self.said[what] if self.answers else [f"worker {self.known['worker']} does not answer"]

    def metrics(self) -> summed_metrics.Families:
        """Give all its metrics; if it does not answer, only what it had counted."""
        now = summed_metrics.read(self.said.get("metrics", ()))
        return now if self.answers else summed_metrics.counted(now)

    def left(self) -> summed_metrics.Families:
        """Give what the processes before it had counted."""
        return summed_metrics.read(self.said.get("left", ()))


class WorkersAdmin(AdminPort):
    """What one worker answers for all, and what it tells the others; `own` is what it would answer alone."""

    def __init__(
        self,
        own: Admin,
        guard: Guard,
        metrics: Metrics,
        *,
        worker: int,
        pid: int,
        folder: Folder,
        shutdown: Callable[[], None],
    ) -> None:
        super().__init__(version=__version__, guard=guard, shutdown=shutdown, refused=own.refused)
        self._own = own
        self._registry = metrics.registry
        self._worker = worker
        self._pid = pid
        self._folder = folder
        #: When the last reading of all files that may change began that is over by now, on the monotonic clock.
        self.read_again_at = 0.0
        before = read(folder.worker(worker))
        counts = (summed_metrics.read(before.get("left", ())), summed_metrics.read(before.get("metrics", ())))
        #: What the processes before this one had counted: no counter goes backwards when a worker is started again.
        self._left = summed_metrics.written(summed_metrics.counted(summed_metrics.total(counts)))

    async def tell(self) -> State:
        """Tell the others how it is with this process."""
        standing, refusals = await self._own.against_readiness()
        said = {
            "pid": self._pid,
            "at": time.monotonic(),
            "read_again_at": self.read_again_at,
            "not_alive": self._own.not_alive(),
            "start": await self._own.not_started_because(),
            "standing": standing,
            "refusals": refusals,
            "status": await self._own.status(),
            "metrics": summed_metrics.written(self._registry.collect()),
            "left": self._left,
        }
        write(self._folder.worker(self._worker), said)
        return said

    async def _all(self) -> tuple[State, list[Standing]]:
        """Read what the supervisor says, and how all workers stand.

        What this process tells now is written first: whoever asks another one next must not be told of less.
        """
        said, there = await self.tell(), read(self._folder.workers)
        known = [{**one, "state": "up"} if one["pid"] == self._pid else one for one in there.get("workers", ())]
        return there, [
            Standing(one, said if one["pid"] == self._pid else read(self._folder.worker(one["worker"])))
            for one in known
        ]

    @property
    def _was_ready(self) -> bool:
        return self._folder.was_ready.exists()

    @_was_ready.setter
    def _was_ready(self, ready: bool) -> None:
        if ready and not self._was_ready:
            self._folder.was_ready.touch()

    def not_alive(self) -> list[str]:
        """Name what has died here; nothing while another worker is well: a restart of all would cure nothing then."""
        dead = self._own.not_alive()
        if dead:
            for one in read(self._folder.workers).get("workers", ()):
                other = Standing(one, read(self._folder.worker(one["worker"])))
                if one["pid"] != self._pid and other.answers and not other.said["not_alive"]:
                    return []
        return dead

    async def not_started_because(self) -> list[str]:
        """List what the start of any worker still waits for."""
        _, all_workers = await self._all()
        return _once(one.against("start") for one in all_workers)

    async def against_readiness(self) -> tuple[list[str], list[str]]:
        """List what stands against readiness of any worker, and what of the credentials is refused."""
        return self._against(*await self._all())

    def _against(self, there: State, all_workers: list[Standing]) -> tuple[list[str], list[str]]:
        if there.get("draining"):
            return ["draining"], []
        refusals = _once(one.said["refusals"] for one in all_workers if one.answers)
        return _once(one.against("standing") for one in all_workers), refusals

    async def status(self) -> State:
        """Describe all workers as one proxy, and each; holds no token and no application id."""
        return await self._sum()

    async def _sum(self, *, renewed: bool = False) -> State:
        there, all_workers = await self._all()
        because = self._judged(*self._against(there, all_workers))
        answering = [one for one in all_workers if one.answers]
        statuses = [one.said["status"] for one in answering]
        here = next((index for index, one in enumerate(answering) if renewed and one.known["pid"] == self._pid), None)
        gone = [one.left() for one in all_workers] + [one.metrics() for one in all_workers if not one.answers]
        return {
            "version": self._version,
            "since": there.get("since"),
            "ready": not because,
            "not_ready_because": because,
            "refusals": _once(status["refusals"] for status in statuses),
            "not_alive": self.not_alive(),
            "draining": bool(there.get("draining")),
            **history.merged(statuses),
            "traffic": history.added([status["traffic"] for status in statuses]),
            "session": summed_status.session(
                statuses, newest=here, ended=summed_metrics.session_counts(summed_metrics.total(gone))
            ),
            "store": summed_status.store(statuses),
            "upstream": summed_status.upstream(statuses),
            "requests_in_flight": sum(status["requests_in_flight"] for status in statuses),
            "workers": [_described(one) for one in all_workers],
            "processes": [_process(one) for one in all_workers],
        }

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Write the sum of all processes in the format the scraper accepts; returns body and content type."""
        _, all_workers = await self._all()
        # Adding up takes some 10 ms for each worker: in a thread, so that callers are served meanwhile.
        return await asyncio.to_thread(_rendered, all_workers, accept)

    async def renew(self, request: web.Request) -> web.Response:
        """Make a new session; the other workers take it over from the store within a second. Raises `SessionUnavailable`."""
        await self._own.renew(request)
        return in_json({"status": "renewed", "session": (await self._sum(renewed=True))["session"]})


def _described(one: Standing) -> State:
    silent = one.known["state"] == "up" and not one.answers
    in_flight = one.said["status"]["requests_in_flight"] if one.answers else None
    return {**one.known, "state": "silent" if silent else one.known["state"], "requests_in_flight": in_flight}


def _process(one: Standing) -> State:
    """Describe a worker as a single process describes itself, and what the supervisor knows of it."""
    said = one.said["status"]["processes"][0] if one.answers else {"requests": None, "memory_mb": None}
    told = _described(one)
    if said.get("state") == "draining":
        told["state"] = "draining"
    return {**told, "requests": said["requests"], "memory_mb": said["memory_mb"]}


def _once(reasons: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(reason for some in reasons for reason in some))


def _rendered(all_workers: list[Standing], accept: str) -> tuple[bytes, str]:
    encoder, content_type = choose_encoder(accept)
    silent = summed_metrics.silent_workers(sum(not one.answers for one in all_workers))
    parts = [part for one in all_workers for part in (one.metrics(), one.left())]
    return encoder(_Collected(summed_metrics.total([*parts, [silent]]))), content_type


class _Collected(CollectorRegistry):
    """Families that were collected already, for an encoder."""

    def __init__(self, families: summed_metrics.Families) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> list[Metric]:
        """Return them."""
        return self._families
