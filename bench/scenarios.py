"""What is measured, one function a scenario; peers take turns within each round, so that noise hits all alike.

Owns the shape of each scenario and its metrics' names. Servers, load and arithmetic are elsewhere. Metrics: cpu_us (user
and system time of one request), rps, p50_ms, p90_ms, p99_ms, rss_mb, busy (share of its core), and more by scenario.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import configs, measure
from bench import instructions as instructing
from bench.load import Ask, closed_loop, open_loop
from bench.processes import BenchError, Cores
from bench.quota import shares
from bench.results import DIRECT, ONE_WORKER, OURS, Results
from bench.servers import KINDS, Peer, Place, Upstream, start_ours
from bench.stream import begin_and_stop, fetch_stream
from bench.wrk import closed_load

SMALL = Ask(configs.SMALL)
POST = Ask(configs.SMALL, configs.small_json(512).encode())
LIST = Ask(configs.LIST)
#: Of a core, for each worker: little enough for two of them, the load and the upstream on two cores.
_SHARE = 0.4
#: Readers that stop, fewer than we have connections upstream; and seconds until what is free has been given back.
_STOPPED, _SETTLED = 90, 6.0
#: Those in Python, served by the process that was started: valgrind cannot be told anything in a forked worker.
_COUNTABLE = frozenset((OURS, "aiohttp"))


@dataclass(slots=True)
class Rig:
    """A run: what it may use, and where its numbers go."""

    folder: Path
    cores: Cores
    upstream: Upstream
    peers: list[str]
    rounds: int
    seconds: float
    say: Callable[[str], None]
    results: Results = field(default_factory=Results)

    async def start(self, name: str, *, tls: bool = False) -> Peer:
        """Start one peer, each time in a new process. Raises BenchError."""
        origin = self.upstream.tls if tls else self.upstream.plain
        if name == DIRECT:
            return Peer(DIRECT, self.upstream.plain.port)
        return await KINDS[name].start(Place(self.folder, self.cores, origin))

    @asynccontextmanager
    async def running(self, *, tls: bool = False, direct: bool = False) -> AsyncIterator[list[Peer]]:
        """Run all peers; one that does not start is told of and left out, but not ours."""
        found: list[Peer] = []
        try:
            for name in [*([DIRECT] if direct else []), *self.peers]:
                try:
                    found.append(await self.start(name, tls=tls))
                except BenchError as error:
                    if name == OURS:
                        raise
                    self.problem(str(error))
            yield found
        finally:
            for peer in found:
                peer.stop()
            for log in self.folder.glob("*.log"):
                log.unlink()  # a run would leave gigabytes of them

    def turns(self, peers: list[Peer]) -> list[tuple[int, Peer]]:
        """List rounds and peers; each round begins with another one, since the first may find a colder machine."""
        order = []
        for number in range(self.rounds):
            first = number % len(peers)
            order += [(number, peer) for peer in peers[first:] + peers[:first]]
        return order

    def check(self, scenario: str, peer: Peer, bad: int, requests: int) -> None:
        """Note answers that make a number worthless."""
        if bad or not requests:
            self.problem(f"{scenario}: {peer.name}: {bad} of {requests} answers were not 2xx")

    def problem(self, sentence: str) -> None:
        """Note what went wrong, once, and tell of it now."""
        if sentence not in self.results.problems:
            self.results.problems.append(sentence)
            self.say(f"         {sentence}")


async def closed(rig: Rig, scenario: str, ask: Ask, *, connections: int = 32, tls: bool = False) -> None:
    """Keep connections busy: what one core can do, and what a request takes of it."""
    async with rig.running(tls=tls, direct=not tls) as peers:
        for peer in peers:
            await closed_loop(peer.port, [ask], connections=connections, seconds=0.3)
        for _, peer in rig.turns(peers):
            pids = peer.pids
            began, before = time.perf_counter(), measure.cpu_seconds(pids)
            load = await closed_load(peer.port, ask, connections=connections, seconds=rig.seconds, folder=rig.folder)
            used, taken = measure.cpu_seconds(pids) - before, time.perf_counter() - began
            rig.check(scenario, peer, load.bad, load.requests)
            answers = max(1, load.requests)
            numbers = {"rps": answers / load.seconds, "p50_ms": load.p50, "p90_ms": load.p90, "p99_ms": load.p99}
            if pids:
                numbers |= {"cpu_us": used / answers * 1e6, "busy": used / taken, "rss_mb": measure.memory_mb(pids)}
            rig.results.add(scenario, peer.name, **numbers)


async def instructions(rig: Rig) -> None:
    """Instructions in user space of a request, in a process of its own under callgrind, its start left out."""
    if why := instructing.missing():
        rig.problem(f"instructions: {why}")
        return
    place = Place(rig.folder, rig.cores, rig.upstream.plain, instructing.wrapper(rig.folder))
    for name in rig.peers:
        if name not in _COUNTABLE:
            continue
        try:
            peer = await KINDS[name].start(place)
        except BenchError as error:
            rig.problem(str(error))
            continue
        counter = instructing.Counter(peer, rig.folder)
        try:
            await counter.begin(SMALL)
            for _ in range(rig.rounds):
                rig.results.add("instructions", name, k_instructions=await counter.count(SMALL) / 1000)
        except BenchError as error:
            rig.problem(str(error))
        finally:
            counter.close()
            peer.stop()


async def workers(rig: Rig) -> None:
    """Two worker processes beside one, each with the same share of a core: what the second one brings."""
    place = Place(rig.folder, Cores(rig.cores.measured | rig.cores.others, rig.cores.others), rig.upstream.plain)
    for number in range(rig.rounds + 4 if rig.rounds > 1 else 1):  # a quota makes it noisier than the rest
        for name, count in ((OURS, 2), (ONE_WORKER, 1)) if number % 2 else ((ONE_WORKER, 1), (OURS, 2)):
            peer = await start_ours(place, settings={"WORKERS": str(count)})
            try:
                serving = [pid for pid in peer.pids if count == 1 or pid != peer.server_pid]
                with shares(serving, _SHARE) as limited:
                    if not limited:
                        rig.problem("workers: no cgroups here, so load and workers share the cores: expect less")
                    await closed_load(peer.port, SMALL, connections=64, seconds=0.3, folder=rig.folder)
                    before = measure.cpu_seconds(serving)
                    load = await closed_load(peer.port, SMALL, connections=64, seconds=rig.seconds, folder=rig.folder)
                    used = measure.cpu_seconds(serving) - before
                    memory = measure.memory_mb(peer.pids)
            finally:
                peer.stop()
            rig.check("workers", peer, load.bad, load.requests)
            answers = max(1, load.requests)
            numbers = {"rps": answers / load.seconds, "cpu_us": used / answers * 1e6, "rss_mb": memory}
            rig.results.add("workers", name, **numbers)


async def start_up(rig: Rig) -> None:
    """From starting the process to its first good answer (ours: /readyz), and its memory then."""
    for _ in range(rig.rounds + 2):  # it is quick, and noisier than the rest
        for name in rig.peers:
            try:
                peer = await rig.start(name)
            except BenchError as error:
                rig.problem(str(error))
                continue
            rig.results.add("start", name, ready_s=peer.ready, rss_mb=measure.memory_mb(peer.pids))
            peer.stop()


async def stream(rig: Rig) -> None:
    """100 MB down: as fast as it goes, and to a reader that stops for a while, which must cost no memory."""
    async with rig.running(direct=True) as peers:
        for _, peer in rig.turns(peers):
            pids = peer.pids
            measure.forget_peak(pids)
            before, held = measure.cpu_seconds(pids), measure.memory_mb(pids)
            fast = await fetch_stream(peer.port, configs.STREAM)
            used = measure.cpu_seconds(pids) - before
            slow = await fetch_stream(peer.port, configs.STREAM, stop_after=1_000_000, pause=0.5)
            for got in (fast, slow):
                rig.check("stream", peer, int(got.size != configs.STREAM_BYTES), 1)
            numbers = {"mb_per_s": fast.size / 1e6 / fast.seconds}
            if pids:
                peak = measure.memory_mb(pids, "VmHWM")
                numbers |= {"cpu_ms": used * 1000, "peak_mb": peak, "grown_mb": max(0.0, peak - held)}
            rig.results.add("stream", peer.name, **numbers)


async def stopped(rig: Rig) -> None:
    """Readers that begin a long answer and stop: what each costs while it does not read, and what stays afterwards."""
    async with rig.running() as peers:
        for _, peer in rig.turns(peers):
            before, writers = measure.memory_mb(peer.pids), []
            for _ in range(_STOPPED):
                writers.append(await begin_and_stop(peer.port, configs.STREAM))
            await asyncio.sleep(_SETTLED)
            held = measure.memory_mb(peer.pids)
            for writer in writers:
                writer.transport.abort()
            await asyncio.sleep(_SETTLED)
            left = measure.memory_mb(peer.pids) - before
            rig.results.add("stopped", peer.name, kb_each=(held - before) * 1000 / _STOPPED, left_mb=left)


async def steady(rig: Rig) -> None:
    """200 requests a second at random moments: what a caller waits when nothing is overloaded."""
    async with rig.running(direct=True) as peers:
        for peer in peers:
            await open_loop(peer.port, SMALL, rate=200, seconds=0.5, seed=0)
        for number in range(rig.rounds):
            direct = 0.0
            # Direct goes first: the others of the round are compared with it.
            for peer in peers:
                gc.collect()
                gc.disable()  # ours, that is: a collection here would be taken for a slow answer
                try:
                    tally = await open_loop(peer.port, SMALL, rate=200, seconds=rig.seconds * 1.5, seed=number)
                finally:
                    gc.enable()
                rig.check("open", peer, tally.bad, tally.requests)
                p99 = tally.milliseconds(0.99)
                numbers = {"p50_ms": tally.milliseconds(0.5), "p90_ms": tally.milliseconds(0.9), "p99_ms": p99}
                numbers["late_ms"] = measure.percentile(tally.late, 0.99) * 1000
                if peer.name == DIRECT:
                    direct = p99
                else:
                    numbers["added_p99_ms"] = p99 - direct
                rig.results.add("open", peer.name, **numbers)
