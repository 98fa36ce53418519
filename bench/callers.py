"""What callers gain by the shared session: a burst on a revoked token, and apps that call now and then.

Owns two scenarios of which only the proxy, no peer, is a part. They use the simulator and a slow, distant upstream.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from contextlib import ExitStack
from typing import Any

from bench import configs
from bench.configs import Origin
from bench.load import Answer, Ask, Crowd
from bench.measure import memory_mb
from bench.processes import BenchError
from bench.relay import relay
from bench.results import DIRECT, OURS
from bench.scenarios import Rig
from bench.servers import Peer, Place, start_ours, start_simulator

CALLERS = 1000
ROUND_TRIP = 0.040
LOGIN = {"LOGIN__EMAIL": "partner@example.com", "LOGIN__PASSWORD": "demo-password"}
CART = Ask("/v3/carts")


async def control(port: int, name: str, body: object = None) -> dict[str, Any]:
    """Use the simulator's controls: POST with a body, else GET."""
    crowd = Crowd(port)
    await crowd.gather(1)
    try:
        told = b"" if body is None else json.dumps(body).encode()
        answers, _, _ = await crowd.ask(Ask(f"/_simulator/{name}", told))
    finally:
        crowd.leave()
    if not answers or answers[0].status != 200:
        raise BenchError(f"the simulator did not obey {name}: {answers[0].body[:200]!r}" if answers else "no simulator")
    found: dict[str, Any] = json.loads(answers[0].body)
    return found


def rejected(answers: list[Answer]) -> int:
    """Count answers that tell a caller of a token, which none may ever see."""
    return sum(b"authorization token" in answer.body.lower() for answer in answers)


async def burst(rig: Rig) -> None:
    """A thousand callers at once; then the same just after every token was revoked behind the proxy's back."""
    with ExitStack() as stack:
        simulator, origin = await start_simulator(rig.folder, rig.cores.others)
        stack.callback(simulator.stop)
        peer = await start_ours(Place(rig.folder, rig.cores, origin), settings=LOGIN)
        stack.callback(peer.stop)
        crowd = Crowd(peer.port)
        stack.callback(crowd.leave)
        await crowd.gather(CALLERS)
        await crowd.ask(CART)
        await control(origin.port, "configure", {"latency": ROUND_TRIP})
        for _ in range(rig.rounds):
            calm, _, without = await crowd.ask(CART)
            await control(origin.port, "revoke", {})
            await control(origin.port, "reset-counters", {})
            answers, lost, seconds = await crowd.ask(CART)
            counts = await control(origin.port, "counters")
            good = sum(answer.status == 200 for answer in answers)
            rig.check("burst", peer, 2 * CALLERS - good - sum(answer.status == 200 for answer in calm), 2 * CALLERS)
            rig.results.add(
                "burst",
                OURS,
                session_calls=counts["calls"].get("POST /v3/session", 0),
                login_calls=counts["calls"].get("POST /v3/customers/login", 0),
                rejected_answers=rejected(answers),
                other_answers=CALLERS - good + lost,
                rejected_upstream=sum(counts["rejected"].values()),
                burst_s=seconds,
                calm_s=without,
                rss_mb=memory_mb(peer.pids),
            )


async def gain(rig: Rig) -> None:
    """An app that opens a connection, makes a session and calls, 40 ms and TLS away; and one that asks the proxy."""
    async with relay(rig.upstream.tls.port, delay=ROUND_TRIP / 2) as far:
        peer = await start_ours(Place(rig.folder, rig.cores, Origin(far, rig.upstream.tls.ca)))
        try:
            await _through(peer)
            trust = ssl.create_default_context(cafile=str(rig.upstream.tls.ca))
            for _ in range(rig.rounds):
                apart = [await _alone(far, trust) for _ in range(5)]
                shared = [await _through(peer) for _ in range(5)]
                for name, times in ((DIRECT, apart), (OURS, shared)):
                    first, kept = (sorted(column)[2] * 1000 for column in zip(*times, strict=True))
                    rig.results.add("gain", name, first_ms=first, kept_ms=kept)
        finally:
            peer.stop()


async def _alone(port: int, trust: ssl.SSLContext) -> tuple[float, float]:
    """Call as an app on its own; seconds of connecting, session and call, and of one more call on what it then has."""
    began = time.perf_counter()
    streams = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname="localhost")
    await _ask(*streams, Ask("/v3/session", b"{}"), port, "x-cc-app: demo-app-id")
    mine = ("x-cc-app: demo-app-id", f"Authorization: Bearer {configs.TOKEN}")
    return await _twice(began, streams, port, *mine)


async def _through(peer: Peer) -> tuple[float, float]:
    began = time.perf_counter()
    return await _twice(began, await asyncio.open_connection("127.0.0.1", peer.port), peer.port)


async def _twice(
    began: float, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], port: int, *more: str
) -> tuple[float, float]:
    try:
        await _ask(*streams, CART, port, *more)
        first = time.perf_counter()
        await _ask(*streams, CART, port, *more)
        return first - began, time.perf_counter() - first
    finally:
        streams[1].close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ask: Ask, port: int, *more: str) -> None:
    writer.write(ask.raw(port, *more))
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise BenchError(f"{ask.verb} {ask.path}: {head.splitlines()[0].decode()}")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))
