"""One admin port for all workers: what each says, summed, and what the supervisor knows of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder

from proxy.core.errors import SessionUnavailable
from proxy.processes import picture
from proxy.processes.asking import Reply, ask
from proxy.processes.child import Child
from proxy.processes.totals import Families, Ledger, parsed, session_counts, total, workers_gauge
from proxy.server.admin_port import AdminPort, in_json
from proxy.server.guard import Guard
from proxy.telemetry.metrics import errors_counter, process_registry

#: Seconds for a renewal at a worker: the command that asks for it waits for 25.
_RENEWAL: Final = 24.0


class WorkersAdmin(AdminPort):
    """The admin port of a supervisor."""

    def __init__(
        self,
        *,
        version: str,
        guard: Guard,
        children: Sequence[Child],
        is_draining: Callable[[], bool],
        not_alive: Callable[[], list[str]],
        shutdown: Callable[[], None],
    ) -> None:
        self._own = process_registry()
        errors = errors_counter(self._own)
        super().__init__(
            version=version, guard=guard, shutdown=shutdown, refused=lambda code: errors.labels(code).inc()
        )
        self._children = children
        self._is_draining = is_draining
        self._not_alive = not_alive
        self._since = datetime.now(UTC)
        self._ledger = Ledger()
        self._answered: set[int] = set()
        # Guards the ledger against an older answer that comes after a newer one. Held while the workers are asked.
        self._scraping = asyncio.Lock()

    def ended(self, pid: int, counted: str | None = None) -> None:
        """Keep what a worker process had counted: by its last word, or when it was last asked."""
        self._ledger.ended(pid, None if counted is None else parsed(counted))

    def not_alive(self) -> list[str]:
        """Name what should run for the life of the supervisor and does not; in a drain its keepers end with the workers."""
        return [] if self._is_draining() else self._not_alive()

    async def trouble(self) -> str | None:
        """Say what a restart of everything would cure: no worker lives, or none that lives does its work.

        One that has died or hangs is none of that: it is started again while the others serve. Nor is a drain.
        """
        if self._is_draining() or any(child.state == "starting" for child in self._children):
            return None
        troubles = []
        for child, reply in await self._ask_all("/healthz"):
            if reply is not None and reply.status == 200:
                return None
            why = "does not answer" if reply is None else reply.json().get("status")
            troubles.append(f"worker {child.worker}: {why}")
        return "; ".join(troubles) or "all workers have died and are being started again"

    async def not_started_because(self) -> list[str]:
        """List what the start of any worker still waits for."""
        return self._because(await self._ask_all("/startupz"), key="because")

    async def against_readiness(self) -> tuple[list[str], list[str]]:
        """List what stands against readiness of any worker; nothing is dialled."""
        if self._is_draining():
            return ["draining"], []
        return self._apart(await self._ask_all("/readyz"), key="because")

    def _apart(self, replies: Sequence[tuple[Child, Reply | None]], *, key: str) -> tuple[list[str], list[str]]:
        """Tell what stands against readiness from what is refused, in what workers say."""
        refusals = {each for _, reply in replies if reply is not None for each in reply.json().get("refusals", ())}
        because = self._because(replies, key=key)
        return [each for each in because if each not in refusals], [each for each in because if each in refusals]

    def _because(self, replies: Sequence[tuple[Child, Reply | None]], *, key: str) -> list[str]:
        because: list[str] = []
        for child in self._children:
            if child.state == "starting":
                because.append("starting")
            elif child.state == "down":
                because.append(f"worker {child.worker} has died and is being started again")
        for child, reply in replies:
            because += [f"worker {child.worker} does not answer"] if reply is None else reply.json().get(key, [])
        return picture.in_order(because)

    async def status(self) -> dict[str, Any]:
        """Describe all workers as one proxy, and each; holds no token and no application id."""
        return self._status_of(await self._ask_all("/status"))

    def _status_of(
        self, replies: Sequence[tuple[Child, Reply | None]], *, renewed: Child | None = None
    ) -> dict[str, Any]:
        said = {child.worker: reply.json() for child, reply in replies if reply is not None}
        statuses = list(said.values())
        newest = None if renewed is None or renewed.worker not in said else list(said).index(renewed.worker)
        draining = self._is_draining()
        _, refusals = standing = self._apart(replies, key="not_ready_because")
        because = ["draining"] if draining else self._judged(*standing)
        return {
            "version": self._version,
            "since": self._since.isoformat(timespec="seconds"),
            "ready": not because,
            "not_ready_because": because,
            "refusals": refusals,
            "draining": draining,
            "session": picture.session(statuses, newest=newest, ended=session_counts(self._ledger.left)),
            "upstream": picture.upstream(statuses),
            "requests_in_flight": sum(status.get("requests_in_flight", 0) for status in statuses),
            "workers": [self._described(child, said.get(child.worker)) for child in self._children],
        }

    def _described(self, child: Child, said: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "worker": child.worker,
            "pid": child.pid,
            "state": "silent" if child.state == "up" and said is None else child.state,
            "since": None if child.since is None else child.since.isoformat(timespec="seconds"),
            "restarts": child.restarts,
            "requests_in_flight": (said or {}).get("requests_in_flight"),
        }

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Write the sum of all processes in the format the scraper accepts; returns body and content type."""
        return await asyncio.to_thread(_rendered, await self._counted(), accept)

    async def silent(self) -> set[int]:
        """Ask all workers what they have counted, to keep it should they die; return the processes that do not answer."""
        up = {child.pid for child in self._children if child.state == "up"}
        await self._counted()
        still = {child.pid for child in self._children if child.state == "up"}
        return {pid for pid in up & still if pid is not None and pid not in self._answered}

    async def _counted(self) -> list[Families]:
        async with self._scraping:
            pids = {child: child.pid for child in self._children}
            answered: set[int] = set()
            for child, reply in await self._ask_all("/metrics"):
                # Parsing takes some 20 ms for each worker: in a thread, so that health is told meanwhile.
                families = None if reply is None else await asyncio.to_thread(parsed, reply.body.decode())
                # A process that has died meanwhile is accounted for already.
                if families is not None and (pid := child.pid) is not None and pid == pids[child]:
                    self._ledger.said(pid, families)
                    answered.add(pid)
            down = len(self._children) - len(answered)
            self._answered = answered
            return [*self._ledger.parts(answered), list(self._own.collect()), [workers_gauge(up=0, down=down)]]

    async def renew(self, request: web.Request) -> web.Response:
        """Let one worker make a new session; the others take it over from the store within a second."""
        end = time.monotonic() + _RENEWAL
        # One that does not answer must not use up the time.
        answers = {child for child, reply in await self._ask_all("/healthz") if reply is not None}
        for child in sorted(self._children, key=lambda one: one not in answers):
            seconds, headers = end - time.monotonic(), _some_of(request.headers, "X-Request-ID")
            reply = None
            if child.state == "up":
                reply = await ask(child, "POST", "/session/renew", seconds=seconds, headers=headers)
            if reply is None:
                continue  # it has died, or hangs: the next one, in what is left of the time
            if reply.status != 200:
                headers = _some_of(reply.headers, "X-Request-ID", "Proxy-Status", "Retry-After")
                return in_json(reply.json(), status=reply.status, headers=headers)
            status = self._status_of(await self._ask_all("/status"), renewed=child)
            return in_json({"status": "renewed", "session": status["session"]})
        raise SessionUnavailable("No worker process answers; the log says more.", retry_after=1.0)

    async def _ask_all(self, path: str) -> list[tuple[Child, Reply | None]]:
        """Ask all workers that are up, at once."""
        up = [child for child in self._children if child.state == "up"]
        return list(zip(up, await asyncio.gather(*(ask(child, "GET", path) for child in up)), strict=True))


def _some_of(headers: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


def _rendered(parts: list[Families], accept: str) -> tuple[bytes, str]:
    encoder, content_type = choose_encoder(accept)
    return encoder(_Collected(total(parts))), content_type


class _Collected(CollectorRegistry):
    """Families that were collected already, for an encoder."""

    def __init__(self, families: Families) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> list[Metric]:
        """Return them."""
        return self._families
