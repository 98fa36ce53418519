"""`redis://` passes the contract of all stores, on a server that is alone and in a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.session.stores import Binding, SharedStore
from proxy.session.stores.redis.place import Place
from proxy.session.stores.redis.scripts import LEASE
from proxy.session.stores.redis.store import RedisStore
from tests.session import store_contract
from tests.session.fakes import FakeClock
from tests.session.redis.replicas import RedisClock, Watched, place_of
from tests.session.redis.servers import Cluster, Server


@pytest.mark.usefixtures("unhurried")
class OnRedis:
    """What the contract needs; `where` is the Redis."""

    lease = LEASE

    @pytest.fixture
    def where(self) -> Place:
        raise NotImplementedError

    @pytest.fixture
    def place(self, where: Place) -> str:
        return str(where.url)

    @pytest.fixture
    async def make_for(
        self, where: Place, clock: FakeClock, redis_clock: RedisClock
    ) -> AsyncIterator[Callable[[Binding], SharedStore]]:
        made: list[RedisStore] = []
        redis_clock.shows = clock

        def make(binding: Binding) -> SharedStore:
            store = RedisStore(lambda: where, binding=lambda: binding, clock=clock, warn=pytest.fail, watch=Watched())
            made.append(store)
            return store

        yield make
        await asyncio.gather(*(store.close() for store in made))


class TestAlone(OnRedis, store_contract.SharedStoreContract):
    @pytest.fixture
    def where(self, server: Server) -> Place:
        return place_of(server.url)


class TestCluster(OnRedis, store_contract.StoreContract):
    @pytest.fixture
    def where(self, cluster: Cluster) -> Place:
        cluster.flush()
        return place_of(cluster.url)

    @pytest.fixture
    def make(self, make_for: Callable[[Binding], SharedStore]) -> store_contract.Make:
        return lambda: make_for(store_contract.MINE)
