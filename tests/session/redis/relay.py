"""A wire between a client and a server that can be slow, hang, or be cut at a chosen answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Relay:
    """Listens on `port`; knows of commands and answers only that they are bytes."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self.port = 0
        #: Seconds by which each answer is late.
        self.delay = 0.0
        #: Answers that are still let through before the wire is cut; None: all.
        self.cut_after: int | None = None
        #: Whether connections are accepted and then nothing is heard of them.
        self.hangs = False
        #: Everything that clients sent.
        self.sent = b""
        #: Bytes that servers answered.
        self.received = 0
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._server_port)
            with contextlib.closing(back):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._down(there, writer))
                    group.create_task(self._up(reader, back))
        except* (_Cut, OSError, asyncio.CancelledError):
            pass  # Python 3.11 complains of a callback that ends cancelled
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _up(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while content := await reader.read(65536):
            self.sent += content
            if not self.hangs:
                back.write(content)
        raise _Cut

    async def _down(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await there.read(65536):
            self.received += len(content)
            if self.cut_after == 0:
                self.cut_after = None
                raise _Cut
            if self.cut_after is not None:
                self.cut_after -= 1
            await asyncio.sleep(self.delay)
            writer.write(content)
        raise _Cut

    def cut(self) -> None:
        """Cut all wires."""
        for task in self._tasks:
            task.cancel()

    async def end(self) -> None:
        """Cut all wires and wait until they are gone."""
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Cut(Exception):
    pass


@contextlib.asynccontextmanager
async def relay_to(server_port: int) -> AsyncIterator[Relay]:
    relay = Relay(server_port)
    listener = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = listener.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        listener.close()
        await relay.end()
