"""`python -m bench.soak`: millions of requests, many connections, many renewals; nothing may be left of them afterwards.

Owns the phases and the verdict. Looks from outside only: memory, descriptors and threads of the process, its own gauges, the
answers, and what the simulator counted. Exit code 0 when all is flat, 1 when something grew or went wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench import measure
from bench.callers import CART, LOGIN, control, rejected
from bench.load import Answer, Ask, Crowd, Line, closed_loop
from bench.processes import BenchError, Cores, raise_file_limit
from bench.report import aligned
from bench.servers import Peer, Place, start_ours, start_simulator

#: Idle connections to the upstream leave after this, so that at rest there are none.
IDLE = "1s"
#: Different targets: what keeps something for each one it ever saw would show.
MIX = (
    *(Ask(f"/v3/_echo?number={number}") for number in range(500)),
    *(Ask(f"/v3/_echo?number={number}", b'{"number": %d}' % number) for number in range(300)),
    *(Ask("/v3/_echo", b'{"x": 1}', "PUT"), CART) * 100,
)
GAUGES = ("requests_in_flight", "session_waiters", "replay_buffer_bytes", "upstream_connections")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much, and what may remain: MB of memory, and descriptors."""

    requests: int = 2_000_000
    connections: int = 100_000
    renewals: int = 200
    growth_mb: float = 8.0
    growth_descriptors: int = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """The process at one moment."""

    phase: str
    done: int
    seconds: float
    memory_mb: float
    descriptors: int
    threads: int

    def row(self) -> list[str]:
        """Write it for the table."""
        numbers = [f"{self.done:,}", f"{self.seconds:.0f} s", f"{self.memory_mb:.1f} MB"]
        return [self.phase, *numbers, str(self.descriptors), str(self.threads)]


@dataclass(slots=True)
class Report:
    """What was seen; `faults` is empty when all is well."""

    samples: list[Sample] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Write the table and the verdict."""
        rows = [["", "done", "after", "memory", "descriptors", "threads"], *(sample.row() for sample in self.samples)]
        verdict = [f"FAULT: {fault}" for fault in self.faults] or ["Flat: nothing grew, nothing went wrong."]
        return "\n".join([*aligned(rows), "", *verdict])


class Soak:
    """One run against a running proxy and its simulator."""

    def __init__(self, plan: Plan, peer: Peer, simulator: int, say: Callable[[str], None]) -> None:
        self.report = Report()
        self._plan = plan
        self._peer = peer
        self._simulator = simulator
        self._say = say
        self._began = time.monotonic()

    async def run(self) -> None:
        """Warm up, do it all, and judge."""
        plan = self._plan
        # A tenth of everything: what is filled once (pools, caches, the allocator's arenas) is full then.
        await self._requests(min(20_000, plan.requests // 10))
        await self._connections(min(3_000, plan.connections // 10))
        await self._renewals(max(2, min(20, plan.renewals // 10)))
        await self._rest()
        before = self._sample("warm, at rest", 0)
        for done in _parts(plan.requests, 10):
            await self._requests(done[1])
            self._sample("requests", done[0])
        for done in _parts(plan.connections, 5):
            await self._connections(done[1])
            self._sample("connections", done[0])
        for done in _parts(plan.renewals, 4):
            await self._renewals(done[1])
            self._sample("renewals", done[0])
        await self._rest()
        self._judge(before, self._sample("at rest", 0))

    # -- phases ------------------------------------------------------------------------------------------

    async def _requests(self, count: int) -> None:
        # In pieces, because every answer's wait is kept.
        while count > 0:
            piece = min(count, 50_000)
            tally = await closed_loop(self._peer.port, MIX, connections=32, count=piece)
            self._expect(tally.bad == 0 and tally.requests == piece, f"{tally.bad} of {piece} requests went wrong")
            count -= piece

    async def _connections(self, count: int) -> None:
        """Open and close so many, a few at a time; some leave in the middle of things, as callers do."""
        numbers = iter(range(count))

        async def one_after_another() -> None:
            for number in numbers:
                await self._visit(number)

        await asyncio.gather(*(one_after_another() for _ in range(32)))

    async def _visit(self, number: int) -> None:
        answered: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()

        def tell(_: Line, answer: Answer | None) -> None:
            if not answered.done():
                answered.set_result(answer)

        line = await Line.open(self._peer.port, tell)
        request = MIX[number % len(MIX)].raw(self._peer.port)
        try:
            match number % 10:
                case 0:
                    await asyncio.sleep(0)
                case 1:
                    line.transport.write(request[: len(request) // 2])
                    await asyncio.sleep(0)
                case 2:
                    line.send(request)
                    await asyncio.sleep(0.0005)
                case _:
                    line.send(request)
                    answer = await asyncio.wait_for(answered, 30)
                    self._expect(answer is not None and answer.status == 200, f"a new connection got {answer}")
        finally:
            line.close()

    async def _renewals(self, count: int) -> None:
        """Revoke every token, and have all callers come at once; as often as said."""
        before = await self._session_calls()
        crowd = Crowd(self._peer.port)
        try:
            await crowd.gather(32)
            for _ in range(count):
                await control(self._simulator, "revoke", {})
                answers, lost, _ = await crowd.ask(CART)
                bad = lost + sum(answer.status != 200 for answer in answers)
                self._expect(bad + rejected(answers) == 0, f"{bad} of 32 callers saw that a token was revoked")
        finally:
            crowd.leave()
        calls = await self._session_calls() - before
        self._expect(calls == count, f"{count} revocations cost {calls} session calls")

    async def _session_calls(self) -> int:
        counts = await control(self._simulator, "counters")
        return int(counts["calls"].get("POST /v3/session", 0))

    # -- looking -----------------------------------------------------------------------------------------

    def _expect(self, good: bool, otherwise: str) -> None:
        if not good and otherwise not in self.report.faults:
            self.report.faults.append(otherwise)
            self._say(f"FAULT: {otherwise}")

    def _sample(self, phase: str, done: int) -> Sample:
        (pid, *_), seconds = self._peer.pids, time.monotonic() - self._began
        memory, descriptors = measure.memory_mb([pid]), measure.descriptors(pid)
        sample = Sample(phase, done, seconds, memory, descriptors, measure.threads(pid))
        self.report.samples.append(sample)
        self._say("  ".join(cell.rjust(13) for cell in sample.row()))
        return sample

    async def _rest(self, *, seconds: float = 15.0) -> None:
        """Wait until all gauges are back at nought."""
        end = time.monotonic() + seconds
        while open_still := await self._gauges():
            if time.monotonic() > end:
                self._expect(False, f"at rest these are not 0: {open_still}")
                return
            await asyncio.sleep(0.1)

    async def _gauges(self) -> dict[str, float]:
        """Return the gauges that are not 0."""
        crowd = Crowd(self._peer.admin_port)
        await crowd.gather(1)
        try:
            answers, _, _ = await crowd.ask(Ask("/metrics"))
        finally:
            crowd.leave()
        text = answers[0].body.decode() if answers else ""
        found = re.findall(rf"^cardcash_proxy_((?:{'|'.join(GAUGES)})(?:{{.*}})?) (\S+)$", text, re.MULTILINE)
        if len({name.partition("{")[0] for name, _ in found}) != len(GAUGES):
            raise BenchError("GET /metrics lacks gauges that it should have")
        return {name: float(value) for name, value in found if float(value)}

    def _judge(self, before: Sample, after: Sample) -> None:
        plan = self._plan
        grown = after.memory_mb - before.memory_mb
        self._expect(grown <= plan.growth_mb, f"memory grew by {grown:.1f} MB; {plan.growth_mb:g} MB are allowed")
        more = after.descriptors - before.descriptors
        self._expect(more <= plan.growth_descriptors, f"{more} more descriptors are open than before")
        self._expect(after.threads <= before.threads, f"{after.threads - before.threads} more threads than before")


def _parts(total: int, parts: int) -> list[tuple[int, int]]:
    """Split a count into parts: (done after this part, the part)."""
    ends = sorted({total * number // parts for number in range(1, parts + 1)} - {0})
    return [(end, end - begin) for begin, end in zip([0, *ends], ends, strict=False)]


async def soak(plan: Plan, folder: Path, cores: Cores, say: Callable[[str], None]) -> Report:
    """Start simulator and proxy, and soak. Raises BenchError."""
    with ExitStack() as stack:
        simulator, origin = await start_simulator(folder, cores.others)
        stack.callback(simulator.stop)
        settings = {**LOGIN, "UPSTREAM__IDLE_TIMEOUT": IDLE}
        # Its log is written, but kept nowhere: it would be a gigabyte.
        peer = await start_ours(Place(folder, cores, origin), output=Path(os.devnull), settings=settings)
        stack.callback(peer.stop)
        run = Soak(plan, peer, origin.port, say)
        await run.run()
    return run.report


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench.soak", description="soak the proxy: nothing may grow")
    for name, text in (
        ("requests", "requests over connections that stay"),
        ("connections", "connections opened and closed"),
        ("renewals", "tokens revoked under callers"),
    ):
        parser.add_argument(f"--{name}", type=_count, default=getattr(Plan, name), help=f"{text} (%(default)s)")
    parser.add_argument("--growth", metavar="MB", type=float, default=8.0, help="memory that may remain (%(default)g)")
    options = parser.parse_args(argv)
    plan = Plan(options.requests, options.connections, options.renewals, options.growth)
    return _main(plan)


def _main(plan: Plan) -> int:
    if sys.platform != "linux":
        print("bench.soak: this needs Linux: costs are read from /proc", file=sys.stderr)
        return 2
    raise_file_limit()
    cores = Cores.chosen()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as name,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            os.sched_setaffinity(0, cores.others)
            report = runner.run(soak(plan, Path(name), cores, lambda line: print(line, file=sys.stderr, flush=True)))
    except BenchError as error:
        print(f"bench.soak: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench.soak: stopped; nothing is left running", file=sys.stderr)
        return 130
    print(report.text())
    return 1 if report.faults else 0


def _count(text: str) -> int:
    value = int(text.replace("_", ""))
    if not 0 <= value <= 10**9:
        raise argparse.ArgumentTypeError(f"{text} is not a count")
    return value


if __name__ == "__main__":
    sys.exit(main())
