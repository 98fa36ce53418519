"""One request of a caller and the way back to it: the body piece by piece, the answer's bytes in order.

Must not know how heads are parsed, nor what is answered; the connection is the `Link` behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from proxy.core.errors import BadRequest, BodyTooLarge, CallerGone
from proxy.core.request_fields import RequestFields
from proxy.http.chunks import Chunks, NoSize, OutOfProportion
from proxy.http.flow import Inflow
from proxy.http.framing import Counted, Decoder
from proxy.http.heads import InvalidMessage

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Link(Protocol):
    """The connection as its exchange knows it."""

    #: The caller's IP address and the local one of its connection, None on a unix socket.
    peer: str | None
    local: str | None

    #: What was written is out, so more may be.
    can_write: bool

    def write(self, pieces: Sequence[bytes]) -> bool:
        """Write bytes; False: the connection is gone."""

    async def drained(self) -> None:
        """Wait until the caller has read enough. Raises `CallerGone` when it does not, or is gone."""

    def unread(self) -> int:
        """Bytes that are written and not yet with the caller's system, as far as ours can tell."""

    def wait_for_body(self, waiting: bool) -> None:
        """Note that somebody waits for the caller to send, or no longer."""

    def pause_reading(self) -> None:
        """Read no more for now."""

    def resume_reading(self) -> None:
        """Read again."""

    def abort(self) -> None:
        """End the connection with a reset."""

    def break_off(self) -> None:
        """End the connection with a reset, after what was written has arrived."""


class IncomingBody(Inflow):
    """The body of a request, as it comes in. One reader at a time."""

    __slots__ = ("_decoder", "_link")

    def __init__(self, link: Link, loop: asyncio.AbstractEventLoop, fields: RequestFields) -> None:
        Inflow.__init__(self, loop)
        self._link = link
        self._decoder: Decoder = Chunks(bounded=True) if fields.chunked else Counted(fields.content_length or 0)

    async def read(self) -> bytes:
        """Return the next piece, b"" at the end.

        Raises `CallerGone` when the connection ends, `BadRequest` for broken framing or a body that stops coming.
        """
        while not self._parts:
            if self.is_over():
                return b""
            self._link.wait_for_body(True)
            try:
                await self.changed()
            finally:
                self._link.wait_for_body(False)
        piece = self.read_received()
        if not self.complete:
            self._link.resume_reading()
        return piece

    def read_received(self) -> bytes:
        """Return what has come in and was not read yet."""
        piece = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self.drop()
        return piece

    def at_end(self) -> bool:
        """Say whether all of it has been read."""
        return self.complete and not self._parts

    def feed(self, data: bytes) -> bytes:
        """Take bytes; returns what follows the end. Raises `InvalidMessage`."""
        if self.error is not None:
            return b""
        content, rest = self._decoder.feed(data)
        self.complete = self._decoder.done
        if content and self.put(content) and not self.complete:
            self._link.pause_reading()
        self.wake()
        return rest

    def fail(self, error: BaseException) -> None:
        """Let whoever reads it hear that no more will come."""
        if not self.complete:
            self.error = self.error or error
        self.wake()


class Exchange:
    """One request and its answer. Everything after `send()` goes out in order."""

    __slots__ = ("body", "fields", "head_sent", "http_10", "keep_alive", "link", "method", "target")

    def __init__(
        self,
        link: Link,
        loop: asyncio.AbstractEventLoop,
        method: str,
        target: str,
        fields: RequestFields,
    ) -> None:
        self.link = link
        self.method = method
        self.target = target
        self.http_10 = fields.http_10
        self.fields = fields
        #: None: there is nothing in it to read.
        self.body = IncomingBody(link, loop, fields) if fields.has_body else None
        #: Whether the connection can be kept after this answer.
        self.keep_alive = fields.persistent
        self.head_sent = False

    # The body

    def drop_body(self) -> None:
        """Drop what nobody will read; a rest that is still to come ends the connection after the answer."""
        if self.body is not None:
            self.body.drop()
            if not self.body.complete:
                self.close_after()

    def go_on(self) -> None:
        """Answer `Expect: 100-continue` (RFC 9110, 10.1.1); not counted as the answer."""
        if not self.head_sent and self.body is not None and not self.body.complete:
            self.link.write((_CONTINUE,))

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the body; returns what follows its end."""
        if self.body is None:
            return b""
        try:
            return self.body.feed(data)
        except InvalidMessage as error:
            self.fail(_refusal(error))
            return b""

    def fail(self, error: BaseException) -> None:
        """Let whoever reads the body hear that no more of it will come."""
        self.close_after()
        if self.body is not None:
            self.body.fail(error)

    # The answer

    def send(self, pieces: Sequence[bytes]) -> None:
        """Write bytes of the answer. Raises `CallerGone` when there is nobody to read them."""
        if not self.link.write(pieces):
            raise CallerGone
        self.head_sent = True

    def pass_on(self, *pieces: bytes) -> bool:
        """Write more of the answer; False: wait until the link is drained, which tells when nobody is there."""
        return self.link.write(pieces) and self.link.can_write

    def close_after(self) -> None:
        """End the connection after this answer."""
        self.keep_alive = False

    def abort(self) -> None:
        """End the connection now: nobody is there to read."""
        self.keep_alive = False
        self.link.abort()

    def break_off(self) -> None:
        """End an answer visibly broken: with a reset, so that no reader takes it for complete. What was written before
        it, answers to earlier requests too, arrives first."""
        self.keep_alive = False
        self.link.break_off()


def _refusal(error: InvalidMessage) -> BadRequest | BodyTooLarge:
    if isinstance(error, NoSize):
        return BodyTooLarge("The request body is larger than anything.")
    if isinstance(error, OutOfProportion):
        return BadRequest(f"The request body {error}.")
    return BadRequest("The request body is not framed correctly.")
