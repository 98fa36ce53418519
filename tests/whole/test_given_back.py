"""Memory that many slow readers needed at once is the system's again when they are gone."""

from __future__ import annotations

import asyncio
import platform
import sys
from pathlib import Path

import pytest

from bench.configs import Origin
from bench.measure import memory_mb
from bench.processes import Cores, free_port
from bench.servers import Place, start_ours

READERS = 150
#: Bytes of each answer: more than all buffers between the two ends take.
SIZE = 20_000_000
SESSION = b'{"access_token": "aaa.bbb.ccc", "expiresInSeconds": 86400}'

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="only glibc keeps it and can be told not to"
)


async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if head.startswith(b"POST"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(SESSION), SESSION))
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
            for _ in range(SIZE // 100_000):
                writer.write(bytes(100_000))
                await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        writer.close()


async def slow_reader(port: int) -> asyncio.StreamWriter:
    """A caller that begins to read and stops."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    writer.write(b"GET /v3/merchants/buy HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await reader.readexactly(1)
    return writer


async def test_what_slow_readers_needed_is_given_back(tmp_path: Path) -> None:
    port, everywhere = free_port(), Cores.chosen()
    server = await asyncio.start_server(upstream, "127.0.0.1", port)
    peer = await start_ours(Place(tmp_path, everywhere, Origin(port)), settings={"UPSTREAM__MAX_CONNECTIONS": "200"})
    try:
        before = memory_mb(peer.pids)
        writers = await asyncio.gather(*(slow_reader(peer.port) for _ in range(READERS)))
        async with asyncio.timeout(25):
            most = before
            while (held := memory_mb(peer.pids)) < before + 50 or held > most:  # until it grows no more
                most = held
                await asyncio.sleep(1.0)
            for writer in writers:
                writer.transport.abort()
            while memory_mb(peer.pids) > before + 20:
                await asyncio.sleep(0.05)
    finally:
        peer.stop()
        server.close()
