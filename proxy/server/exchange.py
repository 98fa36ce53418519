"""One request of a caller and the way back to it: the body piece by piece, the answer's bytes in order.

Owns what has been received of the body and who waits for more of it. Must not know how requests are parsed, nor what is
answered; the connection is the `Link` behind it.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from proxy.core.errors import CallerGone, ProxyError
from proxy.core.request_fields import RequestFields
from proxy.http.bounded_chunks import ChunkedBody

#: Bytes of a body kept here; above them reading of the socket stops until they are taken.
_HIGH: Final = 128 * 1024
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Link(Protocol):
    """The connection as its exchange knows it."""

    peer: str | None
    local: str | None

    @property
    def draining(self) -> bool:
        """Say whether the proxy is stopping."""

    def write(self, data: bytes) -> bool:
        """Write bytes; False: the connection is gone."""

    async def drained(self) -> None:
        """Wait until the caller has read enough. Raises `CallerGone` when it does not, or is gone."""

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


class Exchange:
    """One request and its answer. Everything after `send()` goes out in order. One reader of the body at a time."""

    __slots__ = ("_buffered", "_chunks", "_error", "_link", "_parts", "_remaining", "_waiter", "body_received", "fields",
                 "head_sent", "http_10", "keep_alive", "local", "method", "peer", "target")  # fmt: skip

    def __init__(self, link: Link, *, method: str, target: str, http_10: bool, fields: RequestFields) -> None:
        self._link = link
        #: The caller's IP address and the local one of its connection, None on a unix socket.
        self.peer = link.peer
        self.local = link.local
        self.method = method
        self.target = target
        self.http_10 = http_10
        self.fields = fields
        #: Whether the connection can be kept after this answer.
        self.keep_alive = fields.persistent
        self.head_sent = False
        self._chunks = ChunkedBody() if fields.chunked else None
        self._remaining = fields.content_length or 0
        #: All of the body has come in; some of it may still wait here to be read.
        self.body_received = not fields.has_body
        self._parts: list[bytes] = []
        self._buffered = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None

    # The body

    def body_at_end(self) -> bool:
        """Say whether the whole body has been read."""
        return self.body_received and not self._parts

    def drop_body(self) -> None:
        """Drop what nobody will read; a rest that is still to come ends the connection after the answer."""
        self._parts.clear()
        self._buffered = 0
        if not self.body_received:
            self.close_after()

    async def read(self) -> bytes:
        """Return the next piece of the body, b"" at its end.

        Raises `CallerGone` when the connection ends, `BadRequest` for broken framing or a body that stops coming.
        """
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self.body_received:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            self._link.wait_for_body(True)
            try:
                await self._waiter
            finally:
                self._waiter = None
                self._link.wait_for_body(False)
        piece = self.read_received()
        if not self.body_received:
            self._link.resume_reading()
        return piece

    def read_received(self) -> bytes:
        """Return what has come in of the body and was not read yet."""
        parts = self._parts
        piece = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._buffered = 0
        return piece

    def go_on(self) -> None:
        """Answer `Expect: 100-continue` (RFC 9110, 10.1.1); not counted as the answer."""
        if not self.head_sent and not self.body_received:
            self._link.write(_CONTINUE)

    # For the connection

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the body; returns what follows its end."""
        if self._chunks is not None:
            try:
                pieces, rest = self._chunks.feed(data)
            except ProxyError as error:
                self.fail(error)
                return b""
            self.body_received = self._chunks.done
        else:
            rest = data[self._remaining :]
            pieces = [data[: self._remaining]]
            self._remaining -= len(pieces[0])
            self.body_received = not self._remaining
        if pieces:
            self._parts += pieces
            self._buffered += sum(map(len, pieces))
            if self._buffered > _HIGH and not self.body_received:
                self._link.pause_reading()
        self._wake()
        return rest

    def fail(self, error: BaseException) -> None:
        """Let whoever reads the body hear that no more of it will come."""
        self.close_after()
        if not self.body_received:
            self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The answer

    def send(self, data: bytes) -> None:
        """Write bytes of the answer. Raises `CallerGone` when there is nobody to read them."""
        if not self._link.write(data):
            raise CallerGone
        self.head_sent = True

    async def drained(self) -> None:
        """Wait until the caller has read enough. Raises `CallerGone` when it does not, or is gone."""
        await self._link.drained()

    @property
    def draining(self) -> bool:
        """Say whether the proxy is stopping."""
        return self._link.draining

    def close_after(self) -> None:
        """End the connection after this answer."""
        self.keep_alive = False

    def abort(self) -> None:
        """End the connection now: nobody is there to read."""
        self.keep_alive = False
        self._link.abort()

    def break_off(self) -> None:
        """End an answer visibly broken: with a reset, so that no reader takes it for complete. What was written before
        it, answers to earlier requests too, arrives first."""
        self.keep_alive = False
        self._link.break_off()
