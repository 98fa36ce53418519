"""Background tasks that are never lost: a reference is kept, a failure is reported, close() ends them all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """A set of running background tasks of one owner.

    `on_failure(name, error)` is called in the event loop for a task that ends with an exception other than
    cancellation; without it the loop's exception handler hears of it.
    """

    def __init__(self, on_failure: Callable[[str, BaseException], None] | None = None) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._on_failure = on_failure

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start `work` now and keep it until it ends."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if self._on_failure is not None:
            self._on_failure(task.get_name(), error)
        else:
            task.get_loop().call_exception_handler(
                {"message": f"background task {task.get_name()} failed", "exception": error, "task": task}
            )

    async def close(self) -> None:
        """Cancel what still runs and wait for its end."""
        while self._running:
            pending = list(self._running)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            # From Python 3.12 on gather() does not wait for a turn of the loop when all have ended: `_ended` comes later.
            self._running.difference_update(pending)
