"""One connection of a caller: one request after the other, an `Exchange` and a task for each.

Owns the connection's life: where a request begins and ends, back-pressure, time-outs, and how it ends without taking
answers away that are still on their way. aiohttp's server is not used here: it takes trailers for headers of the next
request and reflects what it refuses (AIOHTTP.md 1), at twice the cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, cast

from proxy.core.errors import BadRequest, CallerGone, ProxyError
from proxy.core.request_fields import RequestFields
from proxy.http.request_head import RequestHead, check_partial
from proxy.server import tcp
from proxy.server.exchange import Exchange

if TYPE_CHECKING:
    from proxy.server.proxy_port import ProxyServer

#: Seconds: longer than most load balancers keep theirs, so that they close first (AIOHTTP.md 2.6).
KEEPALIVE_TIMEOUT: Final = 75.0
#: Seconds from the first byte of a head to its last.
HEAD_TIMEOUT: Final = 30.0
#: Seconds in which what a caller still sends is swallowed after the last answer, so that the answer is not reset away.
LINGERING_TIME: Final = 2.0
#: Seconds between two looks whether a caller has everything that was written before its connection is reset.
_LOOK_AGAIN: Final = 0.05
#: Seconds in which a connection that was just made may bring its first request, when the proxy stops or is full.
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

    __slots__ = ("_ahead", "_body_due", "_broken", "_can_write", "_drain", "_drain_due", "_fresh", "_idle_since",
                 "_lingering", "_moved", "_partial", "_server", "_task", "_transport", "_turned_away", "_unwritten",
                 "deadline", "exchange", "local", "paused", "peer")  # fmt: skip

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
        # Each wait has a time of its own, because a body and an answer may be waited for at once.
        #: The loop's time at which a head must have come, or the end.
        self.deadline = inf
        #: The same for more of a body, and for the caller to take more of an answer.
        self._body_due = self._drain_due = inf
        #: No request has come yet.
        self._fresh = True
        #: When the last answer was out, or the first byte of a head came.
        self._idle_since = 0.0
        #: Why no request of this connection will be served.
        self._turned_away: ProxyError | None = None

    @property
    def is_idle(self) -> bool:
        """Say whether no request is being served and no answer is still being written."""
        if self.exchange is not None or self._lingering:
            return False
        return self._transport is not None and not self._transport.is_closing()

    @property
    def has_partial_head(self) -> bool:
        """Say whether a part of a head has come, and not the rest."""
        return bool(self._partial)

    def idle_for(self, now: float) -> float:
        """Seconds for which it could have brought a request and did not."""
        return now - self._idle_since if self.is_idle else 0.0

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
        self._idle_since = self._server.time()
        self.deadline = self._idle_since + KEEPALIVE_TIMEOUT
        self._server.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """End what is left: the caller is gone."""
        self._transport = None
        self.deadline = self._body_due = self._drain_due = inf
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

    def close_if_idle(self, *, patient: bool = True) -> None:
        """End the connection because the proxy stops; one that was just made may be about to bring a request, and one that
        has brought half a head has its usual time for the rest."""
        if not self.is_idle or self._partial:
            return
        if self._fresh and patient:
            self._server.loop.call_later(_FIRST_REQUEST, partial(self.close_if_idle, patient=False))
        else:
            self.close()

    def turn_away(self, error: ProxyError, *, at_once: bool) -> None:
        """Answer with `error`, whatever comes: at once, or with the first bytes of a request, which come at once as well, so
        that clients find the answer where they look for one."""
        self._turned_away = error
        if at_once or self._partial:
            self.tell_away()
        else:
            self._server.loop.call_later(_FIRST_REQUEST, self.tell_away)

    def tell_away(self) -> None:
        """Give the answer of `turn_away`, if it is not given yet."""
        if self._turned_away is not None and self.is_idle:
            self._refuse(self._turned_away, bytes(self._partial))

    def abort(self) -> None:
        """End the connection with a reset. Part of `Link`."""
        transport = self._transport
        if transport is None:
            return
        tcp.reset_at_close(transport.get_extra_info("socket"))
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
        return transport.get_write_buffer_size() + tcp.unsent(transport.get_extra_info("socket"))

    # 2. Requests.

    def data_received(self, data: bytes) -> None:
        """Take the next bytes: of a head, of a body, or of requests to come."""
        exchange = self.exchange
        if exchange is None:
            if self._turned_away is not None:
                self.tell_away()
            elif not self._lingering:
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
                    self._idle_since = self._server.time()
                    self.deadline = self._idle_since + HEAD_TIMEOUT
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
        self._idle_since = self._server.time()
        self.deadline = self._idle_since + KEEPALIVE_TIMEOUT
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
            self._drain_due = self._server.time() + CALLER_IDLE
            self._drain = self._server.loop.create_future()
            try:
                await self._drain
            finally:
                self._drain = None
                self._drain_due = inf
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
            self._body_due = self._server.time() + CALLER_IDLE if waiting else inf

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

    def look(self, now: float) -> None:
        """Do what is due, and see an end that cannot be seen by reading."""
        if now >= self._body_due and self.exchange is not None:
            self._body_due = inf
            self.exchange.fail(BadRequest(f"The request body stopped coming for {CALLER_IDLE:g} s."))
        if now >= self._drain_due:
            self._drain_due = now + CALLER_IDLE
            if not self._takes(now):
                self.abort()
        if now >= self.deadline:
            self._end_waiting(now)
        # It waits for CardCash, nothing is read, and so nobody would see that the caller is gone.
        if self.paused and self._transport is not None and tcp.is_reset(self._transport.get_extra_info("socket")):
            self._transport.abort()

    def _takes(self, now: float) -> bool:
        """Say whether the caller has taken some of what is written since the last look."""
        left = self._left()
        if left < self._unwritten:
            self._unwritten, self._moved = left, now
        return self._moved == now

    def _end_waiting(self, now: float) -> None:
        """End a connection that has had its time between two requests, or after the last."""
        transport = self._transport
        if transport is None:
            return
        takes = self._takes(now)
        if self._left() and (takes or now - self._moved < CALLER_IDLE):
            self.deadline = now + LINGERING_TIME  # it reads slowly, but it reads
        elif self._left() or self._broken or transport.is_closing():
            self.abort()
        else:
            self.close()


def _address(name: object) -> str | None:
    return name[0] if isinstance(name, tuple) else None
