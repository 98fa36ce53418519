"""One worker as the supervisor sees it: its process, how it fares, and the line to it.

The line is a socket pair, the worker's standard input. Down it go the orders, later the word to drain; up come how the
start went, that it drains, and what it had counted at its end. Its end means the same as that word: a supervisor that was
killed leaves no workers behind.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import proxy
from proxy.process import told
from proxy.processes.orders import Orders, packed

DRAIN: Final = b"drain\n"
#: A worker imports the package that the supervisor runs, wherever both were started; nothing else is taken from there.
_MAIN: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); import proxy; del sys.path[0]; "
    "from proxy.processes.worker import main; sys.exit(main())"
)
_ROOT: Final = str(Path(proxy.__file__).parents[1])
#: Bytes of what a worker says at a time: all of its metrics, with every label that there can be.
_LONGEST_LINE: Final = 16 * 1024 * 1024
#: Seconds after which a worker that dies is no longer one that cannot live.
_WELL_AFTER: Final = 60.0
#: Seconds; the first restart is immediate.
_PAUSES: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


@dataclass(frozen=True, slots=True)
class End:
    """How the life of a worker process ended. `status`: exit code, negative: the signal; None: it could not be started."""

    pid: int | None
    status: int | None
    #: Seconds since its start was over; None: it never was.
    served: float | None
    #: What it said when its start failed, and the exit code that belongs to it.
    sentence: str | None = None
    code: int = 1
    #: Its metrics at its end, in the text format of Prometheus; None: it was killed.
    counted: str | None = None

    def describe(self) -> dict[str, Any]:
        """Return what a log line tells of it."""
        fields: dict[str, Any] = {"status": self.status}
        if self.status is not None and self.status < 0:
            fields["signal"] = signal.Signals(-self.status).name
        if self.sentence is not None:
            fields["why"] = self.sentence
        return fields


class Pauses:
    """How long to wait before a worker that died is started again."""

    def __init__(self) -> None:
        self._deaths = 0

    def after(self, end: End) -> float:
        """Return the seconds; grows with every death that comes soon after the one before."""
        if end.served is not None and end.served >= _WELL_AFTER:
            self._deaths = 0
        pause = _PAUSES[min(self._deaths, len(_PAUSES) - 1)]
        self._deaths += 1
        return pause


class Child:
    """One worker, over all the processes it is in turn."""

    def __init__(self, worker: int, admin: Path) -> None:
        self.worker = worker
        #: Where its own admin port is.
        self.admin = admin
        #: starting, up or down.
        self.state = "starting"
        self.restarts = 0
        self.since: datetime | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._line: asyncio.StreamWriter | None = None
        self._draining = False

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return None if self._process is None else self._process.pid

    async def live(
        self, orders: Callable[[], Orders], *, on_start: Callable[[], None], on_drain: Callable[[], None]
    ) -> End:
        """Run one process from its start to its end; `on_drain` is called when it takes no new callers any more."""
        self.state = "starting"
        try:
            reader = await self._start(orders())
        except OSError as error:
            self.state = "down"
            return End(None, None, None, f"a worker process cannot be started: {told(error)}")
        process, line = self._process, self._line
        assert process is not None  # noqa: S101
        assert line is not None  # noqa: S101
        counted: str | None = None
        try:
            said, began = await self._said(reader), time.monotonic()
            started = said.get("started") is True
            if started:
                self.state, self.since = "up", datetime.now(UTC)
                on_start()
                while said := await self._said(reader):
                    counted = said.get("counted", counted)
                    if "draining" in said:
                        on_drain()
            status = await process.wait()
        finally:
            self.state = "down"
            self._process = None
            self._line = None
            line.close()
        served = time.monotonic() - began if started else None
        return End(process.pid, status, served, said.get("failed"), said.get("code", 1), counted)

    def drain(self) -> None:
        """Tell it to drain and end, now or as soon as it has started."""
        self._draining = True
        if self._line is not None:
            self._line.write(DRAIN)

    def let_go(self) -> None:
        """Answer a process that wants to end: it may; the next one is not meant."""
        if self._line is not None:
            self._line.write(DRAIN)

    def read_again(self) -> None:
        """Let its process read its files again."""
        if self._process is not None and self.state == "up":
            self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """End its process at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _start(self, orders: Orders) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-c", _MAIN, _ROOT, f"worker-{self.worker}"),
                stdin=theirs.fileno(),
                pass_fds=orders.sockets,
                # Ctrl-C in a terminal goes to all of its processes; the workers hear of it from the supervisor.
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, self._line = await asyncio.open_unix_connection(sock=ours, limit=_LONGEST_LINE)
        self._line.write(packed(orders))
        if self._draining:
            self._line.write(DRAIN)
        return reader

    async def _said(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        """Wait for what it says; nothing: it ended."""
        try:
            said = json.loads(await reader.readline())
        except (ValueError, OSError):
            return {}
        return said if isinstance(said, dict) else {}


def tell(line: asyncio.StreamWriter, **said: Any) -> None:
    """Say something up the line; for the worker's end of it."""
    line.write(json.dumps(said).encode() + b"\n")
