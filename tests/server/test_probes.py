"""Whose fault a rejection is: the token's, which is replaced, or only the route's, which then costs nobody his session."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.cardcash import OK, REJECTION, CardCash, Gone, Received, Reply, Script, bringing
from tests.conftest import StartProxy
from tests.server.harness import Running, until

LOGIN = json.dumps({"customer": {"email": "me@example.com", "password": "p"}}).encode()
BARE = Reply(400, b"", {})
VARIANT = Reply(401, b'{"message":["jwt expired"]}')


@pytest.fixture
async def upstream(cardcash: CardCash) -> CardCash:
    """In plain HTTP: nothing here is about bytes."""
    return cardcash


def where(reject: Reply, marker: str) -> Script:
    """Answer requests whose line holds `marker` with `reject`, all others well."""

    async def script(got: Received) -> Reply:
        return reject if marker in got.line else OK

    return script


async def logged_in(proxy: Running) -> None:
    assert (await proxy.ask("POST /customers/login", body=LOGIN)).status == 200


async def identity(proxy: Running) -> object:
    return (await proxy.admin.ask("GET /status")).json["session"]["identity"]


@pytest.mark.parametrize(
    ("line", "reject"),
    [("HEAD /wallets", BARE), ("GET /wallets", REJECTION), ("GET /wallets", VARIANT), ("POST /orders", VARIANT)],
)
async def test_a_route_that_rejects_every_token_does_not_cost_a_callers_own_login(
    upstream: CardCash, proxy: Running, line: str, reject: Reply
) -> None:
    await logged_in(proxy)
    upstream.default = where(reject, line.partition(" ")[2])
    assert (await proxy.ask(line)).status in (400, 401)
    assert await identity(proxy) == "m…@example.com"
    assert [request.line for request in upstream.requests][1:] == ["GET /v3/carts"]
    assert len(upstream.sessions) == 1
    assert proxy.sample("session_retries_total", result="probed") == 1


async def test_many_callers_of_an_odd_route_share_one_probe(upstream: CardCash, proxy: Running) -> None:
    await logged_in(proxy)
    go = asyncio.Event()

    async def script(got: Received) -> Reply:
        if "/wallets" in got.line:
            return REJECTION
        await go.wait()
        return OK

    upstream.default = script
    asked = [asyncio.create_task(proxy.ask("GET /wallets")) for _ in range(20)]
    await until(lambda: len(upstream.requests) == 21)
    go.set()
    assert {(await task).status for task in asked} == {400}
    assert sum("/carts" in request.line for request in upstream.requests) == 1
    assert len(upstream.sessions) == 1


async def test_a_route_that_was_probed_pauses(upstream: CardCash, proxy: Running) -> None:
    await logged_in(proxy)
    upstream.default = where(REJECTION, "/wallets")
    for _ in range(5):
        assert (await proxy.ask("GET /wallets")).status == 400
    assert sum("/carts" in request.line for request in upstream.requests) == 1


async def test_a_probe_that_is_rejected_replaces_the_token(upstream: CardCash, proxy: Running) -> None:
    await logged_in(proxy)
    upstream.answers += [REJECTION, REJECTION, OK]
    assert (await proxy.ask("GET /merchants/buy")).status == 200
    assert len(upstream.sessions) == 2
    assert await identity(proxy) is None


async def test_a_refreshed_token_in_the_probes_answer_is_adopted(upstream: CardCash, proxy: Running) -> None:
    await logged_in(proxy)
    newer = upstream.token()
    upstream.answers += [REJECTION, bringing(newer)]
    assert (await proxy.ask("GET /merchants/buy")).status == 400
    await proxy.ask("GET /merchants/sell")
    assert upstream.requests[-1].token == newer


async def test_a_probe_that_fails_keeps_the_login(upstream: CardCash, proxy: Running) -> None:
    async def reset(_: Received) -> Reply:
        raise Gone

    await logged_in(proxy)
    upstream.answers += [VARIANT, reset]
    assert (await proxy.ask("POST /orders", body=b"{}")).status == 401
    assert await identity(proxy) == "m…@example.com"


async def test_bare_400s_to_heads_over_many_routes_cost_few_sessions(
    upstream: CardCash, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(LOGIN__EMAIL="a@example.com", LOGIN__PASSWORD="p")
    upstream.default = where(BARE, "HEAD ")
    for number in range(46):
        assert (await proxy.ask(f"HEAD /merchants/{number}/x{number}")).status == 400
    assert len(upstream.sessions) <= 1 + 3


async def test_rejections_on_many_routes_begin_twenty_renewals_at_once_and_no_more(
    upstream: CardCash, proxy: Running
) -> None:
    upstream.default = REJECTION
    routes = ("carts", "wallets", "orders/buy", "orders/sell", "cards/sell", "payments/sell", "merchants/buy/bulk")
    lines = [f"{method} /{route}" for method in ("GET", "DELETE", "PATCH", "OPTIONS", "PUT") for route in routes]
    began = asyncio.get_running_loop().time()
    for line in lines:
        assert (await proxy.ask(line)).status == 400
    took = asyncio.get_running_loop().time() - began
    assert 1 + 20 <= len(upstream.sessions) <= 1 + 20 + took + 1
