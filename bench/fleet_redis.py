"""Redis servers for `make fleet`: a master, a replica, three Sentinels; spoken to in their own protocol.

Owns their ports and folders, and who of them is the master now.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from bench.measure import cpu_seconds
from bench.processes import BenchError, Server, clean_environment, free_port, installed


class Redis:
    """A master and a replica of it, watched by three Sentinels."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._cores = frozenset(os.sched_getaffinity(0))
        self.servers: dict[int, Server] = {}
        self.sentinels: list[int] = []

    async def start(self) -> None:
        """Start all of them. Raises BenchError."""
        command = installed("redis-server") or installed("valkey-server")
        if command is None:
            raise BenchError("redis-server is not installed: apt-get install redis-server redis-sentinel")
        master, replica = free_port(), free_port()
        for port, more in ((master, ()), (replica, ("--replicaof", "127.0.0.1", str(master)))):
            self.servers[port] = self._begin(port, [command, *more])
            await self._answers(port)
        for _ in range(3):
            port = free_port()
            config = self._folder / f"sentinel-{port}.conf"
            config.write_text(
                f"sentinel monitor fleet 127.0.0.1 {master} 2\nsentinel down-after-milliseconds fleet 1000\n"
                "sentinel failover-timeout fleet 3000\nsentinel parallel-syncs fleet 1\n"
            )
            self._begin(port, [command, str(config), "--sentinel"])
            await self._answers(port)
            self.sentinels.append(port)
        await self.agreed(replicas=1)

    def _begin(self, port: int, command: Sequence[str]) -> Server:
        folder = self._folder / f"redis-{port}"
        folder.mkdir(exist_ok=True)
        options = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder))
        quiet = () if "--sentinel" in command else ("--save", "")
        server = Server.start(
            "redis",
            [*command, *options, *quiet],
            cores=self._cores,
            output=folder / "output",
            environ=clean_environment(),
        )
        self._stack.callback(server.stop)
        return server

    async def revive(self) -> None:
        """Start again what has ended, as a replica of the master there is now."""
        command = installed("redis-server") or installed("valkey-server") or ""
        for port, server in list(self.servers.items()):
            if server.process.poll() is not None:
                master = str(await self.master())
                self.servers[port] = self._begin(port, [command, "--replicaof", "127.0.0.1", master])
                await self._answers(port)
        await self.agreed(replicas=1)

    @property
    def url(self) -> str:
        """What `session.store` takes."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis+sentinel://{hosts}/fleet"

    def running(self) -> list[int]:
        """The process ids of the servers, the Sentinels left out."""
        return [server.process.pid for server in self.servers.values() if server.process.poll() is None]

    async def master(self) -> int:
        """Ask a Sentinel for the port of the master."""
        told = await ask(self.sentinels[0], "SENTINEL", "get-master-addr-by-name", "fleet")
        return int(told[1])

    async def agreed(self, *, replicas: int) -> None:
        """Wait until there is a master with so many replicas in step. Raises BenchError."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with suppress(OSError, ValueError, IndexError, TimeoutError):
                told = str(await ask(await self.master(), "INFO", "replication"))
                if "role:master" in told and told.count("state=online") >= replicas:
                    return
            await asyncio.sleep(0.1)
        raise BenchError("the Sentinels did not agree on a master")

    async def _answers(self, port: int) -> None:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with suppress(OSError, TimeoutError):
                if await ask(port, "PING"):
                    return
            await asyncio.sleep(0.02)
        raise BenchError("a redis-server did not start")

    def cpu(self) -> float:
        """CPU seconds of all servers so far, the Sentinels left out."""
        return cpu_seconds(self.running())


async def ask(port: int, *words: str) -> list[str]:
    """Send one command in the protocol of Redis; return the lines of a flat answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        writer.write(f"*{len(words)}\r\n{parts}".encode())
        async with asyncio.timeout(2):
            return await _answer(reader)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> list[str]:
    kind, rest = (line := (await reader.readline()).decode().strip())[:1], line[1:]
    if kind == "*":
        return [part for _ in range(int(rest)) for part in await _answer(reader)]
    if kind == "$":
        return [(await reader.readexactly(int(rest) + 2)).decode()[:-2]] if int(rest) >= 0 else []
    if kind == "-":
        raise ValueError(rest)
    return [rest]
