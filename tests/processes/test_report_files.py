"""What one worker takes from the last report of another."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import Metric

from proxy.processes.report_files import SILENT_AFTER, process_of
from proxy.server.reports import Process
from proxy.telemetry.summed_metrics import written


def families() -> list[Metric]:
    counter, gauge = Metric("a", "A.", "counter"), Metric("b", "B.", "gauge")
    counter.add_sample("a_total", {}, 3.0)
    gauge.add_sample("b", {}, 5.0)
    return [counter, gauge]


def worker(*, state: str = "up", pid: int = 7, age: float = 0.0) -> Process:
    """Make one whose process 7 has written a report so many seconds ago."""
    report: dict[str, Any] = {
        "pid": 7,
        "at": time.monotonic() - age,
        "starting": ["wait"],
        "metrics": written(families()),
    }
    return process_of({"worker": 2, "state": state, "pid": pid}, report)


def test_one_whose_report_is_new_answers() -> None:
    assert worker().answers
    assert worker().starting == ["wait"]
    assert [family.name for family in worker().families()] == ["a", "b"]


def test_of_one_that_is_silent_only_what_it_had_counted_is_told() -> None:
    silent = worker(age=SILENT_AFTER + 0.1)
    assert not silent.answers
    assert silent.starting == ["worker 2 does not answer"]
    assert [family.name for family in silent.families()] == ["a"]


def test_the_report_of_the_process_before_is_not_that_of_this_one() -> None:
    assert not worker(pid=8).answers
    assert [family.name for family in worker(pid=8).families()] == ["a"]


def test_one_that_is_started_again_is_told_of() -> None:
    assert worker(state="starting").starting == ["starting"]
    assert worker(state="down").starting == ["worker 2 has died and is being started again"]
