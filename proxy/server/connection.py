"""One connection of a caller: one request after the other, an `Exchange` and a task for each, in one phase at a time.

    phase      bytes of the caller are            goes on to
    HEAD       a request's head                   BODY, SERVING; LINGERING when it is refused; AWAY
    BODY       the body of the one being served   SERVING; LINGERING when it was answered before its end
    SERVING    requests to come: kept, bounded    HEAD; LINGERING when the answer was the last one
    AWAY       not read: at their sight, or soon without them, the refusal is given; LINGERING
    LINGERING  discarded: the last answer is out  CLOSING
    BREAKING   discarded: an answer broke off, and the connection is reset when those before it have arrived
    CLOSING    –: what was written drains out

Every phase but BODY and SERVING has a time of its own, and so has every wait in those two: for more of the body, and for the
caller to take more of the answer. Each phase has its handler for bytes, see `_RECEIVE`.

Owns where a request begins and ends, back-pressure, time-outs, and how it ends without taking answers away that are still on
their way. aiohttp's server is not used here: its parser takes trailers for headers of the next request, and its errors
reflect what it refuses (seen in 3.13), at twice the cost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from functools import partial
from math import inf
from typing import ClassVar, Final, Protocol, cast

from proxy.core.errors import BadRequest, CallerGone, ProxyError
from proxy.core.request_fields import RequestFields
from proxy.http.flow import Flow
from proxy.http.heads import HeadReader
from proxy.http.request_head import check_partial_request, read_head
from proxy.server import tcp
from proxy.server.exchange import Exchange

#: Seconds: longer than most load balancers keep theirs (60 s), so that they close first.
KEEPALIVE_TIMEOUT: Final = 75.0
#: Seconds from the first byte of a head to its last.
HEAD_TIMEOUT: Final = 30.0
#: Seconds in which what a caller still sends is discarded after the last answer, so that the answer is not reset away.
LINGERING_TIME: Final = 2.0
#: Seconds between two looks whether a caller has everything that was written before its connection is reset.
_LOOK_AGAIN: Final = 0.05
#: Seconds in which a connection that was just made may bring its first request, when the proxy stops or is full.
_FIRST_REQUEST: Final = 0.25
#: Seconds a caller may pause inside a body, or leave an answer unread.
CALLER_IDLE = 60.0
#: Bytes of further requests taken in while one is served.
_MOST_AHEAD: Final = 64 * 1024


Phase = IntEnum("Phase", "HEAD BODY SERVING AWAY LINGERING BREAKING CLOSING", start=0)
_HEAD, _BODY, _SERVING, _AWAY, _LINGERING, _BREAKING, _CLOSING = Phase


class Port(Protocol):
    """The proxy port as its connections know it; `required` is as `read_head` takes it."""

    loop: asyncio.AbstractEventLoop
    time: Callable[[], float]
    handler: Callable[[Exchange], Awaitable[None]]
    refuse: Callable[[Exchange, ProxyError], None]
    required: bytes | None
    draining: bool

    def joined(self, connection: CallerConnection) -> None:
        """Count a connection in, or turn it away."""

    def left(self, connection: CallerConnection) -> None:
        """Count a connection out."""


class CallerConnection(Flow, asyncio.Protocol):
    """One caller's connection; all methods belong to the event loop's thread."""

    __slots__ = (
        "_ahead",
        "_body_due",
        "_drain_due",
        "_idle_since",
        "_last",
        "_moved",
        "_phase",
        "_refusal",
        "_server",
        "_task",
        "_unwritten",
        "deadline",
        "exchange",
        "fresh",
        "head",
        "local",
        "peer",
    )  # fmt: skip

    def __init__(self, server: Port) -> None:
        super().__init__()
        self._server = server
        self.peer: str | None = None
        self.local: str | None = None
        self.head = HeadReader(check_partial_request, lenient=True)
        #: What has come after the request that is being served.
        self._ahead = b""
        #: The request that is being served.
        self.exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        #: What the caller had not taken at the last look, and when it last took some.
        self._unwritten: float = inf
        self._moved = 0.0
        # Each wait has a time of its own, because a body and an answer may be waited for at once; all are the loop's.
        #: When more of a body must have come, and when the caller must have taken more of an answer.
        self._body_due = self._drain_due = inf
        #: No request has come yet.
        self.fresh = True
        #: The fields of the last request.
        self._last: RequestFields | None = None
        #: When the last answer was out, or the first byte of a head came.
        self._idle_since = 0.0
        #: Why no request of this connection will be served (AWAY).
        self._refusal: ProxyError | None = None
        self._phase = _HEAD
        #: When the phase is over, whatever has come.
        self.deadline = inf

    def _discard_until(self, deadline: float, phase: Phase) -> None:
        """Begin a phase in which nothing more is served."""
        self._phase, self.deadline, self._unwritten = phase, deadline, inf

    @property
    def is_idle(self) -> bool:
        """Say whether no request is being served and no answer is still being written."""
        return self._phase in (_HEAD, _AWAY) and self.is_open()

    @property
    def has_partial_head(self) -> bool:
        """Say whether a part of a head has come, and not the rest."""
        return bool(self.head.begun)

    def idle_for(self, now: float) -> float:
        """Seconds for which it could have brought a request and did not."""
        return now - self._idle_since if self.is_idle else 0.0

    # 1. Life.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        super().connection_made(transport)
        # Whoever reads slowly costs one segment of an answer: no other is asked for while any of it waits here.
        cast("asyncio.Transport", transport).set_write_buffer_limits(high=0)
        self.peer = _address(transport.get_extra_info("peername"))
        self.local = _address(transport.get_extra_info("sockname"))
        self._wait_for_head(KEEPALIVE_TIMEOUT)
        self._server.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is left: the caller is gone."""
        super().connection_lost(exc)
        self._discard_until(inf, _CLOSING)
        self._body_due = self._drain_due = inf
        self.head.begun.clear()
        self._ahead = b""
        self._last = None
        if self.exchange is not None:
            self.exchange.fail(CallerGone())
        if self._task is not None:
            # Its upstream request ends with it; renewals are tasks of their own.
            self._task.cancel()
        self._server.left(self)

    def close(self) -> None:
        """End the connection when what was written is out."""
        if self._transport is not None and not self._transport.is_closing():
            self._discard_until(self._server.time() + CALLER_IDLE, _CLOSING)
            self._transport.close()

    def close_if_idle(self, *, patient: bool = True) -> None:
        """End the connection because the proxy stops; one that was just made may be about to bring a request, and one that
        has brought half a head has its usual time for the rest."""
        if not self.is_idle or self.has_partial_head:
            return
        if self.fresh and patient:
            self._server.loop.call_later(_FIRST_REQUEST, partial(self.close_if_idle, patient=False))
        else:
            self.close()

    def turn_away(self, error: ProxyError, *, at_once: bool) -> None:
        """Answer with `error`, whatever comes: at once, or with the first bytes of a request, which come at once as well, so
        that clients find the answer where they look for one."""
        self._refusal = error
        self._phase, self.deadline = _AWAY, inf
        if at_once or self.has_partial_head:
            self.tell_away()
        else:
            self._server.loop.call_later(_FIRST_REQUEST, self.tell_away)

    def tell_away(self, _: bytes = b"") -> None:
        """Give the answer of `turn_away`, if it is not given yet."""
        if self._phase is _AWAY and self._refusal is not None and self.is_open():
            self._refuse(self._refusal, bytes(self.head.begun))

    def abort(self) -> None:
        """End the connection with a reset. Part of `Link`."""
        transport = self._transport
        if transport is None:
            return
        tcp.reset_at_close(transport.get_extra_info("socket"))
        transport.abort()

    def break_off(self) -> None:
        """End the connection with a reset, after what was written has arrived. Part of `Link`."""
        if self.unread():
            if self._phase is not _BREAKING:
                self._discard_until(self._server.time() + LINGERING_TIME, _BREAKING)
            self._server.loop.call_later(_LOOK_AGAIN, self.break_off)
        else:
            self.abort()

    def unread(self) -> int:
        """Bytes that are written and not yet with the caller's system, as far as ours can tell. Part of `Link`."""
        transport = self._transport
        if transport is None:
            return 0
        return transport.get_write_buffer_size() + tcp.unsent(transport.get_extra_info("socket"))

    # 2. Requests.

    def data_received(self, data: bytes) -> None:
        """Take the next bytes."""
        self._RECEIVE[self._phase](self, data)

    def _wait_for_head(self, seconds: float) -> None:
        self._idle_since = now = self._server.time()
        self._phase, self.deadline = _HEAD, now + seconds

    def _receive_head(self, data: bytes) -> None:
        raw, began, server = b"", bool(self.head.begun), self._server
        try:
            found = self.head.feed(data)
            if found is None:
                if self.head.begun and not began:
                    self._wait_for_head(HEAD_TIMEOUT)
                return
            raw, rest = found
            method, target, fields = read_head(raw, server.required, self._last)
        except ProxyError as error:
            self._refuse(error, raw or bytes(self.head.begun))
            return
        self._last, self.fresh = fields, False
        exchange = self.exchange = Exchange(self, server.loop, method, target, fields)
        self._phase, self.deadline = _SERVING if exchange.body is None else _BODY, inf
        if server.draining:
            exchange.close_after()
        if rest:
            self.data_received(rest)
        # The loop's own way to make one costs a name for each.
        self._task = asyncio.Task(self._serve(exchange), loop=server.loop, name="request")

    def _receive_body(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None  # noqa: S101 — set with the phase
        rest = exchange.feed(data)
        if exchange.body is not None and exchange.body.complete:
            self._phase = _SERVING
            if rest:
                self._receive_ahead(rest)

    def _receive_ahead(self, data: bytes) -> None:
        self._ahead += data
        if len(self._ahead) > _MOST_AHEAD:
            self.pause_reading()

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._server.handler(exchange)
            if not self.can_write:
                # Whoever asks on without reading must not fill our memory with answers.
                with contextlib.suppress(CallerGone):
                    await self.drained()
        finally:
            self._served(exchange)

    def _served(self, exchange: Exchange) -> None:
        """Go on with the next request, or end."""
        self.exchange = self._task = None
        if self._phase not in (_BODY, _SERVING) or not self.is_open():
            return
        if not exchange.keep_alive or self._phase is _BODY:
            self._end()
            return
        self._wait_for_head(KEEPALIVE_TIMEOUT)
        if self.paused:
            self.resume_reading()
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            self._receive_head(ahead)

    def _refuse(self, error: ProxyError, data: bytes) -> None:
        """Answer what never became a request, without a byte of it in the answer or the log."""
        # The answer to HEAD has no body (RFC 9110, 9.3.2), whatever is wrong with the rest.
        method = "HEAD" if data.startswith(b"HEAD ") else ""
        exchange = Exchange(self, self._server.loop, method, "", RequestFields(persistent=False))
        self.head.begun.clear()
        self._server.refuse(exchange, error)
        self._end()

    def _end(self) -> None:
        """Say that no more will come, and discard what does: bytes to a closed socket are answered with a reset, and that
        would take away what of the answer is still on its way."""
        if self._transport is None:
            return
        self._discard_until(self._server.time() + LINGERING_TIME, _LINGERING)
        self._ahead = b""
        self.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    # 3. The exchange's side. Part of `Link`.

    def write(self, pieces: Sequence[bytes]) -> bool:
        """Write bytes; False: the connection is gone."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        transport.writelines(pieces)
        return True

    async def drained(self) -> None:
        """Wait until the caller has read enough. Raises `CallerGone` when it does not, or is gone."""
        while not self.can_write and self._transport is not None:
            self._unwritten = self.unread()
            self._drain_due = self._server.time() + CALLER_IDLE
            try:
                await self.room()
            finally:
                self._drain_due = inf
        if self._transport is None:
            raise CallerGone

    def wait_for_body(self, waiting: bool) -> None:
        """Note that somebody waits for the caller to send, or no longer."""
        if self._transport is not None:
            self._body_due = self._server.time() + CALLER_IDLE if waiting else inf

    # 4. Time.

    def look(self, now: float) -> None:
        """Do what is due, and see an end that cannot be seen by reading."""
        if now >= self._body_due and self.exchange is not None:
            self._body_due = inf
            self.exchange.fail(BadRequest(f"The request body stopped coming for {CALLER_IDLE:g} s."))
        if self._drain_due < inf and self._takes(now):
            self._drain_due = now + CALLER_IDLE
        if now >= self._drain_due:
            self.abort()
        if now >= self.deadline:
            self._end_waiting(now)
        # It waits for CardCash, nothing is read, and so nobody would see that the caller is gone.
        if self.paused and self._transport is not None and tcp.is_reset(self._transport.get_extra_info("socket")):
            self._transport.abort()

    def _takes(self, now: float) -> bool:
        """Say whether the caller has taken some of what is written since the last look."""
        left = self.unread()
        if left < self._unwritten:
            self._unwritten, self._moved = left, now
        return self._moved == now

    def _end_waiting(self, now: float) -> None:
        """End a connection that has had its time between two requests, or after the last."""
        transport = self._transport
        if transport is None:
            return
        takes = self._takes(now)
        if self.unread() and (takes or now - self._moved < CALLER_IDLE):
            self.deadline = now + LINGERING_TIME  # it reads slowly, but it reads
        elif self.unread() or self._phase in (_BREAKING, _CLOSING):
            self.abort()
        else:
            self.close()

    def _discard(self, _: bytes) -> None:
        pass

    #: What takes the bytes of each phase, in their order.
    _RECEIVE: ClassVar = (_receive_head, _receive_body, _receive_ahead, tell_away, _discard, _discard, _discard)


def _address(name: object) -> str | None:
    return name[0] if isinstance(name, tuple) else None
