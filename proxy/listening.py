"""Addresses that are listened on, and how many callers there may be. Knows sockets and the limits of the system."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import resource
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from proxy.core.values import ListenAddress
from proxy.handed_over import HandedOver, place_of
from proxy.server.listener import BACKLOG, Listener
from proxy.settings import Settings
from proxy.telemetry.logs import log

#: Descriptors for the rest: standard streams, event loop, listeners, admin port, session calls, store, secret files.
_OTHER_DESCRIPTORS = 24
#: Connections beyond those that are served, of either kind in `Budget.spare`.
_MOST_SPARE = 64
#: More than any proxy of this kind serves.
_MANY_DESCRIPTORS = 65536


class CannotListen(Exception):
    """An address of `listen` or `admin.listen` could not be bound; the sentence says which and what to do."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many connections of each kind a process may have, so that its descriptors suffice for all at once."""

    callers: int
    upstream: int
    #: At the admin port; and of callers that get their refusal, or are being taken in.
    spare: int


def budget(descriptors: int, *, upstream: int, callers: int | None = None) -> Budget:
    """Share the descriptors out; `upstream` and `callers` are what is wished for, None: as many as there can be.

    A request needs a descriptor on either side, so CardCash's side gets half of them at most.
    """
    spare = max(1, min(_MOST_SPARE, descriptors // 16))
    left = max(2, descriptors - _OTHER_DESCRIPTORS - 2 * spare)
    upstream = min(upstream, left // 2)
    return Budget(min(callers or left, left - upstream), upstream, spare)


def budget_of(settings: Settings) -> Budget:
    """Share out what descriptors there are, and tell when they are fewer than the settings wish."""
    upstream, callers = settings.upstream.max_connections, settings.limits.connections
    shares = budget(there := descriptors(), upstream=upstream, callers=callers)
    if shares.upstream < upstream or shares.callers < (callers or 0):
        advice = "raise the limit of open files: ulimit -n, LimitNOFILE="
        log.warning("few_descriptors", limit=there, callers=shares.callers, upstream=shares.upstream, advice=advice)
    return shares


def descriptors() -> int:
    """Raise the soft limit of open files to the hard one, as servers do, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MANY_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return _MANY_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def _bind(address: ListenAddress, at_the_end: contextlib.ExitStack) -> Iterator[socket.socket]:
    """Listen at one address; a name such as localhost may stand for several. Blocks on the resolver: for the start only."""
    if address.kind == "unix":
        yield _bind_unix(address.path, at_the_end)
        return
    infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, place in dict.fromkeys(infos):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError:
            continue  # a kernel without IPv6 has a localhost, too
        _listen(at_the_end.enter_context(sock), place)
        yield sock


def _bind_unix(path: str, at_the_end: contextlib.ExitStack) -> socket.socket:
    _remove_stale_socket(Path(path))
    sock = at_the_end.enter_context(socket.socket(socket.AF_UNIX))
    before = os.umask(0o117)  # nobody may connect before the mode is set
    try:
        _listen(sock, path)
    finally:
        os.umask(before)
    Path(path).chmod(0o660)
    # While it is held no other file can come by its inode.
    held = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC) if hasattr(os, "O_PATH") else None
    at_the_end.callback(_remove_unix, path, os.lstat(path), held)
    return sock


def _remove_unix(path: str, ours: os.stat_result, held: int | None) -> None:
    """Remove the path of a socket that was bound, if it is still that very one: another may stand there by now."""
    with contextlib.suppress(OSError):
        if os.path.samestat(ours, os.lstat(path)):
            Path(path).unlink()
    if held is not None:
        os.close(held)


def _sibling(sock: socket.socket) -> socket.socket | None:
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
        _listen(another, sock.getsockname())
    except OSError:
        another.close()
        return None
    return another


def _listen(sock: socket.socket, place: Any) -> None:
    """Listen as asyncio does: connections that are being closed do not hold the port, IPv6 does not take IPv4's."""
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(place)
    sock.listen(BACKLOG)


#: What to do about errors of the system; {setting} is the one that names the address.
_ADVICE: Final = {
    errno.EADDRINUSE: "something else listens there already; stop it or set {setting} to another address",
    errno.EEXIST: "this path exists and is no socket; move it away or set {setting} to another path",
    errno.EACCES: "this user may not; use a port above 1023 or a folder it may write to",
    errno.EADDRNOTAVAIL: "no interface of this machine has the address; name one that has, or 0.0.0.0 for all",
    errno.ENOENT: "there is no such folder; make it, or name another path",
}


def cannot_listen(error: OSError, address: ListenAddress, setting: str) -> CannotListen:
    """Say why an address cannot be listened at, and what to do with the setting, or the flag, that names it."""
    number = error.errno or 0
    advice = os.strerror(number) if number > 0 else error.strerror or str(error)
    if isinstance(error, socket.gaierror):
        advice += "; see that this machine can resolve the name, or write an address"
    return CannotListen(f"{setting}: cannot listen on {address}: {_ADVICE.get(number, advice).format(setting=setting)}")


class Sockets:
    """All sockets of the addresses of one setting, by worker; workers count from 1. Raises `CannotListen`.

    Several workers have a socket each at every TCP address (SO_REUSEPORT), and look at the others' now and then, see
    `Listener.look`. Measured on two cores, Linux 6, with 32 kept connections and two workers: one socket for both shared
    them out 0:32 in nine bursts of twelve, a socket each 12:20 or better in eleven of twelve. Where there is no
    SO_REUSEPORT, as on unix sockets, all accept from one. So they do from those that were handed over, unless there is
    one for each at an address: who waited at one of our own would be reset at the end, at these they wait for the next.
    """

    def __init__(
        self, addresses: Iterable[ListenAddress], setting: str, *, each: int = 1, handed_over: HandedOver | None = None
    ) -> None:
        #: What is listened on, as people write it.
        self.names: list[str] = []
        #: For each bound address the socket of each worker, or one for all.
        self._rows: list[list[socket.socket]] = []
        self._stays: set[socket.socket] = set()
        self._at_the_end = contextlib.ExitStack()
        with contextlib.ExitStack() as unless_well:
            unless_well.callback(self.remove)
            for address in addresses:
                if address.kind == "fd":
                    self._take_over(address, setting, each, handed_over or HandedOver())
                    continue
                try:
                    found = list(_bind(address, self._at_the_end))
                except OSError as error:
                    raise cannot_listen(error, address, setting) from None
                for first in found:
                    self.names.append(place_of(first))
                    more = (_sibling(first) for _ in range(each - 1))
                    self._rows.append([first, *(sock for sock in more if sock is not None)])
            unless_well.pop_all()

    def _take_over(self, address: ListenAddress, setting: str, each: int, handed_over: HandedOver) -> None:
        if problem := handed_over.problem(address):
            raise CannotListen(f"{setting}: {address}: {problem}")
        by_place: dict[str, list[socket.socket]] = {}
        for sock in handed_over.named(address.name):
            by_place.setdefault(place_of(sock), []).append(sock)
            self._stays.add(sock)
        for place, sockets in by_place.items():
            self.names.append(place)
            self._rows += [sockets] if len(sockets) == each else [[sock] for sock in sockets]

    def stays(self, sock: socket.socket) -> bool:
        """Say whether it was handed over: it goes on listening when all processes here have closed it."""
        return sock in self._stays

    def of(self, worker: int) -> list[socket.socket]:
        """List the sockets from which this worker accepts."""
        return [row[(worker - 1) % len(row)] for row in self._rows]

    def all(self) -> list[socket.socket]:
        """List the sockets of all workers."""
        return [sock for row in self._rows for sock in row]

    def bound_here(self) -> list[socket.socket]:
        """List those that listen no more when all processes here have closed them."""
        return [sock for sock in self.all() if sock not in self._stays]

    def close(self) -> None:
        """Close them here: an address is free when the last process has."""
        for sock in self.all():
            sock.close()

    def remove(self) -> None:
        """Close them and remove the paths of unix sockets, where they are still ours."""
        self.close()
        self._at_the_end.close()


def bound(
    settings: Settings,
    handed_over: HandedOver | None,
    at_the_end: contextlib.ExitStack | contextlib.AsyncExitStack,
    *,
    each: int = 1,
) -> tuple[Sockets, Sockets]:
    """Listen for callers, with so many sockets at `each` address, and for operators. Raises `CannotListen`."""
    sockets = Sockets(settings.listen, "listen", each=each, handed_over=handed_over)
    at_the_end.callback(sockets.remove)
    admin_sockets = Sockets(settings.admin.listen, "admin.listen", handed_over=handed_over)
    at_the_end.callback(admin_sockets.remove)
    return sockets, admin_sockets


def accepting(
    sockets: Sockets, worker: int, server: Callable[[], asyncio.BaseProtocol], *, at_a_time: int
) -> list[Listener]:
    """Accept from the sockets of this worker, and, by `Listener.look`, from the others'."""
    own = sockets.of(worker)
    others = [sock for sock in sockets.all() if sock not in own]
    listener = partial(Listener, server, at_a_time=at_a_time)
    return [listener(sock, waits=sock in own, stays=sockets.stays(sock)) for sock in own + others]


#: A classic BPF program over the TCP header: drop a SYN without ACK, keep the rest.
_DROP_SYN: Final = b"".join(
    struct.pack("HBBI", *step)
    for step in ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
)
_SO_ATTACH_FILTER: Final = 26


def let_nobody_new_connect(sock: socket.socket) -> bool:
    """Let the kernel ignore who asks to connect from now on, at all processes; False where it cannot.

    Whoever is connected already can be accepted then, and nobody comes between the last accept and the close, who would
    be reset. Who was ignored asks again after a second, and is refused by then. Linux only, and TCP only.
    """
    if sys.platform != "linux" or sock.family == socket.AF_UNIX:
        return False
    program = ctypes.create_string_buffer(_DROP_SYN, len(_DROP_SYN))
    try:
        filter_ = struct.pack("HxxxxxxP", len(_DROP_SYN) // 8, ctypes.addressof(program))
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
    except OSError:
        return False
    return True


def _remove_stale_socket(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISSOCK(found.st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            answer = probe.connect_ex(str(path))
        if answer == errno.ECONNREFUSED and os.path.samestat(found, path.lstat()):
            path.unlink()
        elif answer != errno.ENOENT:
            # It is somebody else's, who listens there, perhaps with a full queue.
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
