"""What is logged of the session's life."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from proxy.telemetry.history import Events
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
def events() -> Events:
    return Events(lambda: 0.0)


@pytest.fixture
def watch(metrics: Metrics, events: Events) -> SessionWatch:
    return SessionWatch(metrics, events)


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


def test_a_store_that_works_again_ends_the_outage_of_all_that_failed(
    watch: SessionWatch, lines: list[EventDict]
) -> None:
    for operation in ("enter", "save", "load", "lease"):
        watch.store(operation, "failed")
    watch.store("load", "ok")
    watch.store_works()
    watch.store_works()
    told = [(line["event"].removeprefix("session_store_"), line["operation"]) for line in lines]
    failed = [("failed", "enter"), ("failed", "save"), ("failed", "load"), ("failed", "lease")]
    assert told == [
        *failed,
        ("recovered", "load"),
        ("recovered", "enter"),
        ("recovered", "lease"),
        ("recovered", "save"),
    ]
    watch.store("save", "failed")
    assert (lines[-1]["event"], lines[-1]["operation"]) == ("session_store_failed", "save")


def test_every_use_of_the_store_is_counted(watch: SessionWatch, metrics: Metrics, lines: list[EventDict]) -> None:
    for _ in range(3):
        watch.store("load", "failed")
    labels = {"operation": "load", "result": "failed"}
    assert metrics.registry.get_sample_value("cardcash_proxy_store_operations_total", labels) == 3


def test_what_is_refused_or_lost_is_kept_with_its_sentence(
    watch: SessionWatch, events: Events, lines: list[EventDict]
) -> None:
    watch.renewal("start", "login_refused", {"lifetime": 1.0, "source": "session", "sentence": "Check the password."})
    watch.renewal("keepalive", "failed", {"rejected": True})
    watch.identity_lost()
    watch.store("load", "failed", "No space left on device")
    watch.store("load", "failed", "No space left on device")
    told = [
        (failure["what"], failure["sentence"], failure["times"]) for failure in events.snapshot()["recent_failures"]
    ]
    assert told == [
        ("renewal (start)", "Check the password.", 1),
        ("renewal (keepalive)", "CardCash rejected the login that a caller made.", 1),
        ("login of a caller", "It is lost; the caller must log in again.", 1),
        ("session store", "No space left on device", 1),
    ]


def test_a_renewal_is_kept_with_its_seconds(watch: SessionWatch, events: Events, lines: list[EventDict]) -> None:
    watch.renewal("start", "ok", {"lifetime": 1.0, "source": "login"})
    watch.renewal_took(0.5)
    (told,) = events.snapshot()["recent_renewals"]
    assert (told["reason"], told["result"], told["source"], told["seconds"]) == ("start", "ok", "login", 0.5)
