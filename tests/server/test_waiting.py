"""Requests that wait for a connection: what they carry is chosen when they go, not when they came."""

from __future__ import annotations

import asyncio

import pytest

from tests.cardcash import OK, CardCash, Received, Reply
from tests.conftest import StartProxy
from tests.server.harness import until


@pytest.fixture
async def upstream(cardcash: CardCash) -> CardCash:
    """In plain HTTP: nothing here is about bytes."""
    return cardcash


async def test_a_token_that_ended_while_a_request_waited_for_a_connection_does_not_go_up(
    upstream: CardCash, start_proxy: StartProxy
) -> None:
    upstream.lifetime = 2
    proxy = await start_proxy(UPSTREAM__MAX_CONNECTIONS="1", SESSION__IDLE_AFTER="1ms")
    arrived, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Received) -> Reply:
        arrived.set()
        await go.wait()
        return OK

    upstream.answers.append(slow)
    first = asyncio.create_task(proxy.ask("GET /first"))
    await arrived.wait()
    second = asyncio.create_task(proxy.ask("GET /second"))
    await until(lambda: proxy.proxy.guard.in_flight == 2)
    await until(lambda: proxy.proxy.keeper.current() is None)
    go.set()
    assert [(await task).status for task in (first, second)] == [200, 200]
    assert [received.token for received in upstream.requests] == upstream.tokens[:2]
