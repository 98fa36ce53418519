"""A scripted upstream on a real socket: raw bytes in, raw bytes out, counters for everything.

Must share no code with the client under test.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /v3/x HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"HEAD /v3/x HTTP/1.1\r\nHost: x\r\n\r\n"


def post(length: int) -> bytes:
    return b"POST /v3/x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length


POST_CHUNKED = b"POST /v3/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Peer:
    """One accepted connection, as the script sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number

    async def request(self) -> bytes:
        """The next request: head, and the body when it has a Content-Length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                return head + await self.reader.readexactly(int(value))
        return head

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def finish(self) -> None:
        """A clean end: FIN after everything sent."""
        self.writer.close()

    def reset(self) -> None:
        """An RST, at once."""
        sock = self.writer.get_extra_info("socket")
        duplicate = socket.fromfd(sock.fileno(), sock.family, sock.type)
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        duplicate.close()
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the client has closed."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


Script = Callable[[Peer], Awaitable[None]]


class Wire:
    """The server; `accepted` and `requests` count what really arrived."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.accepted = 0
        self.requests: list[bytes] = []
        self.errors: list[BaseException] = []
        self.ended = asyncio.Event()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        peer = Peer(reader, writer, self.accepted)
        read = peer.request

        async def request() -> bytes:
            data = await read()
            self.requests.append(data)
            return data

        peer.request = request  # type: ignore[method-assign]
        try:
            await self.script(peer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except BaseException as error:
            self.errors.append(error)
        finally:
            self._tasks.discard(task)
            writer.close()
            self.ended.set()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not self.errors, self.errors


def answers(*data: bytes) -> Script:
    """A script that gives each request of a connection the next answer, the last one for ever."""

    async def script(peer: Peer) -> None:
        left = list(data)
        while True:
            await peer.request()
            await peer.send(left.pop(0) if len(left) > 1 else left[0])

    return script


def once(data: bytes, *, close: bool = False) -> Script:
    """A script that answers one request and then ends cleanly, or waits for the client to end."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)
        if close:
            peer.finish()
        else:
            await peer.gone()

    return script


async def pieces(items: Iterable[bytes]) -> AsyncIterator[bytes]:
    for item in items:
        yield item


async def until(condition: Callable[[], object]) -> None:
    """Give the loop turns until something holds; the time-out of the test is the deadline."""
    while not condition():
        await asyncio.sleep(0.001)
