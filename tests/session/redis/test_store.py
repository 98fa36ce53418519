"""`redis://` passes the contract of all stores, on a server of its own, in a cluster and over TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from proxy.session.stores import Binding, SharedStore
from proxy.session.stores.redis.place import Place
from proxy.session.stores.redis.store import LEASE, RedisStore
from proxy.session.stores.redis.vault import Vaults
from tests.session import store_contract
from tests.session.fakes import FakeClock
from tests.session.redis.replicas import Watched, place_of
from tests.session.redis.servers import Cluster, Server, Tls


class Contract(store_contract.SharedStoreContract):
    lease = LEASE

    @pytest.fixture
    def where(self) -> Place:
        raise NotImplementedError

    @pytest.fixture
    def place(self, where: Place) -> str:
        return str(where.url)

    @pytest.fixture
    async def make_for(self, where: Place, clock: FakeClock) -> AsyncIterator[Callable[[Binding], SharedStore]]:
        made: list[RedisStore] = []
        vaults = Vaults()  # one for all, since each takes a while

        def make(binding: Binding) -> SharedStore:
            store = RedisStore(
                lambda: where,
                binding=lambda: binding,
                clock=clock,
                warn=pytest.fail,
                watch=Watched(),
                # Redis's time goes on; the contract's stands still.
                now=lambda: clock.steady,
            )
            store._vaults = vaults
            made.append(store)
            return store

        yield make
        await asyncio.gather(*(store.close() for store in made))


class TestAlone(Contract):
    @pytest.fixture
    def where(self, server: Server) -> Place:
        return place_of(server.url)


class TestCluster(Contract):
    @pytest.fixture
    def where(self, cluster: Cluster) -> Place:
        for node in cluster.nodes[:3]:
            node.command("FLUSHALL")
        return place_of(cluster.url)


class TestTls(Contract):
    @pytest.fixture
    def place(self, where: Place, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("SSL_CERT_FILE", str(tls.ca))  # for a process that has no settings
        return str(where.url)

    @pytest.fixture
    def where(self, tls_server: Server) -> Place:
        tls_server.command("FLUSHALL")
        assert tls_server.tls is not None
        return replace(place_of(tls_server.url), tls=tls_server.tls.context())
