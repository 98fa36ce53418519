"""A herd of replicas renews at once, and Redis falls over in the middle: one session call, one token for all."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from proxy.clock import SystemClock
from proxy.core.dialect import Candidate
from proxy.core.token import Source, Token
from proxy.session.cardcash_calls import Credentials, SessionCalls
from proxy.session.keeper import Policy, SessionKeeper
from proxy.session.stores import Binding
from proxy.session.stores.redis.place import Place
from proxy.session.stores.redis.store import RedisStore
from tests.session.fakes import Recorder
from tests.session.redis.replicas import Watched, place_of
from tests.session.redis.servers import Sentinels, Server

CLOCK = SystemClock()
REPLICAS, CALLERS = 12, 10


class CardCash(SessionCalls):
    """Gives a session after a while; counts."""

    credentials = Credentials("app-id")

    def __init__(self) -> None:
        self.sessions = 0
        self.began = asyncio.Event()

    async def session(self, *, tries: int, until: float = math.inf) -> Token:
        self.sessions += 1
        self.began.set()
        born = CLOCK.now()
        await asyncio.sleep(0.3)
        return Token(f"session.{self.sessions}.", born, 1200, Source.SESSION)

    async def login(self, session: Token, *, tries: int, until: float = math.inf) -> Token:
        raise AssertionError("no login is configured")

    async def keep_alive(self, token: Token, path: str) -> Token | None:
        raise AssertionError("nothing is kept alive")


def keeper_on(
    place: Place, cardcash: CardCash, *, warn: Callable[[str], None], observer: Recorder | None = None
) -> SessionKeeper:
    binding = Binding("https://cardcash.example", "app-id")
    store = RedisStore(lambda: place, binding=lambda: binding, clock=CLOCK, warn=warn, watch=Watched())
    return SessionKeeper(cardcash, store=store, clock=CLOCK, observer=observer or Recorder(), policy=Policy())


@contextlib.asynccontextmanager
async def herd(url: str) -> AsyncIterator[tuple[CardCash, list[SessionKeeper]]]:
    """Replicas that hold one token, and look into Redis every second."""
    cardcash, place = CardCash(), place_of(url)
    keepers = [keeper_on(place, cardcash, warn=pytest.fail) for _ in range(REPLICAS)]

    async def follow(keeper: SessionKeeper) -> None:
        while True:
            await keeper.catch_up()
            await asyncio.sleep(1)

    tokens = await asyncio.gather(*(keeper.token() for keeper in keepers))
    assert len({token.value for token in tokens}) == 1
    following = [asyncio.create_task(follow(keeper)) for keeper in keepers]
    yield cardcash, keepers
    for task in following:
        task.cancel()
    await asyncio.gather(*(keeper.close() for keeper in keepers))


@contextlib.contextmanager
def falls(server: Server, how: str) -> Iterator[None]:
    if how == "killed":
        with server.client() as client:  # who has the right must have reached the next master
            client.set("after-it", 1)
            client.wait(2, 1000)
        server.kill()
        yield
    elif how == "stopped":
        with server.stopped():
            yield
    elif how == "full":
        server.command("CONFIG", "SET", "maxmemory", "1")
        yield
        server.command("CONFIG", "SET", "maxmemory", "0")
    else:
        yield


async def renews(cardcash: CardCash, keepers: list[SessionKeeper], server: Server, how: str) -> tuple[float, int]:
    """Let all callers find the token rejected; returns the seconds until the last has another, and the session calls."""
    before = cardcash.sessions
    cardcash.began.clear()
    began = time.monotonic()
    held = [keeper.held for keeper in keepers for _ in range(CALLERS)]
    renewing = [
        asyncio.create_task(keeper.renew(rejected=token))
        for keeper, token in zip([k for k in keepers for _ in range(CALLERS)], held, strict=True)
        if token is not None
    ]
    if how != "full":
        await cardcash.began.wait()
    with falls(server, how):
        tokens = await asyncio.gather(*renewing)
        seconds = time.monotonic() - began
    assert {token.value for token in tokens}.isdisjoint({token.value for token in held if token})
    return seconds, cardcash.sessions - before


@pytest.mark.parametrize("how", ["well", "killed", "stopped"])
async def test_a_herd_costs_one_session_call_whatever_becomes_of_the_master(sentinels: Sentinels, how: str) -> None:
    async with herd(sentinels.url) as (cardcash, keepers):
        seconds, calls = await renews(cardcash, keepers, sentinels.master, how)
        assert (seconds < 9, calls) == (True, 1)
        assert len({keeper.held.value for keeper in keepers if keeper.held}) == 1


async def test_without_any_redis_each_renews_for_itself_and_all_have_one_token_when_it_is_back(server: Server) -> None:
    async with herd(server.url) as (cardcash, keepers):
        seconds, calls = await renews(cardcash, keepers, server, "stopped")
        assert (seconds < 9.5, calls) == (True, REPLICAS)
        async with asyncio.timeout(8):
            while len({keeper.held.value for keeper in keepers if keeper.held}) > 1 or keepers[0].alone:
                await asyncio.sleep(0.05)


async def test_of_two_with_different_secrets_the_one_whose_token_is_not_stored_says_that_it_is_alone(
    server: Server,
) -> None:
    cardcash, warned, seen = CardCash(), [list[str](), list[str]()], [Recorder(), Recorder()]
    one, other = (
        keeper_on(place_of(server.url, f"secret {n}"), cardcash, warn=warned[n].append, observer=seen[n])
        for n in range(2)
    )
    await one.token()
    await one.catch_up()
    assert (one.alone, one.pending) == (False, False)
    await other.token()
    for _ in range(2):
        await one.catch_up()
        await other.catch_up()
        assert (one.alone, other.alone, cardcash.sessions) == (True, False, 2)
    assert seen[0].stores["load", "foreign"] >= 2
    assert [len(told) for told in warned] == [1, 1]
    held = one.held
    assert held is not None
    await one.renew(rejected=held)
    await other.catch_up()
    assert (one.alone, other.alone) == (False, True)
    await asyncio.gather(one.close(), other.close())


async def test_with_a_full_redis_each_renews_for_itself_soon_and_not_all_at_once(server: Server) -> None:
    async with herd(server.url) as (cardcash, keepers):
        seconds, calls = await renews(cardcash, keepers, server, "full")
        assert (seconds < 4, calls) == (True, REPLICAS)
        async with asyncio.timeout(8):
            while len({keeper.held.value for keeper in keepers if keeper.held}) > 1 or keepers[0].alone:
                await asyncio.sleep(0.05)


async def test_what_all_harvest_at_once_is_saved_once(server: Server) -> None:
    async with herd(server.url) as (_, keepers):
        held = [keeper.held for keeper in keepers]
        for number, (keeper, token) in enumerate(zip(keepers, held, strict=True)):
            assert token is not None
            keeper.offer(Candidate(f"harvest.{number}.", 1200), sent_with=token)
        saves = server.command("INFO", "commandstats")["cmdstat_hset"]["calls"]
        async with asyncio.timeout(8):
            while len({keeper.held.value for keeper in keepers if keeper.held}) > 1 or any(k.pending for k in keepers):
                await asyncio.sleep(0.05)
        assert server.command("INFO", "commandstats")["cmdstat_hset"]["calls"] - saves <= 3


async def test_a_token_that_cardcash_gives_to_several_is_not_saved_for_ever(server: Server) -> None:
    async with herd(server.url) as (_, keepers):
        saves = server.command("INFO", "commandstats")["cmdstat_hset"]["calls"]
        for keeper in keepers:
            held = keeper.held
            assert held is not None
            keeper.offer(Candidate("the-same.token.", 1200), sent_with=held)
        async with asyncio.timeout(8):
            while any(keeper.pending for keeper in keepers):
                await asyncio.sleep(0.05)
        assert server.command("INFO", "commandstats")["cmdstat_hset"]["calls"] - saves <= REPLICAS
