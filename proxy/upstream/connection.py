"""One connection: an asyncio protocol that carries one exchange after another, in one phase at a time.

    phase     bytes from the upstream are    their end is                     goes on to
    IDLE      unasked: closed                an idle ending                   HEAD by `begin`
    HEAD      the answer's head              an error                         BODY, SENDING, IDLE
    BODY      its body, framed by the head   an error, or what ends the body  SENDING, IDLE
    SENDING   discarded                      no matter                        IDLE
    CLOSED    –                              –                                –

SENDING: the answer is complete, its request is not (RFC 9110, 7.5). Every phase goes on to CLOSED when its exchange fails,
its time has passed, or the connection cannot be used again. Each has its handler for bytes, see `_RECEIVE`.
Whatever way it goes, the `Response` is finished or failed exactly once; then the connection is idle in the pool or closed.

Owns the phases, their deadline, and the decision whether the connection may be used again. Must not know the pool's policy
(it reports to `Owner`) nor how requests are built. There is no timer here: the pool's ticker calls `check()`, so a request
costs no timer and a segment costs one reading of the clock.
"""

from __future__ import annotations

import asyncio
import select
from enum import IntEnum
from math import inf
from typing import ClassVar, Final, Protocol, cast

from proxy.core.errors import CallerGone
from proxy.http.answer_head import AnswerReader
from proxy.http.flow import HIGH, Flow
from proxy.http.framing import OVER
from proxy.http.heads import InvalidMessage
from proxy.upstream import error_kinds
from proxy.upstream.response import Response
from proxy.upstream.sockets import ended_cleanly, tls_of, unread, watch
from proxy.upstream.upload import Upload

#: Seconds for which a connection is listened to before a request: who speaks out of turn does so at once.
SILENCE: Final = 0.002
#: Turns of the loop in which what is to be read by then is read: TLS 1.3 session tickets are no answer.
_TURNS: Final = 16
#: Bytes of a body that count as a move of the caller that sends or reads it.
_MOVING: Final = 1024

Phase = IntEnum("Phase", "IDLE HEAD BODY SENDING CLOSED", start=0)
# Constants of their own: an attribute of an IntEnum costs two look-ups on the hot path.
_IDLE, _HEAD, _BODY, _SENDING, _CLOSED = Phase


class Owner(Protocol):
    """The pool as a connection knows it."""

    def adopted(self, connection: Connection) -> None:
        """A transport is there; `ended` will follow."""

    def released(self, connection: Connection) -> None:
        """The exchange is over and the connection is clean."""

    def ended_idle(self, idle: float) -> None:
        """The upstream has ended a used connection, after `idle` seconds without a request."""

    def dropped(self, connection: Connection) -> None:
        """The connection is of no more use; called once."""

    def ended(self, connection: Connection) -> None:
        """The transport is gone; called once, after `dropped`."""


class Connection(Flow, asyncio.BufferedProtocol):
    """A connection of one origin; all methods belong to the event loop's thread."""

    __slots__ = ("_begun", "_buffer", "_deadline", "_owner", "_phase", "_poll", "_progress", "_reader", "_response",
                  "_still", "_still_since", "_timeout", "_upload", "_written", "clock", "due", "expires",
                 "idle_limit", "idle_since", "loop", "slot", "used")  # fmt: skip

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop, buffer: memoryview, *, timeout: float) -> None:
        super().__init__()
        #: Where bytes come in, for all connections of the loop: how long it is bounds what is read at once.
        self._buffer = buffer
        self._owner = owner
        # Kept: finding the running loop costs a system call.
        self.loop = loop
        self.clock = loop.time
        self._timeout = timeout
        self._phase = _IDLE
        #: When the phase has taken too long, because nothing moved in it.
        self._deadline = inf
        #: Tells of what has come and was not read yet (0.6 us).
        self._poll = select.poll()
        self._response: Response | None = None
        self._reader = AnswerReader()
        #: The rest of the request, as long as it is being written.
        self._upload: Upload | None = None
        #: Bytes of the request that were written; and of those, what had left this process at the last look.
        self._written = 0
        self._progress = 0
        #: When its exchange began.
        self._begun = 0.0
        #: How far the caller was when it was last seen to move, and since when it was not; see `stalled`.
        self._still: int | None = None
        self._still_since = 0.0
        # For the pool: `slot` says that this connection holds one of max_connections.
        self.slot = False
        #: It has carried an exchange to its end.
        self.used = False
        #: When its last exchange ended, or it was made.
        self.idle_since = loop.time()
        #: When it is too old for another request.
        self.expires = inf
        #: When it has been idle for too long, or is too old.
        self.due = inf
        #: Seconds after which it is idle for too long; the upstream may say less (Keep-Alive: timeout=N).
        self.idle_limit = inf

    def __repr__(self) -> str:
        return f"<Connection {self._phase.name}>"

    # 1. Life.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; asyncio calls this, or the dialler after start_tls."""
        if self._phase is _CLOSED:
            # The dial was given up meanwhile; uvloop says this all the same.
            cast("asyncio.Transport", transport).abort()
            return
        super().connection_made(transport)
        watch(transport, self._poll)
        self._owner.adopted(self)

    def hears(self) -> bool:
        """Anything to read, or an end or error to be noticed, that the loop has not seen yet."""
        return bool(self._poll.poll(0))

    def usable(self) -> bool:
        """May carry a request now: nothing came since the last answer, not even into the kernel's buffer."""
        return self._phase is _IDLE and self.is_open() and not self._poll.poll(0)

    async def silent(self) -> bool:
        """Listen to a connection that was made, or has answered, just now; close it unless it may carry a request.

        What came together with the end of the handshake, the loop gives out a turn later.
        """
        silent = False
        try:
            await asyncio.sleep(SILENCE)
            for _ in range(_TURNS):
                if not (self.is_open() and self.hears()):
                    break
                await asyncio.sleep(0)
            silent = self.usable()
        finally:
            if not silent:
                self.abort()
        return silent

    def abort(self) -> None:
        """Close now; an exchange must have been ended before."""
        if self._phase is _CLOSED:
            return
        self._phase = _CLOSED
        if self._transport is not None:
            self._transport.abort()
        self._owner.dropped(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is left; asyncio calls this once, whoever closed."""
        transport = self._transport
        self._poll = select.poll()  # the descriptor may soon be another's
        super().connection_lost(exc)
        if exc is not None and transport is not None:
            rest = unread(transport, self._buffer)
            while self._response is not None and (nbytes := next(rest, 0)):
                self.buffer_updated(nbytes)
        self._failed_by_end()
        self._ended_unasked()
        self._owner.ended(self)

    def eof_received(self) -> bool | None:
        """The upstream will send no more; the transport closes by itself after this."""
        if self._phase is _SENDING and self._response is not None:
            self._reader.keep_alive = self._response.head.keep_alive = False
            # It may read on; under TLS that cannot be told, and the loop ends the connection whatever is said here.
            return True if tls_of(self._transport) is None else None
        if self._response is None:
            self._ended_unasked()
        elif self._reader.until_end and ended_cleanly(self._transport):
            self._complete(self._response)
            return self._phase is _SENDING and tls_of(self._transport) is None
        else:
            self._failed_by_end()
        return None

    def fail(self, error: BaseException) -> None:
        """End the running exchange and close: with `error`, unless its answer is complete."""
        response = self._end_exchange()
        self.abort()
        if response is not None:
            response.fail(error)

    def _end_exchange(self) -> Response | None:
        response, self._response = self._response, None
        self._reader.head = None  # it is the response's alone
        if self._upload is not None:
            self._upload.stop()
            self._upload = None
        return response

    def abandon(self, response: Response) -> None:
        """Nobody takes the rest of the answer, or sends the rest of the request: close. Part of `Feeder`."""
        if response is self._response and (self._upload is not None or self._phase is not _SENDING):
            self.fail(RuntimeError("the response was closed before its end"))

    def _ended_unasked(self, _: bytes = b"") -> None:
        """Close, and tell of an end by the upstream while nothing was asked of it; unasked bytes are one."""
        if self._phase is _IDLE and self.used:
            self._owner.ended_idle(self.clock() - self.idle_since)
        self.abort()

    def _failed_by_end(self) -> None:
        if self._response is None:
            return
        kind = "reset_in_head" if self._reader.begun else "reset_before_head"
        if self._phase is not _HEAD:
            kind = "reset_in_body"
        elif self.used and not self._reader.begun:
            self._owner.ended_idle(self._begun - self.idle_since)
        self.fail(error_kinds.reset(kind))

    # 2. The request.

    def begin(self, response: Response, data: bytes, upload: Upload | None, *, head_only: bool) -> None:
        """Start an exchange: from here on the request counts as sent. `upload` will write the rest of it."""
        transport = self._transport
        assert transport is not None  # noqa: S101 — `usable()` was asked just before, without an await between
        self._response, self._upload = response, upload
        self._begun = now = self.clock()
        self._phase, self._deadline = _HEAD, now + self._timeout
        self._reader.head_only = head_only
        self._written = self._progress = len(data)
        if upload is not None:
            self._still = None
        transport.write(data)

    def carries(self, response: Response) -> bool:
        """The upload of the exchange still runs: it did not end, nor was it stopped. Part of `Feeder`."""
        return response is self._response and self._upload is not None

    async def write(self, upload: Upload, data: bytes | memoryview) -> bool:
        """Write a piece of the body and wait while the transport is full; False: stop, it is in vain. Part of `Carrier`."""
        if self.hears():
            # Let the loop read first: an answer that came with a reset must not be lost to our failing write.
            await asyncio.sleep(0)
        if upload is not self._upload or self._transport is None:
            return False
        self._written += len(data)
        self._transport.write(data)
        while not self.can_write and upload is self._upload:
            await self.room()
        return upload is self._upload

    def upload_done(self, upload: Upload) -> None:
        """All of the request has been handed to the transport. Part of `Carrier`."""
        if upload is self._upload:
            self._upload = None
            self._deadline = self.clock() + self._timeout
            if self._phase is _SENDING and (response := self._response) is not None:
                self._complete(response)
                response.wake()

    def upload_failed(self, upload: Upload, error: BaseException) -> None:
        """The body could not be produced: the request is broken off in the middle. Part of `Carrier`."""
        if upload is self._upload:
            self._upload = None
            self.fail(error)

    # 3. The answer.

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # asyncio's signature
        """Say where the next bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take the next bytes."""
        try:
            self._RECEIVE[self._phase](self, bytes(self._buffer[:nbytes]))
        except InvalidMessage as error:
            self.fail(error_kinds.invalid(str(error)))

    def _discard(self, _: bytes) -> None:
        self._reader.keep_alive = False

    def _receive_head(self, data: bytes) -> None:
        response, reader, interim = self._response, self._reader, self._reader.interim
        assert response is not None  # noqa: S101 — as there is in every phase that reads an answer
        rest = reader.feed_head(data)
        head = reader.head
        if head is None:
            self._deadline = self._deadline if reader.interim == interim else self.clock() + self._timeout
            return
        response.head, response.status, response.has_body = head, head.status, reader.has_body
        if (limit := head.keep_alive_timeout) is not None:
            self.idle_limit = min(self.idle_limit, limit - 1.0)
        content = reader.feed_body(rest) if rest and reader.body is not OVER else rest
        if not reader.body.done:
            if self._upload is not None and response.status >= 300:
                # The answer is a refusal: the rest of the upload is of no use to anybody.
                reader.keep_alive = False
                self._upload.stop()
                self._upload = None
            self._phase, self._deadline = _BODY, self.clock() + self._timeout
        self._take(response, content)

    def _receive_body(self, data: bytes) -> None:
        assert self._response is not None  # noqa: S101 — there is one in every phase that reads an answer
        self._deadline = self.clock() + self._timeout
        self._take(self._response, self._reader.feed_body(data))

    def _take(self, response: Response, content: bytes) -> None:
        full = bool(content) and (response.put(content) if response.sink is None else not response.sink(content))
        if self._reader.body.done:
            self._complete(response)
            return
        if full and not self.paused:
            self._still = None
            self.pause_reading()
        if full or response.sink is None:
            response.sink = None
            response.wake()

    def go_on(self, response: Response) -> None:
        """Read again if the reader has caught up. Part of `Feeder`."""
        if self.paused and response is self._response and response.buffered <= HIGH:
            self._deadline = self.clock() + self._timeout
            self.resume_reading()

    def _complete(self, response: Response) -> None:
        """The answer is complete: finish the exchange, or go on sending first (RFC 9110, section 7.5)."""
        if self.paused:
            self.resume_reading()  # what comes now must be noticed
        # Only a request that is fully out and an answer that ended exactly leave a clean connection.
        transport, clean = self._transport, False
        if transport is not None and not transport.is_closing():
            if self._upload is None and not transport.get_write_buffer_size():
                clean = self._reader.keep_alive
            elif response.status < 300:
                self._phase, self._deadline = _SENDING, self.clock() + self._timeout
                response.completed()
                return
        self._end_exchange()
        if clean:
            self.used, self._phase = True, _IDLE
            self._owner.released(self)
        else:
            self.abort()
        response.finish()

    # 4. Deadlines and stalls.

    def stalled(self, now: float) -> float:
        """Return for how long (seconds) this exchange has been seen to wait for its caller to read or to send on.

        Counts anew after every KiB, so that nobody holds a connection by a byte now and then, and from the first look on.
        """
        left: int | None = None
        if self._response is not None and self.paused:
            left = self._response.untaken()
        elif self._upload is not None and self._transport is not None and not self._transport.get_write_buffer_size():
            left = -self._written
        if left is None or self._still is None or self._still - left >= _MOVING:
            self._still, self._still_since = left, now
        return now - self._still_since

    def give_up_caller(self) -> None:
        """End an exchange that waits for its caller; whoever reads on finds its answer broken off."""
        if self._response is not None:
            self.fail(CallerGone() if self.paused else error_kinds.stalled())

    def check(self, now: float) -> None:
        """End the exchange when its phase has taken too long; called by the pool's ticker.

        A slow caller is no fault of the upstream: nothing runs out while reading is paused for it, nor
        while the upload waits for its next piece.
        """
        response = self._response
        if response is None or self.paused or self._transport is None:
            return
        unsent = self._transport.get_write_buffer_size()
        if self._written - unsent != self._progress or (self._upload is not None and not unsent):
            self._progress, self._deadline = self._written - unsent, now + self._timeout
        if self._phase is _SENDING and self._upload is None and not unsent:
            self._complete(response)
        elif now < self._deadline:
            pass
        elif unsent or self._upload is not None:
            self.fail(error_kinds.timed_out("send_timeout"))
        else:
            self.fail(error_kinds.timed_out("head_timeout" if self._phase is _HEAD else "body_timeout"))

    #: What takes the bytes of each phase, in their order.
    _RECEIVE: ClassVar = (_ended_unasked, _receive_head, _receive_body, _discard, _discard)
