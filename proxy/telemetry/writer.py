"""Where log lines go: a thread of their own waits for whoever reads them, so that the event loop never does."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
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
#: Between two turns: a lock that is given up and taken again at once goes past those who wait for it (flock has no queue).
_BETWEEN_TURNS: Final = 0.001


class LogWriter:
    """A binary stream over a file descriptor whose `write` never waits. One thread at a time calls its methods.

    While the reader (a full pipe, a stopped terminal) takes nothing, up to 1 MiB is queued; then lines are dropped. They and
    those that could not be written (the reader is gone, a disk is full) are counted, and the count is written as a line of
    its own when that is possible again; at the end on stderr.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._turn: int | None = None
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        # Counted since the start, so that each number has one thread that changes it: bytes that were taken and bytes that
        # have left; lines there was no room for, lines that were given up or could not be written, and those of both that
        # were told of, and that it was tried to tell of.
        self._taken = self._gone = 0
        self._refused = self._given_up = self._told = self._tried = 0
        #: Lines that the thread has taken and not written yet.
        self._in_hand = 0
        #: What is queued is not waited for any more.
        self._gives_up = False
        self._thread: threading.Thread | None = None

    def share(self, lock: Path) -> None:
        """Take turns with other processes that write to the same place and lock the same file (flock), so that lines longer
        than a pipe takes at once do not get mixed up."""
        self._turn = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, line: bytes) -> int:
        """Take a whole line; never blocks."""
        size = len(line)
        if self._taken - self._gone + size > _MOST_KEPT:
            self._refused += 1
            return size
        self._taken += size
        self._lines.put(line)
        self._wake()
        return size

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_on, name="log", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Do nothing: structlog flushes after every line, and lines are written in batches."""

    async def finish(self, seconds: float = LAST_SECONDS) -> None:
        """Write what is queued, waiting for a slow reader at most `seconds`; then say how many lines are missing.

        Where even that cannot be written, it is said on stderr, if that takes it at once: it may be the same pipe. A reader
        that is gone is not waited for. The loop goes on meanwhile: a second signal still ends the process at once.
        """
        if not await self._written(within=seconds):
            self._gives_up = True
            await self._written(within=_LAST_WORD)
        if missing := self._missing - self._told + self._in_hand + self._lines.qsize():
            _write_at_once(2, _line("log_lines_dropped", lines=missing))

    @property
    def _missing(self) -> int:
        return self._refused + self._given_up

    async def _written(self, *, within: float) -> bool:
        """Wait until everything has been written, or it has been tried."""
        end = time.monotonic() + within
        while self._gone != self._taken or self._tried != self._missing:
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(_LOOK_AGAIN)
        return True

    # In the thread

    def _write_on(self) -> None:
        while True:
            lines = [self._lines.get()]
            time.sleep(_WRITE_AFTER)
            lines += [self._lines.get() for _ in range(self._lines.qsize())]
            self._in_hand = len(lines)
            for batch in _batches(lines):
                self._write_batch(batch)
            if self._missing != self._told:
                self._tell_of_missing()

    def _write_batch(self, batch: list[bytes]) -> None:
        data = b"".join(batch)
        self._given_up += len(batch) if self._gives_up else self._write(data)
        self._in_hand -= len(batch)
        self._gone += len(data)

    def _tell_of_missing(self) -> None:
        missing = self._missing
        if not self._write(_line("log_lines_dropped", lines=missing - self._told)):
            self._told = missing
        self._tried = missing

    def _write(self, data: bytes) -> int:
        """Write whole lines; returns how many of them could not be, or not to their ends."""
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
        except OSError:
            pass  # the reader is gone, or a disk is full
        finally:
            if self._turn is not None:
                fcntl.flock(self._turn, fcntl.LOCK_UN)
                time.sleep(_BETWEEN_TURNS)
        return data.count(b"\n")


def _batches(lines: list[bytes]) -> Iterator[list[bytes]]:
    """Share lines out so that each share is as many as a pipe takes at once, or one that is longer."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and size + len(line) > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    yield batch


def _write_at_once(fd: int, line: bytes) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    with contextlib.suppress(OSError):
        if any(events & select.POLLOUT for _, events in poll.poll(0)):
            os.write(fd, line)


def _line(event: str, **fields: int) -> bytes:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return orjson.dumps({"event": event, "level": "warning", "timestamp": now, **fields}) + b"\n"
