"""Whose fault a rejection is: the token's, which is replaced, or only the route's, which then costs nobody his session."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.conftest import StartProxy
from tests.server.harness import OK, REJECTION, Peer, RawUpstream, Running, Script, answer, until

LOGIN = json.dumps({"customer": {"email": "me@example.com", "password": "p"}}).encode()
BARE = answer(400)
VARIANT = answer(401, b'{"message":["jwt expired"]}')


def where(reject: bytes, marker: bytes) -> Script:
    """Answer requests whose line holds `marker` with `reject`, all others well."""

    async def script(peer: Peer) -> None:
        await peer.body()
        line = peer.head.partition(b"\r\n")[0]
        await peer.send(reject if marker in line else OK)

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
    upstream: RawUpstream, proxy: Running, line: str, reject: bytes
) -> None:
    await logged_in(proxy)
    upstream.default = where(reject, line.partition(" ")[2].encode())
    assert (await proxy.ask(line)).status in (400, 401)
    assert await identity(proxy) == "m…@example.com"
    assert [request.line for request in upstream.requests][1:] == ["GET /v3/carts HTTP/1.1"]
    assert len(upstream.sessions) == 1
    assert proxy.sample("session_retries_total", result="probed") == 1


async def test_many_callers_of_an_odd_route_share_one_probe(upstream: RawUpstream, proxy: Running) -> None:
    await logged_in(proxy)
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.body()
        if b"/wallets" in peer.head.partition(b"\r\n")[0]:
            await peer.send(REJECTION)
        else:
            await go.wait()
            await peer.send(OK)

    upstream.default = script
    asked = [asyncio.create_task(proxy.ask("GET /wallets")) for _ in range(20)]
    await until(lambda: len(upstream.requests) == 21)
    go.set()
    assert {(await task).status for task in asked} == {400}
    assert sum("/carts" in request.line for request in upstream.requests) == 1
    assert len(upstream.sessions) == 1


async def test_a_route_that_was_probed_pauses(upstream: RawUpstream, proxy: Running) -> None:
    await logged_in(proxy)
    upstream.default = where(REJECTION, b"/wallets")
    for _ in range(5):
        assert (await proxy.ask("GET /wallets")).status == 400
    assert sum("/carts" in request.line for request in upstream.requests) == 1


async def test_a_probe_that_is_rejected_replaces_the_token(upstream: RawUpstream, proxy: Running) -> None:
    await logged_in(proxy)
    upstream.answers += [REJECTION, REJECTION, OK]
    assert (await proxy.ask("GET /merchants/buy")).status == 200
    assert len(upstream.sessions) == 2
    assert await identity(proxy) is None


async def test_a_refreshed_token_in_the_probes_answer_is_adopted(upstream: RawUpstream, proxy: Running) -> None:
    await logged_in(proxy)
    newer = upstream.token()
    upstream.answers += [REJECTION, answer(200, b"{}", b"authorization: " + newer.encode())]
    assert (await proxy.ask("GET /merchants/buy")).status == 400
    await proxy.ask("GET /merchants/sell")
    assert upstream.requests[-1].token == newer


async def test_a_probe_that_fails_keeps_the_login(upstream: RawUpstream, proxy: Running) -> None:
    async def reset(peer: Peer) -> None:
        peer.reset()

    await logged_in(proxy)
    upstream.answers += [answer(401, b'{"message":["jwt expired"]}'), reset]
    assert (await proxy.ask("POST /orders", body=b"{}")).status == 401
    assert await identity(proxy) == "m…@example.com"


async def test_bare_400s_to_heads_over_many_routes_cost_few_sessions(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(LOGIN__EMAIL="a@example.com", LOGIN__PASSWORD="p")
    upstream.default = where(BARE, b"HEAD ")
    for number in range(46):
        assert (await proxy.ask(f"HEAD /merchants/{number}/x{number}")).status == 400
    assert len(upstream.sessions) <= 1 + 3


async def test_rejections_on_many_routes_begin_twenty_renewals_at_once_and_no_more(
    upstream: RawUpstream, proxy: Running
) -> None:
    upstream.default = REJECTION
    routes = ("carts", "wallets", "orders/buy", "orders/sell", "cards/sell", "payments/sell", "merchants/buy/bulk")
    lines = [f"{method} /{route}" for method in ("GET", "DELETE", "PATCH", "OPTIONS", "PUT") for route in routes]
    began = asyncio.get_running_loop().time()
    for line in lines:
        assert (await proxy.ask(line)).status == 400
    took = asyncio.get_running_loop().time() - began
    assert 1 + 20 <= len(upstream.sessions) <= 1 + 20 + took + 1
