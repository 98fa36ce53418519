"""Request bodies: kept whole when small enough to be sent again, streamed otherwise (`limits.*`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext

from proxy.core.errors import BodyTooLarge
from proxy.core.request_fields import RequestFields
from proxy.server.exchange import Exchange


class ReplayBudget:
    """Bytes of bodies kept by the whole process; `limits.replay_total` at most."""

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
    """One request's body. `kept`: it can be sent any number of times; else it can be sent once."""

    __slots__ = ("_budget", "_data", "_reserved", "_rest", "chunked", "kept", "started")

    def __init__(self, data: bytes, *, chunked: bool = False) -> None:
        self._data = data
        self._rest: AsyncIterator[bytes] | None = None
        self._budget: ReplayBudget | None = None
        self._reserved = 0
        self.chunked = chunked
        self.kept = True
        self.started = False

    @property
    def can_be_sent(self) -> bool:
        """Say whether all of it is still there."""
        return self.kept or not self.started

    def content(self) -> bytes | AsyncIterator[bytes] | None:
        """Return what to send, for one attempt."""
        if self._rest is not None:
            return self._streamed(self._rest)
        return self._data if self._data or self.chunked else None

    @property
    def data(self) -> bytes:
        """The whole body, when it is kept."""
        return self._data

    async def _streamed(self, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self.started = True
        if self._data:
            yield self._data
            self._data = b""
            self.release()
        async for piece in rest:
            yield piece

    def release(self) -> None:
        """Give the kept bytes back to the budget."""
        if self._budget is not None:
            self._budget.give_back(self._reserved)
            self._budget = None


NO_BODY = Body(b"")


class Bodies:
    """Decides, per request, what is kept.

    While a body is waited for, nothing is done for its request: it waits `aside`, and takes no place among those in flight.
    """

    def __init__(
        self,
        *,
        most: int,
        keep: int,
        budget: ReplayBudget,
        aside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._most = most
        self._keep = keep
        self.budget = budget
        self._aside = aside

    async def take(self, exchange: Exchange, fields: RequestFields) -> Body:
        """Read a small body whole; leave a large one to be streamed.

        For requests that have one. Raises `BodyTooLarge`, before anything is read where the length is known, and what
        `Exchange.read` raises.
        """
        length = fields.content_length
        self._check(length or 0)
        if fields.expects_continue:
            exchange.go_on()
        body = Body(b"", chunked=fields.chunked)
        body._budget = self.budget  # one class in two parts
        if exchange.body_received and length is not None and length <= self._keep and self.budget.reserve(length):
            # Nearly always: it came together with its head.
            body._reserved = length
            body._data = exchange.read_received()
            return body
        try:
            with self._aside():
                return await self._begun(body, exchange)
        except BaseException:
            body.release()
            raise

    async def _begun(self, body: Body, exchange: Exchange) -> Body:
        """Read until there is more than is kept: whoever sends slowly has sent that much before it takes a connection."""
        pieces: list[bytes] = []
        size = 0
        while piece := await exchange.read():
            pieces.append(piece)
            size += len(piece)
            self._check(size)
            if size > self._keep or not self.budget.reserve(len(piece)):
                return self._left(body, exchange, pieces, size)
            body._reserved += len(piece)
        body._data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return body

    async def swallow(self, exchange: Exchange, fields: RequestFields) -> None:
        """Read a body that nobody needs, so that the connection can go on. Raises as `take`."""
        self._check(fields.content_length or 0)
        if fields.expects_continue:
            exchange.go_on()
        size = 0
        with self._aside():
            while piece := await exchange.read():
                size += len(piece)
                self._check(size)

    def _check(self, size: int) -> None:
        if size > self._most:
            raise BodyTooLarge(f"The request body is larger than limits.request_body, {self._most} bytes.")

    def _left(self, body: Body, exchange: Exchange, pieces: list[bytes], size: int) -> Body:
        body.kept = False
        body._data = b"".join(pieces)
        body._rest = self._rest(exchange, size)
        return body

    async def _rest(self, exchange: Exchange, size: int) -> AsyncIterator[bytes]:
        while piece := await exchange.read():
            size += len(piece)
            self._check(size)
            yield piece
