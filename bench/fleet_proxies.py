"""The proxies of `make fleet`: processes that share a Redis, callers that are connected to each, and what operators see."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from bench.callers import CART, LOGIN
from bench.configs import Origin
from bench.load import Answer, Ask, Crowd
from bench.processes import BenchError, Server, free_port
from bench.servers import our_command, our_environment


@dataclass(frozen=True, slots=True)
class Proxy:
    """A process, the callers that are connected to it, and the port of its operator."""

    server: Server
    crowd: Crowd
    admin: int

    async def told(self, path: str) -> bytes:
        """Ask the admin port."""
        operator = Crowd(self.admin)
        await operator.gather(1)
        answers, _, _ = await operator.ask(Ask(path))
        operator.leave()
        return answers[0].body if answers else b""


class Fleet:
    """The proxies, and callers that are connected to each."""

    def __init__(self, folder: Path, origin: Origin, store: str, *, replicas: int, callers: int) -> None:
        self._folder = folder
        self._origin = origin
        self._store = store
        self._callers = callers
        self._cores = frozenset(os.sched_getaffinity(0))
        self.proxies: list[Proxy] = []
        self._replicas = replicas

    async def start(self) -> None:
        """Start all of them, a few at a time, and connect the callers."""
        for first in range(0, self._replicas, 5):
            await asyncio.gather(*(self._join() for _ in range(min(5, self._replicas - first))))

    async def _join(self) -> None:
        try:
            await self._begin()
        except BenchError:
            # Its port may have been taken by somebody else a moment before.
            await self._begin()

    async def _begin(self) -> None:
        port, admin = free_port(), free_port()
        settings = LOGIN | {"SESSION__STORE": self._store, "LOG__LEVEL": "error"}
        environ = our_environment(self._origin, port, admin, settings)
        output = self._folder / f"proxy-{port}.log"
        server = Server.start(
            "cardcash-proxy", [*our_command(), "serve"], cores=self._cores, output=output, environ=environ
        )
        crowd = Crowd(port)
        try:
            await server.answers(admin, "/readyz", seconds=60)
            await crowd.gather(self._callers)
        except BaseException:
            server.stop()
            raise
        self.proxies.append(Proxy(server, crowd, admin))

    async def ask_all(self, size: int | None = None) -> tuple[list[Answer], int, float]:
        """Let every caller ask once, all at the same moment; `size`: those of so many proxies."""
        began = time.perf_counter()
        told = await asyncio.gather(*(proxy.crowd.ask(CART) for proxy in self.proxies[:size]))
        answers = [answer for answers, _, _ in told for answer in answers]
        return answers, sum(lost for _, lost, _ in told), time.perf_counter() - began

    async def calm(self, size: int | None = None, *, rounds: int = 5) -> list[float]:
        """Measure the seconds until the last caller has his answer when nothing is wrong."""
        return sorted([(await self.ask_all(size))[2] for _ in range(rounds)])

    async def tries(self) -> float:
        """Count how often all together have asked for the right to renew so far."""
        told = b"\n".join(await asyncio.gather(*(proxy.told("/metrics") for proxy in self.proxies)))
        found = re.findall(rb'^cardcash_proxy_store_seconds_count\{operation="enter"\} (\S+)', told, re.MULTILINE)
        return sum(map(float, found))

    async def gets_one_token(self) -> None:
        """Wait until every proxy holds the token that is stored. Raises BenchError after 30 s."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            told = await asyncio.gather(*(proxy.told("/status") for proxy in self.proxies))
            if all(status and not json.loads(status)["store"]["alone"] for status in told):
                return
            await asyncio.sleep(0.05)
        raise BenchError("the proxies did not come to one token")

    async def replace_one(self) -> None:
        """Begin a new proxy, then end the oldest, as a rolling restart does."""
        await self._join()
        oldest = self.proxies.pop(0)
        oldest.crowd.leave()
        await asyncio.to_thread(oldest.server.stop)

    def stop(self) -> None:
        """End them all."""
        for proxy in self.proxies:
            proxy.crowd.leave()
            proxy.server.process.terminate()
        for proxy in self.proxies:
            proxy.server.stop()
