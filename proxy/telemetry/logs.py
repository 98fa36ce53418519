"""Log lines: one JSON object each on stdout (CONTRACT "Logs"), written without ever blocking the event loop.

Lines carry only what the caller of `log` gives them; nothing here formats a request, a header or an exception's text,
because those are where tokens and card numbers hide.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import select
import sys
import time
from collections import deque
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

# structlog imports rich where it finds it (development tools bring it along): a tenth of the start-up time and 5 MB,
# for tracebacks that are never printed here.
_found = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
finally:
    if _found is None:
        del sys.modules["rich"]
    else:
        sys.modules["rich"] = _found

#: Bytes kept while stdout does not take them; then new lines are dropped and counted.
_MOST_BUFFERED: Final = 1024 * 1024
#: Seconds between a line and its write: many lines share one system call.
_FLUSH_AFTER: Final = 0.02
#: POSIX: a pipe that polls writable takes this much without blocking (PIPE_BUF on Linux).
_SURE_WRITE: Final = 4096
#: At the end: seconds between two tries to write, in which a slow reader gets what is kept, and then in which it is told how
#: much it did not get.
_NEXT_TRY: Final = 0.005
LAST_SECONDS: Final = 5.0
_LAST_WORD: Final = 1.0
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
#: Keys whose values never reach a line, whoever logs them.
_SECRET_KEYS: Final = frozenset(
    (
        *("authorization", "cookie", "set-cookie", "x-cc-app", "app_id", "token", "access_token", "bearer"),
        *("password", "secret", "card", "number", "pin", "ccv", "cvv", "body"),
    )
)

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class NonBlockingWriter:
    """A binary stream over a file descriptor that never waits for its reader.

    Written to from the event loop's thread. While the reader (a full pipe, a stopped terminal) takes nothing, up to
    1 MiB is kept; then lines are dropped, counted, and the count is written as a line of its own when there is room again.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self.dropped = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._timer: asyncio.TimerHandle | None = None
        self._turn: int | None = None
        self._has_turn = False
        #: The last write ended inside a line.
        self._torn = False

    def share(self, lock: Path) -> None:
        """Take turns with other processes that write to the same place and lock the same file (flock).

        Without that, room in a pipe that one process has seen may be filled by another, and the write would wait; and
        lines longer than a pipe takes at once could get mixed up.
        """
        self._turn = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, line: bytes) -> int:
        """Take a whole line; never blocks."""
        if self._bytes + len(line) > _MOST_BUFFERED:
            self.dropped += 1
            return len(line)
        self._lines.append(line)
        self._bytes += len(line)
        if self._timer is None:
            self._schedule()
        return len(line)

    def flush(self) -> None:
        """Do nothing: structlog flushes after every line, and lines are written in batches."""

    def _schedule(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.drain()
        else:
            self._timer = loop.call_later(_FLUSH_AFTER, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.drain()
        if self._lines:
            self._schedule()

    async def finish(self, seconds: float = LAST_SECONDS) -> None:
        """Write what is kept, waiting for a slow reader at most `seconds`; then say how many lines are missing.

        The loop goes on meanwhile: a second signal still ends the process at once.
        """
        if await self._written(within=seconds):
            return
        begun = [self._lines[0]] if self._torn else []
        lost, self.dropped = self.dropped + len(self._lines) - len(begun), 0
        self._lines = deque([*begun, _line("log_lines_dropped", lines=lost)])
        self._bytes = sum(map(len, self._lines))
        await self._written(within=_LAST_WORD)

    async def _written(self, *, within: float) -> bool:
        end = time.monotonic() + within
        while True:
            self.drain()
            if not self._lines or time.monotonic() >= end:
                return not self._lines
            await asyncio.sleep(_NEXT_TRY)

    def drain(self) -> None:
        """Write what is kept, as much of it as goes without waiting."""
        try:
            while self._lines:
                if not self._take_turn():
                    return
                ready = self._poll.poll(0)
                if not ready or not ready[0][1] & select.POLLOUT:
                    if ready:  # the reader is gone: nobody will ever read these
                        self._lines.clear()
                        self._bytes = 0
                        self._torn = False
                    return
                if self.dropped and self._bytes < _MOST_BUFFERED // 2:
                    note, self.dropped = self.dropped, 0
                    self._lines.append(_line("log_lines_dropped", lines=note))
                    self._bytes += len(self._lines[-1])
                self._write_some()
        finally:
            if not self._torn:  # the rest of a line comes before anybody else's
                self._end_turn()

    def _take_turn(self) -> bool:
        if self._turn is not None and not self._has_turn:
            try:
                fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._has_turn = True
        return True

    def _end_turn(self) -> None:
        if self._turn is not None and self._has_turn:
            self._has_turn = False
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def _write_some(self) -> None:
        """Write as many whole lines as surely go, or a piece of one that is longer."""
        batch = self._lines.popleft()
        if len(batch) < _SURE_WRITE:
            more = [batch]
            size = len(batch)
            while self._lines and size + len(self._lines[0]) <= _SURE_WRITE:
                more.append(self._lines.popleft())
                size += len(more[-1])
            batch = b"".join(more)
        try:
            done = os.write(self._fd, batch[:_SURE_WRITE])
        except OSError:
            self._lines.clear()
            self._bytes = 0
            self._torn = False
            return
        self._bytes -= done
        self._torn = not batch.endswith(b"\n", 0, done)
        if done < len(batch):
            self._lines.appendleft(batch[done:])


class RequestLog:
    """Writes the line of a request: keys and bytes as structlog would write them, at a sixth of its cost.

    Only for lines whose keys are known not to be secrets. Where lines are not JSON, structlog writes these too.
    """

    def __init__(self) -> None:
        self._writer: NonBlockingWriter | None = None
        self._common: dict[str, Any] = {}
        self._second = 0
        self._prefix = ""

    def use(self, writer: NonBlockingWriter | None, **common: Any) -> None:
        """Write to `writer` from now on, with the fields that all lines have; None: through structlog."""
        self._writer = writer
        self._common = common

    def write(self, fields: dict[str, Any]) -> None:
        """Write one line; `fields` becomes its."""
        if self._writer is None:
            log.info("request", **fields)
            return
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        fields |= self._common
        fields["event"] = "request"
        fields["level"] = "info"
        fields["timestamp"] = f"{self._prefix}.{int((now - second) * 1e6):06d}Z"
        self._writer.write(orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE))


#: One for the process, like structlog's own configuration.
request_log: Final = RequestLog()


def _line(event: str, **fields: Any) -> bytes:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return orjson.dumps({"event": event, "level": "warning", "timestamp": now, **fields}) + b"\n"


def _redacted(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event.keys() & _SECRET_KEYS:
        event[key] = "********"
    return event


def configure(level: str, fmt: str | None, *, fd: int = 1, worker: int | None = None) -> NonBlockingWriter:
    """Send all logging, structlog's and the standard library's, to `fd`; returns the writer, to `finish` at the end.

    `fmt` is json or console; None: console on a terminal, else json. `worker`: one of several, in every line.
    """
    writer = NonBlockingWriter(fd)
    threshold = _LEVELS[level]
    console = fmt == "console" or (fmt is None and os.isatty(fd))
    renderer: Any
    if console:
        pretty = structlog.dev.ConsoleRenderer(colors=os.isatty(fd))

        def renderer(logger: Any, name: str, event: MutableMapping[str, Any]) -> bytes:
            return pretty(logger, name, event).encode("utf-8", "replace")
    else:
        renderer = structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event, default=repr))
    common = {} if worker is None else {"worker": worker}

    def with_common(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.update(common)
        return event

    structlog.configure(
        processors=[
            with_common,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redacted,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.BytesLoggerFactory(file=writer),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    request_log.use(None if console or threshold > _LEVELS["info"] else writer, **common)
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(max(threshold, logging.WARNING))
    with suppress(RuntimeError):  # no event loop runs
        asyncio.get_running_loop().set_exception_handler(_bug)
    return writer


def _bug(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Tell of what failed in the event loop with nobody to hear of it; not in its words: they repeat arguments."""
    task, error = context.get("task"), context.get("exception")
    fields = {"error": context["message"].partition(":")[0][:80]} if error is None else describe(error)
    log.error("bug", **({"task": task.get_name()} if isinstance(task, asyncio.Task) else {}), **fields)


class _Bridge(logging.Handler):
    """Standard library records as our lines, without their arguments: libraries put raw request bytes there."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name, "message": str(record.msg)[:200]}
        if record.exc_info and record.exc_info[1] is not None:
            fields |= describe(record.exc_info[1])
        level = min(40, max(10, record.levelno // 10 * 10))
        log.log(level, "library", **fields)


def describe(error: BaseException) -> dict[str, Any]:
    """Describe an unexpected exception without its text: its types, and where it was raised."""
    types: list[str] = []
    current: BaseException | None = error
    while current is not None and len(types) < 5:
        types.append(type(current).__name__)
        current = current.__cause__ or current.__context__
    where = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        where.append(f"{code.co_filename.rpartition('/')[2]}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return {"error": types[0], "caused_by": types[1:], "where": where[-8:]}
