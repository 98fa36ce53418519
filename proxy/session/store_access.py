"""The use of a store: bounded in time, counted, and never a reason for a request to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from proxy.session.ports import Observer
from proxy.session.stores import SharedStore, StoreUnreachable, StoreUnusable

T = TypeVar("T")

#: Seconds for one use of the store.
STORE_DEADLINE: Final = 2.0


class StoreAccess:
    """One store as one keeper uses it. A store that does not do its work is told apart from an empty one by None."""

    def __init__(self, store: SharedStore, observer: Observer) -> None:
        self.store = store
        self.observer = observer
        #: What was wrong with the last use, and with the last that wrote.
        self._trouble: Exception | None = None
        self._unwritten: Exception | None = None
        #: It has refused to write, and has written nothing since, as far as is known: that it can be read proves little.
        self._refuses = False

    @property
    def is_distant(self) -> bool:
        """Say whether others use the store on other machines."""
        return self.store.shared and self.store.patience > 0

    @property
    def is_cut_off(self) -> bool:
        """Say whether others use the store on other machines, and it did not do its work when it was used last."""
        return self.is_distant and self._trouble is not None

    @property
    def trouble_stays(self) -> bool:
        """Say whether the last use failed for a reason that does not pass within seconds."""
        return isinstance(self._trouble, StoreUnreachable) and not self._trouble.passes

    def trouble(self, *, is_pending: bool) -> str | None:
        """Say what is wrong with the store, None: nothing is known. A store can be read that cannot be written.

        `is_pending`: something is still to be written.
        """
        error = self._trouble or (self._unwritten if is_pending else None)
        return None if error is None else _why(error)

    async def do(self, operation: str, work: Awaitable[T], *, seconds: float = STORE_DEADLINE) -> T | None:
        """Wait for one use; None when it failed, which the observer is told as `operation`. Raises nothing."""
        try:
            async with asyncio.timeout(seconds):
                done = await work
        except Exception as error:
            self._used(operation, error)
            self.observer.store(operation, "failed", _why(error))
            return None
        self._used(operation, None)
        return done

    async def done(self, operation: str, work: Awaitable[None]) -> bool:
        """Wait for a use that answers nothing; say whether it was done."""
        await self.do(operation, work)
        return self._trouble is None

    def has_written(self) -> None:
        """Note that something was written, here or by another process."""
        self._refuses = False

    def works(self) -> None:
        """Tell the observer that all works again, whatever failed: it was just read, and nothing waits to be written."""
        if not self._refuses:
            self.observer.store_works()

    def _used(self, operation: str, trouble: Exception | None) -> None:
        self._trouble = trouble
        self._refuses = self._refuses or _is_refusal(trouble)
        if operation in ("save", "latch"):
            self._unwritten = trouble


def _is_refusal(error: Exception | None) -> bool:
    """Say whether what failed to be written leaves the store readable: Redis, or the disk of a file, is full."""
    if isinstance(error, StoreUnreachable):
        return error.refuses
    return isinstance(error, OSError) and not isinstance(error, TimeoutError)


def _why(error: Exception) -> str:
    """A sentence for the log without anything that came from elsewhere: not every library minds what it repeats."""
    if isinstance(error, StoreUnusable | StoreUnreachable):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (isinstance(error, TimeoutError) and str(error)) or f"{type(error).__name__} in the store"
