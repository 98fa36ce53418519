"""A token that is dead for everybody is told from a route that rejects every token."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cardcash import OK, REJECTION, CardCash, Received, Reply, Script, bringing
from tests.conftest import StartProxy
from tests.server.harness import Running, until


@pytest.fixture
async def upstream(cardcash: CardCash) -> CardCash:
    """In plain HTTP: nothing here is about bytes."""
    return cardcash


def judge(dead: set[str]) -> Script:
    """Reject requests that carry one of these tokens."""

    async def serve(got: Received) -> Reply:
        return REJECTION if got.token in dead else OK

    return serve


async def test_a_paused_route_goes_on_with_the_token_that_another_route_renewed(
    upstream: CardCash, proxy: Running
) -> None:
    upstream.answers += [REJECTION, REJECTION]
    assert (await proxy.ask("GET /carts")).status == 400  # by contract: rejected twice
    upstream.default = judge({upstream.tokens[-1]})
    assert (await proxy.ask("GET /wallets")).status == 200
    assert (await proxy.ask("GET /carts")).status == 200


async def test_a_paused_route_waits_for_a_renewal_of_its_very_token(upstream: CardCash, proxy: Running) -> None:
    upstream.answers += [REJECTION, REJECTION]
    await proxy.ask("GET /carts")
    upstream.default = judge({upstream.tokens[-1]})
    gate = asyncio.Event()

    async def held_back(got: Received) -> Reply:
        await gate.wait()
        return await upstream.new_session(got)

    upstream.session_answers.append(held_back)
    other = asyncio.create_task(proxy.ask("GET /wallets"))
    await until(lambda: proxy.proxy.keeper.waiters == 1)
    paused = asyncio.create_task(proxy.ask("GET /carts"))
    await until(lambda: proxy.proxy.keeper.waiters == 2)
    gate.set()
    assert [(await task).status for task in (other, paused)] == [200, 200]


async def test_two_revocations_in_a_row_reach_at_most_one_caller(upstream: CardCash, proxy: Running) -> None:
    """The first route to be rejected again is taken for odd; the second proves that the token is dead."""
    await proxy.ask("GET /carts")
    dead = {upstream.tokens[-1]}

    async def revoke_the_next_too(got: Received) -> Reply:
        dead.update(upstream.tokens[1:2])
        return REJECTION if got.token in dead else OK

    upstream.default = revoke_the_next_too
    routes = ["/carts", "/wallets", "/orders/buy", "/merchants/sell", "/payments/sell", "/cards/sell"]
    answers = await asyncio.gather(*(proxy.ask(f"GET {route}") for route in routes))
    assert [answer.status for answer in answers].count(400) <= 1
    assert len(upstream.sessions) == 3


async def test_a_request_that_meets_two_revocations_is_served_when_others_had_the_second_token_accepted(
    upstream: CardCash, proxy: Running
) -> None:
    """Where connections are scarce, a request waits long enough for that; its route is not odd, and pauses for nobody."""
    await proxy.ask("GET /carts")
    go = asyncio.Event()

    async def held(_: Received) -> Reply:
        await go.wait()
        return REJECTION

    upstream.answers += [REJECTION, held]
    asked = asyncio.create_task(proxy.ask("GET /carts"))
    await until(lambda: len(upstream.requests) == 3)
    assert (await proxy.ask("GET /carts")).status == 200
    go.set()
    assert (await asked).status == 200
    assert len(upstream.sessions) == 3
    # The next revocation is found at once: there is no pause.
    upstream.answers.append(REJECTION)
    assert (await proxy.ask("GET /carts")).status == 200
    assert len(upstream.sessions) == 4


async def test_a_request_that_meets_three_revocations_is_rejected_and_its_route_does_not_pause(
    upstream: CardCash, proxy: Running
) -> None:
    await proxy.ask("GET /carts")
    gates = [asyncio.Event(), asyncio.Event()]

    def held(gate: asyncio.Event) -> Script:
        async def script(_: Received) -> Reply:
            await gate.wait()
            return REJECTION

        return script

    upstream.answers += [REJECTION, held(gates[0])]
    asked = asyncio.create_task(proxy.ask("GET /carts"))
    await until(lambda: len(upstream.requests) == 3)
    assert (await proxy.ask("GET /carts")).status == 200
    upstream.answers.append(held(gates[1]))
    gates[0].set()
    await until(lambda: len(upstream.requests) == 5)
    assert (await proxy.ask("GET /carts")).status == 200
    gates[1].set()
    assert (await asked).status == 400
    assert len(upstream.sessions) == 3
    upstream.answers.append(REJECTION)
    assert (await proxy.ask("GET /carts")).status == 200
    assert len(upstream.sessions) == 4


async def test_a_route_that_rejects_some_requests_whatever_their_token_renews_twice_at_most_for_each(
    upstream: CardCash, proxy: Running
) -> None:
    async def by_query(got: Received) -> Reply:
        return REJECTION if "?odd" in got.line else OK

    upstream.default = by_query
    asked = asyncio.create_task(proxy.ask("GET /carts?odd"))
    while not asked.done():
        await proxy.ask("GET /carts")
    assert (await asked).status == 400
    assert len(upstream.sessions) <= 3


async def test_a_token_found_in_an_answer_that_died_with_the_one_before_is_replaced_too(
    upstream: CardCash, proxy: Running
) -> None:
    await proxy.ask("GET /carts")
    harvested, go, dead = upstream.token(), asyncio.Event(), set(upstream.tokens)

    async def slow(_: Received) -> Reply:
        await go.wait()
        return REJECTION

    upstream.answers.append(slow)
    asked = asyncio.create_task(proxy.ask("GET /wallets"))
    await until(lambda: len(upstream.requests) == 2)
    upstream.answers.append(bringing(harvested))
    await proxy.ask("GET /carts")
    upstream.default = judge(dead)
    go.set()
    assert (await asked).status == 200
    assert len(upstream.sessions) == 2


async def test_a_token_of_another_process_that_died_with_the_one_before_is_replaced_too(
    upstream: CardCash, start_proxy: StartProxy, tmp_path: Path
) -> None:
    store = f"file://{tmp_path}/session"
    one, other = [await start_proxy(SESSION__STORE=store) for _ in range(2)]
    assert {(await proxy.ask("GET /carts")).status for proxy in (one, other)} == {200}
    harvested, kept = upstream.token(), (tmp_path / "session").read_bytes()
    upstream.answers.append(bringing(harvested))
    await one.ask("GET /carts")
    await until(lambda: (tmp_path / "session").read_bytes() != kept)
    upstream.default = judge(set(upstream.tokens))
    assert (await other.ask("GET /wallets")).status == 200
    assert (await one.ask("GET /wallets")).status == 200
    assert len(upstream.sessions) == 2


async def test_a_request_is_sent_three_times_at_most_though_others_replace_its_tokens_meanwhile(
    upstream: CardCash, proxy: Running
) -> None:
    async def replaced_on_its_way(got: Received) -> Reply:
        if "/wallets" in got.line:
            upstream.answers.append(bringing(upstream.token()))
            await proxy.ask("GET /carts")
        return REJECTION

    upstream.default = replaced_on_its_way
    assert (await proxy.ask("GET /wallets")).status == 400
    sent = [got.token for got in upstream.requests if "/wallets" in got.line]
    assert len(sent) == len(set(sent)) == 3


async def test_a_route_that_rejects_every_token_costs_one_session_call_however_many_callers(
    upstream: CardCash, proxy: Running
) -> None:
    await proxy.ask("GET /wallets")

    async def odd(got: Received) -> Reply:
        return REJECTION if "/carts" in got.line else OK

    upstream.default = odd
    answers = await asyncio.gather(*(proxy.ask("GET /carts") for _ in range(20)))
    assert {answer.status for answer in answers} == {400}
    assert (await proxy.ask("GET /wallets")).status == 200
    assert len(upstream.sessions) == 2
