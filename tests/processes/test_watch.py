"""The supervisor looks after its workers."""

from __future__ import annotations

import json
import os
import signal

from proxy.simulator import Simulator
from tests.whole.processes import ProxyProcess, fetch

#: `serve`, with a supervisor that loses its patience sooner.
HASTY = """
import sys
from proxy.cli import main
from proxy.processes import supervisor
supervisor.MOST_SILENCES = 2
sys.exit(main(sys.argv[1:]))
"""


async def test_a_stuck_worker_is_killed_and_started_again(simulator: Simulator) -> None:
    proxy = await ProxyProcess.run_program(
        *(HASTY, "serve"),
        CARDCASH_APP_ID="demo-app-id",
        CARDCASH_UPSTREAM__ORIGIN=simulator.url,
        CARDCASH_LISTEN="127.0.0.1:0",
        CARDCASH_ADMIN__LISTEN="127.0.0.1:0",
        CARDCASH_WORKERS="2",
    )
    try:
        await proxy.ready()
        stuck = next(event["pid"] for event in proxy.events("worker_started") if event["worker"] == 1)
        os.kill(stuck, signal.SIGSTOP)
        await proxy.says(lambda out: out.count(b'"worker_started"') == 3 and out.endswith(b"\n"))
        assert [(event["worker"], event["pid"]) for event in proxy.events("worker_killed")] == [(1, stuck)]
        workers = json.loads((await fetch("GET", f"http://{proxy.admin}/status"))[1])["workers"]
        assert [one["restarts"] for one in workers] == [1, 0]
    finally:
        await proxy.close()
