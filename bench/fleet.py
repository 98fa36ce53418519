"""`make fleet`: many proxies on one Redis, as one client to CardCash, whatever befalls the Redis.

Real processes on this machine: the simulator, Redis servers with three Sentinels, proxies, and callers of each. Prints, per
scenario, session calls, logins, the slowest caller, what callers saw that they should not, and Redis's CPU. Exit code 1
when a bound is passed. Then a model of the herd, checked against the real one, tells of more proxies than fit here.
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

from bench.callers import CART, LOGIN, control, rejected
from bench.configs import Origin
from bench.fleet_model import Herd, predicted
from bench.fleet_redis import Redis, ask, own_port
from bench.load import Answer, Crowd
from bench.processes import BenchError, Server, raise_file_limit
from bench.servers import our_command, our_environment, start_simulator

#: Seconds the simulator takes for each call.
LATENCY = 0.1
#: Bounds: seconds until the last caller has his answer.
_CALM, _FAILOVER = 4.0, 6.0


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


class Fleet:
    """The proxies, and callers that are connected to each."""

    def __init__(self, folder: Path, origin: Origin, store: str, *, replicas: int, callers: int) -> None:
        self._folder = folder
        self._origin = origin
        self._store = store
        self._callers = callers
        self._cores = frozenset(os.sched_getaffinity(0))
        self.proxies: list[tuple[Server, Crowd]] = []
        self._replicas = replicas

    async def start(self) -> None:
        """Start all of them, a few at a time, and connect the callers."""
        for first in range(0, self._replicas, 5):
            await asyncio.gather(*(self._join() for _ in range(min(5, self._replicas - first))))

    async def _join(self) -> None:
        port, admin = own_port(), own_port()
        settings = LOGIN | {"SESSION__STORE": self._store, "LOG__LEVEL": "error"}
        environ = our_environment(self._origin, port, admin, settings)
        output = self._folder / f"proxy-{port}.log"
        server = Server.start(
            "cardcash-proxy", [*our_command(), "serve"], cores=self._cores, output=output, environ=environ
        )
        crowd = Crowd(port)
        self.proxies.append((server, crowd))
        await server.answers(admin, "/readyz", seconds=60)
        await crowd.gather(self._callers)

    async def ask_all(self) -> tuple[list[Answer], int, float]:
        """Let every caller ask once, all at the same moment."""
        began = time.perf_counter()
        told = await asyncio.gather(*(crowd.ask(CART) for _, crowd in self.proxies))
        answers = [answer for answers, _, _ in told for answer in answers]
        return answers, sum(lost for _, lost, _ in told), time.perf_counter() - began

    async def replace_one(self) -> None:
        """Begin a new proxy, then end the oldest, as a rolling restart does."""
        await self._join()
        server, crowd = self.proxies.pop(0)
        crowd.leave()
        await asyncio.to_thread(server.stop)

    def stop(self) -> None:
        """End them all."""
        for server, crowd in self.proxies:
            crowd.leave()
            server.process.terminate()
        for server, _ in self.proxies:
            server.stop()


class Run:
    """The scenarios, one after the other."""

    def __init__(self, fleet: Fleet, redis: Redis, simulator: int) -> None:
        self.fleet = fleet
        self.redis = redis
        self._simulator = simulator
        self._stopped = 0
        self.rows: list[Row] = []

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
        self, name: str, answers: list[Answer], lost: int, seconds: float, cpu: float, *, bound: float, most: int = 1
    ) -> None:
        counts = (await control(self._simulator, "counters"))["calls"]
        sessions, logins = counts.get("POST /v3/session", 0), counts.get("POST /v3/customers/login", 0)
        seen = rejected(answers)
        others = sum(answer.status != 200 for answer in answers) - seen + lost
        good = sessions <= most and logins <= most and not seen and not others and seconds <= bound
        self.rows.append(Row(name, sessions, logins, seconds, seen, others, cpu, good=good))
        print(line(self.rows[-1]), flush=True)

    async def kill_master(self) -> None:
        """End the master at once."""
        os.kill(self.redis.servers[await self.redis.master()].process.pid, signal.SIGKILL)

    async def stop_master(self) -> None:
        """Let the master neither answer nor end its connections, until `go_on`."""
        self._stopped = self.redis.servers[await self.redis.master()].process.pid
        os.kill(self._stopped, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let the stopped master go on."""
        os.kill(self._stopped, signal.SIGCONT)

    async def stopped(self, seconds: float) -> None:
        """Let no Redis answer for so long, under traffic; then all must hold one token again within 3 s."""
        await self.fleet.ask_all()
        await control(self._simulator, "reset-counters", {})
        _, _, calm = await self.fleet.ask_all()
        pids = [server.process.pid for server in self.redis.servers.values() if server.process.poll() is None]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        worst, all_answers, all_lost = 0.0, list[Answer](), 0
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                answers, lost, took = await self.fleet.ask_all()
                worst, all_lost = max(worst, took), all_lost + lost
                all_answers += answers
                await asyncio.sleep(0.5)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        # A slow moment of the machine, or the store: a held token must not wait for it.
        await self._row(
            f"Redis stopped for {seconds:.0f} s", all_answers, all_lost, worst, 0.0, bound=max(1.0, 5 * calm), most=0
        )

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
    mark = "" if row.good else "  ← beyond its bound"
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
        await redis.agreed(replicas=1)
        await made.restarted(options.restarts)
        await made.herd("revoked, master killed", bound=_FAILOVER, after=0.05, meanwhile=made.kill_master)
        await redis.revive()
        await made.herd("revoked, master stopped", bound=_FAILOVER, after=0.05, meanwhile=made.stop_master)
        made.go_on()
        print("\nthe model (see fleet_model.py), first checked against the herd above:\n")
        tell_model(options, made.rows[0])
    return 0 if all(row.good for row in made.rows) else 1


def tell_model(options: argparse.Namespace, real: Row) -> None:
    """Print what the model says of herds up to 10,000."""
    print(f"{'proxies':>8} {'session calls':>14} {'last served s':>14} {'operations each':>16} {'Redis busy s':>13}")
    for replicas in (options.replicas, 500, 2000, 10_000):
        herd: Herd = predicted(replicas, work=3 * LATENCY)
        beside = f"   real: {real.slowest:.2f} s, {real.sessions} call" if replicas == options.replicas else ""
        print(
            f"{replicas:8} {herd.calls:14} {herd.last:14.2f} {herd.operations / replicas:16.1f} {herd.busy:13.2f}{beside}"
        )


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
