"""A way through an HTTP proxy by CONNECT (RFC 9110, section 9.3.6), as the environment asks for it.

Owns the variables HTTPS_PROXY, HTTP_PROXY and NO_PROXY and the handshake with the proxy. Its credentials are in
no repr and no sentence. Must not know TLS to the origin or the pool.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes, urlsplit

from proxy.core.errors import UpstreamUnreachable
from proxy.http1 import InvalidMessage
from proxy.upstream import failures
from proxy.upstream.head import Head, check_partial
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

    @classmethod
    def from_environment(cls, origin: Origin, environ: Mapping[str, str] | None = None) -> ProxyTunnel | None:
        """Return the proxy for `origin`, None for a direct connection.

        Lower-case names win; HTTP_PROXY in capitals is not read under CGI, where a caller can set it
        (httpoxy, CVE-2016-5385).

        Raises:
            ValueError: the variable does not hold an http:// proxy; its value is not repeated.
        """
        env = os.environ if environ is None else environ
        name = f"{origin.scheme}_proxy"
        value = env.get(name)
        if value is None and not (origin.scheme == "http" and "REQUEST_METHOD" in env):
            value = env.get(name.upper())
        skip = env.get("no_proxy", env.get("NO_PROXY", ""))
        if not value or _bypassed(origin, skip):
            return None
        wrong = f"{name.upper()} must look like http://[user:password@]host:port."
        try:
            parts = urlsplit(value if "://" in value else f"http://{value}")
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError(wrong) from None
        if parts.scheme != "http" or not host or parts.path not in {"", "/"}:
            raise ValueError(wrong)
        authorization = None
        if parts.username is not None:
            pair = unquote_to_bytes(parts.username) + b":" + unquote_to_bytes(parts.password or "")
            authorization = b"Basic " + base64.b64encode(pair)
        return cls(host, port or 80, authorization)


def _bypassed(origin: Origin, no_proxy: str) -> bool:
    """NO_PROXY as curl, Go and requests read it: names with all below them, `host:port`, addresses, networks."""
    for entry in no_proxy.replace(",", " ").lower().split():
        if entry in {"*", origin.authority}:
            return True
        name, colon, port = entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
        name = name.removeprefix("*").strip(".").strip("[]")
        if colon and port != str(origin.port):
            continue
        if name and (origin.host == name or origin.host.endswith("." + name)):
            return True
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(origin.host) in ipaddress.ip_network(name, strict=False):
                return True
    return False


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
