"""The admin port: health, readiness, metrics, status, the two actions and their guards."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from proxy import __version__
from tests.cardcash import OK, REJECTION, CardCash, Gone, Received, Reply, bringing
from tests.conftest import StartProxy
from tests.server.harness import Answer, RawUpstream, Running, until

#: What is open on the admin port.
PROMISED = {
    "requests_total": {"method", "route", "status"},
    "request_duration_seconds_bucket": {"route", "le"},
    "request_duration_seconds_count": {"route"},
    "upstream_duration_seconds_bucket": {"route", "le"},
    "requests_in_flight": set(),
    "request_errors_total": {"code"},
    "upstream_errors_total": {"kind"},
    "upstream_connections": {"state"},
    "session_expiry_timestamp_seconds": set(),
    "session_renewals_total": {"reason", "result"},
    "session_harvests_total": {"result"},
    "session_retries_total": {"result"},
    "session_waiters": set(),
    "replay_buffer_bytes": set(),
    "store_operations_total": {"operation", "result"},
    "build_info": {"version"},
    "outcome_unknown_total": {"route"},
    "session_renewal_seconds_bucket": {"le"},
    "session_last_success_timestamp_seconds": set(),
    "process_resident_memory_bytes": set(),
    "python_info": {"implementation", "major", "minor", "patchlevel", "version"},
}


@pytest.fixture
async def upstream(cardcash: CardCash) -> CardCash:
    """In plain HTTP: nothing here is about bytes."""
    return cardcash


@pytest.fixture
async def counted() -> AsyncIterator[RawUpstream]:
    """A CardCash that counts every connection that was ever made to it."""
    counted = RawUpstream()
    await counted.start()
    yield counted
    await counted.stop()


async def gone(_: Received) -> Reply:
    raise Gone


async def raw(proxy: Running, line: str, *headers: bytes, host: bytes | None = None) -> Answer:
    """Ask the admin port in bytes: for what no client sends."""
    caller = await proxy.caller(port=proxy.admin_port)
    return await caller.ask(proxy.request(line, *headers, host=host or b"127.0.0.1:%d" % proxy.admin_port))


async def goes_on(proxy: Running) -> None:
    """Nobody told it to stop: it is well, and serves."""
    got = await proxy.admin.ask("GET /healthz")
    assert (got.status, proxy.proxy.life.draining) == (200, False)
    assert (await proxy.ask("GET /carts")).status == 200


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in prometheus(text):
        for sample in family.samples:
            yield sample.name.removeprefix("cardcash_proxy_"), sample.labels, sample.value


async def test_every_promised_metric_is_there_with_its_labels(upstream: CardCash, proxy: Running) -> None:
    await proxy.ask("GET /wallets/123456/secure-data")
    upstream.answers += [REJECTION, bringing("not-a-token", body=b"")]
    await proxy.ask("GET /carts/3b241101-e2bb-4255-8caf-4136c566a962")
    await proxy.ask("GET /unknown/4111111111111111")
    await proxy.ask("GET /a", b"Origin: https://evil.example")
    upstream.answers.append(gone)
    await proxy.ask("POST /orders", body=b"{}")
    page = await proxy.admin.ask("GET /metrics")
    assert page.headers["Content-Type"].startswith("text/plain")
    text = page.text
    found = {name: set(labels) for name, labels, _ in samples(text)}
    assert {name: found.get(name) for name in PROMISED} == PROMISED
    assert ("build_info", {"version": __version__}, 1.0) in list(samples(text))
    for private in ("123456", "3b241101", "4111111111111111", "/unknown"):
        assert private not in text
    routes = {labels["route"] for name, labels, _ in samples(text) if name == "requests_total"}
    assert routes == {"/v3/wallets/:cardId/secure-data", "/v3/carts/:cartId", "/v3/orders", "other"}


async def test_metrics_come_as_openmetrics_when_asked_for(upstream: CardCash, proxy: Running) -> None:
    await proxy.ask("GET /a")
    page = await proxy.admin.ask("GET /metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert page.headers["Content-Type"].startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics(page.text)}  # type: ignore[no-untyped-call]
    assert "cardcash_proxy_requests" in names


async def test_the_expiry_gauge_is_unix_time(upstream: CardCash, proxy: Running) -> None:
    await proxy.ask("GET /a")
    page = await proxy.admin.ask("GET /status")
    shown = page.json["session"]["expires_in_seconds"]
    assert 3500 < shown <= 3600
    import time

    expiry = proxy.sample("session_expiry_timestamp_seconds")
    assert expiry == pytest.approx(time.time() + shown, abs=2)


async def test_readyz_waits_for_the_first_attempt_and_not_for_its_success(
    upstream: CardCash, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(origin="http://127.0.0.1:9")
    first = await proxy.admin.ask("GET /readyz")
    assert (first.status, first.json["because"]) == (503, ["the first session is being made"])
    await until(proxy.proxy.keeper.first_renewal_over.is_set)
    assert (await proxy.admin.ask("GET /readyz")).status == 200
    assert (await proxy.admin.ask("GET /healthz")).status == 200


async def test_a_lazy_proxy_is_ready_without_a_session_and_never_dials(
    counted: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(origin=counted.url, SESSION__EAGER="false")
    for path in ("/readyz", "/healthz", "/status", "/metrics", "/"):
        assert (await proxy.admin.ask(f"GET {path}")).status == 200
    assert counted.accepted == 0
    assert (await proxy.ask("GET /a")).status == 200
    assert counted.accepted > 0


async def test_status_names_no_token_and_no_application_id(upstream: CardCash, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(LOGIN__EMAIL="person@example.com", LOGIN__PASSWORD="p-word", APP_ID="zebra-app")
    await proxy.ask("GET /a")
    for path in ("/status", "/", "/metrics"):
        text = (await proxy.admin.ask(f"GET {path}")).text
        for secret in (*upstream.tokens, "zebra-app", "p-word", "person@example.com"):
            assert secret not in text
    session = (await proxy.admin.ask("GET /status")).json
    assert session["version"] == __version__
    assert session["session"]["state"] == "fresh"


@pytest.mark.parametrize(
    "path", ["/carts", "/v3/carts", "/merchants/buy", "/session", "/v3/session", "/customers/login", "/status/x"]
)
async def test_the_admin_port_never_serves_proxied_paths(upstream: CardCash, proxy: Running, path: str) -> None:
    for method in ("GET", "POST"):
        assert (await proxy.admin.ask(f"{method} {path}")).status in (404, 405)
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/status", "/_simulator/"])
async def test_the_proxy_port_never_serves_admin_paths(upstream: CardCash, proxy: Running, path: str) -> None:
    await proxy.ask(f"GET {path}")
    assert upstream.requests[0].line == f"GET /v3{path}"


async def test_renew_makes_a_new_session(upstream: CardCash, proxy: Running) -> None:
    await proxy.ask("GET /a")
    got = await proxy.admin.ask("POST /session/renew")
    assert got.status == 200
    assert len(upstream.sessions) == 2
    await proxy.ask("GET /b")
    assert upstream.requests[-1].token == upstream.tokens[1]
    assert all(token not in got.body.decode() for token in upstream.tokens)


async def test_renew_opens_a_latch(upstream: CardCash, start_proxy: StartProxy) -> None:
    upstream.session_answers.append(Reply(400, b'{"message":["no x-cc-app was found"]}'))
    proxy = await start_proxy()
    assert (await proxy.ask("GET /a")).status == 503
    assert (await proxy.admin.ask("GET /readyz")).status == 503
    assert (await proxy.admin.ask("POST /session/renew")).status == 200
    assert (await proxy.admin.ask("GET /readyz")).status == 200
    assert (await proxy.ask("GET /a")).status == 200


async def test_a_renewal_that_fails_says_so(upstream: CardCash, proxy: Running) -> None:
    await proxy.ask("GET /a")
    upstream.session_answers += [Reply(400, b'{"message":["no x-cc-app was found"]}')] * 9
    got = await proxy.admin.ask("POST /session/renew")
    assert (got.status, got.json["error"]) == (503, "session_unavailable")


@pytest.mark.parametrize("path", ["/session/renew", "/shutdown"])
async def test_the_actions_pass_the_guards_of_the_proxy_port(upstream: CardCash, proxy: Running, path: str) -> None:
    serving = asyncio.create_task(proxy.proxy.run())
    await until(lambda: upstream.sessions)
    refused = [
        ({"Host": "evil.example"}, 421, "host_not_allowed"),
        ({"Origin": "https://evil.example"}, 403, "origin_not_allowed"),
        ({"Origin": "null"}, 403, "origin_not_allowed"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "origin_not_allowed"),
    ]
    for headers, status, code in refused:
        got = await proxy.admin.ask(f"POST {path}", headers=headers)
        assert (got.status, got.json["error"]) == (status, code)
    assert (await proxy.admin.ask(f"GET {path}")).status == 405
    assert len(upstream.sessions) == 1
    await goes_on(proxy)
    serving.cancel()


@pytest.mark.parametrize("path", ["/session/renew", "/shutdown"])
async def test_an_absolute_target_elsewhere_acts_on_nothing(upstream: CardCash, proxy: Running, path: str) -> None:
    serving = asyncio.create_task(proxy.proxy.run())
    await until(lambda: upstream.sessions)
    got = await raw(proxy, f"POST http://evil.example{path}")
    assert (got.status, got.code) == (421, "host_not_allowed")
    assert len(upstream.sessions) == 1
    await goes_on(proxy)
    assert (await raw(proxy, f"POST http://localhost{path}")).status in (200, 202)
    if path == "/shutdown":
        await serving
    serving.cancel()


@pytest.mark.parametrize(
    ("lines", "host", "status", "code"),
    [
        ([], b"evil.example", 421, "host_not_allowed"),
        ([b"Origin: https://evil.example"], None, 403, "origin_not_allowed"),
        ([], b"a..b", 400, "bad_request"),
        ([b"Host: localhost"], None, 400, "bad_request"),
    ],
)
async def test_a_refusal_is_counted_and_has_the_headers_of_our_answers(
    upstream: CardCash, proxy: Running, *, lines: list[bytes], host: bytes | None, status: int, code: str
) -> None:
    got = await raw(proxy, "POST /session/renew", b"X-Request-ID: mine", *lines, host=host)
    assert (got.status, got.code) == (status, code)
    assert status == 400 or got.value("x-request-id") == b"mine"
    assert proxy.sample("request_errors_total", code=code) == 1


@pytest.mark.parametrize(
    "request_",
    [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nA : b\r\n\r\n", b"\x16\x03\x01\r\n\r\n"],
)
async def test_malformed_input_is_a_400_of_ours_in_http_1_1(
    upstream: CardCash, proxy: Running, request_: bytes
) -> None:
    caller = await proxy.caller(port=proxy.admin_port)
    got = await caller.ask(request_)
    assert (got.version, got.status, got.code) == (b"HTTP/1.1", 400, "bad_request")
    assert await caller.ended() == b""
    assert proxy.sample("request_errors_total", code="bad_request") == 1


async def test_shutdown_drains_and_stops(upstream: CardCash, proxy: Running) -> None:
    got = await proxy.admin.ask("POST /shutdown")
    assert got.status == 202
    await proxy.proxy.run()
    assert proxy.proxy.life.draining


async def test_the_page_for_people_is_html_and_loads_nothing(upstream: CardCash, proxy: Running) -> None:
    got = await proxy.admin.ask("GET /")
    assert got.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in got.headers["Content-Security-Policy"]
    assert "unsafe" not in got.headers["Content-Security-Policy"]
    assert got.headers["Cache-Control"] == "no-store"
    assert not re.search(r"<[^>]+ (src|href)=[\"']?(//|http)", got.text)


async def test_status_is_json_with_the_counters(upstream: CardCash, proxy: Running) -> None:
    upstream.answers += [REJECTION, OK]
    await proxy.ask("GET /a")
    status = (await proxy.admin.ask("GET /status")).json
    assert status["session"]["renewals"] == 2
    assert status["upstream"]["connections_opened"] >= 1
    assert status["requests_in_flight"] == 0


REFUSAL = Reply(400, b'{"message":["no x-cc-app was found"]}')


async def test_startupz_is_200_once_the_first_attempt_is_over_well_or_not(
    upstream: CardCash, start_proxy: StartProxy
) -> None:
    go = asyncio.Event()

    async def held_up(_: Received) -> Reply:
        await go.wait()
        return REFUSAL

    upstream.session_answers.append(held_up)
    proxy = await start_proxy()
    first = await proxy.admin.ask("GET /startupz")
    assert (first.status, first.json["because"]) == (503, ["the first session is being made"])
    go.set()
    await until(proxy.proxy.keeper.first_renewal_over.is_set)
    assert (await proxy.admin.ask("GET /startupz")).status == 200
    # Wrong credentials have started, and are never ready.
    assert (await proxy.admin.ask("GET /readyz")).status == 503


async def test_a_lazy_proxy_has_started_without_an_attempt(counted: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(origin=counted.url, SESSION__EAGER="false")
    assert (await proxy.admin.ask("GET /startupz")).status == 200
    assert counted.accepted == 0


async def test_what_was_ready_stays_ready_whatever_cardcash_says(upstream: CardCash, proxy: Running) -> None:
    await proxy.ask("GET /a")
    upstream.answers.append(REJECTION)
    upstream.session_answers += [REFUSAL] * 9
    await proxy.ask("GET /a")
    assert (await proxy.admin.ask("GET /status")).json["session"]["latched"] == "app_id"
    # Nobody had asked before: the credentials were accepted all the same.
    assert (await proxy.admin.ask("GET /readyz")).status == 200
    status = (await proxy.admin.ask("GET /status")).json
    assert (status["ready"], status["not_ready_because"]) == (True, [])


async def test_draining_is_not_ready_and_still_started(upstream: CardCash, proxy: Running) -> None:
    await proxy.ask("GET /a")
    proxy.proxy.life.draining = True
    assert (await proxy.admin.ask("GET /readyz")).json["because"] == ["draining"]
    assert (await proxy.admin.ask("GET /startupz")).status == 200


async def test_status_tells_of_the_last_renewals(upstream: CardCash, proxy: Running) -> None:
    upstream.answers += [REJECTION, OK]
    await proxy.ask("GET /a")
    told = (await proxy.admin.ask("GET /status")).json["recent_renewals"]
    assert [(one["reason"], one["result"]) for one in told] == [("start", "ok"), ("rejected", "ok")]
    assert all(0 <= one["seconds"] < 10 for one in told)
    assert datetime.fromisoformat(told[0]["time"]) <= datetime.fromisoformat(told[1]["time"])


async def test_status_tells_of_the_last_failure_with_its_sentence_and_time(
    upstream: CardCash, start_proxy: StartProxy
) -> None:
    upstream.session_answers += [REFUSAL] * 9
    proxy = await start_proxy()
    await until(proxy.proxy.keeper.first_renewal_over.is_set)
    told = (await proxy.admin.ask("GET /status")).json
    assert "refused the application id" in told["last_failure"]["sentence"]
    age = datetime.now(UTC) - datetime.fromisoformat(told["last_failure"]["time"])
    assert timedelta(0) <= age < timedelta(seconds=30)
    assert told["recent_failures"] == [told["last_failure"]]


async def test_status_tells_of_requests_that_the_proxy_could_not_answer(upstream: CardCash, proxy: Running) -> None:
    upstream.answers.append(gone)
    got = await proxy.ask("POST /orders", body=b"{}")
    told = (await proxy.admin.ask("GET /status")).json["last_failure"]
    assert (told["what"], told["sentence"]) == (f"request ({got.code})", got.json["message"][0])


async def test_what_a_caller_did_wrong_is_no_failure_of_the_proxy(upstream: CardCash, proxy: Running) -> None:
    assert (await proxy.ask("GET /a", b"Origin: https://evil.example")).status == 403
    assert (await proxy.admin.ask("GET /status")).json["last_failure"] is None


async def test_status_tells_how_long_the_session_lives_and_its_window(upstream: CardCash, proxy: Running) -> None:
    await proxy.ask("GET /a")
    session = (await proxy.admin.ask("GET /status")).json["session"]
    assert session["lifetime_seconds"] == pytest.approx(3595, abs=2)
    assert session["window_seconds"] == pytest.approx(295, abs=2)
    assert session["expires_in_seconds"] <= session["lifetime_seconds"]


async def test_no_seconds_in_status_are_negative(upstream: CardCash, start_proxy: StartProxy) -> None:
    upstream.lifetime = 1
    proxy = await start_proxy()
    await proxy.ask("GET /a")
    # Nothing renews it any more.
    proxy.proxy.keeper.refuse()
    await until(lambda: proxy.proxy.keeper.status()["state"] == "expired")
    await asyncio.sleep(0.1)
    told = (await proxy.admin.ask("GET /status")).json
    assert told["session"]["state"] == "expired"
    assert (told["session"]["expires_in_seconds"], told["session"]["renews_in_seconds"]) == (0, 0)
    assert (await proxy.admin.ask("GET /")).status == 200


async def test_status_tells_of_its_process_and_its_store(upstream: CardCash, proxy: Running) -> None:
    await proxy.ask("GET /a")
    told = (await proxy.admin.ask("GET /status")).json
    ((pid, state, requests),) = [(one["pid"], one["state"], one["requests"]) for one in told["processes"]]
    assert (pid, state, requests) == (os.getpid(), "up", 1)
    assert (told["store"]["kind"], told["store"]["up"], told["not_alive"]) == ("memory", True, [])


async def test_a_step_of_the_traffic_is_what_the_counters_say(
    upstream: CardCash, proxy: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = proxy.proxy.metrics.requests.totals()
    upstream.answers += [OK, Reply(503), Reply(404)]
    for _ in range(3):
        await proxy.ask("GET /a")
    await proxy.ask("GET /a", b"Origin: https://evil.example")
    after = proxy.proxy.metrics.requests.totals()
    assert (after.requests - before.requests, after.errors - before.errors) == (4, 1)
    assert sum(after.buckets) == after.requests
