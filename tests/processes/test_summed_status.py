"""`/status` of several workers as that of one proxy."""

from __future__ import annotations

from typing import Any

from proxy.processes import summed_status


def status(**session: Any) -> dict[str, Any]:
    """Write what one worker says."""
    plain = {"state": "fresh", "expires_in_seconds": 100.0, "latched": None, "advice": None, "refused": []}
    numbers = {"paused_seconds": 0.0, "failures_in_a_row": 0, "waiters": 0}
    upstream = {"origin": "https://c", "connections_idle": 1, "connections_opened": 2}
    return {"session": {**plain, "renewing": False, **numbers, **session}, "upstream": upstream}


def test_the_session_that_lives_longest_is_the_one_that_is_told() -> None:
    told = summed_status.session([status(expires_in_seconds=3.0, source="old"), status(source="new")])
    assert (told["expires_in_seconds"], told["source"]) == (100.0, "new")


def test_a_worker_without_a_session_does_not_hide_it() -> None:
    assert summed_status.session([status(state="none", expires_in_seconds=None), status()])["state"] == "fresh"


def test_the_session_that_was_just_made_is_told_though_another_lives_longer() -> None:
    told = summed_status.session([status(source="session", expires_in_seconds=5.0), status()], newest=0)
    assert told["source"] == "session"


def test_those_who_wait_are_summed() -> None:
    assert summed_status.session([status(waiters=1), status(waiters=2)])["waiters"] == 3


def test_what_one_worker_is_refused_is_told() -> None:
    told = summed_status.session([status(), status(latched="login", advice="put it right", refused=["login"])])
    assert (told["latched"], told["advice"], told["refused"]) == ("login", "put it right", ["login"])


def test_the_longest_pause_is_told() -> None:
    told = summed_status.session([status(paused_seconds=2.5, failures_in_a_row=2), status(renewing=True)])
    assert (told["paused_seconds"], told["failures_in_a_row"], told["renewing"]) == (2.5, 2, True)


def test_connections_are_summed_and_the_origin_is_not() -> None:
    told = summed_status.upstream([status(), status()])
    assert told == {"origin": "https://c", "connections_idle": 2, "connections_opened": 4}


def test_what_is_wrong_with_the_store_for_one_worker_is_told() -> None:
    well = {"kind": "redis", "host": "h:1", "up": True, "trouble": None, "pending": False, "alone": False}
    ill = {**well, "up": False, "trouble": "It is loading.", "pending": True}
    assert summed_status.store([{"store": well}, {"store": ill}]) == ill
    assert summed_status.store([]) == {}


def test_where_nobody_answers_the_session_is_unknown() -> None:
    assert (summed_status.session([]), summed_status.upstream([])) == ({"state": "unknown"}, {})
