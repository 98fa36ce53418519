"""Real clients through a full buy flow, none of which knows of sessions; and what the process wrote meanwhile."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import requests

from proxy.simulator import Simulator
from tests.whole.processes import ProxyProcess, fetch, is_ready, serving

LOGIN = {"LOGIN__EMAIL": "partner@example.com", "LOGIN__PASSWORD": "demo-password"}
ORDER = {
    "cards": [{"merchantId": 1, "faceValue": 25, "type": "ecode", "quantity": 1}],
    "payment": {"method": "DRAWDOWN_ACCOUNT"},
    "shippingDetails": {},
}
Ask = Callable[[str, str, Any], tuple[int, Any]]


def buy(ask: Ask, revoke: Callable[[], object]) -> str:
    """Go shopping; tokens are revoked before each step that spends or changes something. Returns the card number."""
    status, merchants = ask("GET", "/merchants/buy", None)
    assert status == 200 and len(merchants["buyMerchants"]) == 773
    revoke()
    status, cart = ask("POST", "/v3/carts", {"action": "buy"})
    assert status == 201
    revoke()
    card = {"merchantId": 1, "faceValue": 25, "type": "ecode", "quantity": 1}
    status, added = ask("POST", f"/v3.1/carts/{cart['cartId']}/cards", {"cards": [card]})
    assert status == 201, added
    (line,) = added["cart"]["cards"]
    revoke()
    status, changed = ask("PUT", f"/carts/{cart['cartId']}/cards/{line['id']}", {"qty": 1})
    assert status == 200, changed
    revoke()
    status, emptied = ask("DELETE", f"/carts/{cart['cartId']}/cards/{line['id']}", None)
    assert status == 200 and isinstance(emptied, dict)
    status, nothing = ask("DELETE", f"/carts/{cart['cartId']}", None)
    assert (status, nothing) == (204, None)
    revoke()
    status, order = ask("POST", "/orders?checkout=condensed", ORDER)
    assert status == 201, order
    order_id = order["buyOrder"]["orderId"]
    status, orders = ask("GET", "/orders/buy", None)
    assert status == 200 and [one["id"] for one in orders].count(order_id) == 1
    status, wallet = ask("GET", "/wallets", None)
    revoke()
    status, secret = ask("GET", f"/wallets/{wallet['cards'][0]['id']}/secure-data", None)
    assert status == 200 and secret["pin"]
    status, error = ask("GET", "/orders/status/3b241101-e2bb-4255-8caf-4136c566a962", None)
    assert status == 400 and error["message"] == ["no order status found"]
    return str(secret["number"])


def with_requests(base: str, revoke: Callable[[], object]) -> str:
    with requests.Session() as session:

        def ask(method: str, path: str, body: Any) -> tuple[int, Any]:
            got = session.request(method, base + path, json=body, timeout=10)
            return got.status_code, got.json() if got.content else None

        return buy(ask, revoke)


def with_httpx(base: str, revoke: Callable[[], object]) -> str:
    with httpx.Client(base_url=base, timeout=10) as client:

        def ask(method: str, path: str, body: Any) -> tuple[int, Any]:
            got = client.request(method, path, json=body) if body is not None else client.request(method, path)
            return got.status_code, got.json() if got.content else None

        return buy(ask, revoke)


@pytest.mark.parametrize("client", [with_requests, with_httpx])
async def test_a_python_client_buys_a_card_over_revoked_tokens(
    simulator: Simulator, client: Callable[[str, Callable[[], object]], str]
) -> None:
    simulator.configure(compression="gzip", rejection_encoding="gzip")
    loop = asyncio.get_running_loop()

    def revoke() -> int:
        return asyncio.run_coroutine_threadsafe(_revoke(simulator), loop).result(10)

    async with serving(simulator.url, **LOGIN) as proxy:
        assert await asyncio.to_thread(client, proxy.url, revoke)
    assert simulator.counters["orders_placed"] == 1
    assert set(simulator.processed.values()) == {1}


async def _revoke(simulator: Simulator) -> int:
    return simulator.revoke_all()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_buys_a_card_over_revoked_tokens(simulator: Simulator) -> None:
    async with serving(simulator.url, **LOGIN) as proxy:
        await is_ready(proxy)

        async def curl(*arguments: str) -> str:
            shell = await asyncio.create_subprocess_exec(
                *("curl", "-sS", "--compressed", "--max-time", "10", *arguments),
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await shell.communicate()
            assert shell.returncode == 0
            return out.decode()

        assert "buyMerchants" in await curl(f"{proxy.url}/merchants/buy")
        simulator.revoke_all()
        head = await curl("-i", "-X", "POST", f"{proxy.url}/carts", "-d", '{"action":"buy"}')
        assert head.startswith("HTTP/1.1 201 ") and "session-renewed" in head
        simulator.revoke_all()
        order = await curl("--json", json.dumps(ORDER), f"{proxy.url}/v3/orders?checkout=condensed")
        assert json.loads(order)["buyOrder"]["orderId"]
        simulator.revoke_all()
        large = json.dumps({"pad": "x" * 100_000})
        assert '"length"' in await curl("-H", "Expect: 100-continue", "-d", large, f"{proxy.url}/_echo")
        assert "cards" in await curl("-0", f"{proxy.url}/wallets")
        assert "200 " in (await curl("-I", f"{proxy.url}/wallets")).splitlines()[0]
    assert simulator.counters["orders_placed"] == 1


SCRIPT = """
const [base, control] = process.argv.slice(1);
const revoke = () => fetch(control + "/_simulator/revoke", {method: "POST", body: "{}"}).then(r => r.text());
const ask = async (method, path, body) => {
  const r = await fetch(base + path, {method, body: body && JSON.stringify(body),
    headers: body ? {"Content-Type": "application/json"} : {}});
  const text = await r.text();
  if (!r.ok) throw new Error(method + " " + path + " " + r.status + " " + text);
  return text ? JSON.parse(text) : null;
};
const list = await ask("GET", "/merchants/buy");
await revoke();
const cart = await ask("POST", "/carts", {action: "buy"});
await revoke();
await ask("DELETE", "/carts/" + cart.cartId);
await revoke();
const order = await ask("POST", "/orders?checkout=condensed", ORDER);
await revoke();
const wallet = await ask("GET", "/wallets");
const all = await Promise.all(Array.from({length: 30}, (_, n) => ask("PUT", "/_echo", {n})));
console.log(JSON.stringify([list.buyMerchants.length, order.buyOrder.orderId.length, wallet.cards.length, all.length]));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_fetch_of_node_buys_a_card_over_revoked_tokens(simulator: Simulator) -> None:
    async with serving(simulator.url, **LOGIN) as proxy:
        await is_ready(proxy)
        script = SCRIPT.replace("ORDER", json.dumps(ORDER))
        node = await asyncio.create_subprocess_exec(
            *("node", "--input-type=module", "-e", script, "--", proxy.url, simulator.url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(node.communicate(), 20)
        if b"fetch is not defined" in err:
            pytest.skip("this node has no fetch")
        assert node.returncode == 0, err.decode()
        assert json.loads(out) == [773, 36, 1, 30]
    assert simulator.counters["orders_placed"] == 1
    assert set(simulator.processed.values()) == {1}


FIELDS = {"timestamp", "level", "event"}
REQUEST_FIELDS = {"request_id", "method", "route", "status", "duration_ms", "upstream_ms", "attempts", "client"}


async def test_no_secret_is_ever_written_and_every_line_is_json_with_its_fields(simulator: Simulator) -> None:
    tokens: set[str] = set()
    loop = asyncio.get_running_loop()

    async def grab() -> int:
        tokens.update(simulator.tokens)
        return simulator.revoke_all()

    def revoke() -> int:
        return asyncio.run_coroutine_threadsafe(grab(), loop).result(10)

    header = {"CALLERS__REQUIRE_HEADER": "X-Key: key-zebra-1", "LOG__LEVEL": "debug"}
    async with serving(simulator.url, **LOGIN, **header) as proxy:

        def client(base: str) -> str:
            with requests.Session() as session:
                session.headers.update(
                    {"X-Key": "key-zebra-1", "Authorization": "Bearer zebra-2", "Cookie": "a=zebra-3"}
                )

                def ask(method: str, path: str, body: Any) -> tuple[int, Any]:
                    got = session.request(method, base + path, json=body, timeout=10)
                    return got.status_code, got.json() if got.content else None

                return buy(ask, revoke)

        number = await asyncio.to_thread(client, proxy.url)
        await _provoke_failures(simulator, proxy)
        tokens.update(simulator.tokens)
        await fetch("POST", f"http://{proxy.admin}/session/renew")
        await fetch("POST", f"http://{proxy.admin}/shutdown")
        assert await proxy.ended() == 0
        assert len(tokens) > 10
        secrets = [number, "demo-app-id", "demo-password", "partner@example.com", "4111111111111111", "zebra", *tokens]
        for secret in secrets:
            assert secret not in proxy.text, secret
        assert proxy.err == b""
        for line in proxy.lines:
            assert line.keys() >= FIELDS
        served = proxy.events("request")
        assert len(served) > 15
        for line in served:
            assert line.keys() >= REQUEST_FIELDS
        assert any(line.get("query") == ["checkout"] for line in served)
        assert any(line["attempts"] == 2 and line["renewed"] for line in served)
        assert {line["client"] for line in served} == {"127.0.0.1"}


async def _provoke_failures(simulator: Simulator, proxy: ProxyProcess) -> None:
    key = {"X-Key": "key-zebra-1"}
    url = proxy.url
    await fetch("GET", f"{url}/carts", headers={"X-Key": "wrong-zebra-4"})
    await fetch("GET", f"{url}/zebra/4111111111111111?card=4111111111111111&zebra-9&pin=zebra", headers=key)
    await fetch("GET", f"{url}/carts?demo-app-id=1", headers={**key, "X-Request-ID": "demo-app-id"})
    card = {"card": {"number": "4111111111111111", "ccv": "999"}}
    for kind, order in (
        ("reset", {"path": "*payment-options", "when": "after_body"}),
        ("fail", {"path": "*payment-options", "status": 500, "html": True}),
        ("reset", {"path": "*payment-options", "when": "in_body"}),
        ("reject", {"path": "*payment-options", "times": 2}),
    ):
        simulator.fault(kind, **order)
        try:
            await fetch("POST", f"{url}/customers/payment-options", json=card, headers=key)
        except OSError:
            pass
        except Exception as error:  # the client's own words for an answer cut short
            assert type(error).__module__.startswith("aiohttp"), error
    simulator.clear_faults()
    login = {"customer": {"email": "other-zebra@example.com", "password": "zebra-5"}}
    assert (await fetch("POST", f"{url}/customers/login", json=login, headers=key))[0] == 409
    caller = await proxy.caller()
    await caller.send(b"GET /zebra HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer zebra\x01\r\n\r\n")
    assert b"zebra" not in await caller.ended()
    await caller.close()
    simulator.fault("fail", path="/v3/session", times=1, status=500, body="zebra")
    simulator.revoke_all()
    assert (await fetch("GET", f"{url}/carts", headers=key))[0] == 200
