"""One proxy process between a caller of raw bytes and an upstream that reads strictly and writes anything.

A probe, sent after some bytes and answered through the whole proxy, shows that the proxy's loop has been at those bytes;
only the moment in which the proxy listens to a new connection upstream must pass as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.grammar import Malformed, Message, Unfinished, answers_in, final_answer, read_request
from tests.server.harness import jwt
from tests.whole.processes import TERM, ProxyProcess, serving

APP_ID = "app-id-that-nobody-may-see"
SESSION_ID = "session-id-that-nobody-may-see"
BODY = b"an ordinary answer"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PROBE = b"/v3/probe/"
#: Seconds, for what happens at once: only a proxy that hangs takes as long.
_HANGS = 8.0
#: Seconds in which a request that takes a new connection up is overtaken by probes: the proxy listens to those first.
_SETTLES = 0.01
#: Fields that may never go up (config/README.md, "On the wire").
_NEVER_UP = {
    *(
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"upgrade",
        b"expect",
        b"cookie",
        b"forwarded",
        b"proxy-connection",
    ),
}
#: Fields that may never come down.
_NEVER_DOWN = {
    b"authorization",
    b"x-token-exp-seconds",
    b"x-session-id",
    b"x-cc-app",
    b"set-cookie",
    b"keep-alive",
    b"upgrade",
    b"trailer",
}

Respond = Callable[[Message], tuple[bytes, bool]]


def ordinary(request: Message) -> tuple[bytes, bool]:
    """Answer like a server that works."""
    return (OK[: -len(BODY)] if request.start[0] == b"HEAD" else OK), False


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.buffer = b""
        self.broken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.upstream.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.upstream.connections.discard(self)
        if self.buffer:
            self.upstream.partial.append(self.buffer)

    def data_received(self, data: bytes) -> None:
        self.upstream.seen += len(data)
        self.buffer += data
        while self.buffer and not self.broken:
            try:
                request = read_request(self.buffer)
            except Unfinished:
                return
            except Malformed as error:
                self.upstream.faults.append(f"malformed: {error}: {self.buffer[:200]!r}")
                self.broken = True
                return
            self.buffer = self.buffer[request.size :]
            probe = request.target.startswith(_PROBE)
            answer, close = self.upstream.answer(request)
            cut = 0 if probe else self.upstream.cut
            if not probe:
                self.upstream.served = self
            self.broken = close
            if cut:
                self.transport.write(answer[:cut])
            asyncio.get_running_loop().call_soon(self._finish, answer[cut:], close)

    def _finish(self, answer: bytes, close: bool) -> None:
        self.transport.write(answer)
        if close:
            self.transport.close()


class Upstream:
    """CardCash as the proxy must treat it; `faults` is what a strict server finds wrong with what it was sent."""

    def __init__(self, *, plain: bool = False) -> None:
        self.respond: Respond = ordinary
        self.requests: list[Message] = []
        self.partial: list[bytes] = []
        self.faults: list[str] = []
        self.sessions = 0
        self.seen = 0
        self.token = jwt(1)
        self.connections: set[_Connection] = set()
        #: The one that carried the last request of a test, and where its answer is cut in two.
        self.served: _Connection | None = None
        self.cut = 0
        self._plain = plain

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.authority = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()
        await self._server.wait_closed()

    @property
    def kept(self) -> bool:
        """Say whether the connection that carried the last request is there still."""
        return self.served in self.connections

    def forget(self) -> None:
        self.requests.clear()
        self.partial.clear()

    @property
    def reached(self) -> int:
        """Count the requests that arrived, whole or not."""
        return len(self.requests) + len(self.partial) + sum(bool(c.buffer) for c in self.connections)

    def answer(self, request: Message) -> tuple[bytes, bool]:
        if request.target.startswith(_PROBE):
            number = request.target.removeprefix(_PROBE)
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(number), number), False
        if request.start[:2] == (b"POST", b"/v3/session") and not self.sessions and not self._plain:
            self.sessions += 1
            content = {"access_token": self.token, "expiresInSeconds": 3600, "sessionId": SESSION_ID}
            body = json.dumps(content).encode()
            head = f"HTTP/1.1 200 OK\r\nAuthorization: {self.token}\r\nx-session-id: {SESSION_ID}\r\n"
            return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, False
        self.requests.append(request)
        if not self._plain:
            self.faults += [f"{fault}: {request}" for fault in self._wrong(request)]
        return self.respond(request)

    def _wrong(self, request: Message) -> list[str]:
        wrong = []
        # RFC 9110, 9.3.8: a TRACE may hold no credentials, because they would come back in its answer.
        bare = request.start[0] == b"TRACE"
        for name, value in (
            (b"host", [self.authority.encode()]),
            (b"x-cc-app", [] if bare else [APP_ID.encode()]),
            (b"authorization", [] if bare else [b"Bearer " + self.token.encode()]),
        ):
            if request.values(name) != value:
                wrong.append(f"{name!r} is {request.values(name)}")
        names = {name.lower() for name, _ in request.fields}
        if names & _NEVER_UP or any(name.startswith((b"x-forwarded-", b"proxy-")) for name in names):
            wrong.append("a field that may not go up")
        if request.start[2] != b"HTTP/1.1":
            wrong.append("version")
        if len(request.values(b"x-request-id")) != 1 or len(request.values(b"user-agent")) < 1:
            wrong.append("x-request-id or user-agent")
        return wrong


class Connection:
    """A caller's connection and all that came back on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self.data = bytearray()
        self.closed = False
        self.reset = False
        self.news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, address: str) -> Connection:
        if address.startswith("unix:"):
            return cls(*await asyncio.open_unix_connection(address.removeprefix("unix:")))
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def _read(self) -> None:
        try:
            while piece := await self._reader.read(65536):
                self.data += piece
                self.news.set()
        except ConnectionError:
            self.reset = True
        self.closed = True
        self.news.set()

    def send(self, data: bytes) -> None:
        if not self.closed:
            self.writer.write(data)

    async def answer(self, *, head: bool = False) -> Message:
        """Wait for the next whole answer and take it."""
        async with asyncio.timeout(_HANGS):
            while True:
                self.news.clear()
                if self.data:
                    with contextlib.suppress(Unfinished):
                        message, rest = final_answer(bytes(self.data), closed=self.closed, head=head)
                        self.data = bytearray(rest)
                        return message
                assert not self.closed, f"the proxy ended the connection after {bytes(self.data)!r}"
                await self.news.wait()

    async def ended(self) -> None:
        """Wait until the proxy ends the connection."""
        async with asyncio.timeout(_HANGS):
            await asyncio.shield(self._reading)

    async def end(self) -> None:
        """Send no more, and wait until the proxy ends the connection as well."""
        with contextlib.suppress(OSError):
            self.writer.write_eof()
        await self.ended()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
        await self._reading


@dataclass(frozen=True)
class Outcome:
    """What came of some bytes: answers, what stood behind them, and the requests the upstream saw."""

    answers: list[Message]
    rest: bytes
    raw: bytes
    closed: bool
    requests: list[Message]
    reached: int
    wrong: list[str] = field(default_factory=list)

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]


def _wrong_answers(answers: list[Message]) -> list[str]:
    wrong = []
    for answer in answers:
        names = [name.lower() for name, _ in answer.fields]
        if answer.start[0] != b"HTTP/1.1" or names.count(b"x-request-id") != 1 or _NEVER_DOWN & set(names):
            wrong.append(f"an answer that is not as it should be: {answer}")
        if b"proxy-status" in names and answer.status >= 400 and answer.body:
            content = json.loads(answer.body)
            if set(content) != {"message", "error"} or len(content["message"]) != 1:
                wrong.append(f"an envelope that is not CardCash's: {answer}")
    return wrong


class Lane:
    """The process, its upstream, and a caller in between whose every request is answered with its own number."""

    def __init__(self, address: str, upstream: Upstream) -> None:
        self.address = address
        self.upstream = upstream
        self._probe: Connection | None = None
        self._probes = 0

    async def probe(self, *, new: bool = False) -> None:
        """Ask for something ordinary, on a new connection or the one for that, and insist on its own answer."""
        if new or self._probe is None:
            connection = await Connection.open(self.address)
        else:
            connection = self._probe
        self._probes += 1
        connection.send(b"GET %b%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % (_PROBE, self._probes))
        answer = await connection.answer()
        assert (answer.status, answer.body) == (200, b"%d" % self._probes), f"a probe was answered {answer}"
        if new:
            await connection.close()
        else:
            self._probe = connection

    async def quiet(self, connection: Connection) -> None:
        """Let probes pass until nothing more comes of what was sent."""
        before, still, since = (-1, -1), 0, time.monotonic()
        while (still < 2 or time.monotonic() - since < _SETTLES) and not connection.closed:
            now = (len(connection.data), len(self.upstream.requests))
            if now != before:
                before, still, since = now, 0, time.monotonic()
            else:
                still += 1
            await self.probe()

    async def play(
        self, *pieces: bytes, heads: Sequence[bool] = (), expect: int = 0, to_the_end: bool = False
    ) -> Outcome:
        """Send the pieces, each after the proxy has read the one before, and see what comes of them.

        `expect`: wait for so many final answers, where it is known that they must come; `to_the_end`: for the proxy's
        end of the connection.
        """
        self.upstream.forget()
        connection = await Connection.open(self.address)
        wrong = []
        try:
            for number, piece in enumerate(pieces):
                if number:
                    await self.probe()  # its answer shows that the piece before was read
                connection.send(piece)
            async with asyncio.timeout(_HANGS):
                while (
                    not connection.closed and len(answers_in(bytes(connection.data), heads, closed=False)[0]) < expect
                ):
                    connection.news.clear()
                    await connection.news.wait()
            if to_the_end:
                await connection.ended()
            else:
                await self.quiet(connection)
            before_end = len(connection.data)
            if not connection.closed:
                await connection.end()
            raw = bytes(connection.data)
        finally:
            await connection.close()
        await self.probe(new=True)
        try:
            answers, rest = answers_in(raw, heads, closed=connection.closed)
        except Malformed as error:
            answers, rest, wrong = [], raw, [f"the answer is malformed: {error}: {raw!r}"]
        if rest not in (b"", _CONTINUE) and len(raw) == before_end and not wrong:
            wrong = [f"half an answer: {raw!r}"]
        wrong += _wrong_answers(answers)
        requests = list(self.upstream.requests)
        return Outcome(answers, rest, raw, connection.closed, requests, self.upstream.reached, wrong)

    async def stop(self) -> None:
        if self._probe is not None:
            await self._probe.close()


class ProxyLane(Lane):
    """A lane through the product."""

    def __init__(self, process: ProxyProcess, upstream: Upstream) -> None:
        super().__init__(process.host, upstream)
        self.process = process

    @property
    def secrets(self) -> list[bytes]:
        return [APP_ID.encode(), self.upstream.token.encode(), SESSION_ID.encode()]

    def leaks(self, data: bytes, *more: bytes) -> list[bytes]:
        """List the secrets and the words of `more` that are in `data`."""
        return [word for word in (*self.secrets, *more) if word in data]

    async def all_well(self, *markers: bytes) -> None:
        """Check that the process lives, stops on demand, and wrote nothing but its own lines."""
        assert self.upstream.faults == []
        assert self.upstream.sessions == 1
        await self.probe(new=True)
        self.process.signal(TERM)
        await super().stop()
        self._probe = None
        assert await self.process.ended() == 0
        written = bytes(self.process.out + self.process.err)
        assert self.leaks(written, *markers) == []
        assert b"Traceback" not in written
        assert bytes(self.process.err) == b""
        odd = [line for line in self.process.lines if line["level"] not in ("info", "warning", "debug")]
        assert odd == []


@contextlib.asynccontextmanager
async def proxy_lane(**settings: Any) -> AsyncIterator[ProxyLane]:
    """Run a proxy process in front of a strict upstream."""
    upstream = Upstream()
    await upstream.start()
    try:
        async with serving(f"http://{upstream.authority}", app_id=APP_ID, **settings) as process:
            lane = ProxyLane(process, upstream)
            await lane.probe()
            try:
                yield lane
            finally:
                await lane.stop()
    finally:
        await upstream.stop()
