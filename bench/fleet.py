"""`make fleet`: many proxies on one Redis, as one client to CardCash, whatever befalls the Redis.

Real processes on this machine: the simulator, Redis servers with three Sentinels, proxies, and callers of each. Prints, per
scenario, session calls, logins, the slowest caller, what callers saw that they should not, and Redis's CPU. Exit code 1
when a bound is passed. Then a model of the herd, compared with real ones of several sizes, tells of more than fit here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.callers import CART, control, rejected
from bench.fleet_model import Real, compare, tell_larger
from bench.fleet_proxies import Fleet
from bench.fleet_redis import Redis, ask
from bench.load import Answer
from bench.processes import BenchError, raise_file_limit
from bench.servers import start_simulator

#: Seconds the simulator takes for each call.
LATENCY = 0.1
#: Bounds: seconds until the last caller has his answer.
_CALM, _FAILOVER = 4.0, 6.0
#: Seconds after which all have one token again.
_TOGETHER = 3.0


@dataclass(slots=True)
class Row:
    """What a scenario came to."""

    name: str
    sessions: int
    logins: int
    slowest: float
    rejections: int
    others: int
    redis_cpu: float
    note: str = ""
    good: bool = True


class Run:
    """The scenarios, one after the other."""

    def __init__(self, fleet: Fleet, redis: Redis, simulator: int) -> None:
        self.fleet = fleet
        self.redis = redis
        self._simulator = simulator
        self._stopped: list[int] = []
        self.rows: list[Row] = []
        self.herds: list[Real] = []

    async def herd(
        self, name: str, *, bound: float, after: float = 0.0, meanwhile: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Revoke every token, let all callers ask at once, and do something to the fleet `after` so many seconds."""
        await self.fleet.ask_all()
        await control(self._simulator, "revoke", {})
        await control(self._simulator, "reset-counters", {})
        cpu = self.redis.cpu()
        asking = asyncio.create_task(self.fleet.ask_all())
        if meanwhile is not None:
            await asyncio.sleep(after)
            await meanwhile()
        answers, lost, seconds = await asking
        await self._row(name, answers, lost, seconds, max(0.0, self.redis.cpu() - cpu), bound=bound)

    async def _row(
        self,
        name: str,
        answers: list[Answer],
        lost: int,
        seconds: float,
        cpu: float,
        *,
        bound: float,
        most: int = 1,
        note: str = "",
    ) -> None:
        counts = (await control(self._simulator, "counters"))["calls"]
        sessions, logins = counts.get("POST /v3/session", 0), counts.get("POST /v3/customers/login", 0)
        seen = rejected(answers)
        others = sum(answer.status != 200 for answer in answers) - seen + lost
        good = sessions <= most and logins <= most and not seen and not others and seconds <= bound
        self.rows.append(Row(name, sessions, logins, seconds, seen, others, cpu, note, good))
        print(line(self.rows[-1]), flush=True)

    async def compared(self, size: int, latency: float) -> None:
        """Let so many proxies be a herd, for the model to be compared with."""
        await control(self._simulator, "configure", {"latency": latency})
        calm = (await self.fleet.calm(size))[2]
        await control(self._simulator, "revoke", {})
        await control(self._simulator, "reset-counters", {})
        before = await self.fleet.tries()
        _, _, seconds = await self.fleet.ask_all(size)
        calls = (await control(self._simulator, "counters"))["calls"].get("POST /v3/session", 0)
        self.herds.append(Real(size, latency, calm, calls, seconds, await self.fleet.tries() - before))

    async def kill_master(self) -> None:
        """End the master at once."""
        os.kill(self.redis.servers[await self.redis.master()].process.pid, signal.SIGKILL)

    async def stop_master(self) -> None:
        """Let the master neither answer nor end its connections, until `go_on`."""
        self._stop([self.redis.servers[await self.redis.master()].process.pid])

    def _stop(self, pids: list[int]) -> None:
        self._stopped = pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let what was stopped go on."""
        for pid in self._stopped:
            os.kill(pid, signal.SIGCONT)

    async def stopped(self, seconds: float) -> None:
        """Let no Redis answer for so long, under traffic: a held token must not wait for it."""
        calm = await self.fleet.calm(rounds=15)
        await control(self._simulator, "reset-counters", {})
        self._stop(self.redis.running())
        rounds, all_answers, all_lost = list[float](), list[Answer](), 0
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                answers, lost, took = await self.fleet.ask_all()
                rounds.append(took)
                all_answers, all_lost = all_answers + answers, all_lost + lost
                await asyncio.sleep(0.5)
        finally:
            self.go_on()
        name, half = f"Redis stopped for {seconds:.0f} s", sorted(rounds)[len(rounds) // 2]
        note = f"half of the rounds within {half:.2f} s; before, {calm[7]:.2f} s (slowest {calm[-1]:.2f} s)"
        bound = 2 * calm[-1] if half < 1.5 * calm[7] else 0.0
        await self._row(name, all_answers, all_lost, max(rounds), 0.0, bound=bound, most=0, note=note)

    async def holder_killed(self) -> None:
        """Kill the proxy that makes the new session while all others wait for it."""
        await self.fleet.ask_all()
        await control(self._simulator, "revoke", {})
        await control(self._simulator, "reset-counters", {})
        await control(self._simulator, "delay", {"path": "/v3/session", "seconds": 60, "times": 1})
        holder = self.fleet.proxies.pop()
        cpu, first = self.redis.cpu(), asyncio.create_task(holder.crowd.ask(CART))
        await asyncio.sleep(1)  # its session call is under way
        asking = asyncio.create_task(self.fleet.ask_all())
        await asyncio.sleep(0.5)
        holder.server.process.kill()
        await first
        answers, lost, seconds = await asking
        holder.crowd.leave()
        await self._row(
            "holder of the right killed", answers, lost, seconds, self.redis.cpu() - cpu, bound=_FAILOVER, most=2
        )

    async def cut_off(self) -> None:
        """Revoke every token while no Redis answers: each renews for itself, and all have one soon after it is back."""
        await self.redis.agreed(replicas=1)
        await control(self._simulator, "revoke", {})
        await control(self._simulator, "reset-counters", {})
        self._stop(self.redis.running())
        try:
            answers, lost, seconds = await self.fleet.ask_all()
        finally:
            self.go_on()
        back = time.monotonic()
        await self.fleet.gets_one_token()
        together = time.monotonic() - back
        bound = 10.0 if together <= _TOGETHER else 0.0
        note, most = f"one token again {together:.1f} s after it was back", len(self.fleet.proxies)
        await self._row("revoked while it is stopped", answers, lost, seconds, 0.0, bound=bound, most=most, note=note)

    async def flushed(self) -> None:
        """Empty the Redis under traffic."""
        await self.fleet.ask_all()
        await control(self._simulator, "reset-counters", {})
        cpu = self.redis.cpu()
        await ask(await self.redis.master(), "FLUSHALL")
        worst, all_answers, all_lost = 0.0, list[Answer](), 0
        for _ in range(5):
            answers, lost, took = await self.fleet.ask_all()
            worst, all_lost = max(worst, took), all_lost + lost
            all_answers += answers
        await self._row(
            "FLUSHALL under load", all_answers, all_lost, worst, self.redis.cpu() - cpu, bound=_CALM, most=0
        )

    async def restarted(self, count: int) -> None:
        """Replace some proxies, one after the other, under traffic."""
        await control(self._simulator, "reset-counters", {})
        cpu, worst, all_answers, all_lost = self.redis.cpu(), 0.0, list[Answer](), 0
        for _ in range(count):
            await self.fleet.replace_one()
            answers, lost, took = await self.fleet.ask_all()
            worst, all_lost = max(worst, took), all_lost + lost
            all_answers += answers
        name = f"rolling restart of {count}"
        await self._row(name, all_answers, all_lost, worst, self.redis.cpu() - cpu, bound=_CALM, most=0)


HEAD = (
    f"{'scenario':28} {'session calls':>13} {'logins':>7} {'slowest s':>10} {'rejections':>11} {'other':>6} "
    f"{'Redis CPU s':>12}"
)


def line(row: Row) -> str:
    """Write a row of the table."""
    mark = (f"  {row.note}" if row.note else "") + ("" if row.good else "  ← beyond its bound")
    return (
        f"{row.name:28} {row.sessions:13} {row.logins:7} {row.slowest:10.2f} {row.rejections:11} {row.others:6} "
        f"{row.redis_cpu:12.3f}{mark}"
    )


async def run(options: argparse.Namespace) -> int:
    """Make all scenarios; returns the exit code. Raises BenchError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        simulator, origin = await start_simulator(folder, frozenset(os.sched_getaffinity(0)))
        stack.callback(simulator.stop)
        redis = Redis(folder, stack)
        await redis.start()
        fleet = Fleet(folder, origin, redis.url, replicas=options.replicas, callers=options.callers)
        stack.callback(fleet.stop)
        began = time.perf_counter()
        await fleet.start()
        print(
            f"{options.replicas} proxies with {options.callers} callers each, started in {time.perf_counter() - began:.0f} s"
        )
        counts = (await control(origin.port, "counters"))["calls"]
        print(f"their start cost {counts.get('POST /v3/session', 0)} session call and one login\n\n{HEAD}")
        await control(origin.port, "configure", {"latency": LATENCY})
        made = Run(fleet, redis, origin.port)
        await made.herd("revoked token", bound=_CALM)
        await made.flushed()
        await made.stopped(options.stopped)
        await made.holder_killed()
        await made.cut_off()
        await redis.agreed(replicas=1)
        await made.restarted(options.restarts)
        await made.herd("revoked, master killed", bound=_FAILOVER, after=0.05, meanwhile=made.kill_master)
        await redis.revive()
        await made.herd("revoked, master stopped", bound=_FAILOVER, after=0.05, meanwhile=made.stop_master)
        made.go_on()
        print("\nherds as the model (see fleet_model.py) predicts them / as they were:\n")
        for size, latency in [(options.replicas // n, LATENCY) for n in (1, 2, 4)] + [(options.replicas, 5 * LATENCY)]:
            await made.compared(max(1, size), latency)
        print("\n".join(compare(made.herds)))
        print("\nwhat it says of larger ones:\n")
        print("\n".join(tell_larger(LATENCY)))
    return 0 if all(row.good for row in made.rows) else 1


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--replicas", type=int, default=50)
    parser.add_argument("--callers", type=int, default=20)
    parser.add_argument("--stopped", type=float, default=60.0, help="seconds without Redis")
    parser.add_argument("--restarts", type=int, default=5)
    options = parser.parse_args()
    raise_file_limit()
    try:
        return asyncio.run(run(options))
    except BenchError as error:
        print(f"make fleet: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
