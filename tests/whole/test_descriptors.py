"""Idle callers and few descriptors: whoever has something to ask is served."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from proxy.listening import most_callers
from tests.server.harness import Answer, Caller, RawUpstream, Truncated, until
from tests.whole.processes import TERM, Process, ProxyProcess, fetch, serving


async def served(proxy: ProxyProcess) -> tuple[Caller, Answer]:
    """Ask until answered: while 120 connections are accepted at once, the system itself may turn one away."""
    async with asyncio.timeout(20):
        while True:
            caller = await proxy.caller()
            try:
                return caller, await caller.ask(b"GET /carts HTTP/1.1\r\nHost: localhost\r\n\r\n")
            except (ConnectionError, Truncated):
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


def test_there_is_room_for_callers_and_for_cardcash_whatever_the_limit() -> None:
    for descriptors in (64, 256, 1024, 65536):
        for upstream in (1, 100, 1000):
            callers = most_callers(upstream, descriptors)
            assert 16 <= callers < descriptors
            assert descriptors - callers >= min(upstream, descriptors // 4)
