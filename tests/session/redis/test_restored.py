"""What comes back in Redis (a backup, a replica of long ago, a copy that somebody made) or happens to its clock."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from proxy.core.dialect import Candidate
from proxy.session.keeper import SessionKeeper
from proxy.session.stores import Turn
from tests.session.redis.conftest import Build
from tests.session.redis.replicas import SECRETS, RedisClock, place_of
from tests.session.redis.servers import Server
from tests.session.redis.test_herd import CardCash, keeper_on

HOUR = 3_600


@contextlib.contextmanager
def whoever_writes(server: Server) -> Iterator[Callable[[], Callable[[], None]]]:
    """Somebody who may write to Redis but has no key: makes a copy of all that is there, and puts it back later."""
    with server.client() as client:
        client.connection_pool.connection_kwargs["decode_responses"] = False

        def copy() -> Callable[[], None]:
            copied = {key: client.dump(key) for key in client.scan_iter()}

            def put_back() -> None:
                for key, value in copied.items():
                    client.restore(key, 600_000, value, replace=True)

            return put_back

        yield copy


@contextlib.asynccontextmanager
async def two_keepers(server: Server) -> AsyncIterator[tuple[CardCash, list[SessionKeeper]]]:
    """Two replicas that hold one token."""
    cardcash = CardCash()
    keepers = [keeper_on(place_of(server.url), cardcash, warn=pytest.fail) for _ in range(2)]
    for keeper in keepers:
        await keeper.token()
    yield cardcash, keepers
    await asyncio.gather(*(keeper.close() for keeper in keepers))


async def catch_up(keepers: list[SessionKeeper]) -> None:
    """As all do every second, until all have seen what the others stored."""
    for _ in range(3):
        for keeper in keepers:
            await keeper.catch_up()


def log_in(keeper: SessionKeeper, account: str) -> None:
    held = keeper.held
    assert held is not None
    assert keeper.offer(Candidate(f"{account[0]}.token.", 1200), sent_with=held, login_as=account)


def accounts(keepers: list[SessionKeeper]) -> list[str | None]:
    return [keeper.held.identity if keeper.held else None for keeper in keepers]


async def test_an_account_that_was_given_up_does_not_come_back_with_an_entry_of_that_time(server: Server) -> None:
    async with two_keepers(server) as (cardcash, keepers):
        log_in(keepers[0], "a@x.com")
        await catch_up(keepers)
        assert accounts(keepers) == ["a@x.com"] * 2
        with whoever_writes(server) as copy:
            put_back = copy()
            await keepers[0].renew_now()
            await catch_up(keepers)
            log_in(keepers[1], "b@x.com")
            await catch_up(keepers)
            assert accounts(keepers) == ["b@x.com"] * 2
            calls = cardcash.sessions
            put_back()
            await catch_up(keepers)
            assert accounts(keepers) == ["b@x.com"] * 2
            put_back()
            held = keepers[0].held
            assert held is not None
            await asyncio.gather(*(keeper.renew(rejected=held) for keeper in keepers))
            await catch_up(keepers)
            assert "a@x.com" not in accounts(keepers)
            assert cardcash.sessions == calls + 1
            assert len({keeper.held and keeper.held.value for keeper in keepers}) == 1


async def test_what_is_older_than_what_was_seen_is_not_there_and_whoever_has_a_newer_one_writes_over_it(
    replica: Build, server: Server
) -> None:
    one, other = replica(server), replica(server)
    first, second = one.token("one.token."), one.token("two.token.")
    await one.store.save(first, replaces=None)
    with whoever_writes(server) as copy:
        put_back = copy()
        await one.store.save(second, replaces=first)
        assert await other.stored() == "two.token."
        put_back()
        assert [await one.stored(), await other.stored()] == [None, None]
        assert not (await one.store.look(SECRETS)).is_foreign
        assert (one.seen.warnings, other.seen.warnings) == ([], [])
        assert await other.store.save(second, replaces=None)
        assert await one.stored() == "two.token."
        put_back()
        assert await one.enters(second) is Turn.GRANTED


async def test_what_is_stored_again_is_newer_than_what_it_was(replica: Build, server: Server) -> None:
    one, other = replica(server), replica(server)
    first, second = one.token("one.token."), one.token("two.token.")
    await one.store.save(first, replaces=None)
    assert await other.stored() == "one.token."
    await one.store.save(second, replaces=first)
    with whoever_writes(server) as copy:
        put_back = copy()
        await one.store.save(first, replaces=second)
        assert await other.stored() == "one.token."
        put_back()
        assert await other.stored() is None


async def test_a_token_lives_no_longer_than_it_does_whatever_stands_beside_it(
    replica: Build, server: Server, redis_clock: RedisClock
) -> None:
    one, other = replica(server), replica(server)
    await one.save()
    redis_clock.ahead = 700
    with whoever_writes(server) as copy:
        copy()()  # it stays in Redis for longer
    for key in server.command("KEYS", "*"):
        server.command("HSET", key, "born", int((time.time() + 700) * 1_000_000))
    assert await other.stored() is None
    assert await other.enters() is Turn.GRANTED


@pytest.mark.parametrize("ahead", [-HOUR, HOUR])
async def test_a_clock_of_redis_that_is_set_costs_nothing_and_ages_stay_right(
    server: Server, redis_clock: RedisClock, ahead: int
) -> None:
    async with two_keepers(server) as (cardcash, keepers):
        held = keepers[0].held
        assert held is not None
        redis_clock.ahead = ahead
        await catch_up(keepers)
        newcomer = keeper_on(place_of(server.url), cardcash, warn=pytest.fail)
        found = await newcomer.token()
        assert (found.value, cardcash.sessions) == (held.value, 1)
        assert abs(found.born.steady - held.born.steady) < 1
        assert not any(keeper.alone for keeper in keepers)
        await newcomer.close()


async def test_a_clock_of_redis_that_is_set_back_in_a_renewal_costs_no_second_call(
    server: Server, redis_clock: RedisClock
) -> None:
    async with two_keepers(server) as (cardcash, keepers):
        held = keepers[0].held
        assert held is not None
        cardcash.began.clear()
        renewing = [asyncio.create_task(keeper.renew(rejected=held)) for keeper in keepers]
        await cardcash.began.wait()
        redis_clock.ahead = -HOUR
        tokens = await asyncio.gather(*renewing)
        assert ({token.value for token in tokens}, cardcash.sessions) == ({"session.2."}, 2)


async def test_a_clock_of_redis_that_is_set_back_makes_no_right_and_no_pause_longer(
    replica: Build, server: Server, redis_clock: RedisClock
) -> None:
    one, other = replica(server), replica(server)
    assert await one.enters() is Turn.GRANTED
    await one.store.take_login_turn()
    redis_clock.ahead = -HOUR
    assert await other.enters() is Turn.BUSY
    assert not await other.store.take_login_turn()
    redis_clock.ahead = -HOUR + 6
    assert await other.enters() is Turn.GRANTED
    assert await other.store.take_login_turn()
    await other.store.failed(5)
    assert await other.enters() is Turn.PAUSED
    redis_clock.ahead = -2 * HOUR
    assert await other.enters() is Turn.GRANTED
