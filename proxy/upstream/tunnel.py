"""A way through an HTTP proxy by CONNECT (RFC 9110, section 9.3.6).

Owns the handshake with the proxy, whose credentials are in no repr and no sentence. Must not know where its address comes
from, TLS to the origin, or the pool.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field

from proxy.core.errors import UpstreamUnreachable
from proxy.core.values import Origin
from proxy.http.answer_head import AnswerHead, check_partial_answer
from proxy.http.heads import HeadReader, InvalidMessage
from proxy.upstream import error_kinds


@dataclass(frozen=True, slots=True)
class ProxyTunnel:
    """The proxy to go through; `authorization` is the value of Proxy-Authorization."""

    host: str
    port: int
    authorization: bytes | None = field(default=None, repr=False)


class _Handshake(asyncio.Protocol):
    """Reads the proxy's answer to CONNECT: its head, and what follows that."""

    def __init__(self) -> None:
        self._head = HeadReader(check_partial_answer)
        self.answer: asyncio.Future[tuple[AnswerHead, bytes]] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        try:
            while data and not self.answer.done() and (found := self._head.feed(data)) is not None:
                # A 2xx to CONNECT has no body, whatever its fields say (RFC 9110, 9.3.6): only the status line counts.
                head, data = AnswerHead(found[0][: found[0].index(b"\r\n")] + b"\r\n\r\n"), found[1]
                # RFC 9110, 15.2: any number of interim answers may come before. 101 would begin another protocol.
                if head.status >= 200 or head.status == 101:
                    self.answer.set_result((head, data))
        except InvalidMessage:
            self._fail("The proxy's answer was not valid HTTP/1.1")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — the data says enough
        self._fail("The proxy closed the connection instead of opening a tunnel")

    def _fail(self, why: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(_refused(why))


def _refused(why: str) -> UpstreamUnreachable:
    return error_kinds.unreachable("proxy", why, "destination_unavailable")


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
        head, rest = await handshake.answer
    except BaseException:
        transport.abort()
        raise
    why = ""
    if not 200 <= head.status < 300:
        why = f"The proxy refused to open a tunnel (status {head.status})"
    elif rest:
        # The client speaks first in TLS and in HTTP: whatever this is, it is not from the origin.
        why = "The proxy sent data into the tunnel before the first request"
    if why:
        transport.abort()
        raise _refused(why)
    return transport
