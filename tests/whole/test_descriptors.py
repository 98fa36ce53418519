"""Idle callers and few descriptors: whoever has something to ask is served."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from proxy.listening import most_callers
from tests.server.harness import Answer, Caller, RawUpstream, Truncated
from tests.whole.processes import ProxyProcess


async def served(proxy: ProxyProcess) -> tuple[Caller, Answer]:
    """Ask until answered: while 120 connections are accepted at once, the system itself may turn one away."""
    async with asyncio.timeout(20):
        while True:
            caller = await proxy.caller()
            try:
                return caller, await caller.ask(b"GET /carts HTTP/1.1\r\nHost: localhost\r\n\r\n")
            except (ConnectionError, Truncated):
                await caller.close()


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


def test_there_is_room_for_callers_and_for_cardcash_whatever_the_limit() -> None:
    for descriptors in (64, 256, 1024, 65536):
        for upstream in (1, 100, 1000):
            callers = most_callers(upstream, descriptors)
            assert 16 <= callers < descriptors
            assert descriptors - callers >= min(upstream, descriptors // 4)
