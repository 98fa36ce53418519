"""The proxy port: all callers' connections.

Owns how many there are, when each is looked after, and how they end together. There is no timer per connection: `look()`
is called every second and goes through all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final

from proxy.core.errors import Denied, Overloaded, ProxyError
from proxy.server.connection import CallerConnection
from proxy.server.exchange import Exchange
from proxy.telemetry.logs import log

#: Seconds without a request after which a caller makes room for another; in less it may be between two of them.
IDLE_ENOUGH: Final = 1.0
#: Seconds in which nobody is asked again to make room, when nobody could.
_ASK_AGAIN: Final = 0.05
#: Seconds between two warnings that there are too many callers.
_WARN_EVERY: Final = 10.0


class ProxyServer:
    """Makes a `CallerConnection` per connection. `handler` answers an Exchange, `refuse` what never became one.

    `check` raises `Denied` for an address that is not served. There are at most `most_connections`, and besides them at most
    `most_turned_away` that get their refusal. `required` is the lower-case name of `callers.require_header`. Must be made
    where the event loop runs.
    """

    def __init__(
        self,
        handler: Callable[[Exchange], Awaitable[None]],
        refuse: Callable[[Exchange, ProxyError], None],
        *,
        most_connections: int,
        most_turned_away: int = 64,
        check: Callable[[str | None], None] = lambda _: None,
        required: bytes | None = None,
    ) -> None:
        self.handler = handler
        self.refuse = refuse
        self.required = required
        self.loop = asyncio.get_running_loop()
        self.time = self.loop.time
        self._most_connections = most_connections
        self._most_turned_away = most_turned_away
        self._check = check
        #: The proxy stops.
        self.draining = False
        # A dict for its order: the first idle one has been here longest.
        self._connections: dict[CallerConnection, None] = {}
        #: They get their refusal and the end, and count for nothing else.
        self._turned_away: dict[CallerConnection, None] = {}
        self._nobody_idle_until = 0.0
        self._warned = -inf
        self._unreported = 0
        self._ended = asyncio.Event()

    def __call__(self) -> CallerConnection:
        """Make the protocol of a new connection."""
        return CallerConnection(self)

    @property
    def connections(self) -> list[CallerConnection]:
        """List all connections that are open."""
        return [*self._connections, *self._turned_away]

    def joined(self, connection: CallerConnection) -> None:
        """Count a connection in, or turn it away."""
        try:
            self._check(connection.peer)
        except Denied as error:
            self._turn_away(connection, error)
            return
        if len(self._connections) >= self._most_connections and not self._make_room():
            self._turn_away(connection, _too_many())
            return
        self._connections[connection] = None
        if self.draining:
            connection.close_if_idle()  # it stood in the backlog when the listener was closed

    def left(self, connection: CallerConnection) -> None:
        """Count a connection out."""
        self._connections.pop(connection, None)
        self._turned_away.pop(connection, None)
        self._ended.set()

    def _make_room(self) -> bool:
        """End a connection that has brought nothing for a while; the first is the one that has been here longest."""
        now = self.time()
        if now < self._nobody_idle_until:
            return False
        for other in self._connections:
            if other.idle_for(now) >= IDLE_ENOUGH:
                if other.fresh or other.has_partial_head:
                    del self._connections[other]
                    self._turn_away(other, _too_many())
                else:
                    other.close()
                return True
        self._nobody_idle_until = now + _ASK_AGAIN
        return False

    def _turn_away(self, connection: CallerConnection, error: ProxyError) -> None:
        if len(self._turned_away) >= self._most_turned_away:
            oldest = next(iter(self._turned_away))
            del self._turned_away[oldest]
            oldest.tell_away()
            oldest.close()
        self._turned_away[connection] = None
        # No byte of a caller that is not allowed is waited for.
        connection.turn_away(error, at_once=isinstance(error, Denied))
        if isinstance(error, Overloaded):
            self._unreported += 1
            self._warn()

    def _warn(self) -> None:
        """Log those turned away that were not logged: the first at once, the others together."""
        now = self.time()
        if self._unreported and now >= self._warned + _WARN_EVERY:
            advice = "raise limits.connections or the limit of open files, or have callers keep their connections"
            log.warning("too_many_callers", turned_away=self._unreported, limit=self._most_connections, advice=advice)
            self._warned, self._unreported = now, 0

    def drain(self) -> None:
        """Make every answer from now on its connection's last, and close those that wait for none."""
        self.draining = True
        for connection in [*self._connections]:
            if connection.exchange is not None:
                connection.exchange.close_after()
            connection.close_if_idle()

    def look(self) -> None:
        """Look after all connections: time-outs, and callers whose end cannot be seen by reading."""
        now = self.time()
        for connection in self.connections:
            connection.look(now)
        self._warn()

    def fail_bodies(self, error: ProxyError) -> None:
        """Let whoever waits for the rest of a request's body hear that it will not be waited for."""
        for connection in self.connections:
            if connection.exchange is not None:
                connection.exchange.fail(error)

    async def all_ended(self) -> None:
        """Wait until every connection has written its last byte and ended."""
        while self._connections or self._turned_away:
            self._ended.clear()
            await self._ended.wait()

    async def shutdown(self, seconds: float) -> None:
        """Close every connection and wait at most `seconds` for what still runs on them to end."""
        for connection in self.connections:
            connection.close() if connection.is_idle else connection.abort()
        try:
            async with asyncio.timeout(seconds):
                await self.all_ended()
        except TimeoutError:
            for connection in self.connections:
                connection.abort()


def _too_many() -> Overloaded:
    return Overloaded("More callers are connected than limits.connections; nothing was sent, try again.")
