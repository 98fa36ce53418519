"""When the process has no descriptor left, nothing looks whole that is not, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from proxy.listening import accept_rest
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
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(Greeter, "127.0.0.1", 0, start_serving=False)
    (sock,) = listener.sockets
    with socket.socket(fileno=os.dup(sock.fileno())) as same:
        same.listen(10)
    callers = [await asyncio.open_connection(*sock.getsockname()) for _ in range(3)]
    with none_left():
        taking = asyncio.create_task(accept_rest(listener, Greeter))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not taking.done()
    await taking
    listener.close()
    for reader, writer in callers:
        assert await reader.read(-1) == b"hello"
        writer.close()
