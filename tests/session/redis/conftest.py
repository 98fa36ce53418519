"""Servers, started once for the tests of this folder in a process; without redis-server they are skipped, and say why."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import threading
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


_scrypt, _one_at_a_time = functools.cache(hashlib.scrypt), threading.Lock()


@pytest.fixture(autouse=True)
def keys_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of the same secrets, once for all tests of a process: each takes 50 ms, thirty at once a second and more."""

    def made_once(*args: Any, **more: Any) -> bytes:
        with _one_at_a_time:
            return _scrypt(*args, **more)

    monkeypatch.setattr(hashlib, "scrypt", made_once)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for as many as there are in one process, which share its CPU: who of them wins is the rule, not how soon."""
    monkeypatch.setattr("proxy.session.stores.redis.connection.TIMEOUT", 20.0)
    monkeypatch.setattr("proxy.session.stores.redis.client.DEADLINE", 20.0)


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("redis")


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="package")
def tls(folder: Path) -> Tls:
    return Tls(folder / "tls")


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="package")
def whole_sentinels(folder: Path) -> Iterator[Sentinels]:
    """A group that no test may break."""
    group = Sentinels(folder / "sentinels")
    yield group
    group.end()


@pytest.fixture(scope="package")
def guarded(folder: Path) -> Iterator[Sentinels]:
    """One whose Sentinels want a password."""
    group = Sentinels(folder / "guarded", password="of-the-sentinels")
    yield group
    group.end()


@pytest.fixture
def calm_sentinels(whole_sentinels: Sentinels) -> Sentinels:
    whole_sentinels.master.command("FLUSHALL")
    return whole_sentinels


@pytest.fixture(scope="package")
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
