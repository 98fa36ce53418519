"""A way through an HTTP proxy by CONNECT (RFC 9110, section 9.3.6).

Owns the handshake with the proxy, whose credentials are in no repr and no sentence. Must not know where its address comes
from, TLS to the origin, or the pool.
"""

from __future__ import annotations

import asyncio
import re
import socket
from dataclasses import dataclass, field

from proxy.core.errors import UpstreamUnreachable
from proxy.http.answer_head import Head, check_partial
from proxy.http.chunks import InvalidMessage
from proxy.upstream import failures
from proxy.upstream.origin import Origin

_MAX_HEAD = 64 * 1024
# RFC 9110, section 15.2: any number of these may come before the answer. 101 would begin another protocol.
_INTERIM = re.compile(rb"HTTP/1\.1 1(?!01)[0-9][0-9][ \r]")


@dataclass(frozen=True, slots=True)
class ProxyTunnel:
    """The proxy to go through; `authorization` is the value of Proxy-Authorization."""

    host: str
    port: int
    authorization: bytes | None = field(default=None, repr=False)


class _Handshake(asyncio.Protocol):
    """Collects the proxy's answer to CONNECT."""

    def __init__(self) -> None:
        self.data = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.data += data
        while _INTERIM.match(self.data) and (end := self.data.find(b"\r\n\r\n")) >= 0:
            self.data = self.data[end + 4 :]
        if b"\r\n\r\n" in self.data or len(self.data) > _MAX_HEAD:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — the data says enough
        self._wake()

    def _wake(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


def _refused(why: str) -> UpstreamUnreachable:
    return failures.unreachable("proxy", why, "destination_unavailable")


async def open_tunnel(sock: socket.socket, proxy: ProxyTunnel, origin: Origin) -> asyncio.Transport:
    """Ask for a tunnel to `origin` on a connected socket, which is owned from here on.

    Raises:
        UpstreamUnreachable: kind proxy, when the proxy refused or did not speak HTTP.
    """
    loop = asyncio.get_running_loop()
    transport, handshake = await loop.create_connection(_Handshake, sock=sock)
    target = origin.authority.encode("ascii")
    request = b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\n"
    if proxy.authorization is not None:
        request += b"Proxy-Authorization: " + proxy.authorization + b"\r\n"
    try:
        transport.write(request + b"\r\n")
        await handshake.done
        _judge(handshake.data)
    except BaseException:
        transport.abort()
        raise
    return transport


def _judge(data: bytes) -> None:
    end = data.find(b"\r\n\r\n") + 4
    try:
        if end == 3:
            check_partial(data)
            closed = len(data) <= _MAX_HEAD
            raise _refused(
                "The proxy closed the connection instead of opening a tunnel"
                if closed
                else "The proxy's answer is too long"
            )
        head = Head(_unframed(data[:end]))
    except InvalidMessage:
        raise _refused("The proxy's answer was not valid HTTP/1.1") from None
    if not 200 <= head.status < 300:
        raise _refused(f"The proxy refused to open a tunnel (status {head.status})")
    if end != len(data):
        # The client speaks first in TLS and in HTTP: whatever this is, it is not from the origin.
        raise _refused("The proxy sent data into the tunnel before the first request")


def _unframed(head: bytes) -> bytes:
    """Leave the status line: a 2xx to CONNECT has no body, whatever its headers say (RFC 9110, 9.3.6)."""
    return head[: head.index(b"\r\n")] + b"\r\n\r\n"
