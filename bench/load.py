"""Load from our own hands: raw keep-alive connections, closed and open loops, bursts.

Owns HTTP/1.1 as a client that only counts. One event loop; bytes of requests are made once, so that little is measured but
the server. wrk.py is preferred for closed loops where wrk is installed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import httptools

from bench.measure import percentile


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, as often as wanted. `body` makes it a POST unless `method` says otherwise."""

    path: str
    body: bytes = b""
    method: str = ""

    @property
    def verb(self) -> str:
        """The method."""
        return self.method or ("POST" if self.body else "GET")

    def raw(self, port: int, *more: str) -> bytes:
        """Write it as it goes over the wire, with headers that apps send, and `more` header lines."""
        lines = [f"{self.verb} {self.path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *HEADERS, *more]
        if self.body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(self.body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


HEADERS = ("User-Agent: bench/1", "Accept: application/json")


@dataclass(slots=True)
class Tally:
    """What a stretch of load came to. Seconds; `waits` has one per answer, `late` how late an open loop was."""

    statuses: Counter[int] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    bytes: int = 0
    lost: int = 0
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        """Answers, whatever their status."""
        return self.statuses.total()

    @property
    def bad(self) -> int:
        """Answers that were not 2xx, and connections that ended instead of answering."""
        return self.lost + sum(count for status, count in self.statuses.items() if not 200 <= status < 300)

    def milliseconds(self, share: float) -> float:
        """The wait below which `share` of all answers lie."""
        return percentile(self.waits, share) * 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, and the seconds it took; `body` only where it was kept."""

    status: int
    size: int
    seconds: float
    body: bytes = b""


class Line(asyncio.Protocol):
    """One keep-alive connection with one request at a time. `answered` is called with each answer, or None at its end."""

    def __init__(self, answered: Callable[[Line, Answer | None], None], *, keep: bool = False) -> None:
        self.transport: asyncio.Transport
        self.busy = False
        self._answered = answered
        self._keep = keep
        self._parser: Any = httptools.HttpResponseParser(self)
        self._began = 0.0
        self._size = 0
        self._kept: list[bytes] = []

    @classmethod
    async def open(
        cls, port: int, answered: Callable[[Line, Answer | None], None], *, keep: bool = False, host: str = "127.0.0.1"
    ) -> Line:
        """Connect. Raises OSError."""
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(lambda: cls(answered, keep=keep), host, port)
        return line

    def send(self, request: bytes) -> None:
        """Send one request; the last one was answered."""
        self.busy = True
        self._size, self._kept = 0, []
        self._began = time.perf_counter()
        self.transport.write(request)

    def close(self) -> None:
        """End the connection; an answer that is under way is lost silently."""
        self.busy = False
        self.transport.abort()

    @property
    def usable(self) -> bool:
        """Say whether it is still connected."""
        return not self.transport.is_closing()

    # -- asyncio.Protocol --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are no asyncio.Transport by name.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Count."""
        self._parser.feed_data(data)

    def connection_lost(self, _: Exception | None) -> None:
        """Tell of an answer that will not come."""
        if self.busy:
            self.busy = False
            self._answered(self, None)

    # -- httptools ---------------------------------------------------------------------------------------

    def on_body(self, data: bytes) -> None:
        """Count a piece."""
        self._size += len(data)
        if self._keep:
            self._kept.append(data)

    def on_message_complete(self) -> None:
        """Hand over the answer."""
        self.busy = False
        taken = time.perf_counter() - self._began
        self._answered(self, Answer(self._parser.get_status_code(), self._size, taken, b"".join(self._kept)))


class _Loop:
    """Connections that ask again as soon as they are answered, until a count or a time is reached."""

    def __init__(self, requests: Sequence[bytes], *, count: int | None, until: float | None) -> None:
        self.tally = Tally()
        self.done = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._left = count
        self._until = until
        self._sent = 0
        self._open = 0

    def begin(self, line: Line) -> None:
        self._open += 1
        self._next(line)

    def _next(self, line: Line) -> None:
        over = self._until is not None and time.perf_counter() >= self._until
        if over or (self._left is not None and self._sent >= self._left):
            self._ended()
            return
        self._sent += 1
        line.send(self._requests[self._sent % len(self._requests)])

    def answered(self, line: Line, answer: Answer | None) -> None:
        if answer is None:
            self.tally.lost += 1
            self._ended()
            return
        self.tally.statuses[answer.status] += 1
        self.tally.bytes += answer.size
        self.tally.waits.append(answer.seconds)
        if line.usable:
            self._next(line)
        else:
            self._ended()

    def _ended(self) -> None:
        self._open -= 1
        if self._open == 0 and not self.done.done():
            self.done.set_result(None)


async def closed_loop(
    port: int, asks: Sequence[Ask], *, connections: int, count: int | None = None, seconds: float | None = None
) -> Tally:
    """Keep `connections` busy, for `count` requests or for `seconds`; the asks take turns."""
    until = None if seconds is None else time.perf_counter() + seconds
    loop = _Loop([ask.raw(port) for ask in asks], count=count, until=until)
    lines = [await Line.open(port, loop.answered) for _ in range(connections)]
    began = time.perf_counter()
    try:
        for line in lines:
            loop.begin(line)
        await loop.done
    finally:
        for line in lines:
            line.close()
    loop.tally.seconds = time.perf_counter() - began
    return loop.tally


class KeptLines:
    """Connections that stay open between stretches of load, so that making them is no part of what is measured."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lines: list[Line] = []
        self._loop: _Loop | None = None

    async def open(self, count: int) -> None:
        """Connect. Raises OSError."""
        self._lines += [await Line.open(self._port, self._answered) for _ in range(count)]

    async def ask(self, ask: Ask, count: int) -> Tally:
        """Ask `count` times in all, on each connection anew as soon as it was answered."""
        self._loop = loop = _Loop([ask.raw(self._port)], count=count, until=None)
        for line in self._lines:
            loop.begin(line)
        await loop.done
        return loop.tally

    def close(self) -> None:
        """Disconnect them all."""
        for line in self._lines:
            line.close()

    def _answered(self, line: Line, answer: Answer | None) -> None:
        if self._loop is not None:
            self._loop.answered(line, answer)


async def open_loop(port: int, ask: Ask, *, rate: float, seconds: float, seed: int) -> Tally:
    """Ask `rate` times a second at random moments, whether or not earlier ones were answered.

    A wait is counted from the moment of sending. That this was later than planned is told by `late`: timers have a
    millisecond's grain here, which is no fault of the server.
    """
    tally, idle, opened = Tally(), [], []
    request, dice = ask.raw(port), random.Random(seed)

    def answered(line: Line, answer: Answer | None) -> None:
        if answer is None:
            tally.lost += 1
            return
        tally.statuses[answer.status] += 1
        tally.waits.append(answer.seconds)
        idle.append(line)

    try:
        # Opened before it counts: new callers are not what is measured here.
        for _ in range(16):
            opened.append(await Line.open(port, answered))
        idle += opened
        began = moment = time.perf_counter()
        while (moment := moment + dice.expovariate(rate)) < began + seconds:
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            tally.late.append(time.perf_counter() - moment)
            while idle and not idle[-1].usable:
                idle.pop()
            if not idle:
                opened.append(await Line.open(port, answered))
                idle.append(opened[-1])
            idle.pop().send(request)
        for _ in range(1000):
            if not any(line.busy for line in opened):
                break
            await asyncio.sleep(0.005)
        tally.lost += sum(line.busy for line in opened)
    finally:
        for line in opened:
            line.close()
    tally.seconds = time.perf_counter() - began
    return tally


class Crowd:
    """Callers that are connected and ask all at the same moment."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lines: list[Line] = []
        self._answers: list[Answer] = []
        self._waiting = 0
        self._lost = 0
        self._all: asyncio.Future[None] | None = None

    async def gather(self, count: int) -> None:
        """Connect them, fifty at a time: more than a listen queue holds would wait for a second each."""
        for first in range(0, count, 50):
            those = range(min(50, count - first))
            self._lines += await asyncio.gather(*(Line.open(self._port, self._told, keep=True) for _ in those))

    async def ask(self, ask: Ask, *, seconds: float = 30.0) -> tuple[list[Answer], int, float]:
        """Ask once each; return the answers, how many were lost, and the seconds until the last one."""
        self._answers, self._lost, self._waiting = [], 0, len(self._lines)
        self._all = asyncio.get_running_loop().create_future()
        request = ask.raw(self._port)
        began = time.perf_counter()
        for line in self._lines:
            line.send(request)
        try:
            await asyncio.wait_for(self._all, seconds)
        except TimeoutError:
            self._lost += self._waiting
        return self._answers, self._lost, time.perf_counter() - began

    def _told(self, _: Line, answer: Answer | None) -> None:
        if answer is None:
            self._lost += 1
        else:
            self._answers.append(answer)
        self._waiting -= 1
        if self._waiting == 0 and self._all is not None and not self._all.done():
            self._all.set_result(None)

    def leave(self) -> None:
        """Disconnect them all."""
        for line in self._lines:
            line.close()
        self._lines = []
