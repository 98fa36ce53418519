"""Which Redis is asked next: seeds, and nodes that a cluster points to."""

from __future__ import annotations

from proxy.session.stores.redis.servers import Servers
from tests.session.redis.replicas import place_of

A, B, C, X = (("a", 1), ("b", 2), ("c", 3), ("x", 9))


def seeds() -> Servers:
    return Servers(place_of("redis://a:1,b:2,c:3"))


async def test_seeds_are_asked_in_turn_each_until_it_is_lost() -> None:
    servers = seeds()
    for address in (A, B, C, A, B):
        assert [await servers.find(), await servers.find()] == [address, address]
        servers.lost(address)
        assert servers.current is None


async def test_a_node_that_a_cluster_points_to_is_asked_until_it_is_lost_then_the_seed_that_led_to_it() -> None:
    servers = seeds()
    servers.lost(await servers.find())
    assert await servers.find() == B
    servers.moved(X)
    assert await servers.find() == X
    servers.lost(X)
    assert await servers.find() == B


async def test_who_finds_a_server_lost_that_is_asked_no_longer_changes_nothing() -> None:
    servers = seeds()
    servers.lost(await servers.find())
    assert await servers.find() == B
    servers.lost(A)
    assert servers.current == B


def test_one_host_is_alone() -> None:
    assert Servers(place_of("redis://a:1")).is_alone
    assert not seeds().is_alone
