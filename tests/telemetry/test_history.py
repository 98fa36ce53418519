"""What happened lately: bounded, and never more than the counters say."""

from __future__ import annotations

from proxy.telemetry.history import STEP, STEPS, Events, Totals, Traffic, added, merged, quantile

BOUNDS = (0.1, 1.0)


class Counters:
    def __init__(self) -> None:
        self.requests = self.errors = 0
        self.buckets = [0, 0, 0]

    def request(self, seconds: float, *, error: bool = False) -> None:
        self.requests += 1
        self.errors += error
        self.buckets[0 if seconds <= 0.1 else 1 if seconds <= 1.0 else 2] += 1

    def __call__(self) -> Totals:
        return Totals(self.requests, self.errors, tuple(self.buckets))


def test_a_step_holds_what_was_counted_in_it() -> None:
    counters = Counters()
    counters.request(0.05)
    traffic = Traffic(counters, BOUNDS)
    traffic.look(100.0)
    counters.request(0.05)
    counters.request(2.0, error=True)
    traffic.look(100.0 + STEP)
    told = traffic.snapshot()
    assert (told["requests"], told["errors"], told["buckets"]) == ([2], [1], [[1, 0, 1]])


def test_what_came_before_the_first_look_belongs_to_the_first_step() -> None:
    counters = Counters()
    traffic = Traffic(counters, BOUNDS)
    counters.request(0.05, error=True)
    traffic.look(1.0)
    traffic.look(STEP)
    told = traffic.snapshot()
    assert (told["requests"], told["errors"], told["buckets"]) == ([1], [1], [[1, 0, 0]])


def test_steps_that_nobody_looked_in_are_quiet() -> None:
    counters = Counters()
    traffic = Traffic(counters, BOUNDS)
    traffic.look(0.0)
    counters.request(0.5)
    traffic.look(3.5 * STEP)
    assert traffic.snapshot()["requests"] == [1, 0, 0]


def test_only_the_last_fifteen_minutes_are_kept() -> None:
    traffic = Traffic(Counters(), BOUNDS)
    for step in range(3 * STEPS):
        traffic.look(step * STEP)
    assert len(traffic.snapshot()["requests"]) == STEPS
    assert STEP * STEPS == 15 * 60


def test_processes_are_added_up_from_their_ends() -> None:
    one = {"bounds_seconds": [1.0], "requests": [1, 2, 3], "errors": [0, 0, 1], "buckets": [[1, 0], [2, 0], [2, 1]]}
    young = {"bounds_seconds": [1.0], "requests": [5], "errors": [1], "buckets": [[5, 0]]}
    total = added([one, young])
    assert (total["requests"], total["errors"]) == ([1, 2, 8], [0, 0, 2])
    assert total["buckets"] == [[1, 0], [2, 0], [7, 1]]


def test_a_quantile_is_the_end_of_the_bucket_in_which_it_falls() -> None:
    assert quantile([90, 10, 0], BOUNDS, 0.5) == 0.1
    assert quantile([90, 10, 0], BOUNDS, 0.95) == 1.0
    assert quantile([0, 0, 5], BOUNDS, 0.5) == 1.0
    assert quantile([0, 0, 0], BOUNDS, 0.5) is None


def test_steps_of_processes_that_began_at_other_times_end_together() -> None:
    early, late = (Traffic(Counters(), BOUNDS) for _ in range(2))
    early.look(0.0)
    late.look(14.0)
    for traffic in (early, late):
        traffic.look(STEP)
    assert len(early.snapshot()["requests"]) == len(late.snapshot()["requests"]) == 1


def test_after_a_long_sleep_fifteen_quiet_minutes_are_told() -> None:
    traffic = Traffic(Counters(), BOUNDS)
    traffic.look(0.0)
    traffic.look(1e6)
    assert traffic.snapshot()["requests"] == [0] * STEPS


def test_the_last_twenty_renewals_and_ten_failures_are_kept() -> None:
    events = Events(lambda: 7.0)
    for number in range(30):
        events.renewal("window", "failed", sentence=f"No session ({number}).")
    told = merged([events.snapshot()])
    assert len(told["recent_renewals"]) == 20
    assert [failure["sentence"] for failure in told["recent_failures"]] == [f"No session ({n})." for n in range(20, 30)]
    assert told["last_failure"]["sentence"] == "No session (29)."


def test_the_same_failure_again_is_counted_and_moves_to_the_end() -> None:
    times = iter([1.0, 2.0, 3.0])
    events = Events(lambda: next(times))
    for what in ("a", "b", "a"):
        events.failed(what, "No session.")
    told = events.snapshot()["recent_failures"]
    assert [(failure["what"], failure["times"], failure["time"]) for failure in told] == [
        ("b", 1, "1970-01-01T00:00:02.000+00:00"),
        ("a", 2, "1970-01-01T00:00:03.000+00:00"),
    ]


def test_a_renewal_is_told_with_its_seconds_once_they_are_known() -> None:
    events = Events(lambda: 0.0)
    events.renewal_took(9.0)
    events.renewal("start", "ok", source="login")
    events.renewal_took(0.25)
    events.renewal("window", "ok")
    told = [(one["reason"], one["source"], one["seconds"]) for one in events.snapshot()["recent_renewals"]]
    assert told == [("start", "login", 0.25), ("window", None, None)]


def test_events_of_processes_are_merged_by_time_without_what_was_only_taken_over() -> None:
    one, other = Events(lambda: 1.0), Events(lambda: 2.0)
    for events in (other, one):
        events.renewal("rejected", "ok", source="session" if events is one else "store")
        events.failed("request", "It is down.")
    told = merged([other.snapshot(), one.snapshot()])
    assert [(event["reason"], event["source"]) for event in told["recent_renewals"]] == [("rejected", "session")]
    ((times, time),) = [(failure["times"], failure["time"]) for failure in told["recent_failures"]]
    assert (times, time) == (2, "1970-01-01T00:00:02.000+00:00")
    assert told["last_failure"] == told["recent_failures"][-1]
    assert merged([Events(lambda: 0.0).snapshot()])["last_failure"] is None
