"""Log lines of the supervisor, which has no thread: a process is forked from it, and threads are not."""

from __future__ import annotations

import fcntl
import os
import select
from collections import deque
from typing import Final

from proxy.telemetry.writer import LAST_SECONDS, LogWriter

#: Lines that are queued while nobody reads them.
_MOST_KEPT: Final = 4096


class SupervisorLog(LogWriter):
    """Writes while that takes no waiting; what is left is written by and by (`write_on`), and at the end (`finish`)."""

    def __init__(self) -> None:
        super().__init__(1)
        self._kept: deque[bytes] = deque()
        self._poll = select.poll()
        self._poll.register(1, select.POLLOUT)

    def write(self, line: bytes) -> int:
        """Take a whole line; never blocks."""
        if len(self._kept) < _MOST_KEPT:
            self._kept.append(line)
        else:
            self._refused += 1
        self.write_on()
        return len(line)

    def write_on(self) -> None:
        """Write what is queued, if nobody else is writing and somebody reads: a line is short enough for any pipe then."""
        while self._kept and self._poll.poll(0):
            try:
                if self._turn is not None:
                    fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(1, self._kept[0])
                self._kept.popleft()
            except BlockingIOError:
                return
            except OSError:  # the reader is gone: nobody will ever read these
                self._kept.clear()
            finally:
                if self._turn is not None:
                    fcntl.flock(self._turn, fcntl.LOCK_UN)

    async def finish(self, seconds: float = LAST_SECONDS) -> None:
        """Write what is queued, as any process does at its end: nothing is forked any more."""
        while self._kept:
            super().write(self._kept.popleft())
        await super().finish(seconds)
