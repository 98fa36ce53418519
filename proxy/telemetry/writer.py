"""Where log lines go: a thread of their own waits for whoever reads them, so that the event loop never does."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

import orjson

#: Bytes queued while the reader does not take them; then new lines are dropped and counted.
_MOST_KEPT: Final = 1024 * 1024
#: Bytes that a pipe takes at once or not at all (PIPE_BUF on Linux): so many lines share one system call.
_BATCH: Final = 4096
#: Seconds between a line and its write, so that there are others to share it.
_WRITE_AFTER: Final = 0.02
#: At the end: seconds in which a slow reader gets what is queued, and then in which it is told how much it did not get.
LAST_SECONDS: Final = 5.0
_LAST_WORD: Final = 1.0
_LOOK_AGAIN: Final = 0.005


class LogWriter:
    """A binary stream over a file descriptor whose `write` never waits.

    While the reader (a full pipe, a stopped terminal) takes nothing, up to 1 MiB is queued; then lines are dropped, counted,
    and the count is written as a line of its own when there is room again.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._turn: int | None = None
        # Guards all that follows; never held while anything is waited for.
        self._lock = threading.Lock()
        self._lines: deque[bytes] = deque()
        #: Bytes that are queued or being written.
        self._bytes = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._some = threading.Event()

    def share(self, lock: Path) -> None:
        """Take turns with other processes that write to the same place and lock the same file (flock), so that lines longer
        than a pipe takes at once do not get mixed up."""
        self._turn = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, line: bytes) -> int:
        """Take a whole line; never blocks."""
        with self._lock:
            if self._bytes + len(line) > _MOST_KEPT:
                self._dropped += 1
                return len(line)
            self._lines.append(line)
            self._bytes += len(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_on, name="log", daemon=True)
                self._thread.start()
        if not self._some.is_set():
            self._some.set()
        return len(line)

    def flush(self) -> None:
        """Do nothing: structlog flushes after every line, and lines are written in batches."""

    async def finish(self, seconds: float = LAST_SECONDS) -> None:
        """Write what is queued, waiting for a slow reader at most `seconds`; then say how many lines are missing.

        The loop goes on meanwhile: a second signal still ends the process at once.
        """
        if await self._written(within=seconds):
            return
        with self._lock:
            self._dropped += len(self._lines)
            self._bytes -= sum(map(len, self._lines))
            self._lines.clear()
            self._tell_dropped()
        await self._written(within=_LAST_WORD)

    async def _written(self, *, within: float) -> bool:
        end = time.monotonic() + within
        while True:
            if not self._bytes or time.monotonic() >= end:
                return not self._bytes
            await asyncio.sleep(_LOOK_AGAIN)

    def _tell_dropped(self) -> None:
        line = _line("log_lines_dropped", lines=self._dropped)
        self._lines.append(line)
        self._bytes += len(line)
        self._dropped = 0

    # In the thread

    def _write_on(self) -> None:
        while self._some.wait():
            time.sleep(_WRITE_AFTER)
            self._some.clear()
            while batch := self._next():
                try:
                    self._write(batch)
                except OSError:  # the reader is gone: nobody will ever read these
                    with self._lock:
                        self._lines.clear()
                        self._bytes = len(batch)
                with self._lock:
                    self._bytes -= len(batch)

    def _next(self) -> bytes:
        """Take as many whole lines as a pipe takes at once, or one that is longer."""
        with self._lock:
            if self._dropped and self._bytes < _MOST_KEPT // 2:
                self._tell_dropped()
            batch: list[bytes] = []
            size = 0
            while self._lines and (not batch or size + len(self._lines[0]) <= _BATCH):
                batch.append(self._lines.popleft())
                size += len(batch[-1])
        return b"".join(batch)

    def _write(self, data: bytes) -> None:
        if self._turn is not None:
            fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:  # somebody who shares it has made it so
                    poll = select.poll()
                    poll.register(self._fd, select.POLLOUT)
                    poll.poll()
        finally:
            if self._turn is not None:
                fcntl.flock(self._turn, fcntl.LOCK_UN)


def _line(event: str, **fields: int) -> bytes:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return orjson.dumps({"event": event, "level": "warning", "timestamp": now, **fields}) + b"\n"
