"""Races on real sockets, with the simulator as CardCash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import pytest

from proxy.clock import SystemClock
from proxy.core import dialect
from proxy.core.errors import SessionUnavailable
from proxy.core.rejections import Rejection, judge_rejection
from proxy.core.token import Token
from proxy.session.cardcash_calls import Credentials
from proxy.session.keeper import Policy, SessionKeeper
from proxy.session.stores import SharedStore
from proxy.session.stores.memory import MemoryStore
from proxy.simulator import Simulator, SimulatorSettings
from tests.session.calls import calls_to
from tests.session.fakes import ME, Recorder

APP, PASSWORD = "demo-app-id", "demo-password"
SESSION, LOGIN = "POST /v3/session", "POST /v3/customers/login"


@dataclass
class World:
    sim: Simulator
    http: aiohttp.ClientSession
    stack: AsyncExitStack

    def keeper(self, store: SharedStore | None = None, credentials: Credentials | None = None) -> SessionKeeper:
        calls = calls_to(self.sim.url, self.stack, credentials or Credentials(APP, ME, PASSWORD), clock=SystemClock())
        keeper = SessionKeeper(
            calls, store=store or MemoryStore(SystemClock()), clock=SystemClock(), observer=Recorder(), policy=Policy()
        )
        self.stack.push_async_callback(keeper.close)
        return keeper

    async def send(self, keeper: SessionKeeper, token: Token) -> bool:
        """Send one account request with the token, harvest, and say whether the token was taken."""
        headers = {"x-cc-app": APP, "User-Agent": "agent/1", "Authorization": token.bearer.decode()}
        async with self.http.get(self.sim.url + "/v3/carts", headers=headers) as response:
            body = await response.read()
            found = dialect.harvest(tuple(response.raw_headers), cookie=APP.encode(), wall=SystemClock().now().wall)
            if found is not None:
                keeper.offer(found, sent_with=token)
            return judge_rejection(response.status, body) is Rejection.NONE

    async def caller(self, keeper: SessionKeeper) -> bool:
        """Do as the request path does: send, and once more after a rejection."""
        token = await keeper.token()
        if await self.send(keeper, token):
            return True
        return await self.send(keeper, await keeper.renew(rejected=token))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        sim = Simulator(SimulatorSettings())
        await sim.start()
        stack.push_async_callback(sim.stop)
        connector = aiohttp.TCPConnector(limit=100)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        )
        yield World(sim, http, stack)


async def test_500_callers_without_a_session_cost_one_session_call_and_one_login(world: World) -> None:
    keeper = world.keeper()
    assert all(await asyncio.gather(*(world.caller(keeper) for _ in range(500))))
    assert (world.sim.calls[SESSION], world.sim.calls[LOGIN]) == (1, 1)


async def test_500_callers_on_a_revoked_token_cost_one_session_call_and_one_login(world: World) -> None:
    keeper = world.keeper()
    await keeper.token()
    world.sim.revoke_all()
    world.sim.reset_counters()
    assert all(await asyncio.gather(*(world.caller(keeper) for _ in range(500))))
    assert (world.sim.calls[SESSION], world.sim.calls[LOGIN]) == (1, 1)


async def test_callers_of_five_keepers_on_one_store_cost_one_session_call(world: World) -> None:
    store = MemoryStore(SystemClock())
    keepers = [world.keeper(store.another()) for _ in range(5)]
    for keeper in keepers:
        await keeper.token()
    world.sim.revoke_all()
    world.sim.reset_counters()
    assert all(await asyncio.gather(*(world.caller(keeper) for keeper in keepers for _ in range(40))))
    assert (world.sim.calls[SESSION], world.sim.calls[LOGIN]) == (1, 1)


async def test_callers_that_leave_during_a_renewal_cost_no_second_one(world: World) -> None:
    keeper = world.keeper()
    await keeper.token()
    world.sim.revoke_all()
    world.sim.reset_counters()
    world.sim.fault("delay", path="/v3/session", seconds=0.05)
    calls = [asyncio.create_task(world.caller(keeper)) for _ in range(200)]
    while not keeper.waiters:
        await asyncio.sleep(0)
    for leaving in calls[::2]:
        leaving.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[1::2] == [True] * 100
    assert (world.sim.calls[SESSION], world.sim.calls[LOGIN]) == (1, 1)


@pytest.mark.parametrize("fault", [{"when": "before_body"}, {"when": "in_head"}, {"when": "in_body"}])
async def test_a_reset_session_call_is_nothing_a_caller_sees(world: World, fault: dict[str, str]) -> None:
    world.sim.fault("reset", path="/v3/session", times=2, **fault)
    assert await world.caller(world.keeper())


async def test_500_callers_of_a_dead_upstream_cost_five_session_calls_and_are_all_refused(world: World) -> None:
    world.sim.fault("fail", path="/v3/session", status=503, times=100)
    keeper = world.keeper()
    results = await asyncio.gather(*(keeper.token() for _ in range(500)), return_exceptions=True)
    assert all(isinstance(result, SessionUnavailable) for result in results)
    assert world.sim.calls[SESSION] == 5


async def test_a_wrong_password_costs_one_login_however_many_callers(world: World) -> None:
    keeper = world.keeper(credentials=Credentials(APP, ME, "wrong"))
    for _ in range(3):
        token = await keeper.token()
        await asyncio.gather(*(keeper.renew(rejected=token) for _ in range(50)))
    assert world.sim.calls[LOGIN] == 1


@pytest.mark.parametrize("old", ["valid", "revoked", "latest_only"])
@pytest.mark.parametrize("parallel", ["different", "same", "once"])
async def test_parallel_refreshes_converge_whatever_becomes_of_the_old_token(
    world: World, old: str, parallel: str
) -> None:
    keeper = world.keeper()
    await keeper.token()
    world.sim.configure(refresh_window=10_000, old_after_refresh=old, parallel_refresh=parallel)
    assert await world.caller(keeper)
    for _ in range(3):
        await asyncio.gather(*(world.caller(keeper) for _ in range(20)))
    world.sim.configure(refresh_window=0)
    assert all(await asyncio.gather(*(world.caller(keeper) for _ in range(20))))
    assert keeper.held is not None
    assert keeper.held.identity == ME
