"""The proxy port: all callers' connections.

Owns how many there are, when each is looked after, and how they end together. There is no timer per connection: `look()`
is called every second and goes through all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from proxy.core.errors import ProxyError
from proxy.server.exchange import Exchange
from proxy.server.wire import CallerConnection


class ProxyServer:
    """Makes a `CallerConnection` per connection. `handler` answers an Exchange, `refuse` what never became one.

    `required` is the lower-case name of `callers.require_header`. Must be made where the event loop runs.
    """

    def __init__(
        self,
        handler: Callable[[Exchange], Awaitable[None]],
        refuse: Callable[[Exchange, ProxyError], None],
        *,
        most_connections: int,
        required: bytes | None = None,
    ) -> None:
        self.handler = handler
        self.refuse = refuse
        self.required = required
        self.loop = asyncio.get_running_loop()
        self.time = self.loop.time
        self._most_connections = most_connections
        #: While the proxy stops, every answer ends its connection.
        self.draining = False
        # A dict for its order: the first idle one has been here longest.
        self._connections: dict[CallerConnection, None] = {}
        self._ended = asyncio.Event()

    def __call__(self) -> CallerConnection:
        """Make the protocol of a new connection."""
        return CallerConnection(self)

    @property
    def connections(self) -> list[CallerConnection]:
        """List all connections that are open."""
        return list(self._connections)

    def idle_connections(self) -> list[CallerConnection]:
        """List connections on which no request is being served."""
        return [connection for connection in self._connections if connection.is_idle]

    def joined(self, connection: CallerConnection) -> None:
        """Count a connection in; beyond the bound one that is idle makes room for it."""
        self._connections[connection] = None
        if self.draining:
            connection.close_if_idle()  # it stood in the backlog when the listener was closed
        elif len(self._connections) > self._most_connections:
            idle = (other for other in self._connections if other.is_idle and other is not connection)
            next(idle, connection).close()

    def left(self, connection: CallerConnection) -> None:
        """Count a connection out."""
        self._connections.pop(connection, None)
        self._ended.set()

    def look(self) -> None:
        """Look after all connections: time-outs, and callers whose end cannot be seen by reading."""
        now = self.time()
        for connection in self.connections:
            connection.look(now)

    def fail_bodies(self, error: ProxyError) -> None:
        """Let whoever waits for the rest of a request's body hear that it will not be waited for."""
        for connection in self._connections:
            if connection.exchange is not None:
                connection.exchange.fail(error)

    async def all_ended(self) -> None:
        """Wait until every connection has written its last byte and ended."""
        while self._connections:
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
