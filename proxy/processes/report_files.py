"""The workers' reports: each writes its own into the private folder, and any of them answers for all at the admin port.

Its own it makes anew; the others are at most a second old.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any, Final

from prometheus_client import ProcessCollector

from proxy.process import described
from proxy.processes.folder import Folder, read, write
from proxy.server.admin import OwnProcess
from proxy.server.reports import COUNTS, Process, Processes
from proxy.telemetry import summed_metrics
from proxy.telemetry.logs import log

#: Seconds without a report after which a worker counts as one that does not answer.
SILENT_AFTER: Final = 2.5


def process_of(known: dict[str, Any], report: dict[str, Any]) -> Process:
    """Judge whether a worker answers, from what the supervisor knows and what the worker wrote last."""
    age = time.monotonic() - report.get("at", 0.0)
    answers = known["state"] == "up" and report.get("pid") == known["pid"] and age < SILENT_AFTER
    return Process(known, report, answers, partial(summed_metrics.read, report.get("metrics", ())))


class ReportFiles:
    """The reports of all workers, as one of them reads them; `own` is that one."""

    def __init__(self, own: OwnProcess, *, worker: int, folder: Folder, supervisor: int) -> None:
        self._own = own
        self._worker = worker
        self._folder = folder
        self._file = folder.report_of(worker)
        #: When the last reading of all files that may change began that is over by now, on the monotonic clock.
        self.read_again_at = 0.0
        #: The last report could not be written.
        self._is_cut_off = False
        before = process_of({"state": "down"}, read(self._file))
        own.life.was_ready = bool(before.report.get("was_ready"))
        #: What the processes before this one had counted: no counter goes backwards when a worker is started again.
        self._left: dict[str, Any] = {name: before.count(name) for name in COUNTS}
        #: And since when: they are as old as the supervisor, whatever has become of the workers.
        start = ProcessCollector(pid=lambda: supervisor, registry=None).collect()
        since = [family for family in start if family.name == summed_metrics.START_TIME]
        self._left["metrics"] = summed_metrics.written(summed_metrics.total([before.families(), since]))

    def write(self) -> dict[str, Any]:
        """Write how it is with this process; returns the report."""
        report = {
            "pid": os.getpid(),
            "at": time.monotonic(),
            "read_again_at": self.read_again_at,
            **self._own.report(),
            "metrics": summed_metrics.written(self._own.counted.registry.collect()),
            "left": self._left,
        }
        error = write(self._file, report)
        if error is not None and not self._is_cut_off:
            advice = (
                "the other workers take this one for silent until it can: make room, or set TMPDIR to another place"
            )
            log.warning("worker_cannot_tell", folder=str(self._folder.path), why=described(error), advice=advice)
        self._is_cut_off = error is not None
        return report

    def __call__(self) -> Processes:
        """Read how it is with all.

        The report of this process is written first: whoever asks another one next must not get less.
        """
        report, workers = self.write(), read(self._folder.workers)
        known = {one["worker"]: one for one in workers.get("workers", ())}
        own = {"since": self._own.since, "restarts": 0, **known.pop(self._worker, {})}
        ours = process_of({**own, "worker": self._worker, "pid": report["pid"], "state": "up"}, report)
        others = [process_of(one, read(self._folder.report_of(worker))) for worker, one in known.items()]
        each = sorted([ours, *others], key=lambda one: int(one.known["worker"]))
        return Processes(workers.get("since", self._own.since), bool(workers.get("draining")), ours, each)
