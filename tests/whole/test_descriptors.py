"""Idle callers and few descriptors: whoever has something to ask is served."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest

from proxy.listening import budget
from proxy.simulator import Simulator
from tests.server.harness import OK, Answer, Caller, Peer, RawUpstream, Truncated, until
from tests.whole.processes import TERM, Process, ProxyProcess, fetch, is_ready, serving

REQUEST = b"GET /carts HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def served(proxy: ProxyProcess) -> tuple[Caller, Answer]:
    """Ask until answered: while 120 connections are accepted at once, the system itself may turn one away."""
    async with asyncio.timeout(20):
        while True:
            caller = await proxy.caller()
            try:
                answer = await caller.ask(REQUEST)
                if answer.status != 503:
                    return caller, answer
                await asyncio.sleep(int(answer.value("retry-after") or 0))  # as it was told to
            except (ConnectionError, Truncated):
                pass
            await caller.close()


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
async def test_closed_standard_descriptors_are_filled(upstream: RawUpstream, closed: str) -> None:
    async with serving(upstream.url, through=("sh", "-c", f'exec "$0" "$@" {closed}')) as proxy:
        assert (await fetch("GET", f"{proxy.url}/a"))[0] == 200
        descriptors = Path(f"/proc/{proxy.pid}/fd")
        assert all(not (descriptors / str(n)).readlink().name.startswith(("socket:", "anon_inode:")) for n in range(3))
        proxy.signal(TERM)
        assert await proxy.ended() == 0


async def test_a_closed_stdout_ends_well_too(upstream: RawUpstream, tmp_path: Path) -> None:
    listen, admin = tmp_path / "listen", tmp_path / "admin"
    proxy = await Process.start(
        "serve",
        through=("sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-'),
        CARDCASH_APP_ID="app",
        CARDCASH_UPSTREAM__ORIGIN=upstream.url,
        CARDCASH_LISTEN=f"unix:{listen}",
        CARDCASH_ADMIN__LISTEN=f"unix:{admin}",
    )
    try:
        await until(lambda: upstream.sessions and listen.exists())
        proxy.signal(TERM)
        assert await proxy.ended() == 0
        assert not listen.exists()
    finally:
        await proxy.close()


async def test_idle_callers_cannot_take_the_descriptors_that_dialling_needs() -> None:
    upstream = RawUpstream()
    await upstream.start()
    proxy = ProxyProcess(
        await asyncio.create_subprocess_exec(
            *("sh", "-c", 'ulimit -n 64; exec "$0" -m proxy serve', sys.executable),
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("CARDCASH_")},
                "CARDCASH_APP_ID": "app",
                "CARDCASH_UPSTREAM__ORIGIN": upstream.url,
                "CARDCASH_LISTEN": "127.0.0.1:0",
                "CARDCASH_ADMIN__LISTEN": "127.0.0.1:0",
            },
            cwd=Path(__file__).parents[2],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    await proxy.ready()
    idle = [await proxy.caller() for _ in range(120)]
    caller, answer = await served(proxy)
    assert answer.status == 200
    for each in (caller, *idle):
        await each.close()
    proxy.process.terminate()
    assert await proxy.ended() == 0
    await upstream.stop()


async def test_too_few_descriptors_for_the_workers_are_told_in_a_line() -> None:
    done = await Process.start(
        *("serve", "--workers", "3"),
        through=("sh", "-c", 'ulimit -n 20; exec "$0" "$@"'),
        CARDCASH_APP_ID="app",
        CARDCASH_UPSTREAM__ORIGIN="http://127.0.0.1:9",
        CARDCASH_LISTEN="127.0.0.1:0",
        CARDCASH_ADMIN__LISTEN="127.0.0.1:0",
    )
    assert await done.ended() == 1
    assert done.text.count("\n") == 1 and "the limit of open files is 20" in done.text


def test_there_is_room_for_callers_for_cardcash_and_for_operators_whatever_the_limit() -> None:
    for descriptors in (64, 256, 1024, 65536):
        for upstream in (1, 100, 1000):
            for wished in (None, 1, 1000, 100_000):
                shares = budget(descriptors, upstream=upstream, callers=wished)
                assert shares.upstream == min(upstream, shares.upstream) >= min(upstream, 16)
                assert shares.callers >= min(wished or 16, 16) and shares.callers <= (wished or descriptors)
                # Callers, CardCash, the admin port, callers that are refused, and the rest: all at once.
                assert shares.callers + shares.upstream + 2 * shares.spare + 24 <= descriptors
                assert shares.spare >= 4


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_idle_connections_at_the_admin_port_take_nothing_from_callers(simulator: Simulator, workers: str) -> None:
    limited = ("sh", "-c", 'ulimit -n 256; exec "$0" "$@"')
    async with serving(simulator.url, through=limited, WORKERS=workers) as proxy, contextlib.AsyncExitStack() as idle:
        await is_ready(proxy)
        host, _, port = proxy.admin.rpartition(":")
        for _, writer in await asyncio.gather(*(asyncio.open_connection(host, int(port)) for _ in range(600))):
            idle.callback(writer.close)
        # Answered after all of them were taken in.
        assert (await fetch("GET", f"http://{proxy.admin}/healthz"))[0] == 200
        answers = await asyncio.gather(*(fetch("GET", f"{proxy.url}/merchants/sell") for _ in range(20)))
        assert {got for got, _ in answers} == {200}
        assert not proxy.events("no_descriptors")


@pytest.mark.parametrize("callers", [150, 400])
async def test_callers_beyond_the_descriptors_are_told_counted_and_warned_of(callers: int) -> None:
    upstream = RawUpstream()
    await upstream.start()
    go = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await go.wait()
        await peer.send(OK)

    upstream.default = slow
    async with serving(upstream.url, through=("sh", "-c", 'ulimit -n 256; exec "$0" "$@"')) as proxy:
        await until(lambda: upstream.sessions)
        all_of_them = await asyncio.gather(*(proxy.caller() for _ in range(callers)))
        asking = [asyncio.create_task(caller.ask(REQUEST)) for caller in all_of_them]
        # As many as there can be are served, the others are refused; and operators see all of it meanwhile.
        await until(lambda: sum(task.done() for task in asking) + len(upstream.requests) == callers)
        for _ in range(20):
            assert (await fetch("GET", f"http://{proxy.admin}/healthz"))[0] == 200
        served_ones = len(upstream.requests)
        go.set()
        answers = await asyncio.gather(*asking)
        assert served_ones >= 90
        assert sum(got.status == 200 for got in answers) == served_ones
        refused = [got for got in answers if got.status != 200]
        assert {(got.status, got.code, got.value("retry-after")) for got in refused} == {(503, "overloaded", b"1")}
        counted = (await fetch("GET", f"http://{proxy.admin}/metrics"))[1]
        assert f'request_errors_total{{code="overloaded"}} {len(refused)}.0' in counted
        assert proxy.events("too_many_callers")
        for caller in all_of_them:
            await caller.close()
    await upstream.stop()
