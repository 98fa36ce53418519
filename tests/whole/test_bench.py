"""The bench itself: what it says when something is missing, and that its numbers are what they are called."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest

from bench import quota, report
from bench.__main__ import main
from bench.catalogue import SCENARIOS
from bench.load import Ask, closed_loop, open_loop
from bench.measure import Summary, cpu_seconds, family, percentile
from bench.processes import free_port, installed
from bench.relay import relay
from bench.results import DIRECT, GOALS, OURS, Results
from bench.servers import KINDS, ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="costs are read from Linux's /proc")


def bench(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, timeout=50, check=False
    )


def test_a_missing_nginx_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.servers.installed", lambda _: None)
    cores = os.sched_getaffinity(0)
    try:
        assert main(["--peers", "aiohttp"]) == 2
    finally:
        os.sched_setaffinity(0, cores)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("bench: ") and "apt-get install nginx" in line


@pytest.mark.parametrize(
    "arguments", [("--only", "nonsense"), ("--peers", "apache"), ("--rounds", "0"), ("--only", "")]
)
def test_bad_usage_is_told_without_a_traceback(arguments: tuple[str, ...]) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("bench: error: ")


@pytest.mark.skipif(installed("nginx") is None, reason="nginx is not installed")
def test_a_run_prints_a_table_and_keeps_it_as_json(tmp_path: Path) -> None:
    kept = tmp_path / "bench.json"
    done = bench("--quick", "--only", "small,gain", "--peers", "aiohttp", "--json", str(kept), TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Problems" not in done.stdout
    assert re.search(r"^ +aiohttp +[\d.]+ µs +[\d.]+x ", done.stdout, re.MULTILINE)
    assert f'"{OURS}"' in kept.read_text()
    assert left_in(tmp_path) == []


@pytest.mark.skipif(installed("nginx") is None, reason="nginx is not installed")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing(number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--only", "small", "--peers", "aiohttp,nginx"]
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert any("small: " in line for line in process.stderr)
        while len(left_in(tmp_path)) < 3:  # itself and two servers: it starts more, or loads them
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, told = process.communicate(timeout=45)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert told.splitlines() == ["bench: stopped; nothing is left running"]
    assert left_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def left_in(folder: Path) -> list[str]:
    """The processes that a run in this folder started."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={folder}".encode() in file.read_bytes() and (line := (file.parent / "cmdline").read_text()):
                found.append(line)
    return found


def test_every_goal_and_scenario_is_told_of() -> None:
    results = Results()
    for scenario, what in SCENARIOS.items():
        for peer in (OURS, DIRECT, *KINDS):
            results.add(scenario, peer, **{what.about: 1.0})
    text = report.tables(results)
    assert [name for name in SCENARIOS if f"{name}: " not in text] == []
    assert [goal.what for goal in GOALS if goal.what not in text] == []
    assert " met" in text and " missed" in text and "not measured" in text


def test_ratios_are_taken_round_by_round() -> None:
    results = Results()
    for ours, theirs in ((2.0, 1.0), (20.0, 10.0), (3.0, 1.0)):
        results.add("small", OURS, cpu_us=ours)
        results.add("small", "nginx", cpu_us=theirs)
    assert results.ratio("small", "cpu_us", "nginx") == Summary(2.0, 2.0, 3.0)
    assert results.ratio("small", "cpu_us", "caddy") is None


def test_percentiles_are_the_nearest_rank() -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], 0.99) == 100.0
    assert percentile([1.0], 0.5) == 1.0
    assert percentile([], 0.5) == 0.0


def test_cpu_time_of_a_process_and_its_children_is_found() -> None:
    work = ("import os, time", "os.fork()", "while time.process_time() < 0.4: pass", "time.sleep(30)")
    process = subprocess.Popen([sys.executable, "-c", "\n".join(work)], start_new_session=True)
    try:
        end = time.monotonic() + 20
        while (used := cpu_seconds(family(process.pid))) < 0.7 and time.monotonic() < end:
            time.sleep(0.05)
        assert len(family(process.pid)) == 2
        assert 0.7 <= used < 1.5
    finally:
        os.killpg(process.pid, 9)
        process.wait()


class _Upstream(asyncio.Protocol):
    """Answers each request after a while; they come in one piece here."""

    def __init__(self, delay: float) -> None:
        self.delay = delay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, _: bytes) -> None:
        asyncio.get_running_loop().call_later(self.delay, self.transport.write, ANSWER)


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def _answering(delay: float) -> tuple[asyncio.Server, int]:
    port = free_port()
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: _Upstream(delay), "127.0.0.1", port), port


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    server, port = await _answering(0.2)
    async with server:
        tally = await open_loop(port, Ask("/"), rate=100, seconds=0.5, seed=1)
    assert 25 <= tally.requests <= 80
    assert tally.bad == 0
    assert tally.milliseconds(0.5) >= 200


async def test_the_relay_adds_a_round_trip_to_an_answer_and_one_to_connecting() -> None:
    server, port = await _answering(0.0)
    async with server, relay(port, delay=0.05) as far:
        tally = await closed_loop(far, [Ask("/")], connections=1, count=2)
    first, second = tally.waits
    assert first >= 0.15  # 0.2, less what a busy machine lets pass between connecting and looking at the clock
    assert second >= 0.1


def test_without_cgroups_no_share_is_given_and_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "_KINDS", ((tmp_path / "gone", "cpu.max", "{quota} {period}"),))
    with quota.shares([os.getpid()], 0.5) as limited:
        assert limited is False
