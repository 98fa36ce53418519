"""A request that is under way while the shared session goes over to another account: it stays the first one's."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.dialect import Candidate
from tests.cardcash import OK, REJECTION, CardCash, Gone, Received, Reply
from tests.conftest import StartProxy
from tests.server.harness import Running, jwt, until
from tests.server.test_accounts import JSON, login


@pytest.fixture
async def upstream(cardcash: CardCash) -> CardCash:
    """In plain HTTP: nothing here is about bytes."""
    return cardcash


@pytest.mark.parametrize("line", ["POST /orders", "PUT /orders/1", "GET /wallets", "GET /wallets/7/secure-data"])
@pytest.mark.parametrize("ending", ["rejected", "reset"])
async def test_what_went_up_as_one_account_is_not_sent_again_as_another(
    upstream: CardCash, proxy: Running, line: str, ending: str
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Received) -> Reply:
        asked.set()
        await go_on.wait()
        if ending == "reset":
            raise Gone
        return REJECTION

    assert (await proxy.ask("POST /customers/login", JSON, body=login("a@x.example"))).status == 200
    assert (await proxy.ask("GET /carts")).status == 200
    upstream.answers += [slow, REJECTION]
    under_way = asyncio.create_task(proxy.ask(line))
    await asked.wait()
    assert (await proxy.ask("GET /carts")).status == 503
    assert (await proxy.ask("POST /customers/login", JSON, body=login("b@x.example"))).status == 200
    go_on.set()
    answer = await under_way
    assert [each.line for each in upstream.requests].count(line.replace(" /", " /v3/")) == 1
    if ending == "rejected" or line.startswith("GET"):
        assert (answer.status, answer.code) == (503, "session_unavailable")
        assert "another account" in answer.json["message"][0]
        assert ("nothing was processed" in answer.json["message"][0]) is (ending == "rejected")


async def test_what_comes_in_slowly_does_not_go_up_as_another_account_than_it_began_to_come_to(
    upstream: CardCash, proxy: Running
) -> None:
    assert (await proxy.ask("POST /customers/login", JSON, body=login("a@x.example"))).status == 200
    caller = await proxy.caller()
    request = proxy.request("POST /orders", JSON, body=b"{" + b" " * 1000 + b"}")
    await caller.send(request[:-500])
    await until(lambda: any(each.exchange for each in proxy.proxy.server.connections))
    assert (await proxy.admin.ask("POST /session/renew")).status == 200
    assert (await proxy.ask("POST /customers/login", JSON, body=login("b@x.example"))).status == 200
    answer = await caller.ask(request[-500:])
    assert (answer.status, answer.code) == (503, "session_unavailable")
    assert "another account" in answer.json["message"][0]
    assert "POST /v3/orders" not in [each.line for each in upstream.requests]
    assert (await proxy.ask("POST /orders", JSON, body=b"{}")).status == 200


async def test_what_waits_for_a_connection_does_not_go_up_as_another_account_than_it_came_to(
    upstream: CardCash, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(UPSTREAM__MAX_CONNECTIONS="1")
    arrived, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Received) -> Reply:
        arrived.set()
        await go.wait()
        return OK

    assert (await proxy.ask("POST /customers/login", JSON, body=login("a@x.example"))).status == 200
    upstream.answers.append(slow)
    first = asyncio.create_task(proxy.ask("GET /carts"))
    await arrived.wait()
    second = asyncio.create_task(proxy.ask("POST /orders"))
    await until(lambda: proxy.proxy.guard.in_flight == 2)
    # By an operator, and a login at another proxy that shares the session.
    keeper = proxy.proxy.keeper
    anonymous = await keeper.renew_now()
    keeper.offer(Candidate(jwt(77), 600.0), sent_with=anonymous, login_as="b@x.example")
    go.set()
    assert (await first).status == 200
    answer = await second
    assert (answer.status, answer.code) == (503, "session_unavailable")
    assert "Nothing was sent" in answer.json["message"][0]
    assert [each.line for each in upstream.requests] == ["GET /v3/carts"]
