"""When the process has no descriptor left, nothing looks whole that is not, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from proxy.server.listener import Listener
from tests.server.harness import Peer, RawUpstream, Running


@contextlib.contextmanager
def none_left() -> Iterator[None]:
    """Let this process open no further descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # those that are open stay; what they leave free stays free
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_an_answer_cut_short_that_its_connection_delimits_is_reset(upstream: RawUpstream, proxy: Running) -> None:
    cut = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await cut.wait()
        await peer.send(b"no chunk\r\n")

    upstream.answers.append(script)
    caller = await proxy.caller()
    await caller.send(b"GET /a HTTP/1.0\r\n\r\n")
    await caller.head()
    assert await caller.reader.readexactly(3) == b"abc"
    with none_left():
        cut.set()
        with pytest.raises(ConnectionResetError):
            await caller.reader.read(-1)


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(b"hello")
        cast("asyncio.Transport", transport).close()


async def test_who_waits_at_a_listener_is_taken_in_as_soon_as_a_descriptor_is_free() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    callers = [await asyncio.open_connection(*sock.getsockname()) for _ in range(3)]
    with none_left():
        listener = Listener(Greeter, sock)
        taking = asyncio.create_task(listener.close_after_the_rest())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not taking.done()
    await taking
    for reader, writer in callers:
        assert await reader.read(-1) == b"hello"
        writer.close()


async def test_who_cannot_be_taken_in_for_want_of_descriptors_waits_and_is_served() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    callers = [await asyncio.open_connection(*sock.getsockname()) for _ in range(40)]
    with none_left():
        listener = Listener(Greeter, sock)
        for _ in range(20):
            await asyncio.sleep(0)
    for reader, writer in callers:
        assert await reader.read(-1) == b"hello"
        writer.close()
    listener.close()
