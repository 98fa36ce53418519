"""Request bodies: buffered whole when small enough to be sent again, streamed otherwise (`limits.*`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext

from proxy.core.errors import BadRequest, BodyTooLarge
from proxy.server.exchange import Exchange, IncomingBody


class ReplayBudget:
    """Bytes of bodies buffered by the whole process; `limits.replay_total` at most."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0

    def reserve(self, size: int) -> bool:
        """Take `size` bytes if they are there."""
        if self.used + size > self.total:
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        """Return what was taken."""
        self.used -= size


class Body:
    """One request's body. `buffered`: all of it is in `data` and can be sent any number of times, else once."""

    __slots__ = ("_budget", "_reserved", "_rest", "_started", "chunked", "data")

    def __init__(self, budget: ReplayBudget, *, chunked: bool = False) -> None:
        self._budget = budget
        self._reserved = 0
        self._rest: AsyncIterator[bytes] | None = None
        self._started = False
        self.chunked = chunked
        #: What is buffered of it: the beginning, when that is not all.
        self.data = b""

    @property
    def buffered(self) -> bool:
        """Say whether it can be sent any number of times."""
        return self._rest is None

    @property
    def resendable(self) -> bool:
        """Say whether all of it is still there."""
        return self._rest is None or not self._started

    def content(self) -> bytes | AsyncIterator[bytes] | None:
        """Return what to send, for one attempt."""
        if self._rest is not None:
            return self._streamed(self._rest)
        return self.data if self.data or self.chunked else None

    async def _streamed(self, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self._started = True
        if self.data:
            yield self.data
            self.data = b""
            self.release()
        try:
            async for piece in rest:
                yield piece
        except (BadRequest, BodyTooLarge) as error:
            # What was yielded before is on its way to CardCash; the connection ends there, so that nobody takes it for all.
            raise type(error)(f"{error} A part of it was sent to CardCash, without its end.") from error

    def stream_rest(self, rest: AsyncIterator[bytes]) -> None:
        """Leave what follows to be streamed."""
        self._rest = rest

    def reserve(self, size: int) -> bool:
        """Take room for `size` bytes from the budget, if it is there."""
        reserved = self._budget.reserve(size)
        self._reserved += size if reserved else 0
        return reserved

    def release(self) -> None:
        """Give the room for the buffered bytes back."""
        if self._reserved:
            self._budget.give_back(self._reserved)
            self._reserved = 0


NO_BODY = Body(ReplayBudget(0))


class Bodies:
    """Decides, per request, what is buffered.

    While a body is waited for, nothing is done for its request: `while_waiting` takes it out of those in flight.
    """

    def __init__(
        self,
        *,
        most: int,
        buffer: int,
        budget: ReplayBudget,
        while_waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._most = most
        self._buffer = buffer
        self._budget = budget
        self._while_waiting = while_waiting

    async def take(self, exchange: Exchange, incoming: IncomingBody) -> Body:
        """Read a small body whole; leave a large one to be streamed.

        Raises `BodyTooLarge`, before anything is read where the length is known, and what `IncomingBody.read` raises. So
        does what is streamed, with a sentence that says that a part was sent.
        """
        fields = exchange.fields
        length = fields.content_length
        self._check(length or 0)
        if fields.expects_continue:
            exchange.go_on()
        body = Body(self._budget, chunked=fields.chunked)
        if incoming.complete and length is not None and length <= self._buffer and body.reserve(length):
            # Nearly always: it came together with its head.
            body.data = incoming.read_received()
            return body
        try:
            with self._while_waiting():
                await self._begin(body, incoming)
        except BaseException:
            body.release()
            raise
        return body

    async def _begin(self, body: Body, incoming: IncomingBody) -> None:
        """Read until there is more than is buffered: a slow caller has sent that much before it takes a connection."""
        pieces: list[bytes] = []
        size = 0
        while piece := await incoming.read():
            pieces.append(piece)
            size += len(piece)
            self._check(size)
            if size > self._buffer or not body.reserve(len(piece)):
                body.stream_rest(self._rest(incoming, size))
                break
        body.data = b"".join(pieces)

    async def discard(self, exchange: Exchange, incoming: IncomingBody) -> None:
        """Read a body that nobody needs, so that the connection can go on. Raises as `take`."""
        fields = exchange.fields
        self._check(fields.content_length or 0)
        if fields.expects_continue:
            exchange.go_on()
        with self._while_waiting():
            async for _ in self._rest(incoming, 0):
                pass

    def _check(self, size: int) -> None:
        if size > self._most:
            raise BodyTooLarge(f"The request body is larger than limits.request_body, {self._most} bytes.")

    async def _rest(self, incoming: IncomingBody, size: int) -> AsyncIterator[bytes]:
        while piece := await incoming.read():
            size += len(piece)
            self._check(size)
            yield piece
