"""Log lines: one JSON object each on stdout, written without ever blocking the event loop.

Lines carry only what the caller of `log` gives them; nothing here formats a request, a header or an exception's text,
because those are where tokens and card numbers hide.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final

import orjson

from proxy.telemetry import console
from proxy.telemetry.writer import LogWriter

# structlog imports rich where it finds it (development tools bring it along): a tenth of the start-up time and 5 MB,
# for tracebacks that are never printed here.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
import structlog

if not sys.modules.get("rich"):
    del sys.modules["rich"]

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
#: Keys whose values never reach a line, whoever logs them.
_SECRET_KEYS: Final = frozenset(
    (
        *("authorization", "cookie", "set-cookie", "x-cc-app", "app_id", "token", "access_token", "bearer"),
        *("password", "secret", "card", "number", "pin", "ccv", "cvv", "body"),
    )
)


log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class RequestLog:
    """Writes the line of a request: keys and bytes as structlog would write them, at a tenth of its cost.

    Only for lines whose keys are known not to be secrets, and that begin with `event`, `level` and `timestamp`. Where lines
    are not JSON, structlog writes these too.
    """

    def __init__(self) -> None:
        self._writer: LogWriter | None = None
        self._common: dict[str, Any] = {}

    def use(self, writer: LogWriter | None, **common: Any) -> None:
        """Write to `writer` from now on, with the fields that all lines have; None: through structlog."""
        self._writer = writer
        self._common = common

    def write(self, fields: dict[str, Any]) -> None:
        """Write one line; `fields` becomes its."""
        if self._writer is None:
            del fields["event"], fields["level"], fields["timestamp"]
            log.info("request", **fields)
            return
        if self._common:
            fields.update(self._common)
        # The sum is a copy: what orjson 3.13 returns keeps the 4 KB it was written into, 16 MB for 1 MiB of lines that wait.
        self._writer.write(orjson.dumps(fields, option=orjson.OPT_UTC_Z) + b"\n")


#: One for the process, like structlog's own configuration.
request_log: Final = RequestLog()


def _redacted(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event.keys() & _SECRET_KEYS:
        event[key] = "********"
    return event


def configure(
    level: str, fmt: str | None, *, fd: int = 1, worker: int | None = None, writer: LogWriter | None = None
) -> LogWriter:
    """Send all logging, structlog's and the standard library's, to `fd`; returns the writer, to `finish` at the end.

    `fmt` is json or console; None: console on a terminal, else json. `worker`: one of several, in every line.
    """
    writer = writer or LogWriter(fd)
    threshold = _LEVELS[level]
    for_people = fmt == "console" or (fmt is None and os.isatty(fd))
    renderer: Any
    if for_people:
        colours = os.isatty(fd) and not os.environ.get("NO_COLOR")

        def renderer(_: Any, __: str, event: MutableMapping[str, Any]) -> bytes:
            return console.line(event, colours=colours).encode("utf-8", "replace")
    else:
        renderer = structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event, default=repr))
    common = {} if worker is None else {"worker": worker}

    def with_common(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.update(common)
        return event

    vars(log).pop("bind", None)  # kept with the configuration of its first use, by a process that was forked after it
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
    request_log.use(None if for_people or threshold > _LEVELS["info"] else writer, **common)
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
