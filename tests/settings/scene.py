"""A proxy as callers, operators and CardCash see it: in this process, or as processes of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme

from tests.server.harness import OK, Answer, Caller, Peer, RawUpstream, running_proxy, until
from tests.settings.fake_redis import FakeRedis
from tests.whole.processes import ProxyProcess, serving
from tests.whole.test_admin import samples

#: What the header of `callers.require_header` is where it is required; sent by all requests but one.
KEY = b"X-Key: the-key"
#: Seconds to wait for what is to come: far above what it takes on a busy machine, and below what comes by itself.
LONG = 6.0
#: Seconds to look whether what is not to come does all the same; that a setting brings it is seen where it is to come.
A_WHILE = 1.5


@dataclass
class Around:
    """What stands around one proxy: CardCash, a TLS server, a web proxy, a server that never answers, files."""

    upstream: RawUpstream
    folder: Path
    tls_port: int
    web_proxy_port: int
    deaf_port: int
    #: First lines that the web proxy was sent, and the handshakes that the TLS server completed.
    connects: list[str] = field(default_factory=list)
    handshakes: list[int] = field(default_factory=list)
    #: Certificates that callers of the TLS server showed.
    shown: list[Any] = field(default_factory=list)
    redis: FakeRedis = field(default_factory=FakeRedis)
    redis_port: int = 0

    def filled_in(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Put folder and ports into the values of settings."""
        names = {"folder": str(self.folder), "tls": self.tls_port, "deaf": self.deaf_port, "up": self.upstream.port}
        names["redis"] = self.redis_port
        filled = dict(settings)
        for name, value in settings.items():
            for word, what in names.items():
                filled[name] = filled[name].replace(f"<{word}>", str(what))
            assert "<" not in filled[name], value
        return filled


@contextlib.asynccontextmanager
async def around() -> AsyncIterator[Around]:
    """Start it all. The folder's name is short: sockets are in it."""
    upstream = RawUpstream()
    await upstream.start()
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    client = authority.issue_cert("client@example.com")

    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s")))
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        (folder / "id").write_text("id-of-a-file\n")
        (folder / "password").write_text("password-of-a-file\n")
        (folder / "store").write_text(f"file://{folder}/session\n")
        client.private_key_pem.write_to_path(str(folder / "key.pem"))
        client.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # more than the backlog takes
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        here = Around(upstream, folder, 0, 0, deaf.getsockname()[1])

        async def shake(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            here.handshakes.append(1)
            if certificate := writer.get_extra_info("peercert"):
                here.shown.append(certificate)

        async def connect(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            here.connects.append((await reader.readline()).decode())

        here.redis_port = await stack.enter_async_context(_listening(here.redis.serve))
        here.tls_port = await stack.enter_async_context(_listening(shake, "localhost", ssl=context))
        here.web_proxy_port = await stack.enter_async_context(_listening(connect))
        try:
            yield here
        finally:
            await upstream.stop()


@contextlib.asynccontextmanager
async def _listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    host: str = "127.0.0.1",
    **more: Any,
) -> AsyncIterator[int]:
    """Serve each connection and close it, all of them before this ends; yields the port."""
    serving: set[asyncio.Task[None]] = set()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # Python 3.11 complains of a callback that ends cancelled
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            serving.discard(task)

    server = await asyncio.start_server(served, host, 0, **more)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


Address = tuple[str, int] | Path


class Scene:
    """One running proxy and what is around it."""

    def __init__(self, here: Around, callers: Address, admin: Address, process: ProxyProcess | None) -> None:
        self.here = here
        self.upstream = here.upstream
        self.process = process
        #: Seconds in which what is looked for comes, or does not.
        self.patience = LONG
        #: What CardCash answers to others while it holds some; then OK.
        self.meanwhile: deque[bytes] = deque()
        self._callers_at, self._admin_at = callers, admin
        self._open: list[Caller] = []

    async def caller(self, at: Address | None = None, *, local: str | None = None) -> Caller:
        at = at or self._callers_at
        if isinstance(at, Path):
            streams = await asyncio.open_unix_connection(at)
        else:
            streams = await asyncio.open_connection(*at, local_addr=None if local is None else (local, 0))
        self._open.append(Caller(*streams))
        return self._open[-1]

    async def ask(
        self,
        line: str,
        *headers: bytes,
        body: bytes | None = None,
        key: bool = True,
        host: bytes = b"localhost",
        on: Caller | None = None,
        local: str | None = None,
        at: Address | None = None,
    ) -> Answer:
        """Ask, on a connection of its own unless told `on` which; `key`: with the header that may be required."""
        lines = [line.encode() + b" HTTP/1.1", b"Host: " + host, *headers, *([KEY] if key else [])]
        if body is not None:
            lines.append(b"Content-Length: %d" % len(body))
        caller = on or await self.caller(at, local=local)
        try:
            return await caller.ask(b"\r\n".join(lines) + b"\r\n\r\n" + (body or b""))
        finally:
            if on is None:
                self._open.remove(caller)
                await caller.close()

    async def admin(self, path: str) -> Answer:
        return await self.ask(f"GET {path}", at=self._admin_at)

    async def status(self) -> dict[str, Any]:
        told: dict[str, Any] = (await self.admin("/status")).json
        return told

    async def sample(self, name: str, **labels: str) -> float:
        """Read one metric, summed up over all other labels."""
        text = (await self.admin("/metrics")).body.decode()
        return sum(v for sample, of, v in samples(text) if sample == name and labels.items() <= of.items())

    async def ready(self) -> None:
        async with asyncio.timeout(15):
            while (await self.admin("/readyz")).status != 200:
                await asyncio.sleep(0.01)

    async def comes(self, condition: Any, *, seconds: float | None = None) -> bool:
        """Tell whether something, awaited or not, comes to hold within `patience`, or so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.patience if seconds is None else seconds):
                while True:
                    found = condition()
                    if await found if hasattr(found, "__await__") else found:
                        return True
                    await asyncio.sleep(0.03)
        return False

    @contextlib.asynccontextmanager
    async def holding(
        self, number: int, line: str, *, body: bytes | None = None
    ) -> AsyncIterator[list[asyncio.Task[Answer]]]:
        """Ask so many times at once; CardCash answers when the block ends. All are in flight when it begins.

        A worker that has had its share says so, and is asked again: the kernel chooses whose the next caller is.
        """
        released, begun = asyncio.Event(), False

        async def asked() -> Answer:
            while (got := await self.ask(line, b"X-Hold: yes", body=body)).status == 503 and not begun:
                await asyncio.sleep(0.01)
            return got

        async def none_in_flight() -> bool:
            return await self.sample("requests_in_flight") == 0

        async def all_in_flight() -> bool:
            return await self.sample("requests_in_flight") >= number

        async def hold(peer: Peer) -> None:
            await peer.body()
            if b"\r\nX-Hold:" in peer.head:
                await released.wait()
            await peer.send(self.meanwhile.popleft() if b"\r\nX-Hold:" not in peer.head and self.meanwhile else OK)

        self.upstream.default = hold
        assert await self.comes(none_in_flight, seconds=20)  # workers tell of themselves once a second
        asking = [asyncio.ensure_future(asked()) for _ in range(number)]
        try:
            assert await self.comes(all_in_flight, seconds=20)
            begun = True
            yield asking
        finally:
            released.set()
            await asyncio.gather(*asking, return_exceptions=True)
            self.upstream.default = OK

    async def close(self) -> None:
        for caller in self._open:
            await caller.close()


def _address(text: str) -> Address:
    if text.startswith("unix:"):
        return Path(text.removeprefix("unix:"))
    host, _, port = text.rpartition(":")
    return host, int(port)


@contextlib.asynccontextmanager
async def scene(here: Around, settings: Mapping[str, str], *, as_process: bool) -> AsyncIterator[Scene]:
    """Start a proxy with these settings, by their variables' names without CARDCASH_."""
    filled = here.filled_in({"UPSTREAM__ORIGIN": here.upstream.url, **settings})
    async with contextlib.AsyncExitStack() as stack:
        process = None
        if not as_process:
            running = await stack.enter_async_context(running_proxy(filled.pop("UPSTREAM__ORIGIN"), **filled))
            listen, admin = running.proxy.addresses[0], running.proxy.admin_addresses[0]
        elif filled.get("LISTEN", "").startswith("unix:"):
            process = await stack.enter_async_context(_on_sockets(filled))
            listen, admin = filled["LISTEN"], filled["ADMIN__LISTEN"]
        else:
            process = await stack.enter_async_context(serving(filled.pop("UPSTREAM__ORIGIN"), **filled))
            listen, admin = process.events("started")[0]["listen"][0], process.events("started")[0]["admin"][0]
        found = Scene(here, _address(listen), _address(admin), process)
        stack.push_async_callback(found.close)
        yield found


@contextlib.asynccontextmanager
async def _on_sockets(settings: Mapping[str, str]) -> AsyncIterator[ProxyProcess]:
    """Run `serve` where its log is not to be relied on: its addresses are known beforehand."""
    environ = {"APP_ID": "demo-app-id", **settings}
    process = await ProxyProcess.start("serve", **{f"CARDCASH_{name}": value for name, value in environ.items()})
    try:
        for name in ("ADMIN__LISTEN", "LISTEN"):
            path = settings[name].removeprefix("unix:")
            await until(lambda path=path: _listened_at(path) or process.process.returncode is not None, seconds=20)  # type: ignore[misc]
        yield process
    finally:
        await process.close()


def _listened_at(path: str) -> bool:
    """Tell whether somebody listens there; the file of a socket is there a moment before."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(path) == 0


def customer(upstream: RawUpstream) -> dict[str, Any]:
    """Return who logged in last."""
    return dict(json.loads(upstream.logins[-1].body)["customer"]) if upstream.logins else {}
