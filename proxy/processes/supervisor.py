"""The supervisor: forks the workers, forks those again that die, and ends them all.

It proxies nothing, holds no session and answers nobody; it has no event loop and no threads, only signals that it waits for.
So it is what is forked: everything is imported, and frozen for the garbage collector, which leaves its pages shared. Once it
is gone, killed or not, its workers drain and end by themselves.

A worker's report in the folder is its heartbeat: it is up when it has written one, and stuck when it has written no new one
for `MOST_MISSED` looks in a row. Looks are counted, not seconds: all may have been frozen together.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from proxy import __version__
from proxy.app import AT_THE_END, READ_AGAIN_WITHIN
from proxy.core.backoff import backoff
from proxy.handed_over import HandedOver
from proxy.listening import bound
from proxy.notify import ServiceManager
from proxy.process import BAD_USAGE, BEFORE_THE_START, FAILED, OK, STOP_SIGNALS, complain, described, exit_at_once
from proxy.processes.folder import Folder, read, write
from proxy.processes.log import SupervisorLog
from proxy.processes.report_files import process_of
from proxy.processes.worker import END, LOOK, WorkerProcess
from proxy.session.stores.factory import check_store
from proxy.settings import Settings
from proxy.telemetry import logs
from proxy.telemetry.logs import describe, log

#: Seconds between two looks at all workers, and how many of them without a heartbeat make a worker a stuck one.
LOOK_EVERY: Final = 1.0
MOST_MISSED: Final = 15
#: Seconds after which a worker that dies is no longer one that cannot live.
_WELL_AFTER: Final = 60.0
#: Seconds until it is started again, after its second death and at most; after the first it is at once.
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_WAITED_FOR: Final = (*STOP_SIGNALS, signal.SIGHUP, signal.SIGCHLD, LOOK, END)


@dataclass
class Worker:
    """One worker, over all the processes it is in turn."""

    worker: int
    pid: int | None = None
    restarts: int = -1
    since: str | None = None
    #: When its process was up, and when the next one is to be started, on the monotonic clock.
    up_at: float | None = None
    due: float = 0.0
    #: When it last wrote its report, and how many looks have found none that is newer.
    heartbeat: int | None = None
    missed: int = 0
    #: Deaths since it last served for a while.
    deaths: int = 0

    @property
    def state(self) -> str:
        """`starting`, `up` or `down`."""
        return "down" if self.pid is None else "starting" if self.up_at is None else "up"

    def signal(self, number: int) -> None:
        """Send its process a signal; it is ours until it is waited for."""
        if self.pid is not None:
            os.kill(self.pid, number)

    def pause(self, served: float | None) -> float:
        """Count a death, `served` seconds after the start was over (None: it never was); returns the seconds until the next
        start."""
        if served is not None and served >= _WELL_AFTER:
            self.deaths = 0
        self.deaths += 1
        return backoff(self.deaths - 1, first=_FIRST_PAUSE, cap=_LONGEST_PAUSE) if self.deaths > 1 else 0.0

    def known(self) -> dict[str, Any]:
        """Describe it to the workers."""
        return {name: getattr(self, name) for name in ("worker", "pid", "state", "since", "restarts")}


def serve(settings: Settings, handed_over: HandedOver, manager: ServiceManager) -> int:
    """Run all workers until a signal ends them; returns the exit code.

    Raises `StoreUnusable`, `CannotListen`, or ValueError for a setting.
    """
    # Waited for, one at a time, from now on. What comes meanwhile is not lost; in a worker they are free again.
    signal.pthread_sigmask(signal.SIG_SETMASK, _WAITED_FOR)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some leave it, it would let no process be waited for
    writer = SupervisorLog()
    logs.configure(settings.log.level, settings.log.format, writer=writer)
    handed_over.close_unused(settings)
    try:
        check_store(settings.session.store)
        return Supervisor(settings, writer, manager).run(handed_over)
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, exit_at_once)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        asyncio.run(writer.finish())


class Supervisor:
    """All workers of one `serve`. Raises `CannotListen`, or ValueError for a setting."""

    def __init__(self, settings: Settings, writer: SupervisorLog, manager: ServiceManager) -> None:
        self._began = time.perf_counter()
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._settings = settings
        self._writer = writer
        self._manager = manager
        self._workers = [Worker(number) for number in range(1, settings.workers + 1)]
        self._started = False
        #: When workers that still run are killed: they drain. None: they go on.
        self._ends_at: float | None = None
        self._looked = self._reported_alive = time.monotonic()
        #: When workers were told to read all files again, until they have.
        self._read_again_since: float | None = None
        self._code = OK

    def run(self, handed_over: HandedOver) -> int:
        """Serve until told to end, or until a worker cannot start the first time; returns the exit code."""
        with contextlib.ExitStack() as at_the_end:
            self._folder = Folder.make()
            at_the_end.callback(self._folder.remove)
            self._writer.share(self._folder.log_lock)
            each = len(self._workers)
            self._sockets, self._admin_sockets = bound(self._settings, handed_over, at_the_end, each=each)
            gc.collect()
            gc.freeze()
            gc.enable()
            self._serve()
        if self._code == OK:
            log.info("stopped", **({} if self._started else {"what": BEFORE_THE_START}))
        return self._code

    def _serve(self) -> None:
        while self._ends_at is None or any(one.pid is not None for one in self._workers):
            self._handle(signal.sigtimedwait(_WAITED_FOR, self._patience()))
            now = time.monotonic()
            for one in self._workers:
                self._reap(one)
                if one.state == "starting":
                    self._see_start(one)
                elif one.state == "down" and now >= one.due and self._ends_at is None:
                    self._start(one)
            if now >= self._looked + LOOK_EVERY:
                self._looked = now
                self._look()
            self._report_to_manager(now)
            self._writer.write_on()

    def _patience(self) -> float:
        """Seconds until something is to be done without a signal."""
        due = [one.due for one in self._workers if one.state == "down" and self._ends_at is None]
        if self._manager.alive_every:
            due.append(self._reported_alive + self._manager.alive_every)
        return max(0.0, min([self._looked + LOOK_EVERY, *due]) - time.monotonic())

    def _handle(self, got: signal.struct_siginfo | None) -> None:
        number = None if got is None else got.si_signo
        if number in STOP_SIGNALS and self._ends_at is not None:
            for one in self._workers:
                one.signal(signal.SIGKILL)
            self._folder.remove()
            exit_at_once(number)
        elif number in (*STOP_SIGNALS, END) and self._ends_at is None:
            self._end()
        elif number == signal.SIGHUP:
            self._read_again()

    def _start(self, one: Worker) -> None:
        """Fork a process for this worker."""
        one.restarts += 1
        one.up_at, one.heartbeat, one.missed = None, None, 0
        supervisor = os.getpid()
        try:
            one.pid = os.fork()
        except OSError as error:
            self._ended(one, None, f"a worker process cannot be started: {described(error)}")
            return
        if one.pid == 0:
            code, settings, sockets = FAILED, self._settings_of(one), (self._sockets, self._admin_sockets)
            try:
                code = WorkerProcess(one.worker, settings, *sockets, self._folder, supervisor).run()
            except BaseException as error:  # nothing of the supervisor's may go on in this process
                log.error("bug", **describe(error))
            finally:
                sys.stderr.flush()
                os._exit(code)
        self._write_state()

    def _settings_of(self, one: Worker) -> Settings:
        """Give a worker its share of what is limited, and the session that all have in common."""

        def share(total: int) -> int:
            each, left = divmod(total, len(self._workers))
            return max(1, each + (one.worker <= left))

        session, limits, upstream = self._settings.session, self._settings.limits, self._settings.upstream
        if session.store == "memory://":
            session = replace(session, store=f"file://{self._folder.session}")
        return replace(
            self._settings,
            session=session,
            limits=replace(limits, in_flight=share(limits.in_flight), replay_total=share(limits.replay_total)),
            upstream=replace(upstream, max_connections=share(upstream.max_connections)),
        )

    def _see_start(self, one: Worker) -> None:
        report = read(self._folder.report_of(one.worker))
        if report.get("pid") != one.pid or "failed" in report:
            return
        one.up_at = time.monotonic()
        one.since = datetime.now(UTC).isoformat(timespec="seconds")
        self._write_state()
        log.info("worker_started", worker=one.worker, pid=one.pid, restarts=one.restarts)
        if not self._started and all(each.state == "up" for each in self._workers) and self._ends_at is None:
            self._started = True
            log.info(
                "started",
                version=__version__,
                listen=self._sockets.names,
                admin=self._admin_sockets.names,
                origin=self._settings.upstream.origin,
                workers=len(self._workers),
                start_ms=round((time.perf_counter() - self._began) * 1000, 1),
            )
            self._manager.ready(self._sockets.names)

    def _reap(self, one: Worker) -> None:
        """See whether its process has ended."""
        if one.pid is None:
            return
        pid, status = os.waitpid(one.pid, os.WNOHANG)
        if pid:
            report = read(self._folder.report_of(one.worker))
            why = report.get("failed") if report.get("pid") == pid else None
            self._ended(one, os.waitstatus_to_exitcode(status), why)

    def _ended(self, one: Worker, status: int | None, why: str | None) -> None:
        """Let a worker that has died be started again; one that could not start the first time is the end of all."""
        now = time.monotonic()
        pid, one.pid = one.pid, None
        self._write_state()  # first: who reads the log and asks is told the same
        by = signal.Signals(-status).name if status is not None and status < 0 else None
        if self._ends_at is None and one.up_at is None and not one.restarts:
            self._code = status if status == BAD_USAGE else FAILED
            complain(why or f"worker {one.worker} ended before it was ready ({by or f'exit code {status}'})")
            self._end()
        elif self._ends_at is None:
            pause = one.pause(None if one.up_at is None else now - one.up_at)
            one.due = now + pause
            more = {name: value for name, value in (("why", why), ("signal", by)) if value is not None}
            advice = "the others go on; its last lines say why, and SIGKILL that nobody sent is often too little memory"
            log.warning(
                "worker_died", worker=one.worker, pid=pid, restart_in=pause, status=status, advice=advice, **more
            )

    def _look(self) -> None:
        """Kill a worker that is stuck, or that has not ended in time.

        A stuck process keeps its callers waiting, and may hold the lease without which no other can make a session.
        """
        late = self._ends_at is not None and time.monotonic() >= self._ends_at
        for one in self._workers:
            if self._ends_at is None and one.state == "up":
                with contextlib.suppress(OSError):
                    heartbeat = self._folder.report_of(one.worker).stat().st_mtime_ns
                    one.missed = one.missed + 1 if heartbeat == one.heartbeat else 0
                    one.heartbeat = heartbeat
            if one.pid is not None and (late or one.missed == MOST_MISSED):
                what = "it did not end in time after its drain" if late else "it hangs: it told nothing of itself"
                log.warning("worker_killed", worker=one.worker, pid=one.pid, what=what)
                one.signal(signal.SIGKILL)

    def _end(self) -> None:
        """Drain all workers."""
        drain = self._settings.drain
        if self._started:
            log.info("draining", delay=drain.delay, timeout=drain.timeout, workers=len(self._workers))
        lasts = drain.delay + drain.timeout + AT_THE_END
        self._manager.stopping(lasts)
        self._ends_at = time.monotonic() + lasts
        self._write_state()
        # The last worker that closes its sockets, or dies, frees the address.
        self._sockets.close()
        for one in self._workers:
            one.signal(signal.SIGTERM)

    def _read_again(self) -> None:
        """Let all workers read again what may have changed; the reload is over when all that are up have."""
        if self._started and self._ends_at is None:
            self._manager.reloading()
            self._read_again_since = time.monotonic()
        for one in self._workers:
            one.signal(signal.SIGHUP)

    def _report_to_manager(self, now: float) -> None:
        """Report the end of a reload; and that this proxy is alive, as long as a worker is."""
        if self._ends_at is not None:
            self._read_again_since = None
        if (since := self._read_again_since) is not None:
            asked = [one for one in self._workers if one.state == "up" and one.up_at is not None and one.up_at < since]
            done = (read(self._folder.report_of(one.worker)).get("read_again_at", 0.0) >= since for one in asked)
            if now >= since + READ_AGAIN_WITHIN or all(done):
                self._read_again_since = None
                self._manager.ready(self._sockets.names)
        if self._manager.alive_every and now >= self._reported_alive + self._manager.alive_every:
            self._reported_alive = now
            if any(self._is_well(one) for one in self._workers):
                self._manager.alive()

    def _is_well(self, one: Worker) -> bool:
        """Say whether a worker serves and would say so at `/healthz`; one that drains takes part until it has ended."""
        if self._ends_at is not None:
            return one.pid is not None
        return process_of(one.known(), read(self._folder.report_of(one.worker))).is_well

    def _write_state(self) -> None:
        """Write the state file, in which workers read of each other."""
        known = [one.known() for one in self._workers]
        write(self._folder.workers, {"since": self._since, "draining": self._ends_at is not None, "workers": known})
