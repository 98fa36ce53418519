"""What signals do to commands that run for long."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Any

from proxy.process import OK, STOP_SIGNALS


def on_signals(stop: Callable[[], None]) -> None:
    """The first SIGTERM or SIGINT stops, the second exits at once."""
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


async def until_signal(work: Awaitable[Any]) -> int:
    """Run `work` until it ends or SIGTERM or SIGINT comes; either is a success."""
    task = asyncio.ensure_future(work)

    def cancel() -> None:
        task.cancel()

    on_signals(cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return OK
