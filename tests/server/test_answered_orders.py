"""An order that was answered is delivered: no outage, refusal or drain turns it into an error."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import StartProxy
from tests.server.harness import Peer, RawUpstream, Running, Truncated, answer, until

VARIANT = answer(401, b'{"message":["jwt expired"]}')
OUTAGE = answer(503, b"<html>down</html>")
REFUSED = answer(400, b'{"message":["no x-cc-app was found"]}')


@pytest.mark.parametrize("line", ["POST /orders?checkout=condensed", "PUT /orders/7"])
@pytest.mark.parametrize("session", [OUTAGE, REFUSED], ids=["outage", "refusal"])
async def test_an_order_answered_with_a_variant_comes_down_whatever_becomes_of_the_renewal(
    upstream: RawUpstream, proxy: Running, line: str, session: bytes
) -> None:
    await proxy.ask("GET /carts")
    upstream.answers.append(VARIANT)
    upstream.session_answers += [session] * 10
    got = await proxy.ask(line, body=b"{}")
    assert (got.status, got.body) == (401, b'{"message":["jwt expired"]}')
    assert got.values("retry-after") == []
    assert len(upstream.requests) == 2


async def test_an_order_answered_with_a_variant_comes_down_while_the_proxy_drains(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(DRAIN__TIMEOUT="0.3")
    await proxy.ask("GET /carts")

    async def silent(peer: Peer) -> None:
        await asyncio.Event().wait()

    upstream.answers.append(VARIANT)
    upstream.session_answers.append(silent)
    asked = asyncio.create_task(proxy.ask("POST /orders", body=b"{}"))
    await until(lambda: len(upstream.sessions) == 2)
    stopped = asyncio.create_task(proxy.proxy.run())
    proxy.proxy.request_stop()
    got = await asked
    assert (got.status, got.body) == (401, b'{"message":["jwt expired"]}')
    await stopped


@pytest.mark.parametrize(
    "line",
    ["POST /v3/orders.json", "POST /orders%00", "PUT /v3/orders,x/7", "POST /orders%E2%80%8B", "POST /a?_method=PUT"],
)
async def test_what_a_lenient_server_may_take_for_an_order_is_not_sent_again_after_a_variant(
    upstream: RawUpstream, proxy: Running, line: str
) -> None:
    upstream.answers.append(VARIANT)
    assert (await proxy.ask(line, b"Content-Type: application/json", body=b"{}")).status == 401
    assert len(upstream.requests) == 1


async def test_a_purchase_goes_out_on_a_connection_that_carried_nothing_before(
    upstream: RawUpstream, proxy: Running
) -> None:
    await proxy.ask("GET /carts")
    await proxy.ask("POST /orders", body=b"{}")
    await proxy.ask("GET /carts")
    read, bought, again = (request.connection for request in upstream.requests)
    assert bought not in {read}
    assert again in {read, bought}


async def test_a_login_whose_method_a_query_overrides_is_refused(upstream: RawUpstream, proxy: Running) -> None:
    assert (await proxy.ask("POST /customers/login?_method=PUT", body=b"{}")).status == 400
    assert upstream.logins == []


async def test_a_purchase_behind_a_head_is_not_sent_twice(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers.append(answer(400))
    got = await proxy.ask("HEAD /orders", b"X-HTTP-Method-Override: PUT")
    assert got.status == 400
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("name", [b"X-Original-URL", b"X-Rewrite-URL"])
async def test_what_a_header_makes_a_purchase_is_not_sent_twice(
    upstream: RawUpstream, proxy: Running, name: bytes
) -> None:
    async def drop(peer: Peer) -> None:
        await peer.body()
        peer.reset()

    upstream.answers += [drop] * 3
    got = await proxy.ask("POST /carts", name + b": /orders", body=b"{}")
    assert (got.status, got.code) == (502, "upstream_reset")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("target", ["/session", "/v3/customers/login", "https://sandbox.example/v3/session"])
async def test_a_header_does_not_make_a_session_or_login_call_of_another(
    upstream: RawUpstream, proxy: Running, target: str
) -> None:
    got = await proxy.ask("POST /carts", b"X-Original-URL: " + target.encode(), body=b"{}")
    assert (got.status, got.code) == (400, "bad_request")
    assert upstream.requests == []


async def test_rules_hold_for_the_target_that_a_header_names(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(RULES='[{"deny": "/orders", "methods": ["POST"]}]')
    got = await proxy.ask("POST /carts", b"X-Rewrite-URL: /v3/orders?a", body=b"{}")
    assert (got.status, got.code) == (403, "denied_by_rule")
    assert (await proxy.ask("POST /carts", b"X-Rewrite-URL: /v3/carts", body=b"{}")).status == 200


async def test_a_dropped_cart_whose_repeat_finds_all_connections_busy_is_told_that_it_may_have_been_processed(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(UPSTREAM__MAX_CONNECTIONS="1", UPSTREAM__CONNECT_TIMEOUT="0.3")
    await proxy.ask("GET /carts")
    go, arrived = asyncio.Event(), asyncio.Event()

    async def drop(peer: Peer) -> None:
        await peer.body()
        arrived.set()
        await go.wait()
        peer.reset()

    async def silent(peer: Peer) -> None:
        await asyncio.Event().wait()

    upstream.answers += [drop, silent]
    cart = asyncio.create_task(proxy.ask("POST /carts", body=b"{}"))
    await arrived.wait()
    other = asyncio.create_task(proxy.ask("GET /wallets"))
    await until(lambda: proxy.sample("requests_in_flight") == 2)
    go.set()
    got = await cart
    assert got.code == "overloaded"
    assert "may have been processed" in got.json["message"][0]
    assert "nothing was" not in got.json["message"][0]
    other.cancel()


async def test_the_documented_rejection_of_an_order_in_an_outage_says_that_nothing_was_processed(
    upstream: RawUpstream, proxy: Running
) -> None:
    await proxy.ask("GET /carts")
    upstream.answers.append(answer(400, b'{"message":["no Authorization token was found"]}'))
    upstream.session_answers += [REFUSED]
    got = await proxy.ask("POST /orders", body=b"{}")
    assert (got.status, got.code) == (503, "session_unavailable")
    assert "nothing was processed" in got.json["message"][0]
    assert len(upstream.requests) == 2


async def test_an_order_whose_answer_breaks_off_is_one_to_look_for(upstream: RawUpstream, proxy: Running) -> None:
    """Its caller cannot read what became of it; the log has the code beside the status that went down."""

    async def half(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await until(lambda: half_is_out)
        peer.reset()

    half_is_out = False
    upstream.answers.append(half)
    caller = await proxy.caller()
    await caller.send(proxy.request("POST /orders", b"Content-Type: application/json", body=b"{}"))
    await caller.head()
    half_is_out = True
    with pytest.raises((Truncated, asyncio.IncompleteReadError, ConnectionError)):
        await caller.reader.readexactly(100)
    await proxy.quiet()
    assert proxy.sample("outcome_unknown_total", route="/v3/orders") == 1
    assert proxy.sample("requests_total", method="POST", route="/v3/orders", status="200") == 1
    assert proxy.sample("request_errors_total", code="upstream_reset") == 1


async def test_an_order_whose_caller_left_was_told_to_nobody_and_counts_as_abandoned(
    upstream: RawUpstream, proxy: Running
) -> None:
    async def silent(peer: Peer) -> None:
        caller.reset()
        await peer.gone()

    upstream.answers.append(silent)
    caller = await proxy.caller()
    await caller.send(proxy.request("POST /orders", b"Content-Type: application/json", body=b"{}"))
    await until(lambda: proxy.sample("requests_total", method="POST", route="/v3/orders", status="499"))
    assert proxy.sample("outcome_unknown_total", route="/v3/orders") == 0
