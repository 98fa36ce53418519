"""What workers know of each other at any moment; one process plays several."""

from __future__ import annotations

from pathlib import Path

from proxy.processes.board import Board


def boards(path: Path, workers: int = 3) -> list[Board]:
    """Open the page as the supervisor and two workers do."""
    return [Board(path / "board", workers, make=True), Board(path / "board", workers), Board(path / "board", workers)]


def test_requests_in_flight_are_counted_everywhere(tmp_path: Path) -> None:
    _, one, other = boards(tmp_path)
    one.in_flight(1).here(2)
    other.in_flight(3).here(5)
    one.in_flight(1).here(1)
    assert one.in_flight(1).total() == other.in_flight(3).total() == 6


def test_what_a_worker_that_has_ended_did_is_forgotten(tmp_path: Path) -> None:
    supervisor, one, other = boards(tmp_path)
    one.in_flight(1).here(2)
    other.in_flight(2).here(3)
    supervisor.ended(1)
    assert other.in_flight(2).total() == 3


def test_the_page_is_nobody_elses(tmp_path: Path) -> None:
    boards(tmp_path)
    assert (tmp_path / "board").stat().st_mode & 0o777 == 0o600
