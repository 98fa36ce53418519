"""A server that keeps the exact bytes it was sent and answers with the exact bytes it was given."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

#: Instead of bytes: close without an answer; never answer.
CLOSE, HANG = "close", "hang"


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


@dataclass
class RawServer:
    """`answers` in turn, the last one for ever."""

    answers: deque[bytes | str]
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    #: Connections whose client has gone.
    ended: int = 0
    url: str = ""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                self.requests.append(head + await reader.readexactly(length))
                self.arrived.set()
                what = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
                if what == CLOSE:
                    return
                if isinstance(what, bytes):
                    writer.write(what)
                    await writer.drain()
                    if what.endswith(b"BREAK"):
                        return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended += 1
            self.left.set()
            writer.close()


@asynccontextmanager
async def serving(*answers: bytes | str, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    raw = RawServer(deque(answers))
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0, ssl=tls)
    raw.url = f"{'https' if tls else 'http'}://localhost:{server.sockets[0].getsockname()[1]}"
    try:
        yield raw
    finally:
        server.close()
