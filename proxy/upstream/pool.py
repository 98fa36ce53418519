"""The connections to the one origin: at most so many, the youngest idle one first.

Owns slots, waiters, ages and the one timer of the upstream side. Must not know HTTP.

A slot is held by every connection and every attempt to make one. Waiters stand in line; a slot that becomes free
goes to the first of them, with an idle connection or without, and is never up for grabs in between.
Invariant: while somebody waits there is no idle connection and no free slot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from operator import itemgetter
from random import SystemRandom

from proxy.core.errors import NOTHING_SENT, Draining, Overloaded
from proxy.upstream import error_kinds
from proxy.upstream.connection import Connection
from proxy.upstream.idle_endings import IdleEndings

# Part of `max_age` by which connections differ, so that those made together do not end together.
JITTER = 0.1

# While somebody waits for a connection, an exchange whose own caller has not moved for longer (seconds) is given up.
STALLED = 5.0

# So many connections are made for one request, when the upstream does not wait on them to be asked.
_MOST_DIALS = 3

# How long closing waits for transports that were told to end.
_LAST_SECONDS = 1.0

_random = SystemRandom()


class Pool:
    """LIFO pool; also the `Owner` of its connections. All methods belong to the event loop's thread."""

    def __init__(
        self,
        connect: Callable[[Pool], Awaitable[Connection]],
        *,
        limit: int,
        wait_timeout: float,
        idle_timeout: float,
        max_age: float,
        tick: float,
    ) -> None:
        self._connect = connect
        self._limit = limit
        self._wait_timeout = wait_timeout
        self._idle_timeout = idle_timeout
        # No connection takes a request when it is older, however busy: a name that has moved is followed under traffic.
        self._max_age = max_age
        self._tick = tick
        self._idle: list[Connection] = []
        self._live: set[Connection] = set()
        self._slots = 0
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._ticker: asyncio.TimerHandle | None = None
        self._closed = False
        self._empty: asyncio.Future[None] | None = None
        self.opened = 0
        self._endings = IdleEndings()
        # The last look found a caller that did not move.
        self._stalling = False

    @property
    def idle(self) -> int:
        """Connections that wait for a request."""
        return len(self._idle)

    @property
    def active(self) -> int:
        """Connections that carry an exchange or are being made."""
        return self._slots - len(self._idle)

    # 1. Getting a connection.

    def take(self, *, repeatable: bool) -> Connection | None:
        """Return the idle connection used last, if it is clean and young enough for a request that may be `repeatable`."""
        idle = self._idle
        while idle:
            connection = idle[-1]
            now = connection.clock()
            if not repeatable and now - connection.idle_since > self._endings.trusted(now):
                return None  # the others are older
            idle.pop()
            if now < connection.due:
                if connection.usable():
                    return connection
                if connection.used:
                    self.ended_idle(now - connection.idle_since)
            connection.abort()
        return None

    async def acquire(self, *, new: bool) -> Connection:
        """Return a connection that may be written to at once; call it when `take` gave none.

        Raises:
            Overloaded: none became free in time.
            UpstreamUnreachable: the attempt of this very caller failed.
            Draining: the pool is closed.
        """
        self._check_open()
        connection: Connection | None = None
        if self._waiters or (self._slots >= self._limit and not self._evict()):
            connection = await self._wait()
        else:
            self._slots += 1
        # From here this call owns one slot.
        if connection is not None:
            if not new and connection.usable():
                connection.slot = True
                return connection
            connection.abort()
        try:
            connection = await self._silent()
            self._check_open()
        except BaseException:
            if connection is not None:
                connection.abort()
            self._free_slot()
            raise
        connection.slot = True
        self.opened += 1
        connection.idle_limit = self._idle_timeout
        connection.expires = connection.idle_since + self._max_age * _random.uniform(1 - JITTER, 1 + JITTER)
        return connection

    async def _silent(self) -> Connection:
        """Make a connection on which nothing comes before anything is asked; what does is no answer (RFC 9112, 9.2)."""
        for _ in range(_MOST_DIALS):
            connection = await self._connect(self)
            if await connection.silent():
                return connection
        raise error_kinds.unreachable(
            "unreachable",
            "CardCash ended its connections, or spoke on them, before anything was asked",
            "connection_terminated",
        )

    async def listened_to(self, connection: Connection) -> Connection:
        """Return a connection that has answered just now if nothing follows, else a new one. Raises as `acquire`."""
        return connection if await connection.silent() else await self.acquire(new=True)

    def _check_open(self) -> None:
        if self._closed:
            raise Draining("The proxy is shutting down.")

    def adopted(self, connection: Connection) -> None:
        """Watch over a connection from the moment it has a transport until that is gone."""
        self._live.add(connection)
        self._arm()

    def _evict(self) -> bool:
        """Give the slot of the oldest idle connection away; False when there is none."""
        if not self._idle:
            return False
        self._idle[0].abort()
        return True

    async def _wait(self) -> Connection | None:
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if self._stalling:
            self._look_for_stalls(asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(self._wait_timeout):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give_back(waiter.result())
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            if isinstance(error, TimeoutError):
                raise Overloaded(f"All connections to CardCash are busy{NOTHING_SENT}") from None
            raise

    def _give_back(self, connection: Connection | None) -> None:
        if connection is not None and connection.is_open():
            connection.slot = True
            self.released(connection)
        else:
            self._free_slot()

    # 2. What connections report.

    def released(self, connection: Connection) -> None:
        """Take a clean connection back: to the first waiter, else to the idle ones."""
        connection.idle_since = now = connection.clock()
        connection.due = min(connection.expires, now + connection.idle_limit)
        if self._closed or now >= connection.due:
            connection.abort()
            return
        waiters = self._waiters
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                connection.slot = False  # it is the waiter's now
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    def ended_idle(self, idle: float) -> None:
        """Learn how long the upstream keeps a connection that is idle."""
        self._endings.note(asyncio.get_running_loop().time(), idle)

    def dropped(self, connection: Connection) -> None:
        """Free the slot of a connection that is closing."""
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.slot:
            connection.slot = False
            self._free_slot()

    def ended(self, connection: Connection) -> None:
        """Forget a connection whose transport is gone."""
        self._live.discard(connection)
        if not self._live and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def _free_slot(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._slots -= 1

    # 3. Time.

    def _arm(self) -> None:
        if self._ticker is None and self._live:
            self._ticker = asyncio.get_running_loop().call_later(self._tick, self._on_tick)

    def _on_tick(self) -> None:
        self._ticker = None
        self.look(asyncio.get_running_loop().time())
        self._arm()

    def look(self, now: float) -> None:
        """Look after all connections at once; the ticker does, while there are any."""
        for connection in [idle for idle in self._idle if now >= idle.due]:
            connection.abort()
        for connection in list(self._live):
            connection.check(now)
        self._look_for_stalls(now)

    def _look_for_stalls(self, now: float) -> None:
        """Give the slots of callers that stalled longest to those who wait: a hundred of them must not stop everybody."""
        stalls = [(connection.stalled(now), connection) for connection in self._live]
        self._stalling = any(seconds for seconds, _ in stalls)
        waiting = sum(not waiter.done() for waiter in self._waiters)
        if waiting:
            stalls.sort(key=itemgetter(0), reverse=True)
            for seconds, connection in stalls[:waiting]:
                if seconds > STALLED:
                    connection.give_up_caller()

    async def close(self) -> None:
        """Close every connection and wait until the transports are gone."""
        self._closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(Draining("The proxy is shutting down."))
        self._waiters.clear()
        for connection in list(self._live):
            connection.fail(error_kinds.reset("stopped"))
        if self._live:
            self._empty = asyncio.get_running_loop().create_future()
            # Aborted transports end in the next turns of the loop; none may keep the process from ending.
            await asyncio.wait((self._empty,), timeout=_LAST_SECONDS)
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
