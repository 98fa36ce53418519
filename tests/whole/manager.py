"""A service manager as the product sees one: it hands sockets over, and is told of starts, reloads, ends and life."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

from tests.whole.processes import ProxyProcess, clean

_NUMBERS = itertools.count()
#: Puts the descriptors it is told of where sd_listen_fds(3) has them, says that they are for itself, and runs a command.
_LAUNCH = """
import fcntl, os, sys
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[1].split(",") if number]
for place, number in enumerate(high):
    os.dup2(number, 3 + place)
    os.close(number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(high))}
os.execvp(sys.argv[2], sys.argv[2:])
"""


class AdminAnswers:
    """What a process says at NOTIFY_SOCKET; each message as its assignments, with the time it came."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[tuple[float, dict[str, str]]] = []
        self._news = asyncio.Event()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self._sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self._sock, self._read)

    @classmethod
    def abstract(cls) -> Self:
        return cls(f"@cardcash-proxy-test-{os.getpid()}-{next(_NUMBERS)}")

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while text := self._sock.recv(4096).decode():
                pairs = (line.partition("=") for line in text.split("\n"))
                self.messages.append((time.monotonic(), {name: value for name, _, value in pairs}))
                self._news.set()

    def count(self, name: str) -> int:
        return sum(name in message for _, message in self.messages)

    @property
    def states(self) -> list[str]:
        """The changes of state so far, in order."""
        states = ("READY", "RELOADING", "STOPPING")
        return [name for _, message in self.messages for name in states if message.get(name) == "1"]

    async def comes(self, name: str, times: int = 1, *, seconds: float = 20.0) -> None:
        """Wait until it was told so often."""
        async with asyncio.timeout(seconds):
            while self.count(name) < times:
                self._news.clear()
                await self._news.wait()

    async def falls_silent(self, name: str, *, for_: float, seconds: float = 10.0) -> None:
        """Wait until it was not told for so long."""
        async with asyncio.timeout(seconds):
            while True:
                self._news.clear()
                before = self.count(name)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(for_):
                        while self.count(name) == before:
                            self._news.clear()
                            await self._news.wait()
                if self.count(name) == before:
                    return

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()


class Manager:
    """Holds the sockets of both ports, callers' on TCP and on a unix socket; starts one process after another with them."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.told = AdminAnswers.abstract()
        self.path = folder / "callers"
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(self.path))
        unix.listen(1024)
        self.http = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.admin = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.sockets = [self.http, unix, self.admin]
        self.environ = {
            "LISTEN_FDNAMES": "http:http:admin",
            "NOTIFY_SOCKET": self.told.address,
            **{f"CARDCASH_{name}": value for name, value in settings.items()},
            "CARDCASH_APP_ID": "demo-app-id",
            "CARDCASH_LISTEN": "fd:http",
            "CARDCASH_ADMIN__LISTEN": "fd:admin",
        }
        self.processes: list[ProxyProcess] = []

    async def start(self, **environ: str) -> ProxyProcess:
        """Start a process, and wait until it tells that it is ready."""
        numbers = [sock.fileno() for sock in self.sockets]
        ready = self.told.count("READY") + 1
        process = ProxyProcess(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _LAUNCH, ",".join(map(str, numbers))),
                *(sys.executable, "-m", "proxy", "serve"),
                env={**clean(), **self.environ, **environ},
                cwd=Path(__file__).parents[2],
                pass_fds=numbers,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )
        self.processes.append(process)
        await process.ready()
        await self.told.comes("READY", ready)
        return process

    async def close(self) -> None:
        for process in self.processes:
            await process.close()
        for sock in self.sockets:
            sock.close()
        self.told.close()


@contextlib.asynccontextmanager
async def manager(folder: Path, origin: str, **settings: str) -> AsyncIterator[Manager]:
    """A service manager for proxies in front of `origin`."""
    one = Manager(folder, UPSTREAM__ORIGIN=origin, **settings)
    try:
        yield one
    finally:
        await one.close()
