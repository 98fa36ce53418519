"""An answer as the caller of `Upstream.send` sees it: the head, and the body piece by piece.

Must not know sockets, parsing or the pool: the connection puts in, the reader takes out, and `Feeder` is all they share.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from proxy.core.answer_fields import AnswerFields
from proxy.core.dialect import RawHeaders
from proxy.http.answer_head import AnswerHead
from proxy.http.flow import HIGH, Inflow

_NO_FIELDS: Final = AnswerFields(())


class Feeder(Protocol):
    """The connection as its response knows it."""

    def taken(self, response: Response) -> None:
        """Read again if the reader has caught up."""

    def carries(self, response: Response) -> bool:
        """Say whether the request's body is still being sent."""

    def abandon(self, response: Response) -> None:
        """End the exchange; nobody will take the rest of the answer, or send the rest of the request."""


class Response(Inflow):
    """One answer. Not safe for two readers at a time; `close()` may be called from anywhere in the loop.

    Ends in exactly one of two ways: `complete`, or an error that `read()` raises after what was received before
    it has been taken. A truncated body never looks complete.
    """

    __slots__ = ("_closed", "_feeder", "content_length", "fields", "has_body", "head_only",
                 "reason", "status")  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, head_only: bool) -> None:
        super().__init__(loop)
        #: The request was HEAD (RFC 9110, section 9.3.2: no body, whatever the framing says).
        self.head_only = head_only
        #: 0 until the head is in.
        self.status = 0
        self.reason = b""
        self.fields = _NO_FIELDS
        self.content_length: int | None = None
        self.has_body = False
        self._closed = False
        self._feeder: Feeder | None = None

    def __repr__(self) -> str:
        state = "complete" if self.complete else "failed" if self.error else "open"
        return f"<Response {self.status} {state} headers={len(self.headers)} buffered={self.buffered}>"

    @property
    def headers(self) -> RawHeaders:
        """The header fields as they came."""
        return self.fields.raw

    def take(self) -> list[bytes]:
        """Return what is buffered now, without waiting; may be empty. Reading goes on."""
        parts = self._parts
        if parts:
            self._parts = []
            self.buffered = 0
            self._taken()
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
            await self.wait()
        piece = self._parts.pop(0)
        self.buffered -= len(piece)
        self._taken()
        return piece

    def close(self) -> None:
        """Discard the rest; idempotent. An unfinished exchange, an upload too, costs its connection."""
        self._closed = True
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

    def _taken(self) -> None:
        if self._feeder is not None:
            self._feeder.taken(self)

    # For the connection.

    def attach(self, feeder: Feeder) -> None:
        """Bind to the connection that carries the exchange."""
        self._feeder = feeder

    def started(self, head: AnswerHead, *, has_body: bool) -> None:
        """Take over what the head says."""
        fields = self.fields = head.fields
        self.status, self.reason = head.status, head.reason
        self.content_length, self.has_body = fields.content_length, has_body

    def put(self, piece: bytes) -> bool:
        """Keep a piece of the body; True when reading should stop."""
        if self._closed:
            return False
        self._parts.append(piece)
        self.buffered += len(piece)
        return self.buffered > HIGH

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
        """End with `error` and let go of the connection."""
        self.error = error
        self._feeder = None
        self.wake()
