"""One long answer read by hand, with stops: for what a proxy does with bytes that nobody takes.

Owns a blocking-free reader over plain sockets. Knows nothing of who is asked.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Streamed:
    """What came: bytes of the body, and seconds without the pause."""

    size: int
    seconds: float


async def fetch_stream(port: int, path: str, *, stop_after: int = 0, pause: float = 0.0) -> Streamed:
    """Read one answer with a length; after `stop_after` bytes read nothing for `pause` seconds."""
    # A small window: what waits in our own buffers is not the proxy's, and hides what it holds.
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 18)
    began, size = time.perf_counter(), 0
    try:
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench/1\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        await reader.readuntil(b"\r\n\r\n")
        paused = not pause
        while piece := await reader.read(1 << 18):
            size += len(piece)
            if not paused and size >= stop_after:
                paused = True
                await asyncio.sleep(pause)
    finally:
        writer.close()
    return Streamed(size, time.perf_counter() - began - pause)


async def begin_and_stop(port: int, path: str) -> asyncio.StreamWriter:
    """Ask for a long answer, see that it begins, and read no more of it than fits into small buffers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench/1\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    return writer
