"""Orders ride only on connections that the upstream is known to keep."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.errors import UpstreamReset
from proxy.upstream import Upstream
from proxy.upstream.idle_endings import MEMORY, YOUNG, IdleEndings
from tests.upstream.conftest import Connect, LoopClock
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


def test_long_times_change_nothing() -> None:
    endings = IdleEndings()
    for idle in range(2, 1000):
        endings.note(0.0, float(idle))
    assert endings.trusted(0.0) == YOUNG


async def order_takes_a_new_connection(up: Upstream, clock: LoopClock, *, after: float) -> bool:
    """Whether an order leaves a connection alone that has been idle for so many seconds."""
    await up.send(method="GET", head=GET)
    before = up.opened_total
    clock.on(after)
    await up.send(method="POST", head=GET, repeatable=False)
    return up.opened_total > before


async def has_learnt_of_four_seconds(up: Upstream, clock: LoopClock) -> bool:
    """Whether half of four seconds, and of what this machine took, is trusted."""
    return not await order_takes_a_new_connection(up, clock, after=1) and await order_takes_a_new_connection(
        up, clock, after=25
    )


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but an end that was seen keeps an order from a connection."""
    monkeypatch.setattr("proxy.upstream.idle_endings.YOUNG", 1000.0)


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("end", ["fin", "reset", "stray"])
async def test_an_idle_connection_that_ends_teaches_how_long_it_is_kept(
    connect: Connect, clock: LoopClock, end: str
) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        if peer.number > 1:
            return await answers(OK)(peer)
        await peer.request()
        await peer.send(OK)
        await go.wait()
        if end == "stray":
            await peer.send(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
        return peer.reset() if end == "reset" else peer.finish()

    _, up = await connect(script)
    await up.send(method="GET", head=GET)
    clock.on(4)
    go.set()
    await until(lambda: up.idle_connections == 0)
    assert await has_learnt_of_four_seconds(up, clock)


@pytest.mark.usefixtures("trusting")
async def test_an_end_that_is_found_before_the_loop_sees_it_teaches_too(connect: Connect, clock: LoopClock) -> None:
    go, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        if peer.number > 1:
            return await answers(OK)(peer)
        await peer.request()
        await peer.send(OK)
        await go.wait()
        peer.writer.write_eof()
        gone.set()
        return await peer.gone()

    _, up = await connect(script)
    await up.send(method="GET", head=GET)
    clock.on(4)
    go.set()
    await gone.wait()
    assert await has_learnt_of_four_seconds(up, clock)


@pytest.mark.usefixtures("trusting")
async def test_a_reset_before_the_head_on_a_used_connection_teaches(connect: Connect, clock: LoopClock) -> None:
    async def script(peer: Peer) -> None:
        if peer.number > 1:
            return await answers(OK)(peer)
        await peer.request()
        await peer.send(OK)
        await peer.request()
        return peer.finish()

    _, up = await connect(script)
    await up.send(method="GET", head=GET)
    clock.on(4)
    with pytest.raises(UpstreamReset):
        await up.send(method="GET", head=GET)
    assert await has_learnt_of_four_seconds(up, clock)


@pytest.mark.usefixtures("trusting")
async def test_a_reset_before_the_head_on_a_new_connection_teaches_nothing(connect: Connect, clock: LoopClock) -> None:
    async def script(peer: Peer) -> None:
        if peer.number > 1:
            return await answers(OK)(peer)
        await peer.request()
        return peer.finish()

    _, up = await connect(script)
    with pytest.raises(UpstreamReset):
        await up.send(method="GET", head=GET)
    assert not await order_takes_a_new_connection(up, clock, after=25)


@pytest.mark.usefixtures("trusting")
async def test_what_we_end_ourselves_teaches_nothing(connect: Connect, clock: LoopClock) -> None:
    wire, up = await connect(answers(OK), idle_timeout=30)
    await up.send(method="GET", head=GET)
    clock.on(31)
    up.look()
    await wire.ended.wait()
    assert not await order_takes_a_new_connection(up, clock, after=25)


async def test_an_order_takes_a_new_connection_once_the_others_are_older_than_half_of_that(
    connect: Connect, clock: LoopClock
) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        if peer.number > 1:
            return await answers(OK)(peer)
        await peer.request()
        await peer.send(OK)
        await go.wait()
        return peer.finish()

    _, up = await connect(script)
    await up.send(method="GET", head=GET)
    clock.on(1)
    go.set()
    await until(lambda: up.idle_connections == 0)
    await up.send(method="GET", head=GET)
    clock.on(0.8)
    await up.send(method="GET", head=GET)
    assert up.opened_total == 2
    assert await order_takes_a_new_connection(up, clock, after=0.8)
    assert up.opened_total == 3
