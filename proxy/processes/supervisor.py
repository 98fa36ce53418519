"""The supervisor: starts the workers, starts those again that die, serves the one admin port, and ends them all.

It proxies nothing and holds no session. Once it is gone, killed or not, its workers drain and end by themselves.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from proxy import __version__
from proxy.listening import admin_port
from proxy.loops import Loops
from proxy.policy import guard_policy
from proxy.processes import WorkerFailed
from proxy.processes.admin import WorkersAdmin
from proxy.processes.board import Board
from proxy.processes.child import Child, End, Pauses
from proxy.processes.doors import Doors
from proxy.processes.folder import Folder
from proxy.processes.orders import Orders
from proxy.server.guard import Guard
from proxy.session.stores.factory import check_store
from proxy.settings import ListenAddress, Settings
from proxy.telemetry.logs import log

#: Seconds over `drain.*` in which a worker closes what it has, and a slow reader gets its log; then it is killed.
_GRACE: Final = 10.0
#: Seconds between two looks at all workers, and so many of them without an answer make a worker a stuck one.
LOOK_EVERY = 5.0
MOST_SILENCES = 3


class Supervisor:
    """All workers. `async with Supervisor(settings, …)` starts them; `await supervisor.run()` serves until stopped.

    `share_log` is given the lock file by which the processes take turns at the log.
    """

    def __init__(self, settings: Settings, *, share_log: Callable[[Path], None]) -> None:
        self._settings = settings
        self._share_log = share_log
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._ending = asyncio.Event()
        self._keeping: dict[asyncio.Task[None], Child] = {}
        self._children: list[Child] = []
        self._loops = Loops()
        #: Processes that did not answer when they were last asked, and how often in a row.
        self._silent: dict[int, int] = {}
        self._folder: Folder | None = None

    async def __aenter__(self) -> Supervisor:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def request_stop(self) -> None:
        """Ask for a drain and stop; harmless when asked twice."""
        self._stopping.set()

    def read_again(self) -> None:
        """Let all workers read their files again, at once; one that is just starting reads them anyway."""
        for child in self._children:
            child.read_again()

    def end_at_once(self) -> None:
        """Kill the workers and leave nothing behind: for a second signal."""
        for child in self._children:
            child.kill()
        if self._folder is not None:
            self._folder.remove()

    async def run(self) -> None:
        """Serve until `request_stop`, then drain."""
        await self._stopping.wait()
        drain = self._settings.drain
        log.info("draining", delay=drain.delay, timeout=drain.timeout, workers=len(self._children))
        await self._end(drain.delay + drain.timeout + _GRACE)
        log.info("stopped")

    async def _start(self) -> None:
        settings, stack = self._settings, self._stack
        began = time.perf_counter()
        check_store(settings.session.store)
        folder = self._folder = Folder.make()
        stack.callback(folder.remove)
        self._share_log(folder.log_lock)
        self._board = Board(folder.board, settings.workers, make=True)
        self._children += [Child(number, folder.admin(number)) for number in range(1, settings.workers + 1)]
        self._admin = WorkersAdmin(
            version=__version__,
            # Only Host and Origin are asked of it here.
            guard=Guard(guard_policy(settings, required_value=str)),
            children=self._children,
            is_draining=self._ending.is_set,
            not_alive=self._loops.not_alive,
            shutdown=self.request_stop,
        )
        admin_addresses = await stack.enter_async_context(admin_port(self._admin, settings.admin.listen))
        self._doors = Doors(settings.listen, settings.workers)
        stack.callback(self._doors.remove)
        stack.push_async_callback(self._loops.close)
        stack.push_async_callback(self._end, _GRACE)
        first_starts: list[asyncio.Future[None]] = []
        for child in self._children:
            first_starts.append(asyncio.get_running_loop().create_future())
            # Of several that fail one is told of; asyncio must not complain of the others.
            first_starts[-1].add_done_callback(asyncio.Future.exception)
            keep = partial(self._keep, child, first_starts[-1])
            self._keeping[self._loops.keep(f"worker {child.worker}", keep)] = child
        await _all_or_the_first_that_fails(first_starts)
        self._loops.every(LOOK_EVERY, "workers", self._look)
        log.info(
            "started",
            version=__version__,
            listen=self._doors.names,
            admin=admin_addresses,
            origin=settings.upstream.origin,
            workers=len(self._children),
            start_ms=round((time.perf_counter() - began) * 1000, 1),
        )

    def _orders(self, child: Child) -> Orders:
        """Tell a worker its part: the settings, with an admin port of its own, its share of the connections, one session."""
        settings, folder = self._settings, self._folder
        assert folder is not None  # noqa: S101
        session, admin = settings.session, ListenAddress("unix", path=str(child.admin))
        if session.store == "memory://":
            session = replace(session, store=f"file://{folder.session}")
        changed: dict[str, Any] = {
            "session": session,
            "admin": replace(settings.admin, listen=(admin,)),
            "upstream": replace(settings.upstream, max_connections=self._connections_of(child)),
            "limits": replace(settings.limits, replay_total=settings.limits.replay_total // settings.workers),
        }
        sockets = tuple(sock.fileno() for sock in self._doors.of(child.worker))
        return Orders(child.worker, replace(settings, **changed), sockets, folder.path, settings.workers)

    def _connections_of(self, child: Child) -> int:
        """Give a worker its share of `upstream.max_connections`."""
        each, left = divmod(self._settings.upstream.max_connections, self._settings.workers)
        return each + (child.worker <= left)

    async def _keep(self, child: Child, first_start: asyncio.Future[None]) -> None:
        """Keep one worker going until the end; a bug before its first start is one of the start."""
        try:
            await self._kept_going(child, first_start)
        except Exception as error:
            if first_start.done():
                raise
            first_start.set_exception(error)

    async def _kept_going(self, child: Child, first_start: asyncio.Future[None]) -> None:
        pauses = Pauses()

        def started() -> None:
            log.info("worker_started", worker=child.worker, pid=child.pid, restarts=child.restarts)
            if not first_start.done():
                first_start.set_result(None)

        def draining() -> None:
            # Its callers would wait for the next worker until the last request of this one has ended.
            if not self._ending.is_set():
                self._doors.turn_away(child.worker)
            child.let_go()

        while not (self._ending.is_set() and first_start.done()):
            end = await child.live(lambda: self._orders(child), on_start=started, on_drain=draining)
            self._board.ended(child.worker)
            if end.pid is not None:
                self._admin.ended(end.pid, end.counted)
            if not first_start.done():
                first_start.set_exception(WorkerFailed(end.sentence or _unexplained(child, end), end.code))
                return
            if self._ending.is_set():
                return
            pause = pauses.after(end)
            log.warning("worker_died", worker=child.worker, pid=end.pid, restart_in=pause, **end.describe())
            if pause:
                self._doors.turn_away(child.worker)
            if await _comes(self._ending, within=pause):
                return
            child.restarts += 1

    async def _look(self) -> None:
        """Look after all workers, every few seconds; one that is stuck is killed, and started again by `_keep`.

        A stuck process keeps its callers waiting, and may hold the lease without which no other can make a session.
        """
        if self._ending.is_set():
            return
        self._silent = {pid: self._silent.get(pid, 0) + 1 for pid in await self._admin.silent()}
        for child in self._children:
            if child.pid is not None and self._silent.get(child.pid, 0) >= MOST_SILENCES:
                log.warning("worker_killed", worker=child.worker, pid=child.pid)
                child.kill()

    async def _end(self, seconds: float) -> None:
        """Drain all workers; those that have not ended in time are killed."""
        self._ending.set()
        # A worker that closes its socket, or dies, frees the address: what the supervisor holds would keep callers waiting.
        self._doors.close()
        for child in self._children:
            child.drain()
        if not self._keeping:
            return
        _, left = await asyncio.wait(self._keeping, timeout=seconds)
        for task in left:
            log.warning("worker_killed", worker=self._keeping[task].worker, pid=self._keeping[task].pid)
            self._keeping[task].kill()
        if left:
            await asyncio.wait(left)


async def _all_or_the_first_that_fails(futures: list[asyncio.Future[Any]]) -> None:
    done, _ = await asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION)
    errors = [error for future in done if (error := future.exception()) is not None]
    if errors:
        raise errors[0]


async def _comes(event: asyncio.Event, *, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _unexplained(child: Child, end: End) -> str:
    how = f"exit code {end.status}"
    if end.status is not None and end.status < 0:
        how = signal.Signals(-end.status).name
    return f"worker {child.worker} ended before it was ready ({how})"
