"""A worker process: forked by the supervisor, an ordinary proxy from then on, which ends when the supervisor does."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from proxy.app import Proxy
from proxy.listening import CannotListen, Sockets
from proxy.memory import settle
from proxy.process import BAD_USAGE, FAILED, OK, STOP_SIGNALS
from proxy.processes.folder import Folder, read, write
from proxy.processes.report_files import ReportFiles
from proxy.running import on_hangup, run_loop
from proxy.server.admin import OwnProcess
from proxy.session.stores import StoreUnusable
from proxy.settings import Settings
from proxy.telemetry import logs
from proxy.telemetry.logs import describe, log

#: Signals to the supervisor: a report has news for it; all are to drain and end.
LOOK: Final = signal.SIGUSR1
END: Final = signal.SIGUSR2
#: Seconds between two reports of a worker.
REPORT_EVERY: Final = 1.0
#: prctl(2): which signal a process gets when its parent ends.
_PR_SET_PDEATHSIG: Final = 1


@dataclass
class WorkerProcess:
    """What a worker is forked for: its number, its share of the settings, what it inherits, and from whom."""

    worker: int
    settings: Settings
    sockets: Sockets
    admin_sockets: Sockets
    folder: Folder
    supervisor: int
    _proxy: Proxy = field(init=False)
    _reports: ReportFiles = field(init=False)

    def run(self) -> int:
        """Be the worker, in the process that was forked for it, all signals blocked; returns the exit code."""
        # Ctrl-C in a terminal goes to all of its processes; the workers hear of it from the supervisor.
        os.setsid()
        with contextlib.suppress(AttributeError, OSError):  # not Linux: `_report` looks at the parent
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        _close_all_but({0, 1, 2, *(sock.fileno() for sock in (*self.sockets.all(), *self.admin_sockets.all()))})
        self.folder.hold()
        code = run_loop(self._work())
        if self._is_orphan():
            self.folder.remove_if_last()
        return code

    async def _work(self) -> int:
        """Serve until told to end."""
        writer = logs.configure(self.settings.log.level, self.settings.log.format, worker=self.worker)
        writer.share(self.folder.log_lock)
        proxy = self._proxy = Proxy(self.settings, inherited=self)
        loop = asyncio.get_running_loop()
        # Twice is once: only the supervisor may hurry a worker, by killing it. A SIGTERM to one worker drains that one.
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, proxy.request_stop)
        reading = on_hangup(self._read_again)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        try:
            async with proxy:
                settle()
                proxy.loops.every(REPORT_EVERY, "worker", self._report)
                self._report()
                self._signal(LOOK)
                await proxy.run()
        except (StoreUnusable, CannotListen, ValueError) as error:
            code = BAD_USAGE if isinstance(error, StoreUnusable) else FAILED
            self._report_failure(str(error))
        except Exception as error:
            log.error("bug", **describe(error))
            code = FAILED
        else:
            code = OK
            self._report()
        await reading.close()
        await writer.finish()
        return code

    def reports(self, own: OwnProcess) -> ReportFiles:
        """Make what tells the admin port of all workers; `own` tells of this process."""
        self._reports = ReportFiles(own, worker=self.worker, folder=self.folder, supervisor=self.supervisor)
        return self._reports

    def _report(self) -> None:
        """Write how it is with this process; and see whether there is somebody to read it."""
        if self._is_orphan():
            self._proxy.request_stop()
        self._reports.write()

    async def _read_again(self) -> None:
        """Read all files that may change again, and report when it is done."""
        began = time.monotonic()
        await self._proxy.have_read_again()
        if self._proxy.life.started:
            self._reports.read_again_at = began
            self._reports.write()
            self._signal(LOOK)

    def _report_failure(self, sentence: str) -> None:
        """Leave the sentence in the report; what the processes before this one had counted stays."""
        path = self.folder.report_of(self.worker)
        write(path, {**read(path), "pid": os.getpid(), "failed": sentence})

    def _is_orphan(self) -> bool:
        return os.getppid() != self.supervisor

    def shutdown(self) -> None:
        """Ask the supervisor for the end of all workers."""
        self._signal(END)

    def all_end(self) -> bool:
        """Say whether no other worker will take in the callers that come now."""
        return self._is_orphan() or bool(read(self.folder.workers).get("draining"))

    def _signal(self, number: int) -> None:
        if not self._is_orphan():
            os.kill(self.supervisor, number)


def _close_all_but(keep: Iterable[int]) -> None:
    """Close what belongs to the supervisor: a lock that is held here, too, would outlive it."""
    ordered = sorted(keep)
    for low, high in zip(ordered, [*ordered[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)
