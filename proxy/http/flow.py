"""Flow control, once for both sides: pause, resume and drain of one transport, and a body on its way through.

Nothing here knows what the bytes mean, nor how long anybody may wait.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

#: Bytes of a body that nobody has taken yet, above which reading of the socket stops; one segment may come on top.
HIGH: Final = 64 * 1024


class Flow(asyncio.BaseProtocol):
    """A protocol that knows whether it reads and whether it may write; the base of both sides' connections."""

    __slots__ = ("_room", "_transport", "can_write", "paused")

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        #: Nothing is read, because somebody has to catch up.
        self.paused = False
        #: The transport's buffer has room.
        self.can_write = True
        self._room: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Let go of the transport; whoever waits for room looks again."""
        self._transport = None
        self._look_again()

    def is_open(self) -> bool:
        """A transport is there and not closing."""
        return self._transport is not None and not self._transport.is_closing()

    def pause_reading(self) -> None:
        """Read no more for now."""
        if not self.paused and self._transport is not None:
            self.paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self.paused and self._transport is not None:
            self.paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self.can_write = False

    def resume_writing(self) -> None:
        """The transport's buffer has room."""
        self.can_write = True
        self._look_again()

    @property
    def waits_for_room(self) -> bool:
        """Somebody waits for the other side to read."""
        return self._room is not None

    async def room(self) -> None:
        """Wait until the transport's buffer has room, or something else has changed: look again."""
        self._room = asyncio.get_running_loop().create_future()
        try:
            await self._room
        finally:
            self._room = None

    def _look_again(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class Inflow:
    """A body as it comes in: what was received and not read, and the one who waits for more."""

    __slots__ = ("_loop", "_parts", "_waiter", "buffered", "complete", "error")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parts: list[bytes] = []
        #: Bytes received and not read yet.
        self.buffered = 0
        #: All of it has been received; some may still wait here to be read.
        self.complete = False
        #: What ended it before it was complete; raised after what was received has been read.
        self.error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, piece: bytes) -> bool:
        """Take a piece, until it is read; `wake` is to follow. True when reading of the socket should stop."""
        self._parts.append(piece)
        self.buffered += len(piece)
        return self.buffered > HIGH

    def drop(self) -> None:
        """Forget what nobody will read."""
        self._parts.clear()
        self.buffered = 0

    def is_over(self) -> bool:
        """Say whether nothing is left to read, or to wait for. Raises what ended the body before its time."""
        if self._parts:
            return False
        if self.error is not None:
            raise self.error
        return self.complete

    def changed(self) -> asyncio.Future[None]:
        """Return what is done as soon as something changed."""
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def wake(self) -> None:
        """Let the waiting task look again."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
