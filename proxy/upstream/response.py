"""An answer as the caller of `Upstream.send` sees it: the head, and the body piece by piece.

Must not know sockets, parsing or the pool: the connection puts in, the reader takes out, and `Feeder` is all they share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from proxy.core.dialect import RawHeaders
from proxy.http.answer_head import AnswerHead
from proxy.http.flow import Inflow


class Feeder(Protocol):
    """The connection as its response knows it."""

    def go_on(self, response: Response) -> None:
        """Read again if the reader has caught up."""

    def carries(self, response: Response) -> bool:
        """Say whether the request's body is still being sent."""

    def abandon(self, response: Response) -> None:
        """End the exchange; nobody will take the rest of the answer, or send the rest of the request."""


class Response(Inflow):
    """One answer. Not safe for two readers at a time; `close()` may be called from anywhere in the loop.

    Ends in exactly one of two ways: `complete`, or an error that the reader meets after what was received before it. A
    truncated body never looks complete.
    """

    __slots__ = ("_feeder", "_unread", "has_body", "head", "sink", "status")

    head: AnswerHead
    #: There is one, though perhaps empty.
    has_body: bool

    def __init__(self, loop: asyncio.AbstractEventLoop, feeder: Feeder) -> None:
        Inflow.__init__(self, loop)
        #: None: the exchange is over.
        self._feeder: Feeder | None = feeder
        #: Takes the pieces instead, as long as it says that it has room for more.
        self.sink: Callable[[bytes], bool] | None = None
        #: Tells of what was poured and not taken.
        self._unread: Callable[[], int] = int
        #: 0 until the head is in; `head` and `has_body` come with it.
        self.status = 0

    def __repr__(self) -> str:
        state = "complete" if self.complete else "failed" if self.error else "open"
        return f"<Response {self.status} {state} buffered={self.buffered}>"

    @property
    def headers(self) -> RawHeaders:
        """The header fields as they came."""
        return self.head.raw

    def take(self) -> list[bytes]:
        """Return what is buffered now, without waiting; may be empty."""
        parts = self._parts
        if parts:
            self._parts = []
            self.buffered = 0
        return parts

    async def read(self) -> bytes:
        """Return the next piece as it came, b"" at the end.

        Raises:
            UpstreamReset, UpstreamInvalid, UpstreamTimeout: the body is truncated (`sent` is True).
            BaseException: what the request's body iterator raised while the answer was not complete.
        """
        while not self._parts:
            if self.is_over():
                return b""
            await self._more()
        piece = self._next()
        self._go_on()
        return piece

    async def peek(self, most: int) -> bytes | None:
        """Wait for the whole body if it is at most `most` bytes; None when it is longer, or ends before its time.

        All of it stays to be read. `most` is at most `HIGH`: beyond, nothing more comes before something was read.
        """
        length = self.head.content_length
        if length is not None and length > most:
            return None
        while not (self.complete or self.error or self.buffered > most):
            await self.wait()
        return b"".join(self._parts) if self.complete and self.buffered <= most else None

    async def pour(
        self,
        write: Callable[[bytes], bool],
        drained: Callable[[], Awaitable[None]],
        unread: Callable[[], int],
    ) -> None:
        """Hand each piece to `write` as it comes, until the end. Raises as `read`, and what `drained` raises.

        No task wakes up for a piece, and none is kept here: when `write` says that there is no room for more, nothing is
        read until `drained` returns. `unread` tells of how much that was written the reader has not taken: a slow one takes
        it out of the system's buffers, of some megabytes, for long before there is room.
        """
        self._unread = unread
        await drained()
        while not self.is_over():
            if self._parts:
                write(self._next())
            else:
                self.sink = write
                try:
                    await self._more()
                finally:
                    self.sink = None
            await drained()

    def untaken(self) -> int:
        """Bytes that were received and that the reader has not taken."""
        return self.buffered + self._unread()

    def close(self) -> None:
        """Discard the rest; idempotent. An unfinished exchange, an upload too, costs its connection."""
        if self._parts:
            self.drop()
        if self._feeder is not None:
            self._feeder.abandon(self)

    @property
    def uploading(self) -> bool:
        """The request's body is still being sent, perhaps beyond the end of the answer; `wait()` tells of its end."""
        return self._feeder is not None and self._feeder.carries(self)

    async def wait(self) -> None:
        """Wait until something changed; a cancelled waiter ends the exchange."""
        try:
            await self.changed()
        except BaseException:
            self.close()
            raise

    def _next(self) -> bytes:
        piece = self._parts.pop(0)
        self.buffered -= len(piece)
        return piece

    async def _more(self) -> None:
        self._go_on()
        await self.wait()

    def _go_on(self) -> None:
        if self._feeder is not None:
            self._feeder.go_on(self)

    # For the connection.

    def completed(self) -> None:
        """Mark the answer complete; its request is not."""
        self.complete = True
        self.wake()

    def finish(self) -> None:
        """Mark the answer complete and let go of the connection."""
        self._feeder = None
        self.complete = True
        self.wake()

    def fail(self, error: BaseException) -> None:
        """Let go of the connection, and end with `error` if the answer is not complete."""
        self._feeder = None
        if not self.complete:
            self.error = error
        self.wake()
