"""An answer as the caller of `Upstream.send` sees it: the head, and the body piece by piece.

Owns what is buffered of one exchange and who waits for more of it. Must not know sockets, parsing or the pool:
the connection puts in, the reader takes out, and `Feeder` is all they share.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from proxy.core.answer_fields import AnswerFields
from proxy.core.dialect import RawHeaders

# Reading of the socket stops above HIGH and goes on below LOW. One segment of up to 256 KiB may come on top,
# so a slow reader costs at most 384 KiB here.
HIGH = 128 * 1024
LOW = 32 * 1024
_NO_FIELDS: Final = AnswerFields(())


class Feeder(Protocol):
    """The connection as its response knows it."""

    def resume_reading(self) -> None:
        """Read again: the buffer has been drained."""

    def carries(self, response: Response) -> bool:
        """Say whether the request's body is still being sent."""

    def abandon(self, response: Response) -> None:
        """End the exchange; nobody will take the rest of the answer, or send the rest of the request."""


class Response:
    """One answer. Not safe for two readers at a time; `close()` may be called from anywhere in the loop.

    Ends in exactly one of two ways: `complete`, or an error that `read()` raises after what was received before
    it has been taken. A truncated body never looks complete.
    """

    __slots__ = ("_buffered", "_closed", "_feeder", "_loop", "_parts", "_waiter", "chunked", "complete",
                 "content_length", "error", "fields", "has_body", "head_only", "http_version", "paused", "reason",
                 "status")  # fmt: skip

    def __init__(self, *, head_only: bool, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        #: The request was HEAD (RFC 9110, section 9.3.2: no body, whatever the framing says).
        self.head_only = head_only
        #: 0 until the head is in.
        self.status = 0
        self.reason = b""
        self.fields = _NO_FIELDS
        self.http_version = b"1.1"
        self.content_length: int | None = None
        self.chunked = False
        self.has_body = False
        self.paused = False
        self._parts: list[bytes] = []
        self._buffered = 0
        #: All of the body has been received; some of it may still be buffered here.
        self.complete = False
        self._closed = False
        #: What ended the exchange before it was complete.
        self.error: BaseException | None = None
        self._feeder: Feeder | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "complete" if self.complete else "failed" if self.error else "open"
        return f"<Response {self.status} {state} headers={len(self.headers)} buffered={self._buffered}>"

    @property
    def headers(self) -> RawHeaders:
        """The header fields as they came."""
        return self.fields.raw

    @property
    def buffered(self) -> int:
        """Bytes of the body received and not taken yet."""
        return self._buffered

    def take(self) -> list[bytes]:
        """Return what is buffered now, without waiting; may be empty. Reading goes on."""
        parts = self._parts
        if parts:
            self._parts = []
            self._buffered = 0
            if self.paused and self._feeder is not None:
                self._feeder.resume_reading()
        return parts

    async def read(self) -> bytes:
        """Return the next piece as it came, b"" at the end.

        Raises:
            UpstreamReset, UpstreamInvalid, UpstreamTimeout: the body is truncated (`sent` is True).
            BaseException: what the request's body iterator raised while the answer was not complete.
        """
        while not self._parts:
            if self.error is not None:
                raise self.error
            if self.complete:
                return b""
            await self.wait()
        piece = self._parts.pop(0)
        self._buffered -= len(piece)
        if self.paused and self._buffered <= LOW and self._feeder is not None:
            self._feeder.resume_reading()
        return piece

    def close(self) -> None:
        """Discard the rest; idempotent. An unfinished exchange, an upload too, costs its connection."""
        self._closed = True
        self._parts.clear()
        self._buffered = 0
        if self._feeder is not None:
            self._feeder.abandon(self)

    @property
    def uploading(self) -> bool:
        """The request's body is still being sent, perhaps beyond the end of the answer; `wait()` tells of its end."""
        return self._feeder is not None and self._feeder.carries(self)

    # For the connection and the client.

    @property
    def attached(self) -> bool:
        """A connection still works for this exchange."""
        return self._feeder is not None

    def attach(self, feeder: Feeder) -> None:
        """Bind to the connection that carries the exchange."""
        self._feeder = feeder

    def changed(self) -> asyncio.Future[None]:
        """Return what is done as soon as something changed; whoever stops waiting for it must `close`."""
        waiter = self._waiter = self._loop.create_future()
        return waiter

    async def wait(self) -> None:
        """Wait until something changed; a cancelled waiter ends the exchange."""
        try:
            await self.changed()
        except BaseException:
            self.close()
            raise

    def wake(self) -> None:
        """Let the waiting task look again."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def put(self, piece: bytes) -> bool:
        """Buffer a piece of the body; True when reading should stop."""
        if self._closed:
            return False
        self._parts.append(piece)
        self._buffered += len(piece)
        return self._buffered > HIGH

    def completed(self) -> None:
        """Mark the answer complete; its request is not."""
        self.complete = True
        self.wake()

    def finish(self) -> None:
        """Mark the answer complete and let go of the connection."""
        self.complete = True
        self._feeder = None
        self.paused = False
        self.wake()

    def fail(self, error: BaseException) -> None:
        """End with `error` and let go of the connection."""
        self.error = error
        self._feeder = None
        self.paused = False
        self.wake()
