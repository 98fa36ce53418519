"""What has an event loop runs in it, and what signals do meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvloop

from proxy.process import OK, STOP_SIGNALS, exit_at_once
from proxy.tasks import Tasks


def run_loop(work: Coroutine[Any, Any, int]) -> int:
    """Run in a uvloop event loop, and return the exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(work)
    if callable(signal.getsignal(signal.SIGHUP)):  # Python takes its own handlers away at its end
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return code


def on_hangup(read_again: Callable[[], Coroutine[Any, Any, None]]) -> Tasks:
    """Run it in the event loop that runs, at each SIGHUP; returns what runs, to be closed before the log is.

    The loop's own handlers end with it, and the next SIGHUP would be the end of a process that is about to end well.
    """
    loop, tasks = asyncio.get_running_loop(), Tasks()

    def heard(*_: object) -> None:
        if loop.is_running():
            loop.call_soon_threadsafe(lambda: tasks.spawn(read_again(), name="read again"))

    signal.signal(signal.SIGHUP, heard)
    return tasks


def on_signals(stop: Callable[[], object]) -> None:
    """The first SIGTERM or SIGINT stops, the second exits at once."""
    loop = asyncio.get_running_loop()
    asked = False

    def handle(number: int) -> None:
        nonlocal asked
        if asked:
            exit_at_once(number)
        asked = True
        stop()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, handle, number)


async def until_signal(work: Awaitable[Any]) -> int:
    """Run `work` until it ends or SIGTERM or SIGINT comes; either is a success."""
    task = asyncio.ensure_future(work)
    on_signals(task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return OK
