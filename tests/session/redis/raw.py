"""A server that speaks the protocol of Redis, and says what a test wants it to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable


async def read_command(reader: asyncio.StreamReader) -> list[bytes]:
    """Read one command. Raises `asyncio.IncompleteReadError` at the end."""
    words = []
    for _ in range(int((await reader.readuntil())[1:])):
        size = int((await reader.readuntil())[1:])
        words.append((await reader.readexactly(size + 2))[:size])
    return words


@contextlib.asynccontextmanager
async def answering(answer: Callable[[list[bytes]], bytes]) -> AsyncIterator[int]:
    """Answer every command of every connection; yields the port."""
    serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving[task] = writer
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                writer.write(answer(await read_command(reader)))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for writer in serving.values():
            writer.close()
        await asyncio.gather(*serving)
