"""The controls under /_simulator/ and in process: faults, counters, records, configuration, events."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from typing import Any

import aiohttp
import pytest
import trustme

from proxy.simulator import Simulator, SimulatorSettings
from proxy.simulator.simulator import Simulator as SameSimulator
from tests.simulator.test_business import order

C = "/_simulator"


async def test_the_list_of_controls_answers_each_of_them(caller: Any) -> None:
    listed = (await caller.get(f"{C}/")).json
    for line in listed:
        method, path = line.split(" ")
        if path.startswith(C):
            assert (await caller.call(method, path)).status in (200, 400), line
    assert (await caller.get(f"{C}/nowhere")).status == 404


async def test_counters_count_calls_tokens_and_refusals(caller: Any) -> None:
    await caller.login()
    await caller.get("/v3/wallets/12")
    await caller.get("/v3/carts", headers={"Authorization": "Bearer x"})
    counters = (await caller.get(f"{C}/counters")).json
    assert counters["calls"] == {
        "POST /v3/session": 1,
        "POST /v3/customers/login": 1,
        "GET /v3/wallets/{cardId}": 1,
        "GET /v3/carts": 1,
    }
    assert counters["tokens"]["tokens_issued"] == 2
    assert counters["rejected"] == {"token_malformed": 1}
    assert counters["connections"] == 1
    await caller.post(f"{C}/reset-counters")
    assert caller.sim.calls == {}


async def test_revoke_and_expire_tell_how_many(caller: Any) -> None:
    await caller.session()
    assert (await caller.post(f"{C}/revoke")).json == {"revoked": 1}
    await caller.session()
    assert (await caller.post(f"{C}/expire")).json == {"expired": 1}


async def test_configure_changes_settings_for_what_comes(caller: Any) -> None:
    assert (await caller.post(f"{C}/configure", {"token_ttl": 15, "app_ids": ["demo-app-id", "b"]})).status == 200
    assert (await caller.post("/v3/session")).json["expiresInSeconds"] == 15


async def test_settings_can_be_given_as_texts() -> None:
    settings = SimulatorSettings().told(["token_ttl=15", "delivery=cookie", "content_type_required=false"])
    assert (settings.token_ttl, settings.delivery, settings.content_type_required) == (15.0, "cookie", False)
    for text, told in (("token_ttl", "token_ttl: must be NAME=VALUE"), ("tokn_ttl=1", "unknown setting: tokn_ttl")):
        with pytest.raises(ValueError, match=told):
            SimulatorSettings().told([text])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tokn_ttl": 1}, "unknown setting: tokn_ttl"),
        ({"token_ttl": "1"}, "token_ttl: must be float, not '1'"),
        ({"refresh_on": "never"}, "refresh_on: must be one of all, 2xx, get_2xx, none, not 'never'"),
        ({"seed": 1}, "seed: fixed when the simulator starts"),
    ],
)
async def test_configure_names_what_is_wrong(caller: Any, change: Any, told: str) -> None:
    answer = await caller.post(f"{C}/configure", change)
    assert (answer.status, answer.json) == (400, {"message": [told]})


async def test_fail_answers_the_next_calls_before_they_are_processed(caller: Any) -> None:
    await caller.login()
    await caller.post(f"{C}/fail", {"path": "/v3/carts", "method": "POST", "times": 2, "status": 503, "html": True})
    answers = [await caller.post("/v3/carts", {"action": "buy"}) for _ in range(3)]
    assert [answer.status for answer in answers] == [503, 503, 201]
    assert answers[0].headers["Content-Type"].startswith("text/html")


async def test_fail_takes_body_headers_and_globs_and_can_come_after_processing(caller: Any) -> None:
    await caller.login()
    fault = {"path": "/v3/ord*", "status": 500, "when": "after", "body": {"a": 1}, "headers": {"Retry-After": 3}}
    await caller.post(f"{C}/fail", fault)
    answer = await order(caller)
    assert (answer.status, answer.json, answer.headers["Retry-After"]) == (500, {"a": 1}, "3")
    assert len((await caller.get("/v3/orders/buy")).json) == 1


async def test_reject_is_for_one_route(caller: Any) -> None:
    await caller.login()
    await caller.post(f"{C}/reject", {"path": "/v3/wallets", "times": -1})
    assert (await caller.get("/v3/wallets")).json == {"message": ["no Authorization token was found"]}
    assert (await caller.get("/v3/carts")).status == 200
    assert (await caller.post(f"{C}/clear-faults")).json == {"cleared": 1}
    assert (await caller.get("/v3/wallets")).status == 200


async def test_skip_lets_calls_pass_first(caller: Any) -> None:
    await caller.login()
    caller.sim.fault("fail", path="/v3/carts", skip=1)
    assert [(await caller.get("/v3/carts")).status for _ in range(3)] == [200, 503, 200]


@pytest.mark.parametrize("kind", ["fail", "delay", "reset", "reject"])
async def test_orders_of_faults_name_what_is_wrong(caller: Any, kind: str) -> None:
    answer = await caller.post(f"{C}/{kind}", {"pth": "/v3/carts"})
    assert answer.status == 400
    assert "pth" in answer.json["message"][0]


@pytest.mark.parametrize(("when", "processed"), [("before_body", 0), ("after_body", 1), ("in_head", 1), ("in_body", 1)])
async def test_a_reset_tells_by_its_moment_whether_it_was_processed(caller: Any, when: str, processed: int) -> None:
    await caller.login()
    await caller.get("/v3/merchants/1/inventory/bulk")
    await caller.post(f"{C}/reset", {"path": "/v3/orders", "when": when})
    with pytest.raises(aiohttp.ClientError):
        await order(caller, headers={"X-Test-Id": "once"})
    assert (await caller.get(f"{C}/processed")).json == ({"once": 1} if processed else {})
    assert len((await caller.get("/v3/orders/buy")).json) == processed


@pytest.mark.parametrize("when", ["before", "after", "in_body"])
async def test_a_delay_is_waited_for_once(caller: Any, when: str) -> None:
    await caller.login()
    await caller.post(f"{C}/delay", {"path": "/v3/carts", "seconds": 0.05, "when": when})
    clock = asyncio.get_running_loop().time
    begun = clock()
    assert (await caller.get("/v3/carts")).json["cart"]["buyCart"] == {}
    assert clock() - begun >= 0.05
    assert caller.sim.counters["faults"] == {"delay": 1}


async def test_processed_counts_by_either_id_and_only_what_got_past_the_token(caller: Any) -> None:
    ids = {"X-Test-Id": "t", "X-Request-ID": "r"}
    await caller.post("/v3/carts", {"action": "buy"}, headers=ids)
    await caller.login()
    await caller.post("/v3/carts", {"action": "buy"}, headers=ids)
    await caller.get("/v3/carts", headers=ids)
    assert caller.sim.processed == {"t": 1, "r": 1}
    assert (await caller.get(f"{C}/processed?log=1")).json[-1]["status"] == 201


async def test_headers_show_the_head_as_it_came_without_credentials(caller: Any) -> None:
    token = await caller.session()
    await caller.get("/v3/_echo?b=%2F&a=%20", headers={"X-oDd": "1"})
    shown = (await caller.get(f"{C}/headers?last=1")).json
    assert [(head["method"], head["target"]) for head in shown] == [("GET", "/v3/_echo?b=%2F&a=%20")]
    headers = dict(shown[0]["headers"])
    assert headers["X-oDd"] == "1"
    assert headers["Authorization"] == "Bearer sha256:" + hashlib.sha256(token.encode()).hexdigest()[:16]
    assert token not in json.dumps(shown)
    assert "demo-app-id" not in json.dumps(shown)


async def test_echo_gives_back_what_arrived(caller: Any) -> None:
    await caller.session()
    answer = await caller.call("PUT", "/v3/_echo", data=b"\x00\x01")
    assert (answer.json["method"], answer.json["target"], answer.json["body"]) == ("PUT", "/v3/_echo", "AAE=")
    big = await caller.call("POST", "/v3/_echo", data=io.BytesIO(b"x" * 3_000_000))
    assert (big.json["length"], big.json["body"]) == (3_000_000, None)


@pytest.mark.parametrize("query", ["bytes=200000", "bytes=200000&chunked=1"])
async def test_stream_sends_as_many_bytes_as_asked(caller: Any, query: str) -> None:
    await caller.session()
    answer = await caller.get(f"/v3/_stream?{query}")
    assert answer.raw == (bytes(range(256)) * 1000)[:200_000]
    assert (answer.headers.get("Transfer-Encoding") == "chunked") is ("chunked" in query)


async def test_the_next_tokens_can_be_chosen(caller: Any) -> None:
    await caller.post(f"{C}/token", {"value": "not.a jwt"})
    assert (await caller.post("/v3/session")).token == "not.a jwt"
    await caller.post(f"{C}/token", {"length": 5000})
    long = await caller.session()
    assert 5000 <= len(long) < 5200
    assert (await caller.get("/v3/_echo")).status == 200


async def test_state_and_settings_show_no_credentials(caller: Any) -> None:
    token = (await caller.login()).token
    shown = (await caller.get(f"{C}/state")).raw + (await caller.get(f"{C}/settings")).raw
    assert b"partner@example.com" in shown
    assert not any(secret in shown for secret in (b"demo-password", b"demo-app-id", token.encode()))


async def test_events_tell_the_life_of_a_session_without_secrets(start: Any) -> None:
    caller = await start(token_ttl=100.0, refresh_window=30.0)
    events: list[tuple[str, dict[str, Any]]] = []
    caller.sim.on_event = lambda name, what: events.append((name, what))
    await caller.login()
    token = caller.token
    caller.sim.advance(80)
    await caller.get("/v3/carts")
    await order(caller)
    caller.sim.revoke_all()
    await caller.get("/v3/carts")
    names = [name for name, _ in events]
    expected = ["session_created", "login", "token_refreshed", "order_placed", "tokens_revoked", "token_rejected"]
    assert [name for name in dict.fromkeys(names) if name in expected] == expected
    assert token not in repr(events)
    assert "demo-password" not in repr(events)


async def test_an_outage_keeps_state_and_port(caller: Any) -> None:
    await caller.login()
    await caller.post("/v3/carts", {"action": "buy"})
    port = caller.sim.port
    await caller.sim.stop()
    with pytest.raises(aiohttp.ClientError):
        await caller.get("/v3/carts")
    await caller.sim.start(port=port)
    assert (await caller.get("/v3/carts")).json["cart"]["buyCart"]["cards"] == []


async def test_refusals_can_come_before_the_body_is_read(start: Any) -> None:
    caller = await start(early_refusal=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", caller.sim.port)
    writer.write(
        b"POST /v3/carts HTTP/1.1\r\nHost: x\r\nUser-Agent: t\r\nx-cc-app: demo-app-id\r\n"
        b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    assert b" 400 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_it_speaks_tls(tmp_path: Any) -> None:
    import ssl

    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    sim = Simulator(SimulatorSettings())
    await sim.start("localhost", ssl_context=server)
    async with aiohttp.ClientSession() as http:
        answer = await http.post(sim.url + "/v3/session", headers={"x-cc-app": "demo-app-id"}, ssl=client)
        assert answer.status == 200
        answer.release()
    await sim.stop()


def test_wrong_settings_are_refused_by_name() -> None:
    assert SameSimulator is Simulator
    with pytest.raises(ValueError, match="wallet_delay: must not be negative"):
        SimulatorSettings(wallet_delay=-1.0)
