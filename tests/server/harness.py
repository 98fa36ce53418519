"""What the server and process tests share: a scripted CardCash on raw sockets, a running proxy, a caller of raw bytes.

Shares no code with the product but its entry points: answers are read by a parser of its own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from multidict import CIMultiDict

from proxy.app import Proxy
from proxy.settings import load_settings
from tests.asking import AdminAnswers, Asking

APP_ID = "app-id-of-the-tests"
EMAIL = "partner@example.com"
PASSWORD = "password-of-the-tests"

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
REJECTION_BODY = b'{"message":["no Authorization token was found"]}'


async def until(condition: Callable[[], object], *, seconds: float = 30.0) -> None:
    """Let the loop run until `condition` holds; fail after `seconds`."""
    end, pause = time.monotonic() + seconds, 0.002
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not come to pass")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.01)  # some conditions cost a millisecond to look at


def answer(
    status: int, body: bytes = b"", *headers: bytes, reason: bytes = b"Any Reason", length: bool = True
) -> bytes:
    """Write an answer of the upstream, with its length unless told otherwise."""
    lines = [b"HTTP/1.1 %d %b" % (status, reason), *headers]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


REJECTION = answer(400, REJECTION_BODY, b"Content-Type: application/json", reason=b"Bad Request")


def jwt(number: int, *, lifetime: float = 3600) -> str:
    """Write a token that looks like CardCash's."""
    claims = {"n": number, "exp": int(time.time() + lifetime)}
    parts = (json.dumps({"alg": "HS256"}).encode(), json.dumps(claims).encode(), b"signature")
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@dataclass(frozen=True)
class Received:
    """One request as it arrived; `raw` is every byte of it, `body` what it means."""

    connection: int
    raw: bytes
    head: bytes
    body: bytes

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        return _fields(self.head)

    def values(self, name: str) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name.lower().encode()]

    @property
    def token(self) -> str:
        (value,) = self.values("authorization")
        return value.decode().removeprefix("Bearer ")


def _fields(head: bytes) -> list[tuple[bytes, bytes]]:
    lines = head.split(b"\r\n\r\n", 1)[0].split(b"\r\n")[1:]
    return [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]


def _value(head: bytes, name: bytes) -> bytes | None:
    return next((value for key, value in _fields(head) if key.lower() == name), None)


class Peer:
    """One connection of the proxy, for scripts."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number
        self.head = b""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def body(self) -> tuple[bytes, bytes]:
        """Read the body of the request whose head was read: its raw bytes, and what they mean."""
        if _value(self.head, b"transfer-encoding") is not None:
            return await _chunked(self.reader)
        data = await self.reader.readexactly(int(_value(self.head, b"content-length") or 0))
        return data, data

    def reset(self) -> None:
        _reset(self.writer)

    async def gone(self) -> None:
        """Wait until the proxy ends the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with socket.socket(fileno=os.dup(sock.fileno())) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _chunked(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    raw, body = b"", b""
    while True:
        line = await reader.readuntil(b"\r\n")
        raw += line
        size = int(line.split(b";")[0], 16)
        if size == 0:
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                raw += line
            return raw + line, body
        piece = await reader.readexactly(size + 2)
        raw += piece
        body += piece[:-2]


Script = Callable[[Peer], Awaitable[None]]


class RawUpstream:
    """CardCash, scripted: `answers` are given in turn, then `default`; a script gets the connection after the head.

    `POST /session` and `POST /customers/login` are answered by itself, each with a new token, unless `session_answers`
    or `login_answers` hold something.
    """

    def __init__(self) -> None:
        self.default: bytes | Script = OK
        self.answers: deque[bytes | Script] = deque()
        self.session_answers: deque[bytes | Script] = deque()
        self.login_answers: deque[bytes | Script] = deque()
        self.requests: list[Received] = []
        self.sessions: list[Received] = []
        self.logins: list[Received] = []
        self.tokens: list[str] = []
        self.lifetime = 3600
        self.accepted = 0
        self.per_connection: dict[int, int] = {}
        self.open = 0
        self.port = 0
        self.errors: list[BaseException] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=1 << 22)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert self.errors == []

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        self.open += 1
        peer = Peer(reader, writer, self.accepted)
        try:
            while not writer.is_closing():
                peer.head = await reader.readuntil(b"\r\n\r\n")
                await self._serve(peer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except BaseException as error:
            self.errors.append(error)
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, peer: Peer) -> None:
        line = re.sub(rb"/v[0-9.]+/", b"/", peer.head.split(b"\r\n", 1)[0])
        if line == b"POST /session HTTP/1.1":
            log, scripted, ready = self.sessions, self.session_answers, self.answer_session
        elif line == b"POST /customers/login HTTP/1.1":
            log, scripted, ready = self.logins, self.login_answers, self.answer_login
        else:
            log, scripted, ready = self.requests, self.answers, None
            self.per_connection[peer.number] = self.per_connection.get(peer.number, 0) + 1
        chosen = scripted.popleft() if scripted else (ready or self.default)
        if callable(chosen) and ready is None:
            log.append(Received(peer.number, peer.head, peer.head, b""))
            await chosen(peer)
            return
        raw, body = await peer.body()
        log.append(Received(peer.number, peer.head + raw, peer.head, body))
        if callable(chosen):
            await chosen(peer)
        else:
            await peer.send(chosen)

    def token(self) -> str:
        """Make the next token."""
        self.tokens.append(jwt(len(self.tokens) + 1, lifetime=self.lifetime))
        return self.tokens[-1]

    async def answer_session(self, peer: Peer) -> None:
        """Answer a session call well, with a new token."""
        token = self.token()
        body = json.dumps({"access_token": token, "expiresInSeconds": self.lifetime, "sessionId": "s"}).encode()
        await peer.send(
            answer(200, body, b"authorization: " + token.encode(), b"x-token-exp-seconds: %d" % self.lifetime)
        )

    async def answer_login(self, peer: Peer) -> None:
        """Answer a login well, with a new token."""
        token = self.token()
        await peer.send(
            answer(200, b"{}", b"authorization: " + token.encode(), b"x-token-exp-seconds: %d" % self.lifetime)
        )


@dataclass
class Answer:
    """One answer as a caller sees it; `framing` the raw bytes of the body, `body` what they mean."""

    version: bytes
    status: int
    reason: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    framing: bytes
    head: bytes = field(repr=False)

    def values(self, name: str) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name.lower().encode()]

    def value(self, name: str) -> bytes | None:
        values = self.values(name)
        assert len(values) < 2, f"{name} stands more than once"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error made by the proxy; checks the envelope around it."""
        fields = CIMultiDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in self.fields)
        return AdminAnswers(self.status, fields, self.body).code


class Truncated(Exception):
    """The connection ended before the answer did."""


class Caller:
    """One raw connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        try:
            return await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Truncated from error

    async def answer(self, method: str = "GET") -> Answer:
        """Read one final answer. Raises `Truncated` when it is not whole."""
        head = await self.head()
        status_line = head.split(b"\r\n", 1)[0]
        version, status, reason = (status_line + b" ").split(b" ", 2)
        fields = _fields(head)
        result = Answer(version, int(status), reason[:-1], fields, b"", b"", head)
        if method == "HEAD" or result.status in (204, 304):
            return result
        try:
            if result.value("transfer-encoding") is not None:
                result.framing, result.body = await _chunked(self.reader)
            elif (length := result.value("content-length")) is not None:
                result.body = result.framing = await self.reader.readexactly(int(length))
            else:
                result.body = result.framing = await self.reader.read(-1)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Truncated from error
        return result

    async def ask(self, data: bytes) -> Answer:
        """Send one request and read its answer."""
        await self.send(data)
        return await self.answer(data.split(b" ", 1)[0].decode("latin-1"))

    async def ended(self) -> bytes:
        """Read until the proxy ends the connection; what still came."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read(-1)
        return b""

    def reset(self) -> None:
        """Go away at once."""
        _reset(self.writer)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class Running:
    """A proxy in this event loop, and the callers of it; `admin` asks its admin port, where `start_proxy` has made it."""

    admin: Asking

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.port = _port(proxy.addresses[0])
        self.admin_port = _port(proxy.admin_addresses[0])
        self._callers: list[Caller] = []

    @property
    def host(self) -> bytes:
        return b"127.0.0.1:%d" % self.port

    @property
    def account(self) -> str | None:
        """Whose session it holds."""
        held = self.proxy.keeper.held
        return None if held is None or self.proxy.keeper.identity_lost else held.identity

    async def caller(self, *, port: int | None = None, path: str | None = None) -> Caller:
        if path is not None:
            reader, writer = await asyncio.open_unix_connection(path, limit=1 << 22)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port, limit=1 << 22)
        self._callers.append(Caller(reader, writer))
        return self._callers[-1]

    def request(self, line: str, *headers: bytes, body: bytes | None = None, host: bytes | None = None) -> bytes:
        """Write a request with a `Host`; a body gets its length."""
        lines = [line.encode("latin-1") + b" HTTP/1.1", b"Host: " + (host or self.host), *headers]
        if body is not None:
            lines.append(b"Content-Length: %d" % len(body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")

    async def ask(self, line: str, *headers: bytes, body: bytes | None = None, host: bytes | None = None) -> Answer:
        """Ask on a new connection."""
        caller = await self.caller()
        return await caller.ask(self.request(line, *headers, body=body, host=host))

    def sample(self, name: str, **labels: str) -> float | None:
        """Read one metric."""
        return self.proxy.metrics.registry.get_sample_value(f"cardcash_proxy_{name}", labels)

    async def quiet(self) -> None:
        """Wait until nothing is in flight, upstream or here."""
        await until(lambda: self.proxy.guard.in_flight == 0 and self.proxy.upstream.active_connections == 0)

    async def close(self) -> None:
        for caller in self._callers:
            await caller.close()


def _port(address: str) -> int:
    return int(address.rpartition(":")[2]) if not address.startswith("unix:") else 0


@contextlib.asynccontextmanager
async def running_proxy(origin: str, **settings: str) -> AsyncIterator[Running]:
    """Run a proxy for `origin`; `settings` are environment variables without their CARDCASH_."""
    environ = {
        "CARDCASH_APP_ID": APP_ID,
        "CARDCASH_UPSTREAM__ORIGIN": origin,
        "CARDCASH_LISTEN": "127.0.0.1:0",
        "CARDCASH_ADMIN__LISTEN": "127.0.0.1:0",
        **{f"CARDCASH_{name}": value for name, value in settings.items()},
    }
    async with Proxy(load_settings(environ=environ)) as proxy:
        running = Running(proxy)
        try:
            yield running
        finally:
            await running.close()
