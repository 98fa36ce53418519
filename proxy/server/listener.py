"""Taking connections in from a socket that listens, a few at a time.

An event loop's own server takes in all that wait before it tells of the first, and when the descriptors run out libuv
accepts and closes: callers are reset without a line. Here every bound on connections is seen to hold before more are taken
in, and who cannot be taken in yet stands in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import Callable
from math import inf
from typing import Final

from proxy.telemetry.logs import log

#: Connections that wait to be accepted; the kernel's somaxconn bounds it further.
BACKLOG: Final = 1024
#: Seconds given to connections to end after the server was told to stop.
LAST_SECONDS: Final = 0.5
#: Connections that are taken in at a time, of which no protocol has been told.
_AT_A_TIME: Final = 16
#: Seconds until the next try when the system had no descriptor.
_TRY_AGAIN: Final = 0.1
#: So often it is tried at the end, at a tenth of that time.
_MOST_TRIES: Final = 100
#: Seconds between two warnings of it.
_WARN_EVERY: Final = 10.0
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Accepts from one bound socket, and owns it, until it is closed. All methods belong to the event loop's thread.

    One that does not wait for callers looks for them now and then: others wait at its socket. `stays`: the socket goes on
    listening when it is closed here, and who stands in its queue then is somebody else's.
    """

    def __init__(
        self,
        server: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        *,
        at_a_time: int = _AT_A_TIME,
        waits: bool = True,
        stays: bool = False,
    ) -> None:
        self._server = server
        self._sock = sock
        self._at_a_time = max(1, min(at_a_time, _AT_A_TIME))
        self._loop = asyncio.get_running_loop()
        self._taking: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._stopped = self._exhausted = False
        self._warn_again_at = -inf
        self._queue = select.poll()
        self._queue.register(sock, select.POLLIN)
        #: Somebody waited at the last look.
        self._unattended = False
        sock.setblocking(False)
        self._waits = waits
        self._stays = stays
        self._wait()

    def look(self) -> None:
        """Take in whoever has waited at somebody else's socket since the last look.

        So nobody waits for long at a worker that is stopped, stuck or dead (0.2 s; without this it was 17 s).
        """
        if not (self._waits or self._stopped):
            before, self._unattended = self._unattended, bool(self._queue.poll(0))
            if before and self._unattended:
                self._accept()

    def close(self) -> None:
        """Listen no more. Who stands in the queue is reset, unless somebody else listens on the same socket."""
        if self._sock.fileno() >= 0:
            self._stop()
            self._sock.close()

    async def close_after_the_rest(self) -> None:
        """Listen no more, and take in who stands in the queue, unless it stays: with it they would be reset."""
        if self._sock.fileno() < 0:
            return
        self._stop()
        tries = _MOST_TRIES
        while (not self._stays and (self._accept() or (self._exhausted and tries))) or self._taking:
            if self._taking:
                await asyncio.wait(self._taking)
            else:  # descriptors come free as others end
                tries -= 1
                await asyncio.sleep(_TRY_AGAIN / 10)
        self._sock.close()

    def _stop(self) -> None:
        self._stopped = True
        self._loop.remove_reader(self._sock.fileno())
        if self._again is not None:
            self._again.cancel()

    def _accept(self) -> bool:
        """Take some in; says whether there may be more."""
        while len(self._taking) < self._at_a_time:
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                self._exhausted = False
                return False
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._exhausted = True
                    self._pause()
                    return False
                continue  # this caller is gone already
            task = self._loop.create_task(self._take(sock))
            self._taking.add(task)
            task.add_done_callback(self._taking.discard)
        return True

    async def _take(self, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._server, sock)
        except OSError:
            sock.close()  # it is gone

    def _wait(self) -> None:
        self._again = None
        if self._waits:
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def _pause(self) -> None:
        """Leave them in the queue for a moment, instead of asking in every turn of the loop."""
        if self._loop.time() >= self._warn_again_at:
            self._warn_again_at = self._loop.time() + _WARN_EVERY
            log.warning("no_descriptors", what="callers wait to be accepted; raise the limit of open files")
        if self._again is None and not self._stopped:
            self._loop.remove_reader(self._sock.fileno())
            self._again = self._loop.call_later(_TRY_AGAIN, self._wait)
