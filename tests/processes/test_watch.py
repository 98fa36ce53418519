"""The supervisor looks after its workers."""

from __future__ import annotations

import json
import operator
import os
import resource
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.simulator import Simulator
from tests.server.harness import until
from tests.whole.processes import ProxyProcess, fetch, is_ready

#: `serve`, with a supervisor that loses its patience sooner.
HASTY = """
import sys
from proxy.cli import main
from proxy.processes import supervisor
supervisor.MOST_MISSED = 2
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
async def proxy(simulator: Simulator, tmp_path: Path) -> AsyncIterator[ProxyProcess]:
    """Two workers whose private folder is below `tmp_path`."""
    proxy = await ProxyProcess.run_program(
        *(HASTY, "serve"),
        TMPDIR=str(tmp_path),
        CARDCASH_APP_ID="demo-app-id",
        CARDCASH_UPSTREAM__ORIGIN=simulator.url,
        CARDCASH_LISTEN="127.0.0.1:0",
        CARDCASH_ADMIN__LISTEN="127.0.0.1:0",
        CARDCASH_WORKERS="2",
    )
    try:
        await proxy.ready()
        yield proxy
    finally:
        await proxy.close()


async def test_a_stuck_worker_is_killed_and_started_again(proxy: ProxyProcess) -> None:
    stuck = next(event["pid"] for event in proxy.events("worker_started") if event["worker"] == 1)
    os.kill(stuck, signal.SIGSTOP)
    await proxy.says(lambda out: out.count(b'"worker_started"') == 3 and out.endswith(b"\n"))
    assert [(event["worker"], event["pid"]) for event in proxy.events("worker_killed")] == [(1, stuck)]
    workers = json.loads((await fetch("GET", f"http://{proxy.admin}/status"))[1])["workers"]
    assert [one["restarts"] for one in workers] == [1, 0]


def pulse(files: list[Path]) -> list[int]:
    """Tell when each worker last told of itself."""
    return [file.stat().st_mtime_ns for file in files]


async def test_workers_that_cannot_write_because_the_disk_is_full_go_on(proxy: ProxyProcess, tmp_path: Path) -> None:
    (folder,) = tmp_path.glob("cardcash-proxy-*")
    files = [folder / f"worker-{worker}.json" for worker in (1, 2)]
    for event in proxy.events("worker_started"):
        # To a process whose files may not grow every disk is full.
        resource.prlimit(event["pid"], resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    for _ in range(4):
        before = pulse(files)
        await until(lambda before=before: all(map(operator.gt, pulse(files), before)))  # type: ignore[misc]
    assert (await fetch("GET", f"{proxy.url}/merchants/sell"))[0] == 200
    for path in ("healthz", "metrics", "status"):
        assert (await fetch("GET", f"http://{proxy.admin}/{path}"))[0] == 200
    assert proxy.events("worker_killed") == []
    assert sorted(event["worker"] for event in proxy.events("worker_cannot_tell")) == [1, 2]
    for event in proxy.events("worker_started"):
        resource.prlimit(event["pid"], resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await is_ready(proxy)


async def test_a_worker_that_finds_no_list_of_the_others_tells_of_itself(proxy: ProxyProcess, tmp_path: Path) -> None:
    (folder,) = tmp_path.glob("cardcash-proxy-*")
    await is_ready(proxy)
    (folder / "workers.json").unlink()
    for path in ("", "healthz", "readyz", "metrics"):
        assert (await fetch("GET", f"http://{proxy.admin}/{path}"))[0] == 200
    status = json.loads((await fetch("GET", f"http://{proxy.admin}/status"))[1])
    assert [one["state"] for one in status["workers"]] == ["up"]
