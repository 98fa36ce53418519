"""The sockets that callers connect to: bound once, by the supervisor, and inherited by the workers.

Why the supervisor binds: an address in use is told once, in the usual words, before anything is started; port 0 is one
port for all; and a socket outlives its worker. Each worker has a socket of its own at each TCP address (SO_REUSEPORT): the
kernel shares connections out evenly, where processes that accept from one socket get up to three times as much as others
(AIOHTTP.md 2.10). On a unix socket, or where the kernel knows no SO_REUSEPORT, they do accept from one.

When a worker dies, callers that the kernel has put into the queue of its socket wait there for the next worker, which
inherits the very same socket and is there within a second: better than a reset, and nothing of theirs was read. Only when
workers keep dying is the socket replaced by one that nobody listens on yet, so that the other workers get all callers.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import ExitStack

from proxy.listening import Bound, bind, sibling
from proxy.settings import ListenAddress


class Doors:
    """All sockets of `listen`, by worker; workers count from 1. Raises `CannotListen`."""

    def __init__(self, addresses: Iterable[ListenAddress], workers: int) -> None:
        #: What is listened on, as people write it.
        self.names: list[str] = []
        #: For each bound address the socket of each worker, or the same one several times.
        self._rows: list[list[socket.socket]] = []
        self._bound: list[Bound] = []
        with ExitStack() as unless_well:
            unless_well.callback(self.remove)
            for address in addresses:
                bound = bind(address, "listen")
                self._bound.append(bound)
                self.names += bound.names()
                self._rows += [
                    [first, *(sibling(first) or first for _ in range(workers - 1))] for first in bound.sockets
                ]
            unless_well.pop_all()

    def of(self, worker: int) -> list[socket.socket]:
        """List the sockets of a worker."""
        return [row[worker - 1] for row in self._rows]

    def turn_away(self, worker: int) -> None:
        """Let the other workers have the callers of this one until it listens again; who stands in its queue is reset."""
        for row in self._rows:
            old = row[worker - 1]
            if row.count(old) > 1:
                continue  # the others accept from it anyway
            new = sibling(next(sock for sock in row if sock is not old))
            if new is not None:
                row[worker - 1] = new
                old.close()

    def close(self) -> None:
        """Leave the sockets to the workers: an address is free when the last of them has closed its own."""
        for row in self._rows:
            for sock in row:
                sock.close()

    def remove(self) -> None:
        """Close them and remove the paths of unix sockets, where they are still ours."""
        self.close()
        for bound in self._bound:
            bound.remove()
