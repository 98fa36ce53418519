"""Signals: heard whatever was blocked before, and SIGHUP means to read files again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from proxy.simulator import Simulator
from tests.whole.processes import HUP, TERM, fetch, is_ready, serving
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
        for turn in range(1, 5):  # each within a second: looking every two seconds would not do it
            secret.write_text(f"another-{turn}")
            proxy.signal(HUP)
            await proxy.says(lambda _, n=turn: len(proxy.events("secret_changed")) == n * int(workers), seconds=1.5)  # type: ignore[misc]
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


#: Lets a hangup come with everything that is imported after the product's first module.
HANGUPS = """
import os, signal, sys
class Finder:
    begun = False
    def find_spec(self, name, *_):
        if self.begun and "proxy.cli" not in sys.modules:
            os.kill(os.getpid(), signal.SIGHUP)
        self.begun = self.begun or name == "proxy.__main__"
sys.meta_path.insert(0, Finder())
"""


@WAYS
async def test_hangups_from_the_first_moment_on_stop_nothing(
    simulator: Simulator, tmp_path: Path, workers: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGUPS)
    through = ("env", f"PYTHONPATH={tmp_path}")
    async with serving(simulator.url, WORKERS=workers, through=through) as proxy:
        assert (await fetch("GET", f"{proxy.url}/merchants/sell"))[0] == 200
        proxy.signal(TERM)
        assert await proxy.ended() == 0
        assert not proxy.events("worker_died")


async def test_hangups_at_any_moment_of_a_life_do_not_end_it(simulator: Simulator) -> None:
    async with serving(simulator.url, through=DEAF) as proxy:
        proxy.signal(TERM)
        while proxy.process.returncode is None:
            proxy.signal(HUP)
            await asyncio.sleep(0)
        assert await proxy.ended() == 0
