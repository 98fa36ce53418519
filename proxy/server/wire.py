"""One connection of a caller: one request after the other, an `Exchange` and a task for each.

Owns the connection's life: where a request begins and ends, back-pressure, time-outs, and how it ends without taking
answers away that are still on their way. aiohttp's server is not used here: it takes trailers for headers of the next
request and reflects what it refuses (AIOHTTP.md 1), at twice the cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import re
import select
import socket
import struct
import termios
from math import inf
from typing import TYPE_CHECKING, Final, cast

from proxy.core.errors import BadRequest, CallerGone, ProxyError
from proxy.core.headers import RequestFields
from proxy.server.exchange import Exchange
from proxy.server.head import RequestHead, check_partial

if TYPE_CHECKING:
    from proxy.server.callers import ProxyServer

#: Seconds: longer than most load balancers keep theirs, so that they close first (AIOHTTP.md 2.6).
KEEPALIVE_TIMEOUT: Final = 75.0
#: Seconds from the first byte of a head to its last.
HEAD_TIMEOUT: Final = 30.0
#: Seconds in which what a caller still sends is swallowed after the last answer, so that the answer is not reset away.
LINGERING_TIME: Final = 2.0
#: Seconds between two looks whether a caller has everything that was written before its connection is reset.
_LOOK_AGAIN: Final = 0.05
#: Seconds in which a connection that was just made may bring a request, to be told that the proxy stops.
_FIRST_REQUEST: Final = 0.25
#: Seconds a caller may pause inside a body, or leave an answer unread.
CALLER_IDLE = 60.0
#: RFC 9112, 2.2: what some clients send after a body.
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")
_CR: Final = 13
#: Bytes of further requests taken in while one is served.
_MOST_AHEAD: Final = 64 * 1024


class CallerConnection(asyncio.Protocol):
    """One caller's connection; all methods belong to the event loop's thread."""

    __slots__ = ("_ahead", "_broken", "_can_write", "_drain", "_fresh", "_lingering", "_moved", "_partial", "_server",
                 "_task", "_transport", "_unwritten", "deadline", "exchange", "local", "paused", "peer")  # fmt: skip

    def __init__(self, server: ProxyServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self.peer: str | None = None
        self.local: str | None = None
        #: What has come of a head that is not complete.
        self._partial = bytearray()
        #: What has come after the request that is being served.
        self._ahead = b""
        #: The request that is being served.
        self.exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        #: The last answer is written; what still comes is swallowed.
        self._lingering = False
        #: An answer broke off: the connection ends with a reset, once the answers before it have arrived.
        self._broken = False
        #: Nothing is read, because somebody has to catch up.
        self.paused = False
        self._can_write = True
        self._drain: asyncio.Future[None] | None = None
        #: What the caller had not taken at the last look, and when it last took some.
        self._unwritten: float = inf
        self._moved = 0.0
        #: The loop's time at which `expired` is due.
        self.deadline = inf
        #: No request has come yet.
        self._fresh = True

    @property
    def is_idle(self) -> bool:
        """Say whether no request is being served and no answer is still being written."""
        if self.exchange is not None or self._lingering:
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
        if self.exchange is not None:
            self.exchange.fail(CallerGone())
        if self._task is not None:
            # Its upstream request ends with it; renewals are tasks of their own.
            self._task.cancel()
        self._server.left(self)

    def close(self) -> None:
        """End the connection when what was written is out."""
        if self._transport is not None and not self._transport.is_closing():
            self._unwritten = inf
            self.deadline = self._server.time() + CALLER_IDLE
            self._transport.close()

    def close_if_idle(self) -> None:
        """End the connection because the proxy stops; one that was just made may be about to bring a request."""
        if self.is_idle and self._fresh:
            self._fresh = False
            self._server.loop.call_later(_FIRST_REQUEST, self.close_if_idle)
        elif self.is_idle:
            self.close()

    def abort(self) -> None:
        """End the connection with a reset. Part of `Link`."""
        transport = self._transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) and sock.fileno() >= 0:
            # uvloop's socket object cannot set options. No second descriptor: there may be none left, and without the reset
            # an answer that the end of its connection delimits would look complete.
            same = socket.socket(sock.family, socket.SOCK_STREAM, fileno=sock.fileno())
            with contextlib.suppress(OSError):
                same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            same.detach()
        transport.abort()

    def break_off(self) -> None:
        """End the connection with a reset, after what was written has arrived. Part of `Link`."""
        if self._left():
            if not self._broken:
                self._broken = self._lingering = True
                self._unwritten = inf
                self.deadline = self._server.time() + LINGERING_TIME
            self._server.loop.call_later(_LOOK_AGAIN, self.break_off)
        else:
            self.abort()

    def _left(self) -> int:
        """Bytes that are written and not yet with the caller's system, as far as ours can tell."""
        transport = self._transport
        if transport is None:
            return 0
        sock = transport.get_extra_info("socket")
        queued = 0
        if sock is not None and sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                queued = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
        return transport.get_write_buffer_size() + queued

    # 2. Requests.

    def data_received(self, data: bytes) -> None:
        """Take the next bytes: of a head, of a body, or of requests to come."""
        exchange = self.exchange
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
            if data[0] == _CR and (skipped := _EMPTY_LINES.match(data)):
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
            self._refuse(error, data)
            return
        exchange = self.exchange = Exchange(
            self,
            method=head.method,
            target=head.target,
            http_10=head.http_10,
            fields=head.fields,
        )
        self.deadline = inf
        self._fresh = False
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
        self.exchange = self._task = None
        if self._transport is None or self._transport.is_closing() or self._broken:
            return
        if not exchange.keep_alive or not exchange.body_received or self._server.draining:
            self._end()
            return
        self.deadline = self._server.time() + KEEPALIVE_TIMEOUT
        self.resume_reading()
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            self._take_head(ahead)

    def _refuse(self, error: ProxyError, data: bytes) -> None:
        """Answer what never became a request, without a byte of it in the answer or the log."""
        # The answer to HEAD has no body (RFC 9110, 9.3.2), whatever is wrong with the rest.
        method = "HEAD" if bytes(self._partial[:5] or data[:5]) == b"HEAD " else ""
        exchange = Exchange(self, method=method, target="", http_10=False, fields=RequestFields(persistent=False))
        self._partial.clear()
        self._server.refuse(exchange, error)
        self._end()

    def _end(self) -> None:
        """Say that no more will come, and swallow what does: bytes to a closed socket are answered with a reset, and that
        would take away what of the answer is still on its way."""
        if self._transport is None:
            return
        self._lingering = True
        self._ahead = b""
        self._unwritten = inf
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
            self._unwritten = self._left()
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
        transport, exchange = self._transport, self.exchange
        if transport is None:
            return
        left = self._left()
        if left < self._unwritten:
            self._unwritten, self._moved = left, now
        if exchange is None:
            if left and now - self._moved < CALLER_IDLE:
                self.deadline = now + LINGERING_TIME  # it reads slowly, but it reads
            elif left or self._broken or transport.is_closing():
                self.abort()
            else:
                self.close()
        elif self._drain is None:
            self.deadline = inf
            exchange.fail(BadRequest(f"The request body stopped coming for {CALLER_IDLE:g} s."))
        elif self._moved == now:
            self.deadline = now + CALLER_IDLE
        else:
            self.abort()

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
