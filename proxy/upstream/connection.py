"""One connection: an asyncio protocol that carries one exchange after another.

Owns the phases of an exchange, its deadlines, back-pressure in both directions and the decision whether the
connection may be used again. Must not know the pool's policy (it reports to `Owner`) nor how requests are built.

An exchange: `begin()` writes; bytes come back through `data_received`; the `Response` is finished or failed exactly
once, and from then on the connection is idle in the pool or closed; only the rest of a request whose answer came
early goes out in between. There is no timer here: the pool's ticker calls `check()`, so a request costs no timer and a
segment costs one reading of the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import ssl
from collections.abc import Callable
from enum import IntEnum
from math import inf
from typing import Protocol, cast

from proxy.core.errors import CallerGone
from proxy.http.answer_head import Head, check_partial
from proxy.http.chunks import Chunks, InvalidMessage
from proxy.upstream import failures
from proxy.upstream.response import Response

# Bytes of interim answers to one request: any number may come (RFC 9110, section 15.2), but not for ever.
MAX_INTERIM = 256 * 1024
# Seconds for which a connection is listened to before a request: who speaks out of turn does so at once.
SILENCE = 0.002
# Turns of the loop in which what is to be read by then is read: TLS 1.3 session tickets are no answer.
_TURNS = 16
# Bytes of a body that count as a move of the caller that sends it.
_MOVING = 1024
_INTEREST = select.POLLIN | getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class Mode(IntEnum):
    """What the next bytes from the upstream are."""

    IDLE = 0
    HEAD = 1
    LENGTH = 2
    CHUNKED = 3
    UNTIL_CLOSE = 4
    #: The answer is complete, its request is not.
    SENDING = 5
    CLOSED = 6


# Class-level constants: an attribute of an IntEnum costs two look-ups on the hot path.
_IDLE, _HEAD, _LENGTH, _CHUNKED, _UNTIL_CLOSE, _SENDING, _CLOSED = Mode


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


class Connection(asyncio.Protocol):
    """A connection of one origin; all methods belong to the event loop's thread."""

    __slots__ = ("_can_write", "_chunks", "_deadline", "_drain", "_flushed", "_interim", "_keep",
                 "_max_head", "_mode", "_owner", "_partial", "_poll", "_progress", "_remaining", "_response",
                 "_rested", "_stall", "_stalled_at", "_timeout", "_transport", "_upload", "_uploading", "_written",
                 "born", "clock", "expires", "idle_limit", "idle_since", "slot", "used")  # fmt: skip

    def __init__(self, owner: Owner, clock: Callable[[], float], *, timeout: float, max_head: int) -> None:
        self._owner = owner
        self.clock = clock
        self._timeout = timeout
        self._max_head = max_head
        self._mode = _IDLE
        self._transport: asyncio.Transport | None = None
        self._poll: select.poll | None = None
        self._response: Response | None = None
        self._chunks: Chunks | None = None
        self._remaining = 0
        self._partial = b""
        self._interim = 0
        self._keep = False
        self._deadline = inf
        # Upload.
        self._upload: asyncio.Task[None] | None = None
        self._uploading = False
        self._flushed = True
        self._written = 0
        self._progress = 0
        self._can_write = True
        self._drain: asyncio.Future[None] | None = None
        # For the pool: `slot` says that this connection holds one of max_connections.
        self.slot = False
        self.used = False
        self.born = clock()
        self.idle_since = self.born
        # How long it had been idle when its exchange began; None: it was new.
        self._rested: float | None = None
        # What had moved when the caller was last seen to hold the exchange up, and since when it has not.
        self._stall: int | None = None
        self._stalled_at = inf
        self.expires = inf
        #: Seconds the upstream keeps an idle connection by its own words (Keep-Alive: timeout=N).
        self.idle_limit = inf

    def __repr__(self) -> str:
        return f"<Connection {Mode(self._mode).name}>"

    # 1. Life.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; asyncio calls this, or the dialler after start_tls."""
        if self._mode == _CLOSED:
            # The dial was given up meanwhile; uvloop says this all the same.
            cast("asyncio.Transport", transport).abort()
            return
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self._poll = poll = select.poll()
            poll.register(sock.fileno(), _INTEREST)
        self._owner.adopted(self)

    @property
    def open(self) -> bool:
        """A transport is there and not closing."""
        return self._mode != _CLOSED and self._transport is not None and not self._transport.is_closing()

    def readable(self) -> bool:
        """Anything to read, or an end or error to be noticed, that the loop has not seen yet (0.6 us)."""
        return self._poll is not None and bool(self._poll.poll(0))

    def usable(self) -> bool:
        """May carry a request now: nothing came since the last answer, not even into the kernel's buffer."""
        return self._mode == _IDLE and self.open and not self.readable()

    async def silent(self) -> bool:
        """Listen to a connection that was made, or has answered, just now; say whether it may carry a request.

        What came together with the end of the handshake, the loop gives out a turn later.
        """
        await asyncio.sleep(SILENCE)
        for _ in range(_TURNS):
            if not (self.open and self.readable()):
                break
            await asyncio.sleep(0)
        return self.usable()

    def abort(self) -> None:
        """Close now; an exchange must have been ended before."""
        if self._mode == _CLOSED:
            return
        self._mode = _CLOSED
        self._deadline = inf
        if self._transport is not None:
            self._transport.abort()
        self._owner.dropped(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is left; asyncio calls this once, whoever closed."""
        transport, self._transport = self._transport, None
        self._poll = None
        if exc is not None and transport is not None and self._response is not None:
            self._salvage(transport)
        self._failed_by_end()
        self._wake_upload()
        self._tell_idle_end()
        self.abort()
        self._owner.ended(self)

    def _salvage(self, transport: asyncio.Transport) -> None:
        """Read what the kernel still holds: a failed write hides an answer that came before the reset.

        Plain TCP only; under TLS the records cannot be fed in any more.
        """
        sock = transport.get_extra_info("socket")
        if transport.get_extra_info("ssl_object") is not None or sock is None or sock.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            while self._response is not None and (data := os.read(sock.fileno(), 65536)):
                self.data_received(data)

    def fail(self, error: BaseException) -> None:
        """End the running exchange and close: with `error`, unless its answer is complete."""
        response, self._response = self._response, None
        self._stop_upload()
        self._chunks = None
        self._partial = b""
        self.abort()
        if response is not None and response.complete:
            response.finish()
        elif response is not None:
            response.fail(error)

    def end(self) -> None:
        """Close because the proxy stops; a running exchange fails and says so."""
        if self._response is not None:
            self.fail(failures.reset("stopped"))
        self.abort()

    def abandon(self, response: Response) -> None:
        """Nobody takes the rest of the answer, or sends the rest of the request: close. Part of `Feeder`."""
        if response is self._response and (self._uploading or self._mode != _SENDING):
            self.fail(RuntimeError("the response was closed before its end"))

    def _tell_idle_end(self) -> None:
        """Tell of an end by the upstream while nothing was asked of it."""
        if self._mode == _IDLE and self.used:
            self._owner.ended_idle(self.clock() - self.idle_since)

    def _failed_by_end(self) -> None:
        if self._response is None:
            return
        if self._mode == _HEAD and not self._partial and self._rested is not None:
            self._owner.ended_idle(self._rested)
        if self._mode != _HEAD:
            self.fail(failures.reset("reset_in_body"))
        else:
            self.fail(failures.reset("reset_in_head" if self._partial else "reset_before_head"))

    # 2. The request.

    def begin(self, response: Response, data: bytes, *, more: bool = False) -> None:
        """Start an exchange: from here on the request counts as sent. `more`: an upload follows."""
        transport = self._transport
        assert transport is not None  # noqa: S101 — `usable()` was asked just before, without an await between
        response.attach(self)
        self._response = response
        self._mode = _HEAD
        self._interim = 0
        now = self.clock()
        self._rested = now - self.idle_since if self.used else None
        self.used = True
        self._deadline = now + self._timeout
        self._written = len(data)
        self._progress = 0
        self._stall, self._stalled_at = -(self._written // _MOVING), now
        self._uploading = more
        transport.write(data)
        self._flushed = not more and not transport.get_write_buffer_size()

    def carries(self, response: Response) -> bool:
        """The upload of the exchange still runs: it did not end, nor was it stopped. Part of `Feeder`."""
        return response is self._response and self._uploading

    def upload_by(self, task: asyncio.Task[None]) -> None:
        """Remember the task that writes the rest of the request, to stop it when there is no more use in it."""
        if self._uploading:
            self._upload = task
        else:
            task.cancel()

    async def write(self, response: Response, data: bytes | memoryview) -> bool:
        """Write a piece of the body and wait while the transport is full; False: stop, it is in vain."""
        if self.readable():
            # Let the loop read first: an answer that came with a reset must not be lost to our failing write.
            await asyncio.sleep(0)
        if not self.carries(response) or self._transport is None:
            return False
        self._written += len(data)
        if (stall := -(self._written // _MOVING)) != self._stall:
            self._stall, self._stalled_at = stall, self.clock()
        self._transport.write(data)
        while not self._can_write and self.carries(response):
            self._drain = asyncio.get_running_loop().create_future()
            try:
                await self._drain
            finally:
                self._drain = None
        return self.carries(response)

    def upload_done(self, response: Response) -> None:
        """All of the request has been handed to the transport."""
        if self.carries(response):
            self._uploading = False
            self._upload = None
            self._deadline = self.clock() + self._timeout
            if self._mode == _SENDING:
                self._complete(response, extra=False)
                response.wake()

    def upload_failed(self, response: Response, error: BaseException) -> None:
        """The body could not be produced: the request is broken off in the middle."""
        if self.carries(response):
            self._upload = None
            self.fail(error)

    def _stop_upload(self) -> None:
        self._uploading = False
        task, self._upload = self._upload, None
        if task is not None:
            task.cancel()

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._can_write = False

    def resume_writing(self) -> None:
        """The transport's buffer has room."""
        self._can_write = True
        self._wake_upload()

    def _wake_upload(self) -> None:
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)

    # 3. The answer.

    def data_received(self, data: bytes) -> None:
        """Take the next bytes; anything that comes when no answer is due ends the connection."""
        response = self._response
        if response is None:
            self._tell_idle_end()
            self.abort()
            return
        if self._mode == _SENDING:
            self._keep = False
            return
        try:
            if self._mode == _HEAD:
                self._take_head(response, data)
            else:
                self._deadline = self.clock() + self._timeout
                self._take_body(response, data)
        except InvalidMessage as error:
            self.fail(failures.invalid(str(error)))

    def _take_head(self, response: Response, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end == 3 or end > self._max_head:
                if len(data) > self._max_head:
                    raise InvalidMessage("head too large")
                check_partial(data)
                self._partial = data
                return
            check = data if end == len(data) else data[:end]
            head = Head(check)
            if head.status >= 200:
                break
            # We asked for none of them.
            if head.status == 101:
                raise InvalidMessage("101 without a request for it")
            self._interim += end
            if self._interim > MAX_INTERIM:
                raise InvalidMessage("too many interim answers")
            self._deadline = self.clock() + self._timeout
            data = data[end:]
            if not data:
                self._partial = b""
                return
        self._partial = b""
        self._take_final(response, head, data[end:])

    def _take_final(self, response: Response, head: Head, rest: bytes) -> None:
        fields = head.fields
        response.status = status = head.status
        response.reason = head.reason
        response.fields = fields
        response.http_version = head.version
        response.content_length = length = fields.content_length
        response.chunked = fields.chunked
        self._keep = head.keep_alive
        if fields.keep_alive_timeout is not None:
            self.idle_limit = fields.keep_alive_timeout - 1.0
        # RFC 9112, section 6.3, rules 1 and 4 to 8.
        if response.head_only or status in {204, 304}:
            # A body that is announced may come all the same, and later than the next request goes out.
            self._keep = self._keep and not fields.chunked and not length
            self._complete(response, extra=bool(rest))
            return
        response.has_body = True
        if rest and len(rest) == length:
            # Nearly always: a small answer comes in one piece.
            response.put(rest)
            self._complete(response, extra=False)
            return
        if fields.chunked:
            self._mode = _CHUNKED
            self._chunks = Chunks()
        elif length is None:
            self._mode = _UNTIL_CLOSE
            self._keep = False
        elif length == 0:
            self._complete(response, extra=bool(rest))
            return
        else:
            self._mode = _LENGTH
            self._remaining = length
        if self._uploading and status >= 300:
            # The answer is a refusal: the rest of the upload is of no use to anybody.
            self._keep = False
            self._stop_upload()
        self._deadline = self.clock() + self._timeout
        if rest:
            self._take_body(response, rest)
        response.wake()

    def _take_body(self, response: Response, data: bytes) -> None:
        mode = self._mode
        done = extra = False
        if mode == _LENGTH:
            self._remaining -= len(data)
            if self._remaining <= 0:
                done = True
                if self._remaining:
                    extra = True
                    data = data[: self._remaining]
        elif mode == _CHUNKED:
            chunks = self._chunks
            assert chunks is not None  # noqa: S101 — set with the mode
            pieces, rest = chunks.feed(data)
            data = pieces[0] if pieces else b""
            done, extra = chunks.done, bool(rest)
        if data:
            if response.put(data) and not done and not response.paused:
                response.paused = True
                self._stall, self._stalled_at = response.buffered, self._deadline - self._timeout
                self._deadline = inf
                if self._transport is not None:
                    self._transport.pause_reading()
            if not done:
                response.wake()
        if done:
            self._complete(response, extra=extra)

    def _complete(self, response: Response, *, extra: bool) -> None:
        """The answer is complete: finish the exchange, or go on sending first (RFC 9110, section 7.5)."""
        transport = self._transport
        self._chunks = None
        self._keep = self._keep and not extra
        if response.paused and transport is not None:
            response.paused = False
            transport.resume_reading()  # what comes now must be noticed
        gone = transport is None or transport.is_closing()
        # Whether all of the request has left this process.
        out = not self._uploading and (self._flushed or transport is None or not transport.get_write_buffer_size())
        if not out and not gone and response.status < 300:
            self._mode = _SENDING
            self._deadline = self.clock() + self._timeout
            response.completed()
            return
        self._response = None
        self._deadline = inf
        if self._uploading:
            self._stop_upload()
        # Only a request that is fully out and an answer that ended exactly leave a clean connection.
        if out and self._keep and not gone:
            self._mode = _IDLE
            self._owner.released(self)
        else:
            self.abort()
        response.finish()

    def eof_received(self) -> bool | None:
        """The upstream will send no more; the transport closes by itself after this."""
        response = self._response
        if response is None:
            self._tell_idle_end()
            self.abort()
        elif self._mode == _UNTIL_CLOSE and self._ended_cleanly():
            self._complete(response, extra=True)
        elif self._mode == _SENDING:
            self._keep = False
        else:
            self._failed_by_end()
        # It may read on; under TLS that cannot be told, and the loop ends the connection whatever is said here.
        return True if self._mode == _SENDING and not self._tls() else None

    def _ended_cleanly(self) -> bool:
        """Under TLS only close_notify is an end; a bare FIN can be forged (RFC 9112, section 9.8)."""
        tls = self._tls()
        if tls is None:
            return True
        try:
            return not tls.read(1)
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False

    def _tls(self) -> ssl.SSLObject | None:
        return None if self._transport is None else self._transport.get_extra_info("ssl_object")

    def resume_reading(self) -> None:
        """The reader has caught up. Part of `Feeder`."""
        response = self._response
        if response is not None and response.paused:
            response.paused = False
            self._stall = None
            self._deadline = self.clock() + self._timeout
            if self._transport is not None:
                self._transport.resume_reading()

    # 4. Deadlines and stalls.

    def stalled(self, now: float) -> float:
        """Return for how long (seconds) this exchange has been seen to wait for its caller to read or to send on.

        Counts anew after every KiB of a body, so that nobody holds a connection by a byte now and then, and where that was
        not seen from the first look: it may say too little, never too much.
        """
        response, stall = self._response, None
        if response is not None and response.paused:
            stall = response.buffered
        elif self._uploading and self._transport is not None and not self._transport.get_write_buffer_size():
            stall = -(self._written // _MOVING)
        if stall is None or stall != self._stall:
            self._stall, self._stalled_at = stall, now
        return now - self._stalled_at

    def give_up_caller(self) -> None:
        """End an exchange that waits for its caller; whoever reads on finds its answer broken off."""
        if self._response is not None:
            self.fail(CallerGone() if self._response.paused else failures.stalled())

    def check(self, now: float) -> None:
        """End the exchange when its phase has taken too long; called by the pool's ticker.

        A slow caller is no fault of the upstream: nothing runs out while reading is paused for it, nor
        while the upload waits for its next piece.
        """
        response = self._response
        if response is None or response.paused or self._transport is None:
            return
        if not self._flushed:
            left = self._transport.get_write_buffer_size()
            out = self._written - left
            if not left and not self._uploading:
                self._flushed = True
            if out != self._progress or not left:
                self._progress = out
                self._deadline = now + self._timeout
                if self._mode == _SENDING and self._flushed:
                    self._complete(response, extra=False)
                return
        if now < self._deadline:
            return
        if not self._flushed:
            self.fail(failures.timed_out("send_timeout"))
        elif self._mode == _HEAD:
            self.fail(failures.timed_out("head_timeout"))
        else:
            self.fail(failures.timed_out("body_timeout"))
