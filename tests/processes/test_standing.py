"""What one worker takes from what another has written."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import Metric

from proxy.processes.admin import SILENT_AFTER, Report
from proxy.processes.summed_metrics import written


def families() -> list[Metric]:
    counter, gauge = Metric("a", "A.", "counter"), Metric("b", "B.", "gauge")
    counter.add_sample("a_total", {}, 3.0)
    gauge.add_sample("b", {}, 5.0)
    return [counter, gauge]


def worker(*, state: str = "up", pid: int = 7, age: float = 0.0) -> Report:
    """Make one whose process 7 told of itself so many seconds ago."""
    said: dict[str, Any] = {
        "pid": 7,
        "at": time.monotonic() - age,
        "starting": ["wait"],
        "metrics": written(families()),
    }
    return Report({"worker": 2, "state": state, "pid": pid}, said)


def test_one_that_told_of_itself_just_now_answers() -> None:
    assert worker().answers
    assert worker().against("starting") == ["wait"]
    assert [family.name for family in worker().metrics()] == ["a", "b"]


def test_of_one_that_is_silent_only_what_it_had_counted_is_told() -> None:
    silent = worker(age=SILENT_AFTER + 0.1)
    assert not silent.answers
    assert silent.against("starting") == ["worker 2 does not answer"]
    assert [family.name for family in silent.metrics()] == ["a"]


def test_the_word_of_the_process_before_is_not_that_of_this_one() -> None:
    assert not worker(pid=8).answers
    assert [family.name for family in worker(pid=8).metrics()] == ["a"]


def test_one_that_is_started_again_is_told_of() -> None:
    assert worker(state="starting").against("starting") == ["starting"]
    assert worker(state="down").against("starting") == ["worker 2 has died and is being started again"]
