"""A TCP relay that adds the distance of a real upstream: each direction takes `delay` seconds, connecting a round trip.

Owns nothing but bytes and time; for one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from bench.processes import free_port


class _End(asyncio.Protocol):
    """One of two connected ends; hands what it receives to the other one, later."""

    def __init__(self, delay: float) -> None:
        self.other: _End
        self.transport: asyncio.Transport | None = None
        self.not_before = 0.0
        self._delay = delay
        # None is the end of the stream.
        self._on_its_way: deque[bytes | None] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport by name.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._later(data)

    def eof_received(self) -> bool:
        self._later(None)
        return True

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        self._later(None)

    def _later(self, data: bytes | None) -> None:
        loop = asyncio.get_running_loop()
        self._on_its_way.append(data)
        # All wait alike, so whichever timer is first, the oldest piece is the one that is due.
        loop.call_later(max(0.0, self.not_before - loop.time()) + self._delay, self._arrives)

    def _arrives(self) -> None:
        data, transport = self._on_its_way.popleft(), self.other.transport
        if transport is None or transport.is_closing():
            return
        if data is None:
            transport.close()
        else:
            transport.write(data)


@asynccontextmanager
async def relay(to_port: int, *, delay: float) -> AsyncIterator[int]:
    """Relay to a port of loopback; yields the port to connect to."""
    loop = asyncio.get_running_loop()
    ends: list[_End] = []

    def accept() -> _End:
        near, far = _End(delay), _End(delay)
        near.other, far.other = far, near
        # The SYN and its answer: a caller could not have sent anything before that.
        near.not_before = loop.time() + 2 * delay
        ends.extend((near, far))
        connecting = loop.create_task(loop.create_connection(lambda: far, "127.0.0.1", to_port))
        pending.add(connecting)
        connecting.add_done_callback(pending.discard)
        return near

    pending: set[asyncio.Task[object]] = set()
    port = free_port()
    server = await loop.create_server(accept, "127.0.0.1", port)
    try:
        yield port
    finally:
        server.close()
        for end in ends:
            if end.transport is not None:
                end.transport.abort()
