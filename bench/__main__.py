"""`python -m bench`: one run that starts everything, measures all scenarios and prints one report.

Owns the command line and the order of things. Exit code 0 whatever the numbers, 2 on bad usage or when something is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from bench import report
from bench.catalogue import SCENARIOS
from bench.processes import BenchError, Cores, installed, raise_file_limit
from bench.results import OURS
from bench.scenarios import Rig
from bench.servers import KINDS, start_upstream, version_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code."""
    options = _parser().parse_args(argv)
    if options.quick:
        options.rounds, options.seconds = options.rounds or 1, options.seconds or 1.0
        options.only = options.only or [name for name in SCENARIOS if name not in ("c1", "c256")]
    if sys.platform != "linux":
        _say("bench: this needs Linux: costs are read from /proc")
        return 2
    options.only = options.only or list(SCENARIOS)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_until_told(_measure(options)))
    except BenchError as error:
        _say(f"bench: {error}")
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("bench: stopped; nothing is left running")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description="the proxy's speed beside other proxies', in one run")
    parser.add_argument("--rounds", type=_positive(int), help="rounds of every scenario (3; with --quick 1)")
    parser.add_argument("--seconds", type=_positive(float), help="length of one stretch of load (3; with --quick 1)")
    parser.add_argument(
        "--only", metavar="SCENARIO,…", type=_among(SCENARIOS), help="these (all; with --quick not c1 and c256)"
    )
    parser.add_argument(
        "--peers", metavar="PEER,…", type=_among(KINDS), default=list(KINDS), help="compare with these (all)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything that was measured there")
    parser.add_argument("--quick", action="store_true", help="one short round: does it work, is something far off?")
    parser.epilog = f"scenarios: {', '.join(SCENARIOS)}; peers: {', '.join(KINDS)}"
    return parser


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < 1e6:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return number


def _among(known: dict[str, Any]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        wanted = [name for name in text.split(",") if name]
        if not wanted or (unknown := [name for name in wanted if name not in known]):
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown) if wanted else text!r}: not one of {', '.join(known)}"
            )
        return [name for name in known if name in wanted]

    return names


async def _until_told(work: Any) -> int:
    """Run `work`; SIGTERM ends it as Ctrl-C does: everything that was started is stopped on the way out."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    done: int = await task
    return done


async def _measure(options: argparse.Namespace) -> int:
    began, cores = time.monotonic(), Cores.chosen()
    if options.json:
        _keep(options.json, {})  # not after eight minutes
    raise_file_limit()
    # The load runs in this process and its children: everything but the measured process is kept off its core.
    os.sched_setaffinity(0, cores.others)
    asked = [OURS, *(name for name in options.peers if name != OURS)]
    peers = [name for name in asked if KINDS[name].there]
    missing = [name for name in asked if name not in peers]
    about = _about(cores, peers, missing, options)
    _say("\n".join(_introduction(about, cores)))
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        upstream = await start_upstream(Path(name), cores)
        try:
            rounds, seconds = options.rounds or 3, options.seconds or 3.0
            rig = Rig(Path(name), cores, upstream, peers, rounds, seconds, _say)
            for scenario in options.only:
                _say(f"[{time.monotonic() - began:4.0f} s] {scenario}: {SCENARIOS[scenario].title}")
                await SCENARIOS[scenario].run(rig)
        finally:
            upstream.server.stop()
    about["seconds"] = round(time.monotonic() - began, 1)
    print("\n" + report.tables(rig.results, missing))
    if options.json:
        _keep(options.json, report.as_json(rig.results, about))
    return 0


def _about(cores: Cores, peers: list[str], missing: list[str], options: argparse.Namespace) -> dict[str, Any]:
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu.partition(": ")[2],
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "measured_core": sorted(cores.measured),
            "load_average_before": os.getloadavg()[0],
        },
        "versions": {name: version_of(name) for name in peers},
        "not_installed": missing,
        "load": "wrk" if installed("wrk") else "bench.load",
        "options": {"rounds": options.rounds or 3, "seconds": options.seconds or 3.0, "only": options.only},
    }


def _introduction(about: dict[str, Any], cores: Cores) -> list[str]:
    machine, load = about["machine"], about["load"]
    lines = [
        ", ".join(f"{name} {version}".strip() for name, version in about["versions"].items()),
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}",
        f"Measured on core {machine['measured_core'][0]}; upstream (nginx) and load ({load}) on the others.",
    ]
    lines += [f"{name}: not installed" for name in about["not_installed"]]
    if load != "wrk":
        lines.append("wrk is not installed: Python makes the load, so rates of the fast ones are those of the load")
    if not cores.alone:
        lines.append("Only one core: load and proxy share it, so trust CPU per request, not rates and waits.")
    if machine["load_average_before"] > 0.7:
        lines.append(f"The machine is busy (load {machine['load_average_before']:.1f}): expect wide spreads.")
    return [*lines, ""]


def _keep(file: Path, what: dict[str, Any]) -> None:
    try:
        file.write_text(json.dumps(what, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise BenchError(f"--json: cannot write {file}: {error.strerror}") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
