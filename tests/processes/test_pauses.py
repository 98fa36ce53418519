"""How long a worker that dies stays away. No process is run here."""

from __future__ import annotations

from proxy.processes.supervisor import Worker


def test_the_first_restart_is_immediate_and_then_the_pause_grows_to_30_seconds() -> None:
    worker = Worker(1)
    assert [worker.pause(0.5) for _ in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]


def test_a_worker_that_cannot_even_start_is_tried_less_and_less_often_too() -> None:
    worker = Worker(1)
    assert [worker.pause(None) for _ in range(3)] == [0, 1, 2]


def test_after_a_minute_of_service_a_death_is_the_first_again() -> None:
    worker = Worker(1)
    assert [worker.pause(served) for served in (1, 1, 60, 1)] == [0, 1, 0, 1]
