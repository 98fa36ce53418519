"""Runs scripts in Redis for whoever asks: bounded in time and number, and spared while Redis does not answer.

Every operation ends within 2 s, most of them at once when a moment ago one has failed (`Urgency` says how long that holds).
"""

from __future__ import annotations

import asyncio
import enum
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from proxy.core.backoff import backoff, full_jitter
from proxy.core.store_url import spelled
from proxy.session.stores import StoreUnreachable, StoreWatch
from proxy.session.stores.redis.connection import Address, Connections, RedisError, Word
from proxy.session.stores.redis.diagnosis import NO_ANSWER, FailureKind, RedisFailure, failure_of
from proxy.session.stores.redis.place import Place
from proxy.session.stores.redis.scripts import Answer, Script
from proxy.session.stores.redis.servers import Servers

#: Seconds for one operation, whatever has to be found, connected and repeated for it; less than whoever asks gives it.
DEADLINE: Final = 1.9
#: Seconds without an answer after which Redis counts as silent for others too when whoever asked gives up.
_SILENT: Final = 0.4
#: Commands at a time; as many connections may there be.
_AT_A_TIME: Final = 2
#: Nodes that one operation follows a cluster to, or seeds that it tries.
_MOST_HOPS: Final = 5
#: Seconds without a try after Redis did not know us or did not let us; a changed file ends them.
_DENIED_FOR: Final = 10.0
#: Refusals after which another server is looked for.
_ELSEWHERE: Final = frozenset({"READONLY", "CLUSTERDOWN", "MASTERDOWN", "LOADING", "MAXCLIENTS"})


class Urgency(enum.Enum):
    """For whom an operation is: how long (seconds) after a failure it is not even tried."""

    #: A request waits: 1 doubling to 10.
    REQUEST = "request"
    #: The background follows what happens: a random part of 0.1 doubling to 1.5. All connect anew to a Redis that is back,
    #: which costs it 1.4 ms of its only thread with TLS; and within 3 s, a second of it until the next look, all must have
    #: the same token again.
    LOOK = "look"
    #: A renewal has patience and asks again all the time: from 0.1 to 0.5.
    RENEWAL = "renewal"


class RedisUnavailable(StoreUnreachable):
    """An operation could not be carried out."""

    def __init__(self, failure: RedisFailure) -> None:
        super().__init__(failure.sentence)
        self.failure = failure
        self.passes = failure.kind is FailureKind.DOWN
        self.refuses = failure.kind is FailureKind.REFUSED


class RedisClient:
    """Runs scripts, for one process and event loop. `place` is asked each time: files change. `close` must be called."""

    def __init__(self, place: Callable[[], Place], *, watch: StoreWatch) -> None:
        self._place = place
        self._watch = watch
        self._servers = Servers(place())
        self._connections = Connections(self._connected)
        self._has_connected = False
        # Two commands at a time, since each needs a connection; a command takes 2 s at most.
        self._turns = asyncio.Semaphore(_AT_A_TIME)
        # Guards `_servers`, above all one question to the Sentinels for all who need the answer.
        self._finding = asyncio.Lock()
        self._failures = 0
        self._failed_at = 0.0
        # Until when it is spared, as long as there is trouble.
        self._not_before: dict[Urgency, float] = {}
        #: What is wrong with Redis now.
        self.trouble: RedisFailure | None = None

    @property
    def address(self) -> str:
        """The server in use, or those of the URL while none is: host and port."""
        current = self._servers.current
        return spelled(self._servers.place.url.hosts if current is None else (current,))

    async def run(self, script: Script[Answer], key: str, arguments: Sequence[Word], urgency: Urgency) -> Answer:
        """Run a script; returns its answer. Raises `RedisUnavailable`."""
        self._check(urgency)
        async with self._turns:
            self._follow_place()
            self._check(urgency)  # whoever had the turn before may have found out
            began = time.monotonic()
            try:
                async with asyncio.timeout(DEADLINE):
                    answer = script.read(await self._run(script, key, arguments))
            except asyncio.CancelledError:
                if time.monotonic() - began > _SILENT:
                    self._failed(NO_ANSWER, began)
                raise
            except Exception as error:
                failure = failure_of(error)
                if failure is NO_ANSWER and self._servers.current is not None:
                    self._give_up(self._servers, self._servers.current)
                self._failed(failure, began)
                # What it was raised from may repeat what the server or the library says.
                raise RedisUnavailable(failure) from None
            finally:
                self._watch.took(script.name, time.monotonic() - began)
            self._failures, self.trouble = 0, None
            return answer

    async def close(self) -> None:
        """Close all connections."""
        self._connections.close()

    def _check(self, urgency: Urgency) -> None:
        if (
            self.trouble is not None
            and self._place() is self._servers.place
            and time.monotonic() < self._not_before[urgency]
        ):
            raise RedisUnavailable(self.trouble)

    def _failed(self, failure: RedisFailure, began: float) -> None:
        if failure.kind is FailureKind.REFUSED:
            return  # Redis is there, and other operations may work
        now = time.monotonic()
        self.trouble = failure
        if began >= self._failed_at:  # one of two that failed together counts
            self._failures += 1
        self._failed_at = now
        if failure.kind is FailureKind.DENIED:
            self._not_before = dict.fromkeys(Urgency, now + _DENIED_FOR)
            return
        part = random.random()  # noqa: S311 - spreads, guards nothing
        self._not_before = {
            Urgency.REQUEST: now + backoff(self._failures, first=1.0, cap=10.0),
            Urgency.LOOK: now + full_jitter(self._failures, first=0.1, cap=1.5, fraction=part),
            Urgency.RENEWAL: now + 0.1 + 0.4 * part,
        }

    def _follow_place(self) -> None:
        """Begin anew when a file of ours has changed: as somebody else, or somewhere else."""
        if (place := self._place()) is not self._servers.place:
            self._servers = Servers(place)
            self._failures, self.trouble = 0, None

    async def _run(self, script: Script[Any], key: str, arguments: Sequence[Word]) -> Any:
        failed: Exception | None = None
        gone: Address | None = None
        for _ in range(_MOST_HOPS):
            servers = self._servers
            async with self._finding:
                address = await servers.find()
            if failed is not None and address == gone:
                raise failed  # the next Sentinel, or a cluster, names no other
            try:
                return await self._connections.run((servers.place, address), script, key, arguments)
            except RedisError as error:
                if error.target is not None:
                    # A node that does not know its own name leaves it out.
                    target = error.target[0] or address[0], error.target[1]
                    if error.code == "ASK":
                        return await self._aside((servers.place, target), script, key, arguments)
                    servers.moved(target)
                else:
                    if error.code in _ELSEWHERE:
                        self._give_up(servers, address)
                    # A master no longer, and what it is asked for is old: the new one is looked for at once, but once.
                    if error.code != "READONLY" or (isinstance(failed, RedisError) and failed.code == error.code):
                        raise
                failed = error
            except Exception as error:  # whatever it is: the address may have come from elsewhere, and be none
                self._give_up(servers, address)
                if isinstance(error, TimeoutError) or servers.is_alone:
                    raise
                failed, gone = error, address
        assert failed is not None  # noqa: S101
        raise failed

    async def _aside(self, to: tuple[Place, Address], script: Script[Any], key: str, arguments: Sequence[Word]) -> Any:
        """Ask the node to which a slot is just being moved, this once."""
        connections = Connections(self._connected)
        try:
            return await connections.run(to, script, key, arguments, asking=True)
        finally:
            connections.close()

    def _give_up(self, servers: Servers, address: Address) -> None:
        servers.lost(address)
        if servers.current is None:
            self._connections.close()

    def _connected(self) -> None:
        if self._has_connected:
            self._watch.reconnected()
        self._has_connected = True
