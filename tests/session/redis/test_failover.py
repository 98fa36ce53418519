"""A master that falls, and Sentinels that do: each test breaks a group of its own, so they are spread one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.session.stores import Turn
from proxy.session.stores.redis.client import RedisUnavailable
from tests.session.redis.conftest import Build
from tests.session.redis.replicas import SOON, again, place_of
from tests.session.redis.servers import Sentinels, Tls, wait_for


async def test_a_master_that_is_killed_is_followed_by_the_next(replica: Build, sentinels: Sentinels) -> None:
    one, other = replica(sentinels), replica(sentinels)
    base = one.token()
    await one.store.save(base, replaces=None)
    assert await one.enters(base) is Turn.GRANTED
    old = sentinels.master
    wait_for(lambda: old.is_copied_to(2), "no sync")
    old.kill()
    assert await again(lambda: one.save("two.token.", replaces=base)) < SOON
    assert one.store.address != f"127.0.0.1:{old.port}"
    assert await again(other.stored) < SOON  # two Sentinels may not know yet
    assert await other.enters(base) is Turn.NEWS


async def test_a_master_that_hangs_is_followed_by_the_next(replica: Build, sentinels: Sentinels) -> None:
    one = replica(sentinels)
    base = one.token()
    await one.store.save(base, replaces=None)
    old = sentinels.master
    wait_for(lambda: old.is_copied_to(2), "no sync")
    with old.stopped():
        assert await again(lambda: one.save("two.token.", replaces=base)) < SOON
        assert await one.stored() == "two.token."


async def test_a_failover_by_order_costs_nothing(replica: Build, sentinels: Sentinels) -> None:
    one = replica(sentinels)
    base = one.token()
    await one.store.save(base, replaces=None)
    old = sentinels.master
    sentinels.sentinels[0].command("SENTINEL", "FAILOVER", sentinels.MASTER)
    wait_for(lambda: _known(sentinels) != old.port, "no failover")
    old.command("REPLICAOF", "127.0.0.1", _known(sentinels))  # as Sentinel does within 10 s
    assert await again(lambda: one.save("two.token.", replaces=base)) < SOON
    assert one.store.address != f"127.0.0.1:{old.port}"


async def test_sentinels_that_do_not_answer_are_passed_by(replica: Build, sentinels: Sentinels) -> None:
    sentinels.sentinels[0].kill()
    with sentinels.sentinels[1].stopped():
        assert await replica(sentinels).save()


async def test_they_and_their_master_speak_tls(replica: Build, tmp_path: Path, tls: Tls) -> None:
    group = Sentinels(tmp_path, tls=tls)
    with pytest.raises(RedisUnavailable, match="certificate of Redis is not accepted"):
        await replica(group).stored()
    one = replica(replace(place_of(group.url), tls=tls.context()))
    assert await one.save()
    assert one.store.address == f"127.0.0.1:{group.master.port}"
    group.end()


async def test_without_any_sentinel_the_master_that_was_found_is_used_on(replica: Build, sentinels: Sentinels) -> None:
    one = replica(sentinels)
    assert await one.save()
    for sentinel in sentinels.sentinels:
        sentinel.kill()
    assert await one.stored() == "one.token."
    sentinels.servers[0].command("CLIENT", "KILL", "TYPE", "normal")
    assert await one.stored() == "one.token."


def _known(sentinels: Sentinels) -> int:
    return int(sentinels.sentinels[0].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", sentinels.MASTER)[1])
