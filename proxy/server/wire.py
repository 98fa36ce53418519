"""The proxy port on aiohttp's low-level `web.Server`: one `Exchange` per request, raw bytes in and out.

Owns everything that touches aiohttp's server: its settings, its error path, and the repairs AIOHTTP.md proves necessary.
Leans on private hooks of aiohttp 3.14 (request factory, RequestHandler); tests/server/test_wire.py holds them down.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from proxy.core.errors import BadRequest, CallerGone, HeadersTooLarge, ProxyError, TargetTooLong

#: Bytes; two different numbers, because aiohttp's LineTooLong tells only the limit that was broken: 414 or 431.
MAX_TARGET: Final = 16 * 1024
MAX_FIELD: Final = 16 * 1024 + 1
MAX_FIELDS: Final = 128
#: Seconds: longer than most load balancers keep theirs, so that they close first (AIOHTTP.md 2.6).
KEEPALIVE_TIMEOUT: Final = 75.0
#: Seconds in which an unread rest of a body is swallowed after an early answer, so that the answer is not reset away.
LINGERING_TIME: Final = 2.0
#: Seconds a caller may pause inside a body, or leave an answer unread.
CALLER_IDLE: Final = 60.0
READ_SIZE: Final = 64 * 1024

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
#: What aiohttp's own server logs holds raw request bytes; whatever is worth a line is logged by us.
_SILENT: Final = logging.getLogger("proxy.wire.silent")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class Exchange:
    """One request of a caller and the way back to it. aiohttp takes it for its request and for its response.

    Everything after `send()` goes out in order; `finish()` says whether the connection can be kept.
    """

    __slots__ = (
        "__weakref__",
        "_error",
        "_task",
        "chunked_answer",
        "head_sent",
        "http_10",
        "keep_alive",
        "method",
        "payload",
        "protocol",
        "raw_headers",
        "target",
        "version",
        "writer",
    )

    def __init__(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: ProxyProtocol,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> None:
        self.method = message.method
        self.target = message.path
        self.version = message.version
        self.raw_headers = message.raw_headers
        self.http_10 = message.version == (1, 0)
        # An answer to an upgrade request (say Java's h2c) ends the connection: aiohttp may have lost what follows it.
        self.keep_alive = not message.should_close and not message.upgrade
        self.payload = payload
        self.protocol = protocol
        self.writer = writer
        self.head_sent = False
        self.chunked_answer = False
        self._task = task
        self._error: ProxyError | None = None

    # What aiohttp asks of its request and response

    async def prepare(self, request: object) -> None:
        """Nothing is left to do: the answer was written by the handler."""

    async def write_eof(self) -> None:
        """Nothing is left to do: the answer was written by the handler."""

    def _finish(self) -> None:
        pass

    def _cancel(self, error: BaseException) -> None:
        # The caller is gone: whoever waits for its body must hear of it.
        self.payload.set_exception(error)

    @property
    def remote(self) -> str | None:
        """The caller's address, for aiohttp's own messages."""
        return self.peer

    # Who calls

    @property
    def peer(self) -> str | None:
        """The caller's IP address, None on a unix socket."""
        name = self.protocol.peername
        return name[0] if isinstance(name, tuple) else None

    @property
    def local(self) -> str | None:
        """The local IP address of the connection, None on a unix socket."""
        name = self.protocol.sockname
        return name[0] if isinstance(name, tuple) else None

    # The body

    def body_at_end(self) -> bool:
        """Say whether the whole body has been read."""
        return self.payload.at_eof()

    def drop_body(self) -> None:
        """Drop what nobody will read; a rest that is still to come ends the connection after the answer."""
        if self.payload.is_eof() and self.payload.exception() is None:
            self.payload.read_nowait(-1)
        else:
            self.close_after()

    async def read(self) -> bytes:
        """Return the next piece of the body, b"" at its end.

        Raises `CallerGone` when the connection ends, `BadRequest` for broken framing or a body that stops coming.
        """
        payload = self.payload
        try:
            if piece := payload.read_nowait(-1):
                return piece
            if payload.at_eof():
                return b""
            async with asyncio.timeout(CALLER_IDLE):
                return await payload.readany()
        except TimeoutError:
            raise BadRequest(f"The request body stopped coming for {CALLER_IDLE:g} s.") from None
        except ProxyError:
            raise
        except HttpProcessingError:
            raise BadRequest("The request body is not framed correctly.") from None
        except (ConnectionError, web.RequestPayloadError):
            raise CallerGone from None

    def go_on(self) -> None:
        """Answer `Expect: 100-continue` (RFC 9110, 10.1.1); not counted as the answer."""
        transport = self.protocol.transport
        if transport is not None and not self.head_sent:
            transport.write(_CONTINUE)

    # The answer

    def send(self, data: bytes) -> None:
        """Write bytes of the answer. Raises `CallerGone` when there is nobody to read them."""
        transport = self.protocol.transport
        if transport is None or transport.is_closing():
            raise CallerGone
        self.head_sent = True
        transport.write(data)

    async def drained(self) -> None:
        """Wait until the caller has read enough. Raises `CallerGone` when it does not, or is gone."""
        if not self.protocol.writing_paused:
            return
        try:
            async with asyncio.timeout(CALLER_IDLE):
                await self.protocol._drain_helper()
        except (TimeoutError, ConnectionError):
            self.abort()
            raise CallerGone from None

    @property
    def draining(self) -> bool:
        """Say whether the proxy is stopping."""
        manager = self.protocol._manager
        return manager is not None and cast(ProxyServer, manager).draining

    def close_after(self) -> None:
        """End the connection after this answer."""
        self.keep_alive = False

    def abort(self) -> None:
        """End the connection now, visibly broken: with a reset, so that no reader takes the answer for complete."""
        self.keep_alive = False
        transport = self.protocol.transport
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


class ProxyProtocol(RequestHandler):
    """aiohttp's connection handler with our error answers, and a body that learns of broken framing."""

    __slots__ = ("_refuse",)

    def __init__(self, manager: ProxyServer, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._refuse = manager.refuse

    @property
    def is_idle(self) -> bool:
        """Say whether no request is being served or waits to be."""
        return self._current_request is None and not self._messages

    def data_received(self, data: bytes) -> None:
        """Parse; a parse error in the middle of a body ends the wait of whoever reads that body."""
        super().data_received(data)
        messages = self._messages
        if messages and isinstance(messages[-1][0], _ErrInfo):
            request = self._current_request
            if request is not None:
                cast(Exchange, request).payload.set_exception(BadRequest("The request body is not framed correctly."))

    def handle_error(  # type: ignore[override]
        self,
        request: Any,
        status: int = 500,  # noqa: ARG002  # aiohttp's signature
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # aiohttp's signature
    ) -> Exchange:
        """Answer what never became a request, or a bug, without a byte of it in the answer or the log."""
        exchange = cast(Exchange, request)
        exchange.close_after()
        if exchange.head_sent:
            exchange.abort()
        else:
            self._refuse(exchange, _refusal(exc), exc)
        return exchange


def _refusal(error: BaseException | None) -> ProxyError:
    if isinstance(error, LineTooLong):
        if error.args[1] == str(MAX_TARGET) or error.args[1] == MAX_TARGET:
            return TargetTooLong(f"The request target is longer than {MAX_TARGET} bytes.")
        return HeadersTooLarge(f"A header field is longer than {MAX_FIELD} bytes.")
    if isinstance(error, HttpProcessingError):
        if "Too many headers" in error.message:
            return HeadersTooLarge(f"The request has more than {MAX_FIELDS} header fields.")
        return BadRequest("The request is not valid HTTP/1.1.")
    return ProxyError("The proxy failed; its log says where.")


class ProxyServer(web.Server):
    """Makes a `ProxyProtocol` per connection. `handler` answers an Exchange, `refuse` what never became one."""

    def __init__(
        self,
        handler: Callable[[Exchange], Awaitable[Exchange]],
        refuse: Callable[[Exchange, ProxyError, BaseException | None], None],
        *,
        most_connections: int,
    ) -> None:
        self.refuse = refuse
        self._most_connections = most_connections
        #: While the proxy stops, every answer ends its connection.
        self.draining = False
        self._ended = asyncio.Event()
        super().__init__(
            cast(Any, handler),
            request_factory=cast(Any, Exchange),
            # A caller that leaves ends its upstream request; renewals are tasks of their own.
            handler_cancellation=True,
        )

    def __call__(self) -> RequestHandler:
        """Make the protocol ourselves: aiohttp drops all settings when one is misspelt (AIOHTTP.md 1, 6)."""
        return ProxyProtocol(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_TIMEOUT,
            logger=_SILENT,
            access_log=None,
            max_line_size=MAX_TARGET,
            max_field_size=MAX_FIELD,
            max_headers=MAX_FIELDS,
            lingering_time=LINGERING_TIME,
            read_bufsize=READ_SIZE,
            # Bodies go up as they came; decompressed ones would keep their Content-Encoding (AIOHTTP.md 1, 6).
            auto_decompress=False,
        )

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection in; beyond the bound the one that has been idle longest makes room for it."""
        super().connection_made(handler, transport)
        if self.draining:
            handler.force_close()  # it stood in the backlog when the listener was closed
        elif len(self._connections) > self._most_connections:
            idle = (c for c in self._connections if c is not handler and cast(ProxyProtocol, c).is_idle)
            next(idle, handler).force_close()

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Count a connection out."""
        super().connection_lost(handler, exc)
        self._ended.set()

    def drop_dead(self) -> None:
        """End connections that were reset while nothing is read from them, because an upload waits for CardCash."""
        for connection in self.connections:
            transport = connection.transport
            if transport is None or not connection._reading_paused:
                continue
            sock = transport.get_extra_info("socket")
            poll = select.poll()
            poll.register(sock.fileno(), 0)  # errors are reported unasked
            if poll.poll(0):
                transport.abort()

    async def all_ended(self) -> None:
        """Wait until every connection has written its last byte and ended."""
        while any(connection.transport is not None for connection in self.connections):
            self._ended.clear()
            await self._ended.wait()

    def idle_connections(self) -> list[ProxyProtocol]:
        """List connections on which no request is being served."""
        return [c for c in self.connections if isinstance(c, ProxyProtocol) and c.is_idle]
