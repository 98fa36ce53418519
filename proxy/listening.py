"""Addresses that are listened on, and how many callers there may be. Knows sockets and the limits of the system."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from proxy.settings import ListenAddress

#: Connections that wait to be accepted; the kernel's somaxconn bounds it further.
BACKLOG = 1024
#: Descriptors for the rest: standard streams, event loop, listeners, admin port, session calls, store, secret files.
_OTHER_DESCRIPTORS = 24
#: More than any proxy of this kind serves.
_MANY_DESCRIPTORS = 65536


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
    try:
        if address.kind == "tcp":
            return await loop.create_server(server, address.host, address.port, backlog=BACKLOG)
        _remove_stale_socket(Path(address.path))
        # Nobody may connect before the mode is set.
        before = os.umask(0o117)
        try:
            listener = await loop.create_unix_server(server, address.path, backlog=BACKLOG)
        finally:
            os.umask(before)
        Path(address.path).chmod(0o660)  # noqa: ASYNC240  # once, at the start
        return listener
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


def names(listener: asyncio.Server, address: ListenAddress) -> list[str]:
    """Write what is listened on the way people do."""
    if address.kind == "unix":
        return [f"unix:{address.path}"]
    names = []
    for sock in listener.sockets:
        host, port = sock.getsockname()[:2]
        names.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return names
