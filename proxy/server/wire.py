"""The proxy port: one `CallerConnection` per caller, one `Exchange` per request, one task per exchange.

Owns the connections' lives: parsing one request after the other, time-outs, back-pressure, lingering, draining. There is
no timer per connection: `look()` is called every few seconds and goes through all of them. aiohttp's server is not used
here: it takes trailers for headers of the next request and reflects what it refuses (AIOHTTP.md 1), at twice the cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import socket
import struct
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, cast

from proxy.core.errors import BadRequest, CallerGone, ProxyError
from proxy.core.headers import RequestFields
from proxy.server.exchange import Exchange
from proxy.server.head import RequestHead, check_partial

#: Seconds: longer than most load balancers keep theirs, so that they close first (AIOHTTP.md 2.6).
KEEPALIVE_TIMEOUT: Final = 75.0
#: Seconds from the first byte of a head to its last.
HEAD_TIMEOUT: Final = 30.0
#: Seconds in which an unread rest of a body is swallowed after an early answer, so that the answer is not reset away.
LINGERING_TIME: Final = 2.0
#: Seconds a caller may pause inside a body, or leave an answer unread.
CALLER_IDLE = 60.0
#: RFC 9112, 2.2: what some clients send after a body.
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")
#: Bytes of further requests taken in while one is served.
_MOST_AHEAD: Final = 64 * 1024


class CallerConnection(asyncio.Protocol):
    """One caller's connection; all methods belong to the event loop's thread."""

    __slots__ = ("_ahead", "_can_write", "_drain", "_exchange", "_lingering", "_partial", "_server", "_task",
                 "_transport", "_unwritten", "deadline", "local", "paused", "peer")  # fmt: skip

    def __init__(self, server: ProxyServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self.peer: str | None = None
        self.local: str | None = None
        #: What has come of a head that is not complete.
        self._partial = bytearray()
        #: What has come after the request that is being served.
        self._ahead = b""
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._lingering = False
        #: Nothing is read, because somebody has to catch up.
        self.paused = False
        self._can_write = True
        self._drain: asyncio.Future[None] | None = None
        self._unwritten = 0
        #: The loop's time at which `expired` is due.
        self.deadline = inf

    @property
    def is_idle(self) -> bool:
        """Say whether no request is being served and no answer is still being written."""
        if self._exchange is not None or self._lingering:
            return False
        return self._transport is not None and not self._transport.is_closing()

    @property
    def draining(self) -> bool:
        """Say whether the proxy is stopping. Part of `Link`."""
        return self._server.draining

    # 1. Life.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self.peer = _address(transport.get_extra_info("peername"))
        self.local = _address(transport.get_extra_info("sockname"))
        self.deadline = self._server.time() + KEEPALIVE_TIMEOUT
        self._server.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """End what is left: the caller is gone."""
        self._transport = None
        self.deadline = inf
        self._partial.clear()
        self._ahead = b""
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)
        if self._exchange is not None:
            self._exchange.fail(CallerGone())
        if self._task is not None:
            # Its upstream request ends with it; renewals are tasks of their own.
            self._task.cancel()
        self._server.left(self)

    def close(self) -> None:
        """End the connection when what was written is out."""
        if self._transport is not None and not self._transport.is_closing():
            self._unwritten = 0
            self.deadline = self._server.time() + CALLER_IDLE
            self._transport.close()

    def abort(self) -> None:
        """End the connection with a reset. Part of `Link`."""
        transport = self._transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # uvloop's socket object cannot set options; the descriptor can.
            try:
                with socket.socket(fileno=os.dup(sock.fileno())) as same:
                    same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass
        transport.abort()

    # 2. Requests.

    def data_received(self, data: bytes) -> None:
        """Take the next bytes: of a head, of a body, or of requests to come."""
        exchange = self._exchange
        if exchange is None:
            if not self._lingering:
                self._take_head(data)
        elif exchange.body_received:
            self._take_ahead(data)
        else:
            rest = exchange.feed(data)
            if rest:
                self._take_ahead(rest)

    def _take_ahead(self, data: bytes) -> None:
        self._ahead += data
        if len(self._ahead) > _MOST_AHEAD:
            self.pause_reading()

    def _take_head(self, data: bytes) -> None:
        if len(self._partial) == 1:  # nothing is told by one byte, not even by the first half of an empty line
            data = bytes(self._partial) + data
            self._partial.clear()
        known = len(self._partial)
        if known:
            self._partial += data
            end = self._partial.find(b"\r\n\r\n", max(0, known - 3)) + 4
            if end > 3:
                data = bytes(self._partial)
                self._partial.clear()
        else:
            if skipped := _EMPTY_LINES.match(data):
                data = data[skipped.end() :]
            end = data.find(b"\r\n\r\n") + 4
        try:
            if end == 3:
                if not known and data:
                    self._partial += data
                    self.deadline = self._server.time() + HEAD_TIMEOUT
                if self._partial and self._partial != b"\r":
                    check_partial(self._partial, known)
                return
            head = RequestHead(data if end == len(data) else data[:end], required=self._server.required)
        except ProxyError as error:
            self._refuse(error)
            return
        exchange = self._exchange = Exchange(
            self,
            method=head.method,
            target=head.target,
            http_10=head.http_10,
            fields=head.fields,
            chunks=head.decoder(),
        )
        self.deadline = inf
        if end != len(data):
            self.data_received(data[end:])
        self._task = self._server.loop.create_task(self._serve(exchange))

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._server.handler(exchange)
            if not self._can_write:
                # Whoever asks on without reading must not fill our memory with answers.
                with contextlib.suppress(CallerGone):
                    await self.drained()
        finally:
            self._served(exchange)

    def _served(self, exchange: Exchange) -> None:
        """Go on with the next request, or end."""
        self._exchange = self._task = None
        if self._transport is None or self._transport.is_closing():
            return
        if not exchange.keep_alive or not exchange.body_received:
            self._end(clean=exchange.body_received and not self._ahead)
            return
        self.deadline = self._server.time() + KEEPALIVE_TIMEOUT
        self.resume_reading()
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            self._take_head(ahead)

    def _refuse(self, error: ProxyError) -> None:
        """Answer what never became a request, without a byte of it in the answer or the log."""
        exchange = Exchange(
            self, method="", target="", http_10=False, fields=RequestFields(persistent=False), chunks=None
        )
        self._partial.clear()
        self._server.refuse(exchange, error)
        self._end(clean=False)

    def _end(self, *, clean: bool) -> None:
        """Close; while the caller may still be sending, first swallow it, or a reset would take the answer away."""
        if clean or self._transport is None:
            self.close()
            return
        self._lingering = True
        self._ahead = b""
        self.deadline = self._server.time() + LINGERING_TIME
        self.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    # 3. The exchange's side. Part of `Link`.

    def write(self, data: bytes) -> bool:
        """Write bytes; False: the connection is gone."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        transport.write(data)
        return True

    async def drained(self) -> None:
        """Wait until the caller has read enough. Raises `CallerGone` when it does not, or is gone."""
        while not self._can_write and self._transport is not None:
            self._unwritten = self._transport.get_write_buffer_size()
            self.deadline = self._server.time() + CALLER_IDLE
            self._drain = self._server.loop.create_future()
            try:
                await self._drain
            finally:
                self._drain = None
                self.deadline = inf
        if self._transport is None:
            raise CallerGone

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._can_write = False

    def resume_writing(self) -> None:
        """The transport's buffer has room."""
        self._can_write = True
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)

    def wait_for_body(self, waiting: bool) -> None:
        """Note that somebody waits for the caller to send, or no longer."""
        if self._transport is not None:
            self.deadline = self._server.time() + CALLER_IDLE if waiting else inf

    def pause_reading(self) -> None:
        """Read no more for now."""
        if not self.paused and self._transport is not None:
            self.paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self.paused and self._transport is not None:
            self.paused = False
            self._transport.resume_reading()

    # 4. Time.

    def expired(self, now: float) -> None:
        """Do what is due at `deadline`."""
        transport, exchange = self._transport, self._exchange
        if transport is None:
            return
        left = transport.get_write_buffer_size()
        if left and left < self._unwritten:
            # It reads slowly, but it reads.
            self._unwritten = left
            self.deadline = now + CALLER_IDLE
        elif exchange is None:
            self.deadline = now + CALLER_IDLE  # for what is left to be written
            transport.abort() if left or transport.is_closing() else transport.close()
        elif self._drain is not None:
            self.abort()
        else:
            self.deadline = inf
            exchange.fail(BadRequest(f"The request body stopped coming for {CALLER_IDLE:g} s."))

    def check(self) -> None:
        """End a connection that was reset while nothing is read from it, because an upload waits for CardCash."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None:
            return
        poll = select.poll()
        poll.register(sock.fileno(), 0)  # errors are reported unasked
        if poll.poll(0) and self._transport is not None:
            self._transport.abort()


def _address(name: object) -> str | None:
    return name[0] if isinstance(name, tuple) else None


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
            connection.close()  # it stood in the backlog when the listener was closed
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
            if now >= connection.deadline:
                connection.expired(now)
            elif connection.paused:
                connection.check()

    def fail_bodies(self, error: ProxyError) -> None:
        """Let whoever waits for the rest of a request's body hear that it will not be waited for."""
        for exchange in (connection._exchange for connection in self._connections):
            if exchange is not None:
                exchange.fail(error)

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
