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
        while self._lines.qsize() and self._poll.poll(0):
            try:
                if self._turn is not None:
                    fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            line = self._lines.get()
            self._write(line)
            self._gone += len(line)

    async def finish(self, seconds: float = LAST_SECONDS) -> None:
        """Write what is queued, as any process does at its end: nothing is forked any more."""
        if self._lines.qsize():
            super()._wake()
        await super().finish(seconds)
