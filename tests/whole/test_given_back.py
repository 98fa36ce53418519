"""A slow reader takes little memory, and what many of them needed at once is the system's again when they are gone."""

from __future__ import annotations

import asyncio
import platform
import sys
from pathlib import Path

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpServer

from bench.configs import Origin
from bench.measure import memory_mb
from bench.processes import Cores
from bench.servers import Place, start_ours

READERS = 150
#: Bytes of each answer: more than all buffers between the two ends take.
SIZE = 20_000_000
#: What each of them may cost.
MOST_MB = 0.256

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="only glibc keeps it and can be told not to"
)


async def session(_: web.Request) -> web.Response:
    return web.json_response({"access_token": "aaa.bbb.ccc", "expiresInSeconds": 86400})


async def much(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": str(SIZE)})
    await answer.prepare(request)
    for _ in range(SIZE // 100_000):
        await answer.write(bytes(100_000))
    return answer


async def slow_reader(port: int) -> asyncio.StreamWriter:
    """A caller that begins to read and stops."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    writer.write(b"GET /v3/merchants/buy HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await reader.readexactly(1)
    return writer


async def test_slow_readers_need_little_and_it_is_given_back(tmp_path: Path, aiohttp_server: AiohttpServer) -> None:
    app = web.Application()
    app.add_routes([web.post("/v3/session", session), web.get("/v3/merchants/buy", much)])
    place = Place(tmp_path, Cores.chosen(), Origin((await aiohttp_server(app, shutdown_timeout=0.1)).port or 0))
    peer = await start_ours(place, settings={"UPSTREAM__MAX_CONNECTIONS": "200"})
    try:
        before = memory_mb(peer.pids)
        writers = await asyncio.gather(*(slow_reader(peer.port) for _ in range(READERS)))
        async with asyncio.timeout(25):
            most = before
            while (held := memory_mb(peer.pids)) < before + 5 or held > most:  # until it grows no more
                most = held
                await asyncio.sleep(1.0)
            while memory_mb(peer.pids) > before + READERS * MOST_MB:  # what others needed before them is given back
                await asyncio.sleep(0.05)
            for writer in writers:
                writer.transport.abort()
            while memory_mb(peer.pids) > before + 5:
                await asyncio.sleep(0.05)
    finally:
        peer.stop()
