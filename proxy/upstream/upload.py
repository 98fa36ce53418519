"""Writing a request body that is too large for one write, or that comes piece by piece.

Owns the promise that a body is exactly as long as its head says; must not know the pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Protocol

from proxy.core.errors import BadRequest
from proxy.http.framing import LAST_CHUNK, chunk
from proxy.tasks import Tasks

#: Bytes of a body that are written together with the head in one piece.
SMALL: Final = 64 * 1024
#: One write; the transport's high-water mark is 64 KiB, so at most this much is copied beyond it.
_SLICE: Final = 128 * 1024
#: Seconds that a stopped body iterator may take to notice.
_SETTLE: Final = 1.0


class Carrier(Protocol):
    """The connection as an upload knows it."""

    async def write(self, upload: Upload, data: bytes | memoryview) -> bool:
        """Write a piece of the body and wait while the transport is full; False: stop, it is in vain."""

    def upload_done(self, upload: Upload) -> None:
        """All of the request has been handed to the transport."""

    def upload_failed(self, upload: Upload, error: BaseException) -> None:
        """The body could not be produced: the request is broken off in the middle."""


class Upload:
    """The body of one exchange, written in a task of its own; every failure goes to the exchange.

    `length`: what an unchunked stream must amount to. A stream that is longer or shorter ends the exchange with BadRequest.
    """

    __slots__ = ("_body", "_carrier", "_chunked", "_length", "_task")

    def __init__(
        self, carrier: Carrier, body: bytes | AsyncIterator[bytes], *, chunked: bool, length: int | None
    ) -> None:
        self._carrier = carrier
        self._body = body
        self._chunked = chunked
        self._length = length
        self._task: asyncio.Task[None] | None = None

    def start(self, tasks: Tasks) -> None:
        """Begin, when the head is written."""
        self._task = tasks.spawn(self._run(), name="upload")

    def stop(self) -> None:
        """End it: there is no more use in it. Its end may be the reason."""
        if self._task is not None:
            self._task.cancel()

    async def settled(self) -> None:
        """Wait until a stopped upload has let go of the caller's body."""
        if self._task is not None and not self._task.done():
            await asyncio.wait((self._task,), timeout=_SETTLE)

    async def _run(self) -> None:
        carrier, body = self._carrier, self._body
        try:
            if isinstance(body, bytes):
                whole = await self._write(body)
            else:
                try:
                    whole = await self._stream(body)
                finally:
                    # Not left to the garbage collector: the stream may hold the caller's connection.
                    if (aclose := getattr(body, "aclose", None)) is not None:
                        await aclose()
            if whole and self._chunked:
                whole = await carrier.write(self, LAST_CHUNK)
            if whole:
                carrier.upload_done(self)
        except asyncio.CancelledError as error:
            carrier.upload_failed(self, error)  # a no-op when it was the exchange that stopped us
            raise
        except BaseException as error:  # propagated unchanged to whoever waits for the answer
            carrier.upload_failed(self, error)

    async def _write(self, piece: bytes) -> bool:
        # Cut, so that back-pressure is felt between the writes.
        whole = memoryview(piece)
        for start in range(0, len(piece), _SLICE):
            part = whole[start : start + _SLICE]
            if not await self._carrier.write(self, b"".join(chunk(part)) if self._chunked else part):
                return False
        return True

    async def _stream(self, body: AsyncIterator[bytes]) -> bool:
        total, length = 0, self._length
        async for piece in body:
            if not piece:
                continue  # an empty chunk would be the last one
            total += len(piece)
            if length is not None and total > length:
                raise BadRequest("The request body is longer than its Content-Length.")
            if not await self._write(piece):
                return False
            if total == length:
                break  # the upstream has all of it, and may have answered already
        if length is not None and total != length:
            raise BadRequest("The request body is shorter than its Content-Length.")
        return True
