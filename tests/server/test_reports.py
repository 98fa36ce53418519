"""Reports of several processes, told as those of one proxy."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.server.reports import Process, Processes

WELL = {"kind": "redis", "host": "h:1", "up": True, "trouble": None, "pending": False, "alone": False}
ILL = {**WELL, "up": False, "trouble": "It is loading.", "pending": True}


def report(session: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Write what one process reports that is well, but for what is given."""
    told = {
        "state": "fresh", "expires_in_seconds": 100.0, "latched": None, "advice": None, "refused": [], "renewing": False,
        "paused_seconds": 0.0, "failures_in_a_row": 0, "waiters": 0, "renewals": 1, "harvests": 0,
        "renews_by_itself": False,
    }  # fmt: skip
    return {
        "starting": [],
        "draining": False,
        "accepted": False,
        "was_ready": False,
        "refusals": [],
        "forgotten": [],
        "not_alive": [],
        "events": {"recent_failures": [], "recent_renewals": []},
        "traffic": {"requests": [1], "errors": [0], "buckets": [[1, 0]], "bounds_seconds": [1.0]},
        "session": told | (session or {}),
        "store": WELL,
        "upstream": {"origin": "https://c", "connections_idle": 1, "connections_opened": 2},
        "process": {"pid": 7, "state": "up", "requests_in_flight": 1, "requests": 5, "memory_mb": 40.0},
        **more,
    }


def processes(*reports: dict[str, Any], draining: bool = False, silent: int = 0) -> Processes:
    """Make the workers that reported so, the first of which tells; so many of the last do not answer any more."""
    each = [
        Process(
            {"worker": number, "state": "up", "since": "noon", "restarts": 0, "pid": 7},
            one,
            answers=number <= len(reports) - silent,
            measured=list,
        )
        for number, one in enumerate(reports, 1)
    ]
    return Processes("noon", draining, each[0], each)


def test_the_session_that_lives_longest_is_the_one_that_is_told() -> None:
    told = processes(report({"expires_in_seconds": 3.0, "source": "old"}), report({"source": "new"})).session()
    assert (told["expires_in_seconds"], told["source"]) == (100.0, "new")


def test_a_worker_without_a_session_does_not_hide_it() -> None:
    assert processes(report({"state": "none", "expires_in_seconds": None}), report()).session()["state"] == "fresh"


def test_the_session_that_was_just_made_is_told_though_another_lives_longer() -> None:
    told = processes(report({"source": "session", "expires_in_seconds": 5.0}), report()).session(own=True)
    assert told["source"] == "session"


def test_those_who_wait_are_summed() -> None:
    assert processes(report({"waiters": 1}), report({"waiters": 2})).session()["waiters"] == 3


def test_renewals_and_harvests_of_all_are_summed_and_of_those_that_are_gone_too() -> None:
    left = {"renewals": 3, "harvests": 4}
    told = processes(report({"harvests": 2}), report(left=left), report({"renewals": 9}), silent=1).session()
    assert (told["renewals"], told["harvests"]) == (1 + 1 + 3 + 9, 2 + 4)


def test_what_one_worker_is_refused_is_told() -> None:
    refused = {"latched": "login", "advice": "put it right", "refused": ["login"]}
    told = processes(report(), report(refused)).session()
    assert {name: told[name] for name in refused} == refused


def test_the_longest_pause_is_told() -> None:
    told = processes(report({"paused_seconds": 2.5, "failures_in_a_row": 2}), report({"renewing": True})).session()
    assert (told["paused_seconds"], told["failures_in_a_row"], told["renewing"]) == (2.5, 2, True)


def test_a_session_is_renewed_by_itself_if_one_worker_does() -> None:
    assert processes(report(), report({"renews_by_itself": True})).session()["renews_by_itself"]
    assert not processes(report(), report()).session()["renews_by_itself"]


def test_connections_are_summed_and_the_origin_is_not() -> None:
    told = processes(report(), report()).status()["upstream"]
    assert told == {"origin": "https://c", "connections_idle": 2, "connections_opened": 4}


def test_what_is_wrong_with_the_store_for_one_worker_is_told() -> None:
    assert processes(report(), report(store=ILL)).status()["store"] == ILL


def test_of_one_that_does_not_answer_only_what_the_supervisor_knows_is_told() -> None:
    told = processes(report(), report(), silent=1).status()
    assert [(one["state"], one["requests"]) for one in told["processes"]] == [("up", 5), ("silent", None)]
    assert [one["state"] for one in told["workers"]] == ["up", "silent"]
    assert (told["requests_in_flight"], told["not_ready_because"]) == (1, ["worker 2 does not answer"])


def test_what_has_died_in_one_does_not_count_while_another_is_well() -> None:
    dead = report(not_alive=["keeper"])
    assert processes(dead, report()).not_alive == []
    assert processes(dead, dead).not_alive == processes(dead, report(), silent=1).not_alive == ["keeper"]


REFUSED = ["login refused: no"]


@pytest.mark.parametrize(
    ("reports", "because"),
    [
        ([report()], []),
        ([report(starting=["wait"]), report()], ["wait"]),
        ([report(draining=True), report()], ["draining"]),
        ([report(refusals=REFUSED), report()], REFUSED),
        ([report(forgotten=REFUSED), report()], REFUSED),
        ([report(forgotten=REFUSED), report(accepted=True)], []),
        # Once ready, and once accepted, by whichever of them.
        ([report(refusals=REFUSED), report(was_ready=True)], []),
        ([report(refusals=REFUSED), report(accepted=True)], []),
    ],
)
def test_what_stands_against_readiness(reports: list[dict[str, Any]], because: list[str]) -> None:
    told = processes(*reports).status()
    assert (told["not_ready_because"], told["ready"]) == (because, not because)


def test_while_all_drain_nothing_else_is_told() -> None:
    told = processes(report(refusals=REFUSED), report(starting=["wait"]), draining=True)
    assert (told.not_ready_because, told.refusals) == (["draining"], [])


def test_a_take_over_is_told_of_one_process_and_not_among_several() -> None:
    one = {"time": "noon", "reason": "store", "result": "ok", "source": "store", "seconds": 0.1}
    taken = report(events={"recent_failures": [], "recent_renewals": [one]})
    assert processes(taken).status()["recent_renewals"] == [one]
    assert processes(taken, report()).status()["recent_renewals"] == []
