"""Signals: heard whatever was blocked before, and SIGHUP means to read files again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from proxy.simulator import Simulator
from tests.whole.processes import HUP, INT, TERM, Process, fetch, is_ready, serving
from tests.whole.test_workers import pids

WAYS = pytest.mark.parametrize("workers", ["1", "2"])
#: Runs a command with all signals blocked, as some that start processes leave them.
DEAF = (
    *(sys.executable, "-c"),
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); "
    "os.execvp(sys.argv[1], sys.argv[1:])",
)


def blocked(pid: int) -> int:
    """Tell which signals a process blocks, as the kernel does."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = [line.split()[1] for line in lines if line.startswith("SigBlk:")]
    return int(mask, 16)


@WAYS
async def test_a_proxy_that_inherits_blocked_signals_hears_them_all_the_same(
    simulator: Simulator, workers: str
) -> None:
    async with serving(simulator.url, WORKERS=workers, through=DEAF) as proxy:
        await is_ready(proxy)
        processes = [proxy.pid]
        if workers != "1":
            processes += (await pids(proxy)).values()
        assert [blocked(pid) for pid in processes] == [0] * len(processes)
        began = time.monotonic()
        proxy.signal(TERM)
        assert await proxy.ended() == 0
        assert time.monotonic() - began < 5


@WAYS
async def test_a_hangup_reads_the_secrets_again_at_once_and_stops_nothing(
    simulator: Simulator, tmp_path: Path, workers: str
) -> None:
    secret = tmp_path / "app-id"
    secret.write_text("demo-app-id")
    async with serving(simulator.url, WORKERS=workers, APP_ID="", APP_ID_FILE=str(secret)) as proxy:
        await is_ready(proxy)
        began = time.monotonic()
        for turn in range(1, 9):
            secret.write_text(f"another-{turn}")
            proxy.signal(HUP)
            await proxy.says(lambda _, n=turn: len(proxy.events("secret_changed")) == n * int(workers))  # type: ignore[misc]
        assert time.monotonic() - began < 12, "looking every so often alone would have taken 21"
        assert (await fetch("GET", f"http://{proxy.admin}/healthz"))[0] == 200
        assert proxy.process.returncode is None
        proxy.signal(TERM)
        assert await proxy.ended() == 0
        assert [event["event"] for event in proxy.lines].count("draining") == 1
        assert not proxy.events("worker_died")


async def test_a_hangup_to_one_worker_stops_nothing(simulator: Simulator) -> None:
    async with serving(simulator.url, WORKERS="2") as proxy:
        await is_ready(proxy)
        before = await pids(proxy)
        os.kill(before[1], HUP)
        await asyncio.sleep(0)
        for _ in range(10):
            assert (await fetch("GET", f"{proxy.url}/merchants/sell"))[0] == 200
        assert await pids(proxy) == before


async def test_a_hangup_while_it_starts_stops_nothing(simulator: Simulator) -> None:
    async with serving(simulator.url, through=("sh", "-c", 'trap "" HUP; exec "$@"', "sh")) as proxy:
        proxy.signal(HUP)
        assert (await fetch("GET", f"{proxy.url}/merchants/sell"))[0] == 200
        assert signal.Signals(HUP) is signal.SIGHUP


#: Lets a signal come with everything that is imported after the product's first module.
EARLY = """
import os, sys
class Finder:
    begun = False
    def find_spec(self, name, *_):
        if self.begun and "proxy.cli" not in sys.modules:
            os.kill(os.getpid(), int(os.environ["EARLY"]))
        self.begun = self.begun or name == "proxy.__main__"
sys.meta_path.insert(0, Finder())
"""


@WAYS
async def test_hangups_from_the_first_moment_on_stop_nothing(
    simulator: Simulator, tmp_path: Path, workers: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(EARLY)
    through = ("env", f"PYTHONPATH={tmp_path}", f"EARLY={int(HUP)}")
    async with serving(simulator.url, WORKERS=workers, through=through) as proxy:
        assert (await fetch("GET", f"{proxy.url}/merchants/sell"))[0] == 200
        proxy.signal(TERM)
        assert await proxy.ended() == 0
        assert not proxy.events("worker_died")


@pytest.mark.parametrize("number", [TERM, INT])
async def test_told_to_stop_before_anything_is_imported_serve_ends_well_with_one_line(
    tmp_path: Path, number: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(EARLY)
    process = await Process.start("serve", PYTHONPATH=str(tmp_path), EARLY=str(int(number)))
    assert await process.ended() == 0
    assert [json.loads(line)["event"] for line in process.text.splitlines()] == ["stopped"]


async def test_interrupted_before_anything_is_imported_a_command_ends_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(EARLY)
    process = await Process.start("check", PYTHONPATH=str(tmp_path), EARLY=str(int(INT)), CARDCASH_APP_ID="x")
    assert (await process.ended(), process.text) == (1, "")


async def test_a_wait_that_is_interrupted_does_not_say_that_the_proxy_is_ready() -> None:
    async def not_ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        waiting.signal(INT)
        writer.close()

    async with await asyncio.start_server(not_ready, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        waiting = await Process.start("wait", "--admin-listen", f"{host}:{port}")
        assert (await waiting.ended(), waiting.text) == (1, "")


async def test_hangups_at_any_moment_of_a_life_do_not_end_it(simulator: Simulator) -> None:
    async with serving(simulator.url, through=DEAF) as proxy:
        proxy.signal(TERM)
        while proxy.process.returncode is None:
            proxy.signal(HUP)
            await asyncio.sleep(0)
        assert await proxy.ended() == 0
