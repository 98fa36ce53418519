"""A worker process: an ordinary proxy that takes its settings and sockets from the supervisor, and ends when that does."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import Final

from proxy.app import Proxy, Shared
from proxy.listening import CannotListen
from proxy.memory import settle
from proxy.process import STOP_SIGNALS, begin_with_signals
from proxy.processes.board import Board
from proxy.processes.child import tell
from proxy.processes.folder import Folder
from proxy.processes.orders import Orders, read
from proxy.session.stores import StoreUnusable
from proxy.tasks import Tasks
from proxy.telemetry import logs

#: Seconds in which the supervisor answers a worker that wants to end.
_ANSWER: Final = 0.5


def main() -> int:
    """Run one worker; returns the exit code."""
    import uvloop  # noqa: PLC0415  # as the command line does

    begin_with_signals(serves=True, runs=False)
    # Standard input becomes what libraries think it is; libuv would not close it.
    line = socket.socket(fileno=os.dup(0))
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    # A worker that is told to end before it can listen just ends.
    with contextlib.suppress(KeyboardInterrupt):
        orders = read(line)
        if orders is not None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_work(orders, line))
    return 0


async def _work(orders: Orders, line: socket.socket) -> int:
    settings, folder = orders.settings, Folder(orders.folder)
    folder.hold()
    writer = logs.configure(settings.log.level, settings.log.format, worker=orders.worker)
    writer.share(folder.log_lock)
    sockets = [socket.socket(fileno=descriptor) for descriptor in orders.sockets]
    board = Board(folder.board, orders.workers)
    shared = Shared(sockets, board.in_flight(orders.worker))
    proxy = Proxy(settings, shared=shared)
    reader, answers = await asyncio.open_unix_connection(sock=line)
    orphaned = False

    def drain() -> None:
        # The supervisor lets go of our sockets first, so that nobody is put into their queues any more, and answers.
        tell(answers, draining=True)
        asyncio.get_running_loop().call_later(_ANSWER, proxy.request_stop)

    # Twice is once: only the supervisor may hurry a worker, by killing it. A SIGTERM to one worker drains that one.
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, drain)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, proxy.read_again)

    async def listen() -> None:
        nonlocal orphaned
        with contextlib.suppress(ConnectionError):
            while await reader.read(64):
                proxy.request_stop()
        orphaned = True
        proxy.request_stop()

    tasks = Tasks()
    tasks.spawn(listen(), name="supervisor")
    failed: tuple[str, int] | None = None
    try:
        async with proxy:
            tell(answers, started=True)
            settle()
            await proxy.run()
    except StoreUnusable as error:
        failed = str(error), 2
    except (CannotListen, ValueError) as error:
        failed = str(error), 1
    finally:
        await tasks.close()
        if orphaned:
            # After the store's thread has ended, too.
            atexit.register(folder.remove_if_last)
        await writer.finish()
    if failed is None:
        tell(answers, counted=proxy.metrics.render("")[0].decode())
    else:
        tell(answers, failed=failed[0], code=failed[1])
    with contextlib.suppress(ConnectionError):
        await answers.drain()
        answers.close()
        await answers.wait_closed()
    return 0 if failed is None else failed[1]
