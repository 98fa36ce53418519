"""What all workers know of each other at any moment: a page of memory that they share.

Each writes its own requests in flight, so that `limits.in_flight` holds for all together; and whoever failed to make a
session writes the pause that all keep. Numbers of eight bytes are written at once, and nothing here needs a lock: who
reads a moment too early refuses or lets in one request more or less.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

_CELL: Final = 8
#: Cells of the pause: failures in a row, and the time (CLOCK_BOOTTIME, which all processes share) until which it lasts.
_PAUSE: Final = 2


class Board:
    """The page of one supervisor; workers count from 1. It lives as long as somebody has it open. Raises OSError."""

    def __init__(self, path: Path, workers: int, *, make: bool = False) -> None:
        size = (workers + _PAUSE) * _CELL
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)
        try:
            if make:
                # Not truncate(): a page that turns out not to be there when it is written to kills the process.
                os.posix_fallocate(descriptor, 0, size)
            page = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        cells = memoryview(page).cast("d")
        self._in_flight = cells[:workers]
        #: No longer used: the pause is in the store.
        self.pause = cells[workers:]

    def in_flight(self, worker: int) -> InFlight:
        """Return the place of one worker."""
        return InFlight(self._in_flight, worker - 1)

    def ended(self, worker: int) -> None:
        """Forget what a process that has ended was doing."""
        self._in_flight[worker - 1] = 0.0


class InFlight:
    """Requests in flight at one worker and at all. Part of `server.guard.Everywhere`."""

    __slots__ = ("_all", "_mine")

    def __init__(self, everyone: memoryview[float], mine: int) -> None:
        self._all = everyone
        self._mine = mine

    def here(self, count: int) -> None:
        """Tell the others how many there are here."""
        self._all[self._mine] = count

    def total(self) -> float:
        """Count them everywhere."""
        return sum(self._all)
