"""What holds on a Redis beyond the contract of all stores: its clock counts, and what is sent and kept there."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from proxy.session.stores import Right, Turn
from proxy.session.stores.redis.scripts import LEASE
from tests.session.fakes import APP
from tests.session.redis.conftest import Build
from tests.session.redis.relay import relay_to
from tests.session.redis.replicas import SECRETS, RedisClock
from tests.session.redis.servers import Server


async def test_a_token_has_the_same_age_for_all_however_their_clocks_are_set(replica: Build, server: Server) -> None:
    one, other = replica(server), replica(server)
    other.clock.wall -= 3_600
    other.clock.steady += 77_000
    token = one.token()
    one.clock.advance(100)
    await one.store.save(token, replaces=None)
    found = await other.found()
    assert found.expires_at - other.clock.steady == pytest.approx(token.expires_at - one.clock.steady, abs=0.5)
    assert found.expires_wall - other.clock.wall == pytest.approx(token.expires_wall - one.clock.wall, abs=0.5)


async def test_a_token_grows_older_in_redis_and_is_gone_at_its_end(
    replica: Build, server: Server, redis_clock: RedisClock
) -> None:
    one, other = replica(server), replica(server)
    await one.save()
    redis_clock.ahead = 100
    assert (await other.found()).born.steady == pytest.approx(other.clock.steady - 100, abs=0.5)
    redis_clock.ahead = 601
    assert await other.stored() is None
    assert await other.save("two.token.")


async def test_redis_forgets_a_token_by_itself(replica: Build, server: Server) -> None:
    one = replica(server)
    token = one.token()
    one.clock.advance(100)
    await one.store.save(token, replaces=None)
    (key,) = server.command("KEYS", "*")
    assert 490_000 < server.command("PTTL", key) <= 500_000


async def test_what_is_over_when_it_is_saved_is_not_there(replica: Build, server: Server) -> None:
    one = replica(server)
    token = one.token()
    one.clock.advance(601)
    assert await one.store.save(token, replaces=None)
    assert server.command("KEYS", "*") == []


async def test_a_token_that_was_seen_is_not_sent_again(replica: Build, server: Server) -> None:
    async with relay_to(server.port) as relay:
        one = replica(f"redis://127.0.0.1:{relay.port}")
        await replica(server).save(marks={"x": ["y" * 1000, None]})
        first = await one.found()
        before = relay.received
        assert await one.found() is first
        assert relay.received - before < 250


async def test_a_token_that_was_saved_is_not_sent_back(replica: Build, server: Server) -> None:
    async with relay_to(server.port) as relay:
        one = replica(f"redis://127.0.0.1:{relay.port}")
        assert await one.stored() is None
        await one.save(marks={"x": ["y" * 1000, None]})
        before = relay.received
        assert (await one.found()).app_id == APP
        assert relay.received - before < 250


async def test_a_login_that_repeats_its_token_is_seen_by_who_knows_the_token(replica: Build, server: Server) -> None:
    one, other = replica(server), replica(server)
    token = one.token()
    await one.store.save(token, replaces=None)
    assert (await other.found()).identity is None
    assert await one.store.save(replace(token, identity="me@x.com"), replaces=token)
    assert (await other.found()).identity == "me@x.com"


async def test_prefixes_never_meet(replica: Build, server: Server) -> None:
    one, other = replica(server), replica(f"{server.url}?prefix=team:")
    await one.save()
    assert await other.stored() is None
    await other.save("two.token.")
    assert await one.stored() == "one.token."
    assert {key[:-32] for key in server.command("KEYS", "*")} == {"cardcash:", "team:"}


async def test_databases_never_meet(replica: Build, server: Server) -> None:
    one, other = replica(server), replica(f"{server.url}/3")
    await one.save()
    assert await other.stored() is None


async def test_a_right_ends_by_itself_5_s_after_its_holder(replica: Build, server: Server) -> None:
    one = replica(server)
    await one.enters()
    await one.store.take_login_turn()
    for key in server.command("KEYS", "*"):
        assert LEASE * 1000 - 1000 < server.command("PTTL", key) <= LEASE * 1000 == 5000


async def test_failures_in_a_row_are_forgotten_with_time(replica: Build, server: Server) -> None:
    one = replica(server)
    await one.store.failed(30)
    (key,) = server.command("KEYS", "*")
    assert 620_000 < server.command("PTTL", key) <= 630_000


async def test_a_shorter_pause_does_not_shorten_the_one_that_lasts(replica: Build, server: Server) -> None:
    one = replica(server)
    await one.store.failed(30)
    await one.store.failed(1)
    assert (await one.store.look(SECRETS)).paused_for == pytest.approx(30, abs=1)


async def test_refusals_outlive_a_token(replica: Build, server: Server) -> None:
    await replica(server).store.refuse({"login": "Check it."}, SECRETS)
    (key,) = server.command("KEYS", "*")
    assert server.command("TTL", key) > 29 * 86_400


async def test_closing_gives_back_what_is_held(replica: Build, server: Server) -> None:
    one = replica(server)
    await one.enters()
    await one.store.take_login_turn()
    await one.store.close()
    assert server.command("KEYS", "*") == []


async def test_a_wire_that_is_cut_leaves_no_right_behind(replica: Build, server: Server) -> None:
    async with relay_to(server.port) as relay:
        one = replica(f"redis://127.0.0.1:{relay.port}")
        await one.stored()
        relay.cut_after = 0
        assert await one.enters() is Turn.GRANTED
        relay.cut_after = 0
        await one.store.leave(Right.RENEWAL)
    assert server.command("KEYS", "*") == []


async def test_a_token_and_no_token_are_nothing_foreign(replica: Build, server: Server) -> None:
    one = replica(server)
    assert not (await one.store.look(SECRETS)).is_foreign
    await one.save()
    assert not (await one.store.look(SECRETS)).is_foreign


async def test_a_probe_tells_the_time_of_redis_and_leaves_nothing_there(replica: Build, server: Server) -> None:
    assert await replica(server).store.probe() == pytest.approx(time.time(), abs=60)
    assert server.command("KEYS", "*") == []


async def test_every_replica_has_a_patience_of_its_own(replica: Build, server: Server) -> None:
    patiences = {replica(server).store.patience for _ in range(20)}
    assert len(patiences) == 20
    assert 5 <= min(patiences) < max(patiences) <= 7


@pytest.mark.usefixtures("unhurried")
async def test_many_replicas_see_one_renewal(replica: Build, server: Server) -> None:
    replicas = [replica(server) for _ in range(30)]
    turns = await asyncio.gather(*(one.enters() for one in replicas))
    assert sorted(turn.value for turn in turns) == ["busy"] * 29 + ["granted"]
    holder = replicas[turns.index(Turn.GRANTED)]
    await holder.save()
    turns = await asyncio.gather(*(one.enters() for one in replicas if one is not holder))
    assert set(turns) == {Turn.NEWS}
