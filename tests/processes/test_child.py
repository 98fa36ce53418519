"""How long a worker that dies stays away, and what is told of its end. No process is run here."""

from __future__ import annotations

from proxy.processes.child import End, Pauses


def died(served: float | None) -> End:
    return End(pid=7, status=-9, served=served)


def test_the_first_restart_is_immediate_and_then_the_pause_grows_to_30_seconds() -> None:
    pauses = Pauses()
    assert [pauses.after(died(0.5)) for _ in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]


def test_a_worker_that_cannot_even_start_is_tried_less_and_less_often_too() -> None:
    pauses = Pauses()
    assert [pauses.after(died(None)) for _ in range(3)] == [0, 1, 2]


def test_after_a_minute_of_service_a_death_is_the_first_again() -> None:
    pauses = Pauses()
    assert [pauses.after(died(served)) for served in (1, 1, 60, 1)] == [0, 1, 0, 1]


def test_a_signal_is_told_by_its_name() -> None:
    assert died(1.0).describe() == {"status": -9, "signal": "SIGKILL"}


def test_an_exit_is_told_with_its_code_and_what_it_said() -> None:
    assert End(7, 2, None, "the folder is gone", 2).describe() == {"status": 2, "why": "the folder is gone"}
