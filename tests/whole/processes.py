"""Real processes of the product, and everything they wrote."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.server.harness import Caller


def clean() -> dict[str, str]:
    """Nothing of the machine's own configuration may reach a test."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CARDCASH_")}


class Process:
    """A command of the product; `out` and `err` are all it wrote so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = bytearray()
        self.err = bytearray()
        self._news = asyncio.Event()
        assert process.stdout is not None and process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(process.stdout, self.out)),
            asyncio.create_task(self._read(process.stderr, self.err)),
        ]

    @classmethod
    async def start(cls, *arguments: str, through: Sequence[str] = (), **environ: str) -> Self:
        """`through`: a command that runs this one, such as nohup."""
        return cls(
            await asyncio.create_subprocess_exec(
                *(*through, sys.executable, "-m", "proxy", *arguments),
                env={**clean(), **environ},
                cwd=Path(__file__).parents[2],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )

    @classmethod
    async def run_program(cls, program: str, *arguments: str, **environ: str) -> Self:
        """Run a program of our own around the product: for what cannot be brought about from outside."""
        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", program, *arguments),
                env={**clean(), **environ},
                cwd=Path(__file__).parents[2],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )

    async def _read(self, stream: asyncio.StreamReader, into: bytearray) -> None:
        while piece := await stream.read(65536):
            into += piece
            self._news.set()
        self._news.set()

    async def says(self, found: Callable[[bytes], bool], *, seconds: float = 40.0) -> None:
        """Wait until its output satisfies `found`."""
        async with asyncio.timeout(seconds):
            while not found(bytes(self.out)):
                assert self.process.returncode is None or not self._readers[0].done(), self.text
                self._news.clear()
                await self._news.wait()

    @property
    def text(self) -> str:
        return (self.out + self.err).decode()

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ended(self, *, seconds: float = 40.0) -> int:
        """Wait for its end and return the exit code."""
        async with asyncio.timeout(seconds):
            await asyncio.gather(*self._readers)
            return await self.process.wait()

    def signal(self, number: int) -> None:
        """Send it, unless it has ended. Not by `send_signal`, which may take the exit code away from who waits for it."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def close(self) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await self.ended()


async def run(*arguments: str, **environ: str) -> Process:
    """Run a command to its end."""
    process = await Process.start(*arguments, **environ)
    try:
        await process.ended()
    finally:
        await process.close()
    return process


class ProxyProcess(Process):
    """`cardcash-proxy serve` on free ports."""

    host = ""
    admin = ""

    async def ready(self) -> None:
        await self.says(lambda out: b'"started"' in out and out.endswith(b"\n"))
        (started,) = self.events("started")
        self.host, self.admin = started["listen"][0], started["admin"][0]

    @property
    def lines(self) -> list[dict[str, Any]]:
        whole = bytes(self.out).rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.split(b"\n") if line]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == name]

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    async def caller(self) -> Caller:
        host, _, port = self.host.rpartition(":")
        return Caller(*await asyncio.open_connection(host, int(port), limit=1 << 22))

    def memory(self, what: str = "VmRSS") -> float:
        """Resident memory in MB; "VmHWM" for the most there ever was."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(what + ":"):
                return int(line.split()[1]) / 1000
        raise AssertionError(what)


@contextlib.asynccontextmanager
async def serving(
    origin: str, *, app_id: str = "demo-app-id", through: Sequence[str] = (), **settings: str
) -> AsyncIterator[ProxyProcess]:
    """Run `serve` in front of `origin`; settings as environment names without CARDCASH_."""
    defaults = {"APP_ID": app_id, "UPSTREAM__ORIGIN": origin, "LISTEN": "127.0.0.1:0", "ADMIN__LISTEN": "127.0.0.1:0"}
    environ = {f"CARDCASH_{name}": value for name, value in {**defaults, **settings}.items()}
    process = await ProxyProcess.start("serve", through=through, **environ)
    try:
        await process.ready()
        yield process
    finally:
        await process.close()


async def fetch(method: str, url: str, **more: Any) -> tuple[int, str]:
    """Ask with a client of its own connection; status and text."""
    async with aiohttp.ClientSession() as client, client.request(method, url, **more) as answer:
        return answer.status, await answer.text()


async def is_ready(proxy: ProxyProcess, *, seconds: float = 30.0) -> None:
    """Wait for /readyz."""
    async with asyncio.timeout(seconds):
        while (await fetch("GET", f"http://{proxy.admin}/readyz"))[0] != 200:
            await asyncio.sleep(0.03)


TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
