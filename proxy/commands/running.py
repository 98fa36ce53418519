"""What commands that run for long have in common: the event loop, and what signals do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvloop

from proxy.process import OK, STOP_SIGNALS


def run_loop(work: Coroutine[Any, Any, int]) -> int:
    """Run in a uvloop event loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def on_signals(stop: Callable[[], None], *, reread: Callable[[], object] | None = None) -> None:
    """The first SIGTERM or SIGINT drains, the second exits at once; SIGHUP reads files again."""
    loop = asyncio.get_running_loop()
    asked = False

    def handle(number: int) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        stop()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, handle, number)
    if reread is not None:
        loop.add_signal_handler(signal.SIGHUP, reread)


async def until_signal(work: Awaitable[Any]) -> int:
    """Run `work` until it ends or SIGTERM or SIGINT comes; either is a success."""
    task = asyncio.ensure_future(work)

    def cancel() -> None:
        task.cancel()

    on_signals(cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return OK
