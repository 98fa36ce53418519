"""Which connection carries a request, and how many there are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.core.errors import Draining, Overloaded, UpstreamReset, UpstreamUnreachable
from proxy.upstream import Origin, Upstream
from proxy.upstream.connection import Connection
from proxy.upstream.dial import dial
from tests.upstream.conftest import Connect, LoopClock
from tests.upstream.wire import GET, OK, Peer, answers, once, until

WITH_CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"


async def test_the_connection_used_last_is_used_next(connect: Connect) -> None:
    numbers: list[int] = []
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            numbers.append(peer.number)
            await gate.wait()
            await peer.send(OK)
            if peer.number == 1:
                await peer.gone()

    _, up = await connect(script)
    tasks = [asyncio.create_task(up.send(method="GET", head=GET)) for _ in range(2)]
    await until(lambda: len(numbers) == 2)
    gate.set()
    await asyncio.gather(*tasks)
    for _ in range(5):
        await up.send(method="GET", head=GET)
    assert len(set(numbers[2:])) == 1
    assert up.opened_total == 2


@pytest.mark.parametrize(
    "answer",
    [
        WITH_CLOSE,
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_an_answer_that_says_so_ends_the_connection(connect: Connect, answer: bytes) -> None:
    _, up = await connect(answers(answer))
    response = await up.send(method="GET", head=GET)
    assert response.complete
    assert up.idle_connections == 0


@pytest.mark.parametrize("after", [b"", b"x", b"\r\n", OK, b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
async def test_a_connection_on_which_anything_came_is_not_used(connect: Connect, after: bytes) -> None:
    """The stray bytes or the FIN are in the kernel, and the loop has had no turn to notice."""
    go, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number > 1:
            await peer.gone()
        await go.wait()
        # In one turn with the send below: written straight to the socket, seen by nobody yet.
        if after:
            peer.writer.write(after)
        else:
            peer.writer.write_eof()
        gone.set()
        await peer.gone()

    wire, up = await connect(script)
    await up.send(method="GET", head=GET)
    assert up.idle_connections == 1
    go.set()
    await gone.wait()
    response = await up.send(method="POST", head=GET)
    assert response.status == 200
    assert response.take() == [b"ok"]
    assert wire.accepted == 2
    assert len(wire.requests) == 2


async def test_nothing_is_sent_twice_when_a_used_connection_dies_after_the_write(connect: Connect) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        peer.finish()

    wire, up = await connect(script)
    await up.send(method="GET", head=GET)
    with pytest.raises(UpstreamReset) as caught:
        await up.send(method="GET", head=GET)
    assert caught.value.sent
    assert len(wire.requests) == 2
    assert wire.accepted == 1


async def test_a_request_that_must_not_be_repeated_takes_a_young_connection(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, up = await connect(answers(OK), max_connections=1)
    await up.send(method="POST", head=GET)
    await up.send(method="POST", head=GET, repeatable=False)
    assert up.opened_total == 1
    monkeypatch.setattr("proxy.upstream.idle_endings.YOUNG", -1.0)
    await up.send(method="POST", head=GET)
    assert up.opened_total == 1
    await up.send(method="POST", head=GET, repeatable=False)
    assert up.opened_total == 2


async def test_fresh_is_always_a_new_connection(connect: Connect) -> None:
    _, up = await connect(answers(OK), max_connections=1)
    for count in (1, 2, 3):
        await up.send(method="GET", head=GET, new_connection=True)
        assert up.opened_total == count
    assert up.idle_connections == 1


async def test_waiters_are_served_in_order(connect: Connect) -> None:
    """Whether the connection is kept or must be made anew for each."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(WITH_CLOSE if len(wire.requests) % 3 == 0 else OK)

    wire, up = await connect(script, max_connections=1)
    heads = [b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(30)]
    responses = await asyncio.gather(*[up.send(method="GET", head=head) for head in heads])
    assert all(response.complete for response in responses)
    assert wire.requests == heads


async def test_connections_are_bounded(connect: Connect) -> None:
    running = peak = 0

    async def script(peer: Peer) -> None:
        nonlocal running, peak
        while True:
            await peer.request()
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0)
            running -= 1
            await peer.send(WITH_CLOSE if len(wire.requests) % 3 == 0 else OK)

    wire, up = await connect(script, max_connections=3)
    tasks = [asyncio.create_task(up.send(method="GET", head=GET)) for _ in range(30)]
    await asyncio.sleep(0)
    assert up.active_connections == 3  # those being made count
    await asyncio.gather(*tasks)
    assert peak <= 3
    assert len(wire.requests) == 30
    assert up.active_connections == 0


async def test_no_free_connection_in_time_is_overloaded(connect: Connect) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await gate.wait()
        await peer.send(OK)
        await peer.gone()

    wire, up = await connect(script, max_connections=1, connect_timeout=0.4)
    first = asyncio.create_task(up.send(method="GET", head=GET))
    await until(lambda: wire.requests)
    with pytest.raises(Overloaded):
        await up.send(method="GET", head=GET)
    gate.set()
    assert (await first).status == 200
    assert len(wire.requests) == 1


async def test_a_cancelled_waiter_never_keeps_a_slot(connect: Connect) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await gate.wait()
            await peer.send(OK)

    wire, up = await connect(script, max_connections=1)
    first = asyncio.create_task(up.send(method="GET", head=GET))
    await until(lambda: wire.requests)
    waiters = [asyncio.create_task(up.send(method="GET", head=GET)) for _ in range(4)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    gate.set()
    response = await first  # its connection has been handed to a waiter in this very turn
    assert response.complete
    waiters[1].cancel()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, True, False, False]
    assert up.active_connections == 0
    assert up.idle_connections == 1
    assert up.opened_total in {1, 2}


async def test_a_cancelled_connect_never_keeps_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    up = Upstream(Origin("http", "127.0.0.1", 1), ssl_context=None, max_connections=1)
    started = asyncio.Event()

    async def hang(*_: Any, **__: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("proxy.upstream.client.dial", hang)
    task = asyncio.create_task(up.send(method="GET", head=GET))
    await started.wait()
    assert up.active_connections == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert up.active_connections == 0
    await up.aclose()


async def test_every_waiter_gets_its_own_attempt_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    up = Upstream(Origin("http", "127.0.0.1", 1), ssl_context=None, max_connections=1)
    attempts = 0

    async def refuse(*_: Any, **__: Any) -> None:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(0)
        raise UpstreamUnreachable("no; nothing was sent.", kind="refused", sent=False)

    monkeypatch.setattr("proxy.upstream.client.dial", refuse)
    results = await asyncio.gather(*[up.send(method="GET", head=GET) for _ in range(5)], return_exceptions=True)
    assert all(isinstance(result, UpstreamUnreachable) for result in results)
    assert attempts == 5
    assert up.active_connections == 0
    await up.aclose()


async def test_idle_connections_are_closed_in_the_background(connect: Connect) -> None:
    wire, up = await connect(answers(OK), idle_timeout=0.05)
    await up.send(method="GET", head=GET)
    assert up.idle_connections == 1
    await wire.ended.wait()
    assert up.idle_connections == 0


async def test_under_traffic_a_connection_takes_no_request_after_its_greatest_age(
    connect: Connect, clock: LoopClock
) -> None:
    wire, up = await connect(answers(OK), max_age=300)
    lives = []
    for number in range(1, 7):
        seconds = 0
        while wire.accepted <= number:
            await up.send(method="GET", head=GET)
            clock.on(2)
            seconds += 2
        lives.append(seconds)
    assert all(268 <= life <= 336 for life in lives)  # a tenth more or less, found at the next request
    assert len(set(lives)) > 1  # made together, they do not end together
    assert up.active_connections == 0


async def test_an_idle_connection_the_upstream_closes_is_forgotten(connect: Connect) -> None:
    _, up = await connect(once(OK, close=True))
    await up.send(method="GET", head=GET)
    await until(lambda: up.idle_connections == 0)
    assert up.active_connections == 0


async def test_closing_fails_what_runs_and_what_waits(connect: Connect) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    wire, up = await connect(script, max_connections=1)
    running = asyncio.create_task(up.send(method="GET", head=GET))
    await until(lambda: wire.requests)
    waiting = asyncio.create_task(up.send(method="GET", head=GET))
    await asyncio.sleep(0)
    await up.aclose()
    results = await asyncio.gather(running, waiting, return_exceptions=True)
    assert isinstance(results[0], UpstreamReset)
    assert isinstance(results[1], Draining)
    with pytest.raises(Draining):
        await up.send(method="GET", head=GET)


async def test_closing_ends_although_dials_were_given_up_halfway(connect: Connect) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    _, up = await connect(script)
    for turns in range(8):
        # Cancelled after so many turns of the loop: in the middle of socket, connect, or transport.
        tasks = [asyncio.create_task(up.send(method="GET", head=GET)) for _ in range(20)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(0.9):  # closing gives up on lost transports after a second; none may be lost
        await up.aclose()
    assert up.active_connections == 0


async def test_connections_that_end_while_they_are_made_cost_no_slot(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dial returns only after the upstream has hung up, as it may on a busy loop."""

    async def script(peer: Peer) -> None:
        if gone:
            peer.finish()
            return
        await answers(OK)(peer)

    async def late(connection: Connection, *args: Any, **options: Any) -> None:
        await dial(connection, *args, **options)
        if gone:
            await until(lambda: not connection.is_open())
            for _ in range(20):
                await asyncio.sleep(0)

    gone = True
    monkeypatch.setattr("proxy.upstream.client.dial", late)
    _, up = await connect(script, max_connections=1)
    for _ in range(3):
        with pytest.raises(UpstreamUnreachable) as caught:
            await up.send(method="POST", head=GET, repeatable=False)
        assert not caught.value.sent
        assert up.active_connections == 0
    gone = False
    assert (await up.send(method="POST", head=GET, repeatable=False)).status == 200
