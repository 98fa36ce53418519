"""What happened lately: bounded, and never more than the counters say."""

from __future__ import annotations

from proxy.telemetry.history import STEP, STEPS, Events, Totals, Traffic, added, quantile

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
    told = traffic.told()
    assert (told["requests"], told["errors"], told["buckets"]) == ([2], [1], [[1, 0, 1]])


def test_steps_that_nobody_looked_in_are_quiet() -> None:
    counters = Counters()
    traffic = Traffic(counters, BOUNDS)
    traffic.look(0.0)
    counters.request(0.5)
    traffic.look(3.5 * STEP)
    assert traffic.told()["requests"] == [1, 0, 0]


def test_only_the_last_fifteen_minutes_are_kept() -> None:
    traffic = Traffic(Counters(), BOUNDS)
    for step in range(3 * STEPS):
        traffic.look(step * STEP)
    assert len(traffic.told()["requests"]) == STEPS
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


def test_the_last_twenty_renewals_and_five_failures_are_kept() -> None:
    events = Events(lambda: 7.0)
    for number in range(30):
        events.renewal("window", "failed", 0.1, f"No session ({number}).")
    assert len(events.renewals) == 20
    assert [failure["sentence"] for failure in events.failures] == [f"No session ({n})." for n in range(25, 30)]


def test_the_same_failure_again_only_moves_its_time() -> None:
    times = iter([1.0, 1.0, 2.0, 2.0])
    events = Events(lambda: next(times))
    events.renewal("expired", "failed", 0.1, "No session.")
    events.renewal("expired", "failed", 0.1, "No session.")
    assert [failure["at"] for failure in events.failures] == [2.0]
