"""Sockets that are handed over at the start by whoever started the process, as systemd does: sd_listen_fds(3).

They listen already, and go on listening when this process has ended: who connects meanwhile waits for the next one. So
they are accepted from and closed here, and nothing else is done to them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable, MutableMapping
from typing import Final

from proxy.core.values import ListenAddress, bracketed, is_loopback
from proxy.settings import Settings
from proxy.telemetry.logs import log

#: The first descriptor that is handed over.
FIRST: Final = 3
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
#: Name of a socket that was handed over without one.
_UNNAMED: Final = "unknown"


class HandedOver:
    """The sockets by name; `why_none` is what is to be said when there are none."""

    def __init__(self, descriptors: Iterable[tuple[str, int]] = (), *, why_none: str = "") -> None:
        self._why_none = why_none or "no socket was handed over (LISTEN_FDS is not set): start it by its .socket unit"
        self._sockets: dict[str, list[socket.socket]] = {}
        self._bad: dict[str, str] = {}
        for name, descriptor in descriptors:
            if problem := _problem(descriptor):
                self._bad[name] = problem
            else:
                os.set_inheritable(descriptor, False)
                self._sockets.setdefault(name, []).append(socket.socket(fileno=descriptor))

    @classmethod
    def take(cls, environ: MutableMapping[str, str], *, first: int = FIRST) -> HandedOver:
        """Take what the environment speaks of, and remove it there: no other process is to take it for its own."""
        pid, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
        if not count:
            return cls()
        if pid != str(os.getpid()):
            to = f"process {pid}" if pid.isascii() and pid.isdigit() else "no process"
            return cls(why_none=f"the sockets were handed to {to} (LISTEN_PID), and this is process {os.getpid()}")
        number = int(count) if count.isascii() and count.isdigit() and len(count) < 5 else 0
        if not number:
            return cls(why_none="LISTEN_FDS is not the number of sockets that were handed over")
        each = names.split(":") if names else [_UNNAMED] * number
        if len(each) != number:
            return cls(why_none=f"LISTEN_FDNAMES has {len(each)} names for LISTEN_FDS={number} sockets")
        return cls((name, first + index) for index, name in enumerate(each))

    def named(self, name: str) -> list[socket.socket]:
        """List the sockets of one name, in the order in which they were handed over."""
        return self._sockets.get(name, [])

    def faults(self, settings: Settings) -> list[str]:
        """Say, a sentence each, what `listen` and `admin.listen` name and is not there, or is nothing to accept from."""
        faults = []
        for setting, addresses in (("listen", settings.listen), ("admin.listen", settings.admin.listen)):
            for address in (each for each in addresses if each.kind == "fd"):
                if problem := self.problem(address):
                    faults.append(f"{setting}: {address}: {problem}")
                wide = [place_of(sock) for sock in self.named(address.name) if _is_wide(sock)]
                if wide and setting == "listen" and settings.callers.allowed_networks is None:
                    faults.append(
                        f"{setting}: {address}: {', '.join(wide)} can be reached from other machines; set "
                        "callers.allowed_networks to the networks that may use the proxy, or let the socket listen on "
                        "127.0.0.1"
                    )
        return faults

    def problem(self, address: ListenAddress) -> str:
        """Say why there is nothing to accept from at an address; empty where there is."""
        if address.name in self._bad:
            return self._bad[address.name]
        if self.named(address.name):
            return ""
        names = sorted({*self._bad, *self._sockets})
        if not names:
            return self._why_none
        return f"no socket of this name was handed over, but {', '.join(names)}; set FileDescriptorName= in its .socket unit"

    def close_unused(self, settings: Settings) -> list[str]:
        """Close what no setting names, and warn of it; returns its names."""
        used = {address.name for address in (*settings.listen, *settings.admin.listen)}
        names = sorted(self._sockets.keys() - used)
        for name in names:
            for sock in self._sockets[name]:
                sock.close()
        if names:
            log.warning("sockets_unused", names=names, advice="name them in listen or admin.listen, as fd:NAME")
        return names


def _is_wide(sock: socket.socket) -> bool:
    return sock.family != socket.AF_UNIX and not is_loopback(sock.getsockname()[0])


def place_of(sock: socket.socket) -> str:
    """Write where a socket listens, the way people do."""
    place = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{place}" if isinstance(place, str) else f"unix:@{place[1:].decode(errors='replace')}"
    return f"{bracketed(place[0])}:{place[1]}"


def _problem(descriptor: int) -> str:
    """Say what is wrong with a descriptor; empty when it can be accepted from."""
    try:
        is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        is_socket = False
    if not is_socket:
        return "what was handed over is no socket"
    with contextlib.closing(socket.socket(fileno=os.dup(descriptor))) as sock:
        if sock.type != socket.SOCK_STREAM or sock.family not in _FAMILIES:
            return "this socket is not one of TCP or a unix stream; use ListenStream= in its .socket unit"
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return "this socket does not listen; a .socket unit hands over one that does with Accept=no"
    return ""
