"""What the documents say of failures, log lines and hosts is what the code does."""

from __future__ import annotations

import re

import pytest
from structlog.testing import capture_logs

from bench.catalogue import SCENARIOS
from proxy.telemetry import labels
from tests.conftest import StartProxy
from tests.house.pages import module_names, table, text_of, ticked
from tests.server.harness import EMAIL, PASSWORD, RawUpstream, answer, until

#: Kinds of failures to connect, by whether the proxy tries a second time, by the table of kinds.
SECOND_TRY = {kind: row[3] != "no" for row in table("kind") for kind in ticked(row[0])}


def test_every_scenario_of_the_bench_stands_in_its_table() -> None:
    assert [name for row in table("name for `--only`") for name in ticked(row[0])] == list(SCENARIOS)


#: The tables of proxy/README.md, which name the files by their places in proxy/.
WALKS = [row for walk in ("of one request", "of one token", "of a process") for row in table(walk)]


@pytest.mark.parametrize("row", WALKS, ids=lambda row: str(row[0]))
def test_what_the_house_says_is_decided_somewhere_is_there(row: list[str]) -> None:
    here = ""
    for name in ticked(row[1]):
        if name.endswith(".py"):
            here = text_of(f"proxy/{name}")
        elif name.isidentifier():
            assert re.search(rf"\b(?:def|class) {name}\b|^{name}\b", here, re.MULTILINE), name
    assert here


def test_every_file_of_the_house_has_its_place_in_a_walk() -> None:
    named = {f"proxy/{name}" for row in WALKS for name in ticked(row[1])}
    elsewhere = re.compile(r"proxy/(?:simulator|commands)/|__init__\.py\Z")  # each command is named as its file
    assert [name for name in module_names() if not elsewhere.search(name) and name not in named] == []


def test_every_kind_of_failure_is_listed_beside_its_metric_and_in_the_table_of_kinds() -> None:
    (meaning,) = (row[3] for row in table("metric") if "upstream_errors_total" in row[0])
    assert set(ticked(meaning)) == set(labels.UPSTREAM_FAILURES) == set(SECOND_TRY)


@pytest.mark.parametrize("metric", ["session_harvests_total", "session_retries_total"])
def test_every_result_is_listed_beside_its_metric(metric: str) -> None:
    (meaning,) = (row[3] for row in table("metric") if metric in row[0])
    assert set(ticked(meaning)) >= set({"session_harvests_total": labels.HARVESTS}.get(metric, labels.RETRIES))


def test_a_second_try_to_connect_is_promised_only_for_what_it_can_cure() -> None:
    (row,) = (row for row in table("when") if row[0] == "CardCash is down, and a session is held")
    named = {kind for kind in ("connect_timeout", "tls", "proxy") if f"`{kind}`" in row[1]}
    assert named == {
        kind for kind, again in SECOND_TRY.items() if not again and kind in {"connect_timeout", "tls", "proxy"}
    }
    assert len(named) == 3


async def test_the_line_of_a_renewal_whose_login_was_refused_says_what_to_do(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    upstream.login_answers.append(answer(401, b'{"message":["Invalid credentials"]}'))
    with capture_logs() as lines:
        await start_proxy(LOGIN__EMAIL=EMAIL, LOGIN__PASSWORD=PASSWORD)
        await until(lambda: any(line["event"] == "session_renewal" for line in lines))
    (line,) = (line for line in lines if line["event"] == "session_renewal")
    assert line["result"] == "login_refused"
    assert "login.password" in line["sentence"]
    assert PASSWORD not in str(line) and EMAIL not in str(line)


async def test_a_host_is_allowed_on_any_port_as_the_documents_say(start_proxy: StartProxy) -> None:
    proxy = await start_proxy(CALLERS__ALLOWED_HOSTS="shop.example:1234")
    for host in (b"shop.example", b"shop.example:1234", b"shop.example:80"):
        assert (await proxy.ask("GET /carts", host=host)).status == 200
