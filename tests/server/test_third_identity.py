"""An answer may bring somebody else's token: a sign-up's, a lenient login path's. Nobody is served with it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.cardcash import CardCash, Reply, bringing
from tests.server.harness import Running
from tests.server.test_accounts import JSON, login

ME, YOU = "me@x.example", "you@x.example"


@pytest.fixture
async def upstream(cardcash: CardCash) -> CardCash:
    """In plain HTTP: nothing here is about bytes."""
    return cardcash


def jwt(**claims: Any) -> str:
    parts = (json.dumps({"alg": "HS256"}), json.dumps(claims), "signature")
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)


def with_token(token: str) -> Reply:
    return bringing(token, 3600)


async def carried(upstream: CardCash, proxy: Running) -> str:
    """The token that the next request goes up with."""
    await proxy.ask("GET /merchants/sell")
    return upstream.requests[-1].token


THEIRS = [jwt(sid=2, customerId=7, email=YOU), jwt(sid=1, customerId=7), jwt(email=YOU), jwt(sub="7")]


@pytest.mark.parametrize("theirs", THEIRS)
@pytest.mark.parametrize("line", ["POST /customers", "PUT /customers/payment-options", "GET /carts"])
async def test_while_an_account_is_logged_in_anothers_token_in_an_answer_is_left(
    upstream: CardCash, proxy: Running, theirs: str, line: str
) -> None:
    mine = jwt(sid=1, customerId=5, email=ME, sub="5")
    upstream.login_answers.append(with_token(mine))
    assert (await proxy.ask("POST /customers/login", JSON, body=login(ME))).status == 200
    upstream.answers.append(with_token(theirs))
    assert (await proxy.ask(line)).status == 200
    assert await carried(upstream, proxy) == mine
    assert proxy.sample("session_harvests_total", result="foreign") == 1
    assert (await proxy.admin.ask("GET /status")).json["session"]["identity"] == "m…@x.example"


@pytest.mark.parametrize("theirs", THEIRS)
async def test_a_sign_up_on_an_anonymous_session_logs_nobody_in(
    upstream: CardCash, proxy: Running, theirs: str
) -> None:
    anonymous = await carried(upstream, proxy)
    upstream.answers.append(with_token(theirs))
    assert (await proxy.ask("POST /customers", JSON, body=b"{}")).status == 200
    assert await carried(upstream, proxy) == anonymous
    assert proxy.sample("session_harvests_total", result="foreign") == 1


async def test_a_login_that_is_answered_with_anothers_token_is_left(upstream: CardCash, proxy: Running) -> None:
    anonymous = await carried(upstream, proxy)
    upstream.login_answers.append(with_token(jwt(sid=1, customerId=7, email=YOU)))
    assert (await proxy.ask("POST /customers/login", JSON, body=login(ME))).status == 200
    assert await carried(upstream, proxy) == anonymous
    assert (await proxy.admin.ask("GET /status")).json["session"]["identity"] is None


async def test_a_refresh_of_the_held_account_is_taken(upstream: CardCash, proxy: Running) -> None:
    upstream.login_answers.append(with_token(jwt(sid=1, customerId=5, email=ME)))
    assert (await proxy.ask("POST /customers/login", JSON, body=login(ME))).status == 200
    fresh = jwt(sid=1, customerId=5, email=ME, n=2)
    upstream.answers.append(with_token(fresh))
    assert (await proxy.ask("GET /carts")).status == 200
    assert await carried(upstream, proxy) == fresh
