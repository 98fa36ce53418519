"""What is logged of the session's life."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from proxy.telemetry.metrics import Metrics
from proxy.telemetry.watch import SessionWatch


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1")


@pytest.fixture
def watch(metrics: Metrics) -> SessionWatch:
    return SessionWatch(metrics)


def test_a_store_that_works_is_not_worth_a_line(watch: SessionWatch, lines: list[EventDict]) -> None:
    for operation, result in (("load", "empty"), ("save", "ok"), ("save", "lost"), ("lease", "ok"), ("latch", "empty")):
        watch.store(operation, result)
    assert lines == []


def test_an_operation_that_begins_to_fail_is_told_of_once(watch: SessionWatch, lines: list[EventDict]) -> None:
    for _ in range(3):
        watch.store("load", "failed", "No space left on device")
    (line,) = lines
    assert (line["log_level"], line["event"]) == ("warning", "session_store_failed")
    assert (line["operation"], line["why"]) == ("load", "No space left on device")


def test_operations_fail_by_themselves(watch: SessionWatch, lines: list[EventDict]) -> None:
    for _ in range(3):
        watch.store("load", "failed")
        watch.store("lease", "ok")
        watch.store("save", "failed")
    assert [line["operation"] for line in lines] == ["load", "save"]


def test_an_operation_that_works_again_is_told_of_once(watch: SessionWatch, lines: list[EventDict]) -> None:
    for result in ("failed", "ok", "empty", "failed", "failed", "lost"):
        watch.store("load", result)
    assert [line["event"] for line in lines] == ["session_store_failed", "session_store_recovered"] * 2


def test_every_use_of_the_store_is_counted(watch: SessionWatch, metrics: Metrics, lines: list[EventDict]) -> None:
    for _ in range(3):
        watch.store("load", "failed")
    labels = {"operation": "load", "result": "failed"}
    assert metrics.registry.get_sample_value("cardcash_proxy_store_operations_total", labels) == 3
