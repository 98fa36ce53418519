"""An upstream that keeps a ledger: which requests it processed, how often, and what it answered to each of them.

One fault is ordered for each attempt; what is not ordered goes well. Shares no code with the product or with what runs it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

DOCUMENTED = b'{"message":["no Authorization token was found"]}'
#: Header under which a request names its order; with a body the name stands in the body too.
ORDER = "x-order"


@dataclass(frozen=True)
class Reply:
    """One answer; its bytes depend on the method, since a HEAD gets no body."""

    status: int
    body: bytes = b""
    headers: tuple[bytes, ...] = (b"Content-Type: application/json",)

    @property
    def documented(self) -> bool:
        """It is the documented rejection of a token, which says that nothing was processed."""
        return self.status == 400 and self.body == DOCUMENTED

    def raw(self, method: str) -> bytes:
        lines = [b"HTTP/1.1 %d Any" % self.status, *self.headers, b"Content-Length: %d" % len(self.body)]
        return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if method == "HEAD" else self.body)


@dataclass(frozen=True)
class Fault:
    """What happens to one attempt.

    `reads`: "accept" (nothing, and the connection is new), "byte" (one, on a connection in use), "head" or "whole".
    `sends`: the whole reply, or these bytes of nothing in particular, or of the reply the first half of "head" or "body".
    `ends`: "keep", "reset", "close" or "stall". A reply after "head" comes before the body, which is then read all the same.
    """

    name: str
    reads: str = "whole"
    processes: bool = False
    reply: Reply | None = None
    sends: str | bytes = "reply"
    ends: str = "keep"

    @property
    def begins(self) -> bool:
        """Some of an answer is sent."""
        return self.reply is not None or isinstance(self.sends, bytes)

    def bytes_for(self, method: str) -> bytes:
        if isinstance(self.sends, bytes):
            return self.sends
        if self.reply is None:
            return b""
        raw = self.reply.raw(method)
        head = raw.partition(b"\r\n\r\n")[0]
        halves = {"head": raw[: len(head) // 2], "body": raw[: (len(head) + 4 + len(raw)) // 2]}
        return halves.get(self.sends, raw)


GOOD = Reply(201, b'{"buyOrder":{"orderId":"placed"}}')
WELL = Fault("well", processes=True, reply=GOOD)


@dataclass
class Attempt:
    """One request as it arrived."""

    order: str
    method: str
    fault: Fault
    #: The whole answer that was written to it, and whether it was left to arrive: no reset came after it.
    written: Reply | None = None
    arrives: bool = False


class Ledger:
    """The upstream. `faults` are used up one an attempt; `renewal` says how calls for a session go from now on."""

    def __init__(self) -> None:
        self.faults: deque[Fault] = deque()
        self.renewal = "well"
        self.processed: Counter[str] = Counter()
        self.attempts: list[Attempt] = []
        self.session_calls = 0
        self.port = 0
        #: Called when an attempt has come as far as its fault lets it, before anything is answered.
        self.reached: Callable[[], None] = lambda: None
        #: Answers wait for it.
        self.go_on = asyncio.Event()
        self.go_on.set()
        self._dead: set[str] = set()
        self._made = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._never = asyncio.Event()

    async def __aenter__(self) -> Ledger:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 22)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def last(self, order: str) -> Attempt | None:
        """The last attempt for this order that got as far as its name."""
        return next((attempt for attempt in reversed(self.attempts) if attempt.order == order), None)

    # Connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.faults and self.faults[0].reads == "accept":
                self._take("", "")
                _reset(writer)
                return
            used = False
            while not writer.is_closing():
                first = await reader.readexactly(1)
                if used and self.faults and self.faults[0].reads == "byte":
                    self._take("", "")
                    _reset(writer)
                    return
                used = True
                await self._serve(first + await reader.readuntil(b"\r\n\r\n"), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *rest = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
        token = fields.get("authorization", "").removeprefix("Bearer ")
        if method == "POST" and target.endswith(("/session", "/customers/login")):
            await _body(reader, fields)
            await self._session(target.endswith("/session"), writer)
        elif ORDER in fields:
            await self._order(method, fields, token, reader, writer)
        else:  # a first call, or a probe of the token
            reply = Reply(400, DOCUMENTED) if token in self._dead else Reply(200, b"{}")
            writer.write(reply.raw(method))

    # Sessions

    def _token(self) -> str:
        self._made += 1
        claims = json.dumps({"n": self._made, "exp": int(time.time()) + 3600}).encode()
        parts = (b'{"alg":"HS256"}', claims, b"signature")
        return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)

    async def _session(self, is_session: bool, writer: asyncio.StreamWriter) -> None:
        self.session_calls += 1
        if self.renewal == "reset":
            _reset(writer)
        elif self.renewal == "stalls":
            await self._never.wait()
        elif self.renewal == "outage":
            # Longer than anybody waits, so that it is an outage at once.
            writer.write(Reply(503, b"", (b"Retry-After: 60",)).raw("POST"))
        elif self.renewal == "refused":
            writer.write(Reply(400, b'{"message":["no x-cc-app was found"]}').raw("POST"))
        else:
            token = self._token()
            body = json.dumps({"access_token": token, "expiresInSeconds": 3600, "sessionId": "s"}).encode()
            told = (b"authorization: " + token.encode(), b"x-token-exp-seconds: 3600")
            writer.write(Reply(200, body if is_session else b"{}", told).raw("POST"))

    # Orders

    def _take(self, order: str, method: str) -> Attempt:
        attempt = Attempt(order, method, self.faults.popleft() if self.faults else WELL)
        self.attempts.append(attempt)
        return attempt

    async def _order(
        self,
        method: str,
        fields: dict[str, str],
        token: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        attempt = self._take(fields[ORDER], method)
        fault = attempt.fault
        if token in self._dead:
            # Whatever was ordered: CardCash looks at the token first.
            fault = attempt.fault = Fault("dead", reply=Reply(400, DOCUMENTED))
        if fault.reads == "whole":
            body = await _body(reader, fields)
            assert not body or json.loads(body)["order"] == attempt.order
            self._process(attempt)
        self.reached()
        await self.go_on.wait()
        if fault.reply is not None and fault.reply.documented:
            self._dead.add(token)
        if writer.is_closing():
            return
        data = fault.bytes_for(method)
        writer.write(data)
        if fault.reply is not None and data == fault.reply.raw(method):
            attempt.written, attempt.arrives = fault.reply, fault.ends != "reset"
        await writer.drain()
        if fault.reads == "head" and fault.ends == "keep":
            await _body(reader, fields)
            self._process(attempt)
        if fault.ends == "stall":
            await self._never.wait()
        elif fault.ends == "reset":
            await asyncio.sleep(0.01)  # or the reset overtakes what was written
            _reset(writer)
        elif fault.ends == "close":
            writer.close()

    def _process(self, attempt: Attempt) -> None:
        if attempt.fault.processes:
            self.processed[attempt.order] += 1


async def _body(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
    if "transfer-encoding" not in fields:
        return await reader.readexactly(int(fields.get("content-length", "0")))
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return body


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if writer.is_closing():
        return
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
