"""One request of a caller and the way back to it: the body piece by piece, the answer's bytes in order.

Must not know how heads are parsed, nor what is answered; the connection is the `Link` behind it.
"""

from __future__ import annotations

import asyncio
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

    peer: str | None
    local: str | None

    def is_draining(self) -> bool:
        """Say whether the proxy is stopping."""

    #: What was written is out, so more may be.
    can_write: bool

    def write(self, *pieces: bytes) -> bool:
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


class Exchange(Inflow):
    """One request and its answer. Everything after `send()` goes out in order. One reader of the body at a time."""

    __slots__ = ("_decoder", "_link", "fields", "head_sent", "http_10", "keep_alive", "local", "method", "peer",
                 "target")  # fmt: skip

    def __init__(
        self,
        link: Link,
        loop: asyncio.AbstractEventLoop,
        method: str,
        target: str,
        fields: RequestFields,
    ) -> None:
        Inflow.__init__(self, loop)
        self._link = link
        #: The caller's IP address and the local one of its connection, None on a unix socket.
        self.peer = link.peer
        self.local = link.local
        self.method = method
        self.target = target
        self.http_10 = fields.http_10
        self.fields = fields
        #: Whether the connection can be kept after this answer.
        self.keep_alive = fields.persistent
        self.head_sent = False
        self.complete = not fields.has_body
        self._decoder: Decoder | None = None
        if fields.has_body:
            self._decoder = Chunks(bounded=True) if fields.chunked else Counted(fields.content_length or 0)

    # The body

    def body_at_end(self) -> bool:
        """Say whether the whole body has been read."""
        return self.complete and not self._parts

    def drop_body(self) -> None:
        """Drop what nobody will read; a rest that is still to come ends the connection after the answer."""
        self.drop()
        if not self.complete:
            self.close_after()

    async def read(self) -> bytes:
        """Return the next piece of the body, b"" at its end.

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
        """Return what has come in of the body and was not read yet."""
        piece = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self.drop()
        return piece

    def go_on(self) -> None:
        """Answer `Expect: 100-continue` (RFC 9110, 10.1.1); not counted as the answer."""
        if not self.head_sent and not self.complete:
            self._link.write(_CONTINUE)

    # For the connection

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the body; returns what follows its end."""
        if self.error is not None or self._decoder is None:
            return b""
        try:
            content, rest = self._decoder.feed(data)
        except InvalidMessage as error:
            self.fail(_refusal(error))
            return b""
        self.complete = self._decoder.done
        if content and self.put(content) and not self.complete:
            self._link.pause_reading()
        if self.complete:
            self.wake()
        return rest

    def fail(self, error: BaseException) -> None:
        """Let whoever reads the body hear that no more of it will come."""
        self.close_after()
        if not self.complete:
            self.error = self.error or error
        self.wake()

    # The answer

    def send(self, *pieces: bytes) -> None:
        """Write bytes of the answer. Raises `CallerGone` when there is nobody to read them."""
        if not self._link.write(*pieces):
            raise CallerGone
        self.head_sent = True

    def pass_on(self, *pieces: bytes) -> bool:
        """Write more of the answer; False: wait for `drained` before the next, which tells when nobody is there."""
        return self._link.write(*pieces) and self._link.can_write

    async def drained(self) -> None:
        """Wait until the caller has read enough. Raises `CallerGone` when it does not, or is gone."""
        await self._link.drained()

    def unread(self) -> int:
        """Bytes of answers that are written and not yet with the caller's system, as far as ours can tell."""
        return self._link.unread()

    def close_after(self) -> None:
        """End the connection after this answer."""
        self.keep_alive = False

    def is_kept(self) -> bool:
        """Say whether the connection is kept after this answer; none is once the proxy stops."""
        self.keep_alive = self.keep_alive and not self._link.is_draining()
        return self.keep_alive

    def abort(self) -> None:
        """End the connection now: nobody is there to read."""
        self.keep_alive = False
        self._link.abort()

    def break_off(self) -> None:
        """End an answer visibly broken: with a reset, so that no reader takes it for complete. What was written before
        it, answers to earlier requests too, arrives first."""
        self.keep_alive = False
        self._link.break_off()


def _refusal(error: InvalidMessage) -> BadRequest | BodyTooLarge:
    if isinstance(error, NoSize):
        return BodyTooLarge("The request body is larger than anything.")
    if isinstance(error, OutOfProportion):
        return BadRequest(f"The request body {error}.")
    return BadRequest("The request body is not framed correctly.")
