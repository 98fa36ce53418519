"""`--workers N`: several processes that callers, CardCash and operators take for one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.simulator import Simulator
from tests.cardcash import OK, CardCash, Reply, silent
from tests.server.harness import Caller, until
from tests.whole.processes import ProxyProcess, fetch, is_ready, run, serving
from tests.whole.test_admin import samples

SESSION, LOGIN = "POST /v3/session", "POST /v3/customers/login"
EMAIL, PASSWORD = "partner@example.com", "demo-password"
ACCOUNT = {"LOGIN__EMAIL": EMAIL, "LOGIN__PASSWORD": PASSWORD}
ORDER = {
    "cards": [{"merchantId": 1, "faceValue": 25, "type": "ecode", "quantity": 1}],
    "payment": {"method": "CREDITCARD", "details": {"id": 1}},
    "shippingDetails": {},
}


@contextlib.asynccontextmanager
async def workers(origin: str, **settings: str) -> AsyncIterator[ProxyProcess]:
    """Run `serve` with several workers, two unless told otherwise, until all are ready."""
    async with serving(origin, **{"WORKERS": "2", **settings}) as proxy:
        await is_ready(proxy)
        yield proxy


async def status(proxy: ProxyProcess) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((await fetch("GET", f"http://{proxy.admin}/status"))[1])
    return told


async def pids(proxy: ProxyProcess) -> dict[int, int]:
    """Tell the processes of the workers, by their numbers."""
    return {worker["worker"]: worker["pid"] for worker in (await status(proxy))["workers"]}


async def scrape(proxy: ProxyProcess) -> str:
    """Read the metrics."""
    return (await fetch("GET", f"http://{proxy.admin}/metrics"))[1]


def summed(text: str, name: str, **labels: str) -> float:
    """Sum up a metric over all labels but these."""
    return sum(value for sample, of, value in samples(text) if sample == name and labels.items() <= of.items())


async def counted(proxy: ProxyProcess, name: str, **labels: str) -> float:
    """Read one metric, summed up over all labels but these."""
    return summed(await scrape(proxy), name, **labels)


async def comes_to(proxy: ProxyProcess, number: float, name: str, **labels: str) -> None:
    """Wait until one metric is so much: what a worker counts is told by the others within a second."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(30):
            while await counted(proxy, name, **labels) < number:
                await asyncio.sleep(0.05)
    assert await counted(proxy, name, **labels) == number


async def served_by(proxy: ProxyProcess, requests: int) -> Counter[int]:
    """Wait for the log lines of so many requests; tell how many each worker wrote."""
    await proxy.says(lambda out: out.count(b'"request_id"') >= requests and out.endswith(b"\n"))
    return Counter(line["worker"] for line in proxy.events("request"))


async def call(proxy: ProxyProcess, method: str, path: str, **more: Any) -> tuple[int, str, str]:
    """Ask on a connection of its own; status, Proxy-Status and text."""
    async with aiohttp.ClientSession() as client, client.request(method, proxy.url + path, **more) as got:
        return got.status, got.headers.get("Proxy-Status", ""), await got.text()


@contextlib.asynccontextmanager
async def a_caller_at_each(proxy: ProxyProcess) -> AsyncIterator[dict[int, Caller]]:
    """Connect until each worker has a caller, by its number: the kernel chooses the worker, and the log tells which."""
    found: dict[int, Caller] = {}
    number = len(await pids(proxy))
    asked = len(proxy.events("request"))
    async with contextlib.AsyncExitStack() as stack:
        while len(found) < number:
            assert asked < 200, f"only {found} have callers"
            caller = await proxy.caller()
            stack.push_async_callback(caller.close)
            await caller.ask(b"GET /merchants/sell HTTP/1.1\r\nHost: localhost\r\n\r\n")
            asked += 1
            await served_by(proxy, asked)
            found.setdefault(proxy.events("request")[-1]["worker"], caller)
        yield found


# One session


async def test_all_workers_make_one_session_and_one_login(simulator: Simulator) -> None:
    async with workers(simulator.url, WORKERS="3", **ACCOUNT) as proxy:
        assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (1, 1)
        assert {(await call(proxy, "GET", "/carts"))[0] for _ in range(10)} == {200}
        assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (1, 1)


async def test_callers_are_shared_out_to_all_workers(simulator: Simulator) -> None:
    async with workers(simulator.url) as proxy:
        await asyncio.gather(*(call(proxy, "GET", "/merchants/sell") for _ in range(60)))
        by_worker = await served_by(proxy, 60)
        # Binomial: fewer than 10 of 60 come once in ten million runs.
        assert set(by_worker) == {1, 2} and min(by_worker.values()) >= 10


async def test_a_revoked_token_costs_one_session_and_no_caller_sees_it(simulator: Simulator) -> None:
    async with workers(simulator.url, **ACCOUNT) as proxy:
        await asyncio.gather(*(call(proxy, "GET", "/carts") for _ in range(20)))
        simulator.revoke_all()
        answers = await asyncio.gather(
            *(call(proxy, "GET", "/carts") for _ in range(40)),
            *(
                call(proxy, "POST", "/orders?checkout=condensed", json=ORDER, headers={"X-Test-Id": f"order-{n}"})
                for n in range(20)
            ),
        )
        assert Counter(got for got, _, _ in answers) == {200: 40, 201: 20}
        assert not [text for _, _, text in answers if "authorization token" in text.lower()]
        assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (2, 2)
        assert {simulator.processed[f"order-{n}"] for n in range(20)} == {1}
        assert simulator.counters["orders_placed"] == 20


async def test_a_login_of_a_caller_holds_at_all_workers(simulator: Simulator) -> None:
    simulator.configure(accounts={EMAIL: PASSWORD, "other@example.com": "other"}, anonymous="guest")
    body = {"customer": {"email": EMAIL, "password": PASSWORD}}
    other = {"customer": {"email": "other@example.com", "password": "other"}}
    async with workers(simulator.url) as proxy:
        assert (await call(proxy, "POST", "/customers/login", json=body))[0] == 200
        refused = [await call(proxy, "POST", "/customers/login", json=other) for _ in range(8)]
        assert {(got, json.loads(text)["error"]) for got, _, text in refused} == {(409, "other_account")}


async def test_of_two_logins_at_two_workers_at_once_the_first_wins(simulator: Simulator) -> None:
    simulator.configure(accounts={"one@example.com": "1", "two@example.com": "2"}, anonymous="guest")
    simulator.fault("delay", path="/v3/customers/login", seconds=0.3, times=2)
    async with workers(simulator.url) as proxy:
        async with a_caller_at_each(proxy) as callers:
            answers = await asyncio.gather(*(caller.ask(log_in(n)) for n, caller in callers.items()))
        assert sorted(got.status for got in answers) == [200, 409]
        assert simulator.calls[LOGIN] == 1


def log_in(number: int) -> bytes:
    email = {1: "one@example.com", 2: "two@example.com"}[number]
    body = json.dumps({"customer": {"email": email, "password": str(number)}}).encode()
    head = b"POST /customers/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def test_once_a_login_is_answered_no_account_call_goes_anonymously_at_any_worker(simulator: Simulator) -> None:
    async with workers(simulator.url, WORKERS="3") as proxy:
        body = {"customer": {"email": EMAIL, "password": PASSWORD}}
        assert (await call(proxy, "POST", "/customers/login", json=body))[0] == 200
        answers = await asyncio.gather(*(call(proxy, "GET", "/carts") for _ in range(60)))
        assert {status for status, _, _ in answers} == {200}


async def test_a_refused_login_is_tried_once_and_renew_opens_it_for_all(simulator: Simulator) -> None:
    async with serving(simulator.url, WORKERS="2", LOGIN__EMAIL=EMAIL, LOGIN__PASSWORD="another") as proxy:
        await until_because(proxy, "login refused")
        assert simulator.calls[LOGIN] == 1
        async with asyncio.timeout(30):  # whichever worker is asked reads the report of the one that was refused
            while (await status(proxy))["session"]["latched"] != "login":
                await asyncio.sleep(0.05)
        await comes_to(proxy, 1, "session_latched", what="login")
        simulator.configure(accounts={EMAIL: "another"})
        done = await run("session", "renew", "--json", "--admin.listen", proxy.admin)
        assert await done.ended() == 0, done.text
        assert json.loads(done.out)["identity"] == "p…@example.com"
        await is_ready(proxy)
        assert simulator.calls[LOGIN] == 2


async def until_because(proxy: ProxyProcess, reason: str) -> None:
    """Wait until /readyz names a reason."""
    async with asyncio.timeout(30):
        while reason not in (await fetch("GET", f"http://{proxy.admin}/readyz"))[1]:
            await asyncio.sleep(0.01)


def renewals(out: bytes) -> int:
    """Count the sessions that were made or taken over, by the log."""
    return sum(b'"session_renewal"' in line and b'"result":"ok"' in line for line in out.split(b"\n")[:-1])


async def test_an_operators_renewal_reaches_all_workers(simulator: Simulator) -> None:
    async with workers(simulator.url) as proxy:
        # Each worker's first session is a line too, which may read "store" like those of the renewal.
        await proxy.says(lambda out: renewals(out) == 2)
        simulator.revoke_all()
        assert (await run("session", "renew", "--admin.listen", proxy.admin)).process.returncode == 0
        await proxy.says(lambda out: renewals(out) == 4)
        async with a_caller_at_each(proxy):
            pass
        assert simulator.counters["rejected"] == {}
        assert simulator.calls[SESSION] == 2


async def test_a_session_is_one_renewal_and_a_take_over_at_each_other_worker(simulator: Simulator) -> None:
    simulator.fault("delay", path="/v3/session", seconds=0.5)  # all have asked for it before it is there
    async with workers(simulator.url, WORKERS="3") as proxy:
        await comes_to(proxy, 2, "session_renewals_total", reason="store", result="ok")
        await comes_to(proxy, 1, "session_renewals_total", reason="start", result="ok")
        assert await counted(proxy, "session_renewals_total") == 3
        told = await status(proxy)
        assert told["session"]["renewals"] == 1
        assert [(one["reason"], one["source"]) for one in told["recent_renewals"]] == [("start", "session")]
        await proxy.says(lambda out: renewals(out) == 3)
        assert sorted(line["reason"] for line in proxy.events("session_renewal")) == ["start", "store", "store"]


async def test_credentials_that_one_worker_saw_accepted_keep_all_ready(simulator: Simulator) -> None:
    async with serving(simulator.url, WORKERS="2", **ACCOUNT) as proxy:
        # One that takes the session over has not asked CardCash itself. Nobody looks at /readyz before the end.
        await comes_to(proxy, 1, "session_renewals_total", reason="store")
        await proxy.says(lambda out: renewals(out) == 2)
        (taker,) = (line["worker"] for line in proxy.events("session_renewal") if line["reason"] == "store")
        (died,) = (line["pid"] for line in proxy.events("worker_started") if line["worker"] == taker)
        os.kill(died, signal.SIGKILL)
        await proxy.says(lambda out: out.count(b'"worker_started"') == 3 and renewals(out) == 3)
        simulator.configure(accounts={EMAIL: "another"})
        simulator.revoke_all()
        while {line["worker"] for line in proxy.events("request")} != {1, 2}:
            assert (await call(proxy, "GET", "/merchants/sell"))[0] == 200
        # Both have told of the refusal by now.
        await comes_to(proxy, 1, "session_renewals_total", reason="rejected", result="login_refused")
        await comes_to(proxy, 3, "session_renewals_total", reason="store")
        assert (await fetch("GET", f"http://{proxy.admin}/readyz"))[0] == 200


async def test_a_changed_secret_file_is_used_by_all_workers(cardcash: CardCash, tmp_path: Path) -> None:
    file = tmp_path / "app-id"
    file.write_text("first-id\n")
    async with workers(cardcash.url, APP_ID="", APP_ID_FILE=str(file)) as proxy:
        swapped = tmp_path / "new"
        swapped.write_text("second-id\n")
        swapped.rename(file)
        await proxy.says(lambda out: out.count(b'"secret_changed"') == 2 and out.endswith(b"\n"))
        await until(lambda: any(made.headers.getall("x-cc-app") == ["second-id"] for made in cardcash.sessions))
        await proxy.says(lambda out: renewals(out) == 4)
        async with a_caller_at_each(proxy):
            pass
        assert [made.headers.getall("x-cc-app") for made in cardcash.sessions] == [["first-id"], ["second-id"]]
        assert {tuple(got.headers.getall("x-cc-app")) for got in cardcash.requests} == {("second-id",)}


async def test_the_session_of_a_file_store_outlives_all_workers(simulator: Simulator, tmp_path: Path) -> None:
    for _ in range(2):
        async with workers(simulator.url, SESSION__STORE=f"file://{tmp_path}/session") as proxy:
            assert (await call(proxy, "GET", "/merchants/sell"))[0] == 200
            proxy.signal(signal.SIGTERM)
            assert await proxy.ended() == 0
    assert simulator.calls[SESSION] == 1


# One set of limits


async def test_the_limit_of_requests_in_flight_is_for_all_workers_together(cardcash: CardCash) -> None:
    async with workers(cardcash.url, LIMITS__IN_FLIGHT="2") as proxy, a_caller_at_each(proxy) as callers:
        cardcash.default = silent
        for caller in callers.values():
            await caller.send(b"GET /stuck HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: sum("/stuck" in got.line for got in cardcash.requests) == 2)
        refused = [await call(proxy, "GET", "/carts") for _ in range(8)]
        assert {(got, json.loads(text)["error"]) for got, _, text in refused} == {(503, "overloaded")}
        for caller in callers.values():
            await caller.close()
        await until_in_flight(proxy, 0)
        cardcash.default = OK
        await all_are_served(proxy)


async def all_are_served(proxy: ProxyProcess) -> None:
    """Wait until eight calls in a row are: a request counts until a moment after its answer is out."""
    async with asyncio.timeout(30):
        while {(await call(proxy, "GET", "/carts"))[0] for _ in range(8)} != {200}:
            pass


async def until_in_flight(proxy: ProxyProcess, number: int) -> None:
    """Wait until all workers answer, and have so many together."""
    async with asyncio.timeout(30):
        while True:
            told = await status(proxy)
            if told["requests_in_flight"] == number and {one["state"] for one in told["workers"]} == {"up"}:
                return
            await asyncio.sleep(0.01)


async def test_what_a_killed_worker_had_in_flight_is_no_longer_counted(cardcash: CardCash) -> None:
    async with workers(cardcash.url, LIMITS__IN_FLIGHT="2") as proxy, a_caller_at_each(proxy) as callers:
        cardcash.default = silent
        for caller in callers.values():
            await caller.send(b"GET /stuck HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: sum("/stuck" in got.line for got in cardcash.requests) == 2)
        assert (await call(proxy, "GET", "/carts"))[0] == 503
        for pid in (await pids(proxy)).values():
            os.kill(pid, signal.SIGKILL)
        await proxy.says(lambda out: out.count(b'"worker_started"') == 4)
        cardcash.default = OK
        await all_are_served(proxy)


async def test_connections_to_cardcash_are_bounded_for_all_workers_together(cardcash: CardCash) -> None:
    settings = {"UPSTREAM__MAX_CONNECTIONS": "3", "UPSTREAM__CONNECT_TIMEOUT": "0.3"}
    async with workers(cardcash.url, **settings) as proxy, a_caller_at_each(proxy):
        cardcash.default = silent
        asked = await asyncio.gather(*(proxy.caller() for _ in range(40)))
        for caller in asked:
            await caller.send(b"GET /stuck HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await proxy.says(lambda out: out.count(b'"code":"overloaded"') == 37)
        assert sum("/stuck" in got.line for got in cardcash.requests) == 3
        for caller in asked:
            await caller.close()


async def test_an_outage_that_one_worker_found_pauses_all(cardcash: CardCash) -> None:
    cardcash.session_answers += [Reply(503, b"", {"Retry-After": "1"})] * 100
    async with serving(cardcash.url, WORKERS="2") as proxy:
        await proxy.says(lambda out: b'"result":"failed"' in out, seconds=15)
        calls = len(cardcash.sessions)
        answers = [await call(proxy, "GET", "/carts") for _ in range(12)]
        assert {(got, json.loads(text)["error"]) for got, _, text in answers} == {(503, "session_unavailable")}
        # In the pause of a second at least nobody tries, whichever worker is asked; then one probe.
        assert len(cardcash.sessions) <= calls + 1
        assert set(await served_by(proxy, 12)) == {1, 2}


# One admin port


async def test_metrics_count_every_request_of_all_workers(simulator: Simulator) -> None:
    async with workers(simulator.url) as proxy:
        await asyncio.gather(*(call(proxy, "GET", "/carts") for _ in range(50)))
        await asyncio.gather(*(call(proxy, "POST", "/carts", json={"action": "buy"}) for _ in range(10)))
        await comes_to(proxy, 60, "requests_total")
        assert await counted(proxy, "requests_total", method="POST", route="/v3/carts") == 10
        assert await counted(proxy, "request_duration_seconds_count") == 60
        assert await counted(proxy, "workers", state="up") == 2
        assert await counted(proxy, "workers", state="down") == 0
        assert await counted(proxy, "build_info") == 1


async def test_requests_in_flight_are_summed(cardcash: CardCash) -> None:
    async with workers(cardcash.url) as proxy, a_caller_at_each(proxy) as callers:
        cardcash.default = silent
        for caller in callers.values():
            await caller.send(b"GET /stuck HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: sum("/stuck" in got.line for got in cardcash.requests) == 2)
        await until_in_flight(proxy, 2)
        await comes_to(proxy, 2, "requests_in_flight")


async def test_metrics_come_as_openmetrics_when_asked_for(simulator: Simulator) -> None:
    async with (
        workers(simulator.url) as proxy,
        aiohttp.ClientSession(headers={"Accept": "application/openmetrics-text; version=1.0.0"}) as client,
        client.get(f"http://{proxy.admin}/metrics") as got,
    ):
        assert got.content_type == "application/openmetrics-text"
        assert (await got.text()).endswith("# EOF\n")


async def test_status_has_the_shape_of_a_single_proxy_and_the_workers(simulator: Simulator) -> None:
    async with serving(simulator.url) as alone, workers(simulator.url, **ACCOUNT) as proxy:
        single, several = await status(alone), await status(proxy)
        assert several.keys() == single.keys() | {"workers"}
        for group in ("session", "upstream"):
            assert several[group].keys() == single[group].keys()
        assert several["ready"] is True and several["session"]["identity"] == "p…@example.com"
        assert [(one["worker"], one["state"], one["restarts"]) for one in several["workers"]] == [
            (1, "up", 0),
            (2, "up", 0),
        ]
        code, page = await fetch("GET", f"http://{proxy.admin}/")
        assert code == 200 and str(several["workers"][1]["pid"]) in page
        assert [one["pid"] for one in several["processes"]] == [one["pid"] for one in several["workers"]]
        assert several["store"].keys() == single["store"].keys()
        assert several["traffic"].keys() == single["traffic"].keys()
        # One has renewed, the other has taken over what that one has made.
        assert [(one["reason"], one["result"]) for one in several["recent_renewals"]] == [("start", "ok")]


async def test_the_commands_work_as_with_one_process(simulator: Simulator) -> None:
    async with workers(simulator.url) as proxy:
        for command in (["health"], ["wait"], ["session", "status"], ["session", "renew"]):
            done = await run(*command, "--admin.listen", proxy.admin)
            assert done.process.returncode == 0, done.text
        assert simulator.calls[SESSION] == 2
        done = await run("shutdown", "--admin.listen", proxy.admin)
        assert (done.process.returncode, bytes(done.out)) == (0, b"draining\n")
        assert await proxy.ended() == 0


@pytest.mark.parametrize("path", ["/session/renew", "/shutdown"])
async def test_the_actions_pass_the_guards_of_the_proxy_port(simulator: Simulator, path: str) -> None:
    async with workers(simulator.url) as proxy:
        for headers, refusal in (({"Host": "evil.example"}, 421), ({"Origin": "https://evil.example"}, 403)):
            assert (await fetch("POST", f"http://{proxy.admin}{path}", headers=headers))[0] == refusal
        assert (await fetch("GET", f"http://{proxy.admin}{path}"))[0] == 405
        assert (await fetch("GET", f"http://{proxy.admin}/carts"))[0] == 404
        assert simulator.calls[SESSION] == 1
        assert (await status(proxy))["ready"]
        await comes_to(proxy, 1, "request_errors_total", code="host_not_allowed")


async def test_a_stuck_worker_is_told_of_and_takes_no_count_with_it(simulator: Simulator) -> None:
    async with workers(simulator.url) as proxy:
        async with a_caller_at_each(proxy):
            pass
        asked = len(proxy.events("request"))
        await comes_to(proxy, asked, "requests_total")
        stuck = (await pids(proxy))[2]
        os.kill(stuck, signal.SIGSTOP)
        await until_because(proxy, "worker 2 does not answer")
        (code, health), (_, ready), told, text = await asyncio.gather(
            fetch("GET", f"http://{proxy.admin}/healthz"),
            fetch("GET", f"http://{proxy.admin}/readyz"),
            status(proxy),
            scrape(proxy),
        )
        assert (code, json.loads(health)) == (200, {"status": "ok"})  # it will be replaced; the other one serves
        assert json.loads(ready)["because"] == ["worker 2 does not answer"]
        assert [one["state"] for one in told["workers"]] == ["up", "silent"]
        assert summed(text, "requests_total") == asked
        assert summed(text, "workers", state="down") == 1
        assert (await fetch("POST", f"http://{proxy.admin}/session/renew"))[0] == 200
        os.kill(stuck, signal.SIGCONT)
        await is_ready(proxy)


# What is shared besides


async def test_a_unix_socket_is_served_by_all_workers_and_removed_at_the_end(
    simulator: Simulator, tmp_path: Path
) -> None:
    path = tmp_path / "proxy.sock"
    async with workers(simulator.url, LISTEN=f"127.0.0.1:0,unix:{path}") as proxy:
        assert path.stat().st_mode & 0o777 == 0o660
        for _ in range(20):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"GET /merchants/sell HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
        assert sum((await served_by(proxy, 20)).values()) == 20
        proxy.signal(signal.SIGTERM)
        assert await proxy.ended() == 0
    assert not path.exists()


async def test_secrets_stand_on_no_command_line(simulator: Simulator) -> None:
    async with workers(simulator.url, **ACCOUNT) as proxy:
        for pid in (proxy.pid, *(await pids(proxy)).values()):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            assert [secret for secret in ("demo-app-id", EMAIL, PASSWORD) if secret in line] == []


async def test_ctrl_c_in_a_terminal_reaches_the_supervisor_only(simulator: Simulator) -> None:
    async with workers(simulator.url) as proxy:
        groups = {os.getpgid(pid) for pid in (await pids(proxy)).values()}
        assert os.getpgid(proxy.pid) not in groups


async def test_workers_have_started_with_credentials_that_are_refused_and_are_never_ready(
    simulator: Simulator,
) -> None:
    async with serving(simulator.url, WORKERS="2", LOGIN__EMAIL=EMAIL, LOGIN__PASSWORD="another") as proxy:
        await until_because(proxy, "login refused")
        async with asyncio.timeout(30):  # the other worker tells of it within a second
            while (await fetch("GET", f"http://{proxy.admin}/startupz"))[0] != 200:
                await asyncio.sleep(0.05)
        assert (await fetch("GET", f"http://{proxy.admin}/readyz"))[0] == 503


async def test_workers_that_were_ready_stay_ready_whatever_cardcash_says(simulator: Simulator) -> None:
    async with workers(simulator.url, **ACCOUNT) as proxy:
        simulator.configure(accounts={EMAIL: "another"})
        await run("session", "renew", "--admin.listen", proxy.admin)
        async with asyncio.timeout(30):  # any worker answers, and the others tell of themselves once a second
            while (await status(proxy))["session"]["latched"] != "login":
                await asyncio.sleep(0.05)
        assert (await fetch("GET", f"http://{proxy.admin}/readyz"))[0] == 200
