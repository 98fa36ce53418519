"""Metrics of several processes, summed; no process is run here."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import pytest

from proxy.telemetry.metrics import Metrics
from proxy.telemetry.summed_metrics import Families, counted, read, silent_workers, total, written


def scraped(*requests: tuple[str, float], expiry: float = 0.0, in_flight: int = 0) -> Families:
    """Write and read the metrics of one worker that has answered these requests: route and seconds."""
    metrics = Metrics("1.2.3")
    for route, seconds in requests:
        metrics.answered("GET", route, 200, seconds, seconds)
    metrics.in_flight.set(in_flight)
    metrics.expiry.set(expiry)
    return told(metrics)


def told(metrics: Metrics) -> Families:
    """Write and read all metrics the way one worker tells another."""
    return read(orjson.loads(orjson.dumps(written(metrics.registry.collect()))))


def value(families: Families, name: str, labels: Mapping[str, str] | None = None) -> float | None:
    found = [
        sample.value
        for family in families
        for sample in family.samples
        if sample.name.removeprefix("cardcash_proxy_") == name and sample.labels == (labels or {})
    ]
    assert len(found) < 2, f"{name} stands more than once"
    return found[0] if found else None


OF_A = {"method": "GET", "route": "/a", "status": "200"}
OF_B = {"method": "GET", "route": "/b", "status": "200"}


def test_counters_are_summed_by_their_labels() -> None:
    both = total([scraped(("/a", 1), ("/a", 1)), scraped(("/a", 1), ("/b", 1))])
    assert (value(both, "requests_total", OF_A), value(both, "requests_total", OF_B)) == (3, 1)


def test_histograms_are_summed_bucket_by_bucket() -> None:
    both = total([scraped(("/a", 0.002), ("/a", 3.0)), scraped(("/a", 0.002))])
    buckets = [
        value(both, "request_duration_seconds_bucket", {"route": "/a", "le": le}) for le in ("0.001", "1.0", "+Inf")
    ]
    assert buckets == [0, 2, 3]
    assert value(both, "request_duration_seconds_count", {"route": "/a"}) == 3
    assert value(both, "request_duration_seconds_sum", {"route": "/a"}) == pytest.approx(3.004)


def test_gauges_are_summed() -> None:
    both = total([scraped(in_flight=3), scraped(in_flight=4)])
    assert value(both, "requests_in_flight") == 7
    memory = [value(one, "process_resident_memory_bytes") or 0.0 for one in (scraped(), both)]
    assert memory[1] > 1.5 * memory[0]


def test_what_all_share_is_not_summed() -> None:
    ours, theirs = scraped(expiry=1_800_000_000.0), scraped(expiry=0.0)
    both = total([ours, theirs])
    assert value(both, "session_expiry_timestamp_seconds") == 1_800_000_000.0
    assert value(both, "build_info", {"version": "1.2.3"}) == 1
    for name in ("process_start_time_seconds", "process_max_fds"):
        assert value(both, name) == value(ours, name)


def test_the_sum_of_one_reads_the_same_as_the_one() -> None:
    metrics = Metrics("1.2.3")
    once, again = list(metrics.registry.collect()), total([told(metrics)])
    assert [(f.name, f.type, f.documentation) for f in once] == [(f.name, f.type, f.documentation) for f in again]
    names = {f.name for f in once if not f.name.startswith(("process_", "python_"))}  # those move on
    samples = [
        [(s.name, s.labels, s.value) for f in families if f.name in names for s in f.samples]
        for families in (once, again)
    ]
    assert samples[0] == samples[1]


def test_of_a_process_that_ended_only_counts_are_kept() -> None:
    left = total([counted(scraped(("/a", 1), in_flight=5))])
    assert value(left, "requests_total", OF_A) == 1
    assert value(left, "requests_in_flight") is None


def test_workers_that_answer_are_up_and_the_others_down() -> None:
    sums = total([scraped(), scraped(), [silent_workers(1)]])
    assert [value(sums, "workers", {"state": state}) for state in ("up", "down")] == [2, 1]
