"""The upstream suite runs on asyncio and on uvloop; `connect` builds a scripted server and a client for it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from proxy.upstream import Origin, Response, Upstream
from tests.upstream.wire import Script, Wire

Connect = Callable[..., Awaitable[tuple[Wire, Upstream]]]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    wires: list[Wire] = []
    clients: list[Upstream] = []
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def build(
        script: Script,
        *,
        server_tls: ssl.SSLContext | None = None,
        ssl_context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        **options: Any,
    ) -> tuple[Wire, Upstream]:
        wire = Wire(script)
        await wire.start(server_tls)
        wires.append(wire)
        scheme = "https" if server_tls else "http"
        client = Upstream(Origin(scheme, host, wire.port), ssl_context=ssl_context, **options)
        clients.append(client)
        return wire, client

    yield build
    for client in clients:
        await client.aclose()
        assert client.active_connections == 0
        assert client.idle_connections == 0
    for wire in wires:
        await wire.stop()
    assert complaints == []


class LoopClock:
    """The loop's clock, which can be set forward. Timers that are due by then run on asyncio at once, on uvloop when due."""

    def __init__(self) -> None:
        self._ahead = 0.0
        loop = asyncio.get_running_loop()
        real = loop.time
        loop.time = lambda: real() + self._ahead  # type: ignore[method-assign]

    def on(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self._ahead += seconds


@pytest.fixture
async def clock() -> LoopClock:
    return LoopClock()


async def body_of(response: Response) -> bytes:
    data = b"".join(response.take())
    while piece := await response.read():
        data += piece
    return data
