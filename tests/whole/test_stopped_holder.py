"""The process that makes the session for all is stopped (SIGSTOP, a frozen cgroup): one other makes it, in time."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import aiohttp
import pytest

from proxy.session.ports import RENEWAL_DEADLINE
from proxy.simulator import Simulator
from tests.server.harness import until
from tests.whole.processes import ProxyProcess, is_ready, serving
from tests.whole.test_shared_store import Start, file, start  # noqa: F401  # fixtures
from tests.whole.test_workers import pids

SESSION, LOGIN = "POST /v3/session", "POST /v3/customers/login"

pytestmark = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="finds the holder where Linux lists locks")


def hang_the_next_session_call(simulator: Simulator) -> None:
    simulator.fault("delay", path="/v3/session", seconds=60.0, times=1)


async def call(proxy: ProxyProcess) -> int | None:
    """Ask as a caller does that gives up after 10 s; None when it did."""
    limit = aiohttp.ClientTimeout(total=RENEWAL_DEADLINE)
    try:
        async with aiohttp.ClientSession(timeout=limit) as client, client.get(f"{proxy.url}/merchants/sell") as got:
            return got.status
    except TimeoutError:
        return None


def holder(of: Iterable[int]) -> int | None:
    """Find the process that holds the lease: the file is open in all who wait, and locked by one."""
    locks = Path("/proc/locks").read_text()
    for pid in of:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if str(descriptor.readlink()).endswith(".lease") and f" {pid} " in locks:
                    inode = descriptor.stat().st_ino
                    if any(f"WRITE {pid} " in line and f":{inode} " in line for line in locks.splitlines()):
                        return pid
            except FileNotFoundError:
                continue
    return None


async def test_of_several_proxies_one_makes_the_session_of_a_stopped_one_before_callers_give_up(
    simulator: Simulator,
    start: Start,  # noqa: F811
) -> None:
    hang_the_next_session_call(simulator)
    stopped = await start()
    await until(lambda: simulator.calls[SESSION] == 1)
    stopped.signal(signal.SIGSTOP)
    others = await asyncio.gather(*(start() for _ in range(4)))
    began = time.monotonic()
    assert await asyncio.gather(*(call(proxy) for proxy in others for _ in range(5))) == [200] * 20
    assert time.monotonic() - began < RENEWAL_DEADLINE / 2 + 2
    assert simulator.calls[SESSION] == 2


async def test_a_stopped_one_that_goes_on_does_not_log_in_once_another_has(
    simulator: Simulator,
    start: Start,  # noqa: F811
) -> None:
    simulator.fault("delay", path="/v3/session", seconds=4.0, times=1)
    stopped = await start()
    await until(lambda: simulator.calls[SESSION] == 1)
    stopped.signal(signal.SIGSTOP)
    other = await start()
    assert await call(other) == 200
    stopped.signal(signal.SIGCONT)
    assert await call(stopped) == 200
    await is_ready(stopped)
    assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (2, 1)


async def test_of_several_workers_one_makes_the_session_of_a_stopped_one_before_callers_give_up(
    simulator: Simulator,
) -> None:
    hang_the_next_session_call(simulator)
    async with serving(simulator.url, WORKERS="3") as proxy:
        await until(lambda: simulator.calls[SESSION] == 1)
        stopped = holder((await pids(proxy)).values())
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        try:
            statuses = await asyncio.gather(*(call(proxy) for _ in range(30)))
        finally:
            os.kill(stopped, signal.SIGCONT)
        # Whoever the kernel gave to the stopped worker is taken in by the others.
        assert statuses == [200] * 30
        assert simulator.calls[SESSION] == 2
