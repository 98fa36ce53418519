"""Callers log in at two replicas on one Redis that is stopped or falls over in the middle: nobody gets another's account."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartProxy
from tests.server.harness import Answer, Peer, RawUpstream, Running, until
from tests.session.redis.servers import WHERE, Server

pytestmark = pytest.mark.skipif(WHERE is None, reason="redis-server is not installed")

JSON = b"Content-Type: application/json"
ME, YOU = "me@example.com", "you@example.com"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "redis").start()
    yield server
    server.kill()


@pytest.fixture
async def pair(server: Server, upstream: RawUpstream, start_proxy: StartProxy) -> list[Running]:
    proxies = [await start_proxy(SESSION__STORE=server.url) for _ in range(2)]
    await until(lambda: all(proxy.proxy.keeper.status()["state"] == "fresh" for proxy in proxies))
    return proxies


async def log_in(proxy: Running, email: str) -> Answer:
    body = json.dumps({"customer": {"email": email, "password": "x"}}).encode()
    return await proxy.ask("POST /customers/login", JSON, body=body)


async def test_two_accounts_at_two_replicas_at_once_one_wins(pair: list[Running], upstream: RawUpstream) -> None:
    answers = await asyncio.gather(log_in(pair[0], ME), log_in(pair[1], YOU))
    assert sorted(answer.status for answer in answers) == [200, 409]
    assert len(upstream.logins) == 1


async def test_while_redis_does_not_answer_nobody_logs_in(
    pair: list[Running], upstream: RawUpstream, server: Server
) -> None:
    with server.stopped():
        for answer in await asyncio.gather(log_in(pair[0], ME), log_in(pair[1], YOU)):
            assert (answer.status, answer.code) == (503, "session_unavailable")
            assert int(answer.value("retry-after") or b"0") >= 1
            assert "store cannot be asked" in answer.json["message"][0]
    assert upstream.logins == []


async def test_whoever_carries_the_account_answers_without_redis(pair: list[Running], server: Server) -> None:
    assert (await log_in(pair[0], ME)).status == 200
    await until(lambda: pair[1].account == ME)
    with server.stopped():
        assert (await log_in(pair[1], ME)).status == 200
        assert (await log_in(pair[1], YOU)).status == 409


async def two_log_in_at_once(pair: list[Running], upstream: RawUpstream, server: Server) -> tuple[Running, Running]:
    """Two accounts log in while Redis loses what it knew; returns the replica whose account is stored, and the other."""
    go = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await go.wait()
        await upstream.answer_login(peer)

    upstream.login_answers += [slow, slow]
    first = asyncio.create_task(log_in(pair[0], ME))
    await until(lambda: upstream.logins)
    server.command("FLUSHALL")  # the turn with it, as with a master whose last writes are lost
    second = asyncio.create_task(log_in(pair[1], YOU))
    await until(lambda: len(upstream.logins) == 2)
    go.set()
    assert sorted([(await login).status for login in (first, second)]) == [200, 409]
    await until(lambda: sum(proxy.proxy.keeper.identity_lost for proxy in pair) == 1)
    held = [proxy.proxy.keeper.held for proxy in pair]
    assert len({token.value for token in held if token}) == 1
    (loser,) = [proxy for proxy in pair if proxy.proxy.keeper.identity_lost]
    return pair[0] if loser is pair[1] else pair[1], loser


def account(proxy: Running) -> str:
    held = proxy.proxy.keeper.held
    assert held is not None
    return held.identity or ""


async def test_of_two_logins_with_redis_lost_in_the_middle_one_wins_and_the_other_is_told_as_lost(
    pair: list[Running], upstream: RawUpstream, server: Server
) -> None:
    winner, loser = await two_log_in_at_once(pair, upstream, server)
    told = await loser.ask("GET /carts")
    assert (told.status, "log in again" in told.json["message"][0]) == (503, True)
    assert (await loser.ask("GET /merchants/sell")).status == 200
    assert loser.sample("session_identity_lost_total") == 1
    assert (await log_in(loser, YOU if account(winner) == ME else ME)).status == 409
    assert (await winner.ask("GET /carts")).status == 200
    assert (await log_in(loser, account(winner))).status == 200
    assert (await loser.ask("GET /carts")).status == 200


async def test_whoever_lost_his_account_to_another_is_told_as_whom_to_log_in(
    pair: list[Running], upstream: RawUpstream, server: Server
) -> None:
    winner, loser = await two_log_in_at_once(pair, upstream, server)
    refused = await log_in(loser, YOU if account(winner) == ME else ME)
    for answer in (refused, await loser.ask("GET /carts")):
        assert "was lost to another account" in answer.json["message"][0]
        assert "as the account that the others carry" in answer.json["message"][0]
    # Where nothing is lost it is simply another account's.
    (sentence,) = (await log_in(winner, YOU if account(winner) == ME else ME)).json["message"]
    assert "carries another account" in sentence
    assert "lost" not in sentence


async def test_after_an_operator_renews_a_login_anywhere_holds_also_where_an_account_was_lost_to_another(
    pair: list[Running], upstream: RawUpstream, server: Server
) -> None:
    winner, loser = await two_log_in_at_once(pair, upstream, server)
    assert (await winner.admin.ask("POST /session/renew")).status == 200
    await until(lambda: account(loser) == "")  # within the 2 s that a login waits, unless the machine is very busy
    assert (await log_in(winner, YOU)).status == 200
    assert (await loser.ask("GET /carts")).status == 200
    assert (account(loser), loser.proxy.keeper.identity_lost) == (YOU, False)


async def test_after_a_login_is_gone_nobody_is_logged_in_before_all_have_let_go_of_it(pair: list[Running]) -> None:
    assert (await log_in(pair[0], ME)).status == 200
    await until(lambda: pair[1].account == ME)
    assert (await pair[1].admin.ask("POST /session/renew")).status == 200
    assert (await log_in(pair[1], YOU)).status == 200
    assert pair[0].account != ME
    assert (await pair[0].ask("GET /carts")).status == 200
    assert pair[0].account == YOU
