"""Addresses that are listened on, and how many callers there may be. Knows sockets and the limits of the system."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from proxy.server.admin_port import AdminPort, AdminProtocol
from proxy.settings import ListenAddress

#: Connections that wait to be accepted; the kernel's somaxconn bounds it further.
BACKLOG = 1024
#: Descriptors for the rest: standard streams, event loop, listeners, admin port, session calls, store, secret files.
_OTHER_DESCRIPTORS = 24
#: More than any proxy of this kind serves.
_MANY_DESCRIPTORS = 65536
#: So often, and with so many seconds in between, a listener's queue is tried when an error came out of it.
_MOST_REFUSALS = 100
_REFUSAL_PAUSE = 0.01
#: Seconds given to connections to end after the server was told to stop.
LAST_SECONDS = 0.5


class CannotListen(Exception):
    """An address of `listen` or `admin.listen` could not be bound; the sentence says which and what to do."""


def most_callers(upstream_connections: int, descriptors: int) -> int:
    """Bound the callers' connections, so that idle ones cannot take the descriptors that dialling CardCash needs."""
    reserved = min(upstream_connections, descriptors // 4) + _OTHER_DESCRIPTORS
    return max(descriptors - reserved, descriptors // 4)


def descriptors() -> int:
    """Raise the soft limit of open files to the hard one, as servers do, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MANY_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return _MANY_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


async def listen(server: Callable[[], asyncio.BaseProtocol], address: ListenAddress, setting: str) -> asyncio.Server:
    """Listen at one address; `setting` is named when that fails. Raises `CannotListen`."""
    loop = asyncio.get_running_loop()
    with _explained(address, setting):
        if address.kind == "tcp":
            return await loop.create_server(server, address.host, address.port, backlog=BACKLOG)
        with _unix_socket(address):
            return await loop.create_unix_server(server, address.path, backlog=BACKLOG)


def bind(address: ListenAddress, setting: str) -> list[socket.socket]:
    """Listen at one address with plain sockets, for other processes to accept from. Raises `CannotListen`.

    A name such as localhost may stand for several sockets. Blocks on the resolver: for the start only.
    """
    with _explained(address, setting), contextlib.ExitStack() as unless_well:
        sockets = []
        if address.kind == "unix":
            with _unix_socket(address):
                sockets.append(unless_well.enter_context(socket.socket(socket.AF_UNIX)))
                sockets[0].bind(address.path)
        else:
            infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, place in dict.fromkeys(infos):
                try:
                    sock = unless_well.enter_context(socket.socket(family, kind, protocol))
                except OSError:
                    continue  # a kernel without IPv6 has a localhost, too
                _prepare(sock)
                sock.bind(place)
                sockets.append(sock)
        for sock in sockets:
            sock.setblocking(False)
            sock.listen(BACKLOG)
        unless_well.pop_all()
        return sockets


def sibling(sock: socket.socket) -> socket.socket | None:
    """Bind one more socket to the address of a listening one; the kernel shares connections out between those that listen.

    None where it does not: on a unix socket, or without SO_REUSEPORT. The first socket was bound without that option, so
    that an address in use is found out, even if its owner would share; it is told to share now.
    """
    option = getattr(socket, "SO_REUSEPORT", None)
    if option is None or sock.family == socket.AF_UNIX:
        return None
    another = socket.socket(sock.family, sock.type, sock.proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
        another.setsockopt(socket.SOL_SOCKET, option, 1)
        _prepare(another)
        another.setblocking(False)
        another.bind(sock.getsockname())
    except OSError:
        another.close()
        return None
    return another


async def accept_from(server: Callable[[], asyncio.BaseProtocol], sock: socket.socket) -> asyncio.Server:
    """Listen with a socket that another process has bound; its path, if it has one, stays when the server is closed."""
    loop = asyncio.get_running_loop()
    if sock.family != socket.AF_UNIX:
        return await loop.create_server(server, sock=sock, backlog=BACKLOG)
    stays: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
    return await loop.create_unix_server(server, sock=sock, backlog=BACKLOG, **stays)


async def accept_rest(listener: asyncio.Server, server: Callable[[], asyncio.BaseProtocol]) -> None:
    """Take in who stands in the queue of a listener that is about to be closed: with it they would be reset.

    An error, of one of them or for want of descriptors, which come free as others end, is not the end of the rest.
    """
    for sock in listener.sockets:
        for _ in range(_MOST_REFUSALS):
            try:
                await _accept_all(sock.fileno(), server)
                break
            except OSError:
                await asyncio.sleep(_REFUSAL_PAUSE)


async def _accept_all(descriptor: int, server: Callable[[], asyncio.BaseProtocol]) -> None:
    if descriptor < 0:
        return  # closed already
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=os.dup(descriptor)) as same:
        same.setblocking(False)
        while True:
            try:
                connection, _ = same.accept()
            except BlockingIOError:
                return  # nobody is left
            await loop.connect_accepted_socket(server, connection)


def _prepare(sock: socket.socket) -> None:
    """Set what asyncio sets: connections that are being closed do not hold the port, IPv6 does not take IPv4's."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


@contextmanager
def _unix_socket(address: ListenAddress) -> Iterator[None]:
    """Make place for a unix socket, and set its mode."""
    _remove_stale_socket(Path(address.path))
    # Nobody may connect before the mode is set.
    before = os.umask(0o117)
    try:
        yield
    finally:
        os.umask(before)
    Path(address.path).chmod(0o660)


@contextmanager
def _explained(address: ListenAddress, setting: str) -> Iterator[None]:
    """Turn an error of the system into `CannotListen`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            advice = f"something else listens there already; stop it or set {setting} to another address"
        elif error.errno == errno.EEXIST:
            advice = f"this path exists and is no socket; move it away or set {setting} to another path"
        elif error.errno == errno.EACCES:
            advice = "this user may not; use a port above 1023 or a folder it may write to"
        else:
            advice = os.strerror(error.errno) if error.errno else "the address is not one of this machine"
        raise CannotListen(f"{setting}: cannot listen on {address}: {advice}") from None


@asynccontextmanager
async def admin_port(admin: AdminPort, addresses: Iterable[ListenAddress]) -> AsyncIterator[list[str]]:
    """Serve the admin port at its addresses; gives them as people write them. Raises `CannotListen`."""
    runner = web.AppRunner(admin.application(), access_log=None, handle_signals=False)
    await runner.setup()
    server = runner.server
    assert server is not None  # noqa: S101

    def connection() -> asyncio.BaseProtocol:
        return AdminProtocol(
            server, admin.refused, loop=asyncio.get_running_loop(), access_log=None, keepalive_timeout=75.0
        )

    listeners: list[asyncio.Server] = []
    written: list[str] = []
    try:
        for address in addresses:
            listeners.append(await listen(connection, address, "admin.listen"))
            written += names(listeners[-1].sockets, address)
        yield written
    finally:
        for listener in listeners:
            listener.close()
        await runner.shutdown()
        await server.shutdown(LAST_SECONDS)
        await runner.cleanup()


def _remove_stale_socket(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
        # asyncio would take the path away from whoever listens there.
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def names(sockets: Iterable[Any], address: ListenAddress) -> list[str]:
    """Write what is listened on the way people do."""
    if address.kind == "unix":
        return [f"unix:{address.path}"]
    names = []
    for sock in sockets:
        host, port = sock.getsockname()[:2]
        names.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return names
