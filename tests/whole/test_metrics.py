"""/metrics from outside: every promised name, every series of a closed set from the start, one process and two workers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from proxy.core.route_names import KNOWN_ROUTES
from proxy.simulator import Simulator
from tests.cardcash import CardCash, Gone, Received, Reply
from tests.house.pages import table, ticked
from tests.whole.processes import ProxyProcess, fetch, is_ready, serving

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]
WAYS = pytest.mark.parametrize("workers", ["1", "2"])
ROUTES = {*KNOWN_ROUTES, "other"}
#: Label values that config/README.md names beside a metric.
CODES = {ticked(code)[0] for _, code, _ in table("status")}


async def scrape(proxy: ProxyProcess) -> Samples:
    _, text = await fetch("GET", f"http://{proxy.admin}/metrics")
    found: Samples = {}
    for family in parsed(text):
        for sample in family.samples:
            labels = tuple(sorted((key, value) for key, value in sample.labels.items() if key != "le"))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def values(found: Samples, name: str, label: str) -> set[str]:
    return {dict(labels)[label] for labels in found[f"cardcash_proxy_{name}"]}


@contextlib.asynccontextmanager
async def running(origin: str, workers: str, **settings: str) -> AsyncIterator[ProxyProcess]:
    async with serving(origin, WORKERS=workers, **settings) as proxy:
        await is_ready(proxy)
        yield proxy


@WAYS
async def test_every_series_of_a_closed_set_is_there_from_the_start(simulator: Simulator, workers: str) -> None:
    async with running(simulator.url, workers) as proxy:
        found = await scrape(proxy)
    meanings = {ticked(name)[0].removeprefix("cardcash_proxy_"): meaning for name, _, _, meaning in table("metric")}
    assert values(found, "outcome_unknown_total", "route") == ROUTES
    assert values(found, "request_duration_seconds_count", "route") == ROUTES
    assert values(found, "upstream_duration_seconds_count", "route") == ROUTES
    assert values(found, "request_errors_total", "code") == CODES
    assert values(found, "upstream_errors_total", "kind") == set(ticked(meanings["upstream_errors_total"]))
    assert values(found, "session_harvests_total", "result") == set(ticked(meanings["session_harvests_total"]))
    assert values(found, "session_retries_total", "result") == set(ticked(meanings["session_retries_total"]))
    results = set(ticked(meanings["session_renewals_total"]))
    assert values(found, "session_renewals_total", "result") == results
    operations = {"load", "save", "latch", "lease", "enter", "extend"}
    assert operations == values(found, "store_operations_total", "operation")
    assert sum(found["cardcash_proxy_request_errors_total"].values()) == 0


@WAYS
async def test_the_usual_metrics_of_a_process_have_their_own_names(simulator: Simulator, workers: str) -> None:
    async with running(simulator.url, workers) as proxy:
        found = await scrape(proxy)
    for name in (
        *("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "process_max_fds"),
        *("process_start_time_seconds", "python_info", "python_gc_collections_total"),
    ):
        assert sum(found[name].values()) > 0
    assert not any(name.startswith("cardcash_proxy_process") for name in found)
    assert set(found["python_info"].values()) == {1.0}
    assert time.time() - 60 < found["process_start_time_seconds"][()] < time.time()


@WAYS
async def test_how_long_renewals_take_and_when_the_last_one_was_good(simulator: Simulator, workers: str) -> None:
    before = time.time()
    async with running(simulator.url, workers) as proxy:
        found = await scrape(proxy)
    assert found["cardcash_proxy_session_renewal_seconds_count"][()] >= 1
    assert before - 1 < found["cardcash_proxy_session_last_success_timestamp_seconds"][()] < time.time() + 1


@WAYS
async def test_an_order_whose_outcome_nobody_knows_is_counted_once(cardcash: CardCash, workers: str) -> None:
    async def lost(_: Received) -> Reply:
        raise Gone

    async with running(cardcash.url, workers) as proxy:
        cardcash.default = lost
        status, text = await fetch("POST", f"{proxy.url}/orders", json={})
        assert (status, "may have been processed" in text) == (502, True)
        async with asyncio.timeout(30):  # what a worker counts is told by the others within a second
            while not sum((found := await scrape(proxy))["cardcash_proxy_outcome_unknown_total"].values()):
                await asyncio.sleep(0.05)
    assert found["cardcash_proxy_outcome_unknown_total"][("route", "/v3/orders"),] == 1
    assert sum(found["cardcash_proxy_outcome_unknown_total"].values()) == 1


async def test_a_status_without_a_name_is_in_the_log_as_it_came_and_in_the_metrics_as_its_class(
    cardcash: CardCash,
) -> None:
    cardcash.default = Reply(299)
    async with running(cardcash.url, "1") as proxy:
        assert (await fetch("GET", f"{proxy.url}/carts"))[0] == 299
        found = await scrape(proxy)
        async with asyncio.timeout(30):
            while not (lines := [line for line in proxy.lines if line["event"] == "request"]):
                await asyncio.sleep(0.05)
    assert [line["status"] for line in lines] == [299]
    labels = (("method", "GET"), ("route", "/v3/carts"), ("status", "2xx"))
    assert found["cardcash_proxy_requests_total"][labels] == 1


async def test_long_answers_are_told_apart(simulator: Simulator) -> None:
    async with running(simulator.url, "1") as proxy:
        _, text = await fetch("GET", f"http://{proxy.admin}/metrics")
    bounds = {sample.labels["le"] for family in parsed(text) for sample in family.samples if "le" in sample.labels}
    assert {"15.0", "20.0", "30.0", "45.0", "60.0", "90.0", "120.0", "+Inf"} <= bounds
