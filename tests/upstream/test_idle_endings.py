"""Orders ride only on connections that the upstream is known to keep."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.errors import UpstreamReset
from proxy.upstream.idle_endings import MEMORY, YOUNG, IdleEndings
from tests.upstream.conftest import Connect
from tests.upstream.wire import GET, OK, Peer, answers, until


def test_nothing_seen_is_one_second() -> None:
    assert IdleEndings().trusted(0.0) == YOUNG == 1.0


def test_half_of_the_shortest_is_trusted() -> None:
    endings = IdleEndings()
    for idle in (1.2, 0.3, 0.7):
        endings.note(0.0, idle)
    assert endings.trusted(0.0) == 0.15


def test_an_end_is_forgotten_after_ten_minutes() -> None:
    endings = IdleEndings()
    endings.note(0.0, 0.3)
    endings.note(60.0, 0.7)
    assert endings.trusted(MEMORY) == 0.15
    assert endings.trusted(MEMORY + 1) == 0.35
    assert endings.trusted(MEMORY + 61) == YOUNG


def test_long_times_change_nothing_and_cost_nothing() -> None:
    endings = IdleEndings()
    for idle in range(2, 1000):
        endings.note(0.0, float(idle))
    assert endings.trusted(0.0) == YOUNG
    assert not endings._ends


@pytest.mark.parametrize("end", ["fin", "reset", "stray"])
async def test_an_idle_connection_that_ends_teaches_how_long_it_is_kept(connect: Connect, end: str) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await go.wait()
        if end == "stray":
            await peer.send(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
        peer.reset() if end == "reset" else peer.finish()

    _, up = await connect(script)
    await up.send(method="GET", head=GET)
    began = asyncio.get_running_loop().time()
    go.set()
    await until(lambda: up.idle_connections == 0)
    now = asyncio.get_running_loop().time()
    assert 0 <= up._pool.endings.shortest(now) <= now - began + 0.01


async def test_an_end_that_is_found_before_the_loop_sees_it_teaches_too(connect: Connect) -> None:
    go, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number > 1:
            await peer.gone()
        await go.wait()
        peer.writer.write_eof()
        gone.set()
        await peer.gone()

    _, up = await connect(script)
    await up.send(method="GET", head=GET)
    go.set()
    await gone.wait()
    await up.send(method="GET", head=GET)
    assert up._pool.endings.shortest(asyncio.get_running_loop().time()) < 1.0


async def test_a_reset_before_the_head_on_a_used_connection_teaches(connect: Connect) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        peer.finish()

    _, up = await connect(script)
    await up.send(method="GET", head=GET)
    with pytest.raises(UpstreamReset):
        await up.send(method="GET", head=GET)
    assert up._pool.endings.shortest(asyncio.get_running_loop().time()) < 1.0


async def test_a_reset_before_the_head_on_a_new_connection_teaches_nothing(connect: Connect) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.finish()

    _, up = await connect(script)
    with pytest.raises(UpstreamReset):
        await up.send(method="GET", head=GET)
    assert up._pool.endings.trusted(asyncio.get_running_loop().time()) == YOUNG


async def test_what_we_end_ourselves_teaches_nothing(connect: Connect) -> None:
    wire, up = await connect(answers(OK), idle_timeout=0.02)
    await up.send(method="GET", head=GET)
    await wire.ended.wait()
    assert up._pool.endings.trusted(asyncio.get_running_loop().time()) == YOUNG


async def test_an_order_takes_a_new_connection_once_the_others_are_older_than_half_of_that(connect: Connect) -> None:
    _, up = await connect(answers(OK))
    await up.send(method="GET", head=GET)
    await up.send(method="POST", head=GET, repeatable=False)
    assert up.opened_total == 1
    loop = asyncio.get_running_loop()
    up._pool.endings.note(loop.time(), 0.02)
    rested = loop.create_future()
    loop.call_later(0.02, rested.set_result, None)
    await rested
    await up.send(method="GET", head=GET)
    assert up.opened_total == 1
    rested = loop.create_future()
    loop.call_later(0.02, rested.set_result, None)
    await rested
    await up.send(method="POST", head=GET, repeatable=False)
    assert up.opened_total == 2
