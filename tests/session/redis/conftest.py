"""Servers, started once for all tests of a process; without redis-server these tests are skipped, with that reason."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.session.stores.redis import scripts
from proxy.session.stores.redis.place import Place
from proxy.session.stores.redis.scripts import Script
from tests.session.redis.replicas import RedisClock, Replica, TimedScript, place_of
from tests.session.redis.servers import WHERE, Cluster, Sentinels, Server, Tls

NEEDS_REDIS = pytest.mark.skipif(WHERE is None, reason="redis-server is not installed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(NEEDS_REDIS)


_scrypt = functools.cache(hashlib.scrypt)


@pytest.fixture(autouse=True)
def keys_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of the same secrets, for all tests of a process: each takes 50 ms."""
    monkeypatch.setattr(hashlib, "scrypt", _scrypt)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("redis")


@pytest.fixture(scope="session")
def standalone(folder: Path) -> Iterator[Server]:
    server = Server(folder / "standalone").start()
    yield server
    server.kill()


@pytest.fixture
def server(standalone: Server) -> Server:
    """A Redis that is empty and as it was configured; it must be there at the end."""
    standalone.command("CONFIG", "SET", "maxmemory", "0")
    standalone.command("CONFIG", "SET", "min-replicas-to-write", "0")
    standalone.command("FLUSHALL")
    return standalone


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A Redis that a test may kill."""
    server = Server(tmp_path / "server").start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def tls(folder: Path) -> Tls:
    return Tls(folder / "tls")


@pytest.fixture(scope="session")
def tls_server(folder: Path, tls: Tls) -> Iterator[Server]:
    """A Redis with TLS; it wants no certificate of clients."""
    server = Server(folder / "tls-server", "--tls-auth-clients", "no", tls=tls).start()
    yield server
    server.kill()


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    """A group of its own for each test: after a failover Sentinels need 10 s to know all again, a new group 2 s to begin."""
    group = Sentinels(tmp_path)
    yield group
    group.end()


@pytest.fixture(scope="session")
def whole_sentinels(folder: Path) -> Iterator[Sentinels]:
    """A group that no test may break."""
    group = Sentinels(folder / "sentinels")
    yield group
    group.end()


@pytest.fixture(scope="session")
def guarded(folder: Path) -> Iterator[Sentinels]:
    """One whose Sentinels want a password."""
    group = Sentinels(folder / "guarded", password="of-the-sentinels")
    yield group
    group.end()


@pytest.fixture
def calm_sentinels(whole_sentinels: Sentinels) -> Sentinels:
    whole_sentinels.master.command("FLUSHALL")
    return whole_sentinels


@pytest.fixture(scope="session")
def whole_cluster(folder: Path) -> Iterator[Cluster]:
    group = Cluster(folder / "cluster")
    yield group
    group.end()


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Cluster:
    whole_cluster.settle()
    return whole_cluster


@pytest.fixture
def redis_clock(monkeypatch: pytest.MonkeyPatch) -> RedisClock:
    """The clock of all the Redis of a test; who names it may set it."""
    clock = RedisClock()
    for name, script in vars(scripts).copy().items():
        if isinstance(script, Script):
            monkeypatch.setattr(scripts, name, TimedScript(script, clock))
    return clock


Build = Callable[..., Replica]


@pytest.fixture
async def replica() -> AsyncIterator[Build]:
    """Build replicas on a server, a URL or a `Place`; they are closed at the end."""
    built: list[Replica] = []

    def build(where: Server | Sentinels | Cluster | Place | str, *store_secrets: str, **more: Any) -> Replica:
        place = where if isinstance(where, Place) else place_of(getattr(where, "url", str(where)), *store_secrets)
        built.append(Replica(place, **more))
        return built[-1]

    yield build
    await asyncio.gather(*(one.store.close() for one in built))
