"""Making a connection: names, TCP (Happy Eyeballs, RFC 8305), a tunnel if there is one, and TLS.

Owns everything up to the first byte of a request, so every failure here is `sent=False`. Must not know the pool.
Addresses are raced here and not by the loop, because uvloop cannot, and because the errors of several
addresses would come out of the loop as one text without a number.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import partial
from itertools import chain, zip_longest
from typing import Any, cast

from proxy.core.errors import UpstreamUnreachable
from proxy.core.values import Origin
from proxy.tls import client_context
from proxy.upstream import error_kinds
from proxy.upstream.tunnel import ProxyTunnel, open_tunnel

# RFC 8305, section 8: "Connection Attempt Delay" of 250 ms.
STAGGER = 0.25

_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


async def dial(
    connection: asyncio.BaseProtocol,
    origin: Origin,
    *,
    ssl_context: ssl.SSLContext | None,
    timeout: float,
    proxy: ProxyTunnel | None,
) -> None:
    """Connect and give the transport to `connection`.

    Raises:
        UpstreamUnreachable: with kind dns, refused, connect_timeout, tls, unreachable or proxy.
    """
    host, port = (proxy.host, proxy.port) if proxy else (origin.host, origin.port)
    failed = partial(error_kinds.connecting, host=host, is_proxy=proxy is not None)
    reached = partial(error_kinds.connecting if ssl_context is None else error_kinds.securing, host=origin.host)
    try:
        async with asyncio.timeout(timeout):
            sock = await _socket(host, port)
            if proxy is None:
                failed = reached
                await _direct(sock, connection, origin, ssl_context)
            else:
                failed = partial(error_kinds.tunnelling, proxy=host)
                tunnel = await open_tunnel(sock, proxy, origin)
                failed = reached
                await _through(tunnel, connection, origin, ssl_context)
    except UpstreamUnreachable:
        raise
    except (OSError, UnicodeError) as error:  # TimeoutError, gaierror and SSLError are among them
        raise failed(error) from error


async def _direct(
    sock: socket.socket, connection: asyncio.BaseProtocol, origin: Origin, ssl_context: ssl.SSLContext | None
) -> None:
    # From here the transport owns the socket, also when this is cancelled.
    await asyncio.get_running_loop().create_connection(
        lambda: connection,
        sock=sock,
        ssl=ssl_context,
        server_hostname=None if ssl_context is None else origin.host,
    )


async def _through(
    transport: asyncio.Transport, connection: asyncio.BaseProtocol, origin: Origin, ssl_context: ssl.SSLContext | None
) -> None:
    loop = asyncio.get_running_loop()
    try:
        if ssl_context is None:
            transport.set_protocol(connection)
            connection.connection_made(transport)
            return
        upgraded = await loop.start_tls(transport, connection, ssl_context, server_hostname=origin.host)
        # start_tls does not say this itself (call_connection_made=False in both loops).
        connection.connection_made(cast("asyncio.Transport", upgraded))
    except BaseException:
        transport.abort()
        raise


async def _socket(host: str, port: int) -> socket.socket:
    """Return a connected socket; addresses of both families take turns, a quarter of a second apart."""
    found = await _resolve(host, port)
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    first = found[0][0]
    addresses = [
        address
        for address in chain.from_iterable(
            zip_longest([a for a in found if a[0] == first], [a for a in found if a[0] != first])
        )
        if address is not None
    ]
    if len(addresses) == 1:
        return await _connect(addresses[0])
    return await _race(addresses)


async def _resolve(host: str, port: int) -> list[_Address]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return cast("list[_Address]", found)


async def _connect(address: _Address) -> socket.socket:
    family, kind, proto, _, target = address
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, target)
        # A request may wait 90 s for its answer without a byte; NATs forget silent connections.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except BaseException:
        sock.close()
        raise
    return sock


async def _race(addresses: list[_Address]) -> socket.socket:
    attempts: list[asyncio.Task[socket.socket]] = []
    pending: set[asyncio.Task[socket.socket]] = set()
    queue = list(reversed(addresses))
    winner: socket.socket | None = None
    try:
        while winner is None:
            if queue:
                task = asyncio.create_task(_connect(queue.pop()))
                attempts.append(task)
                pending.add(task)
            elif not pending:
                break
            done, pending = await asyncio.wait(
                pending, timeout=STAGGER if queue else None, return_when=asyncio.FIRST_COMPLETED
            )
            winner = next((task.result() for task in done if task.exception() is None), None)
    finally:
        for task in attempts:
            task.cancel()
            task.add_done_callback(partial(_close_late, winner))
    if winner is None:
        raise _best([task.exception() for task in attempts])
    return winner


def _close_late(winner: socket.socket | None, task: asyncio.Task[socket.socket]) -> None:
    """Close the socket of an attempt that succeeded beside the winner, or after the caller had gone."""
    if not task.cancelled() and task.exception() is None and task.result() is not winner:
        task.result().close()


def _best(errors: list[BaseException | None]) -> BaseException:
    """Choose the error that says most: a refusal shows that the host is there."""
    found = [error for error in errors if error is not None]
    return next((error for error in found if isinstance(error, ConnectionRefusedError)), found[0])


def tls_context(authorities: str | None) -> ssl.SSLContext:
    """Build the context for the upstream: what `client_context` demands, for HTTP/1.1."""
    context = client_context(authorities)
    context.set_alpn_protocols(["http/1.1"])
    return context
