"""Log lines of the supervisor, which has no thread: a process is forked from it, and threads are not."""

from __future__ import annotations

import fcntl
import select

from proxy.telemetry.writer import LAST_SECONDS, LogWriter


class SupervisorLog(LogWriter):
    """Writes while that takes no waiting; what is left is written by and by (`write_on`), and at the end (`finish`)."""

    def __init__(self) -> None:
        super().__init__(1)
        self._poll = select.poll()
        self._poll.register(1, select.POLLOUT)

    def _wake(self) -> None:
        self.write_on()

    def write_on(self) -> None:
        """Write what is queued, if nobody else is writing and somebody reads: a line is short enough for any pipe then."""
        while (self._lines.qsize() or self._tried != self._missing) and self._poll.poll(0):
            try:
                if self._turn is not None:
                    fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            if self._lines.qsize():
                self._in_hand = 1
                self._write_batch([self._lines.get()])
            else:
                self._tell_of_missing()

    async def finish(self, seconds: float = LAST_SECONDS) -> None:
        """Write what is queued, as any process does at its end: nothing is forked any more."""
        self.write_on()
        if self._lines.qsize():
            super()._wake()
        await super().finish(seconds)
