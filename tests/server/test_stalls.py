"""Callers that stall while others wait: what either of them sees."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from tests.conftest import StartProxy
from tests.server.harness import OK, Peer, RawUpstream, Truncated, until


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.upstream.pool.STALLED", 0.1)


async def test_an_upload_that_stalls_is_told_and_whoever_waits_is_served(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(
        UPSTREAM__MAX_CONNECTIONS="1", UPSTREAM__RESPONSE_TIMEOUT="1", LIMITS__REPLAY_BODY="10", SESSION__EAGER="false"
    )
    stalling = await proxy.caller()
    await stalling.send(proxy.request("POST /orders", b"Content-Length: 1000") + b"x" * 100)
    await until(lambda: proxy.proxy.upstream.active_connections == 1)
    assert (await proxy.ask("GET /carts")).status == 200
    got = await stalling.answer("POST")
    assert (got.status, got.code) == (400, "bad_request")
    assert "stopped coming" in got.json["message"][0]
    assert [received.line.split()[1] for received in upstream.requests] == ["/v3/carts"]
    assert proxy.sample("request_errors_total", code="bad_request") == 1
    assert all(s.value == 0 for m in proxy.proxy.metrics.upstream_errors.collect() for s in m.samples)


async def test_an_answer_nobody_reads_is_cut_off_and_whoever_waits_is_served(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    size = 60_000_000

    async def endless(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 100_000):
            await peer.send(b"x" * 100_000)

    upstream.answers += [endless, OK]
    proxy = await start_proxy(UPSTREAM__MAX_CONNECTIONS="1", UPSTREAM__RESPONSE_TIMEOUT="1")
    stalling = await proxy.caller()
    stalling.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await stalling.send(proxy.request("GET /merchants/buy"))
    await until(lambda: proxy.proxy.upstream.active_connections == 1)
    async with asyncio.timeout(20):
        assert (await proxy.ask("GET /carts")).status == 200
    stalling.writer.transport.resume_reading()  # type: ignore[attr-defined]
    with pytest.raises(Truncated):
        await stalling.answer()
    assert all(s.value == 0 for m in proxy.proxy.metrics.upstream_errors.collect() for s in m.samples)


async def test_a_slow_but_steady_reader_is_left_alone_while_others_wait(
    upstream: RawUpstream, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it takes, it takes out of the kernel's buffer of some megabytes: the loop hears of it once in a third of that."""
    monkeypatch.setattr("proxy.upstream.pool.STALLED", 1.0)
    size = 60_000_000

    async def list_of_all(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 100_000):
            await peer.send(b"x" * 100_000)

    upstream.answers += [list_of_all, OK]
    proxy = await start_proxy(
        UPSTREAM__MAX_CONNECTIONS="1", UPSTREAM__CONNECT_TIMEOUT="3", UPSTREAM__RESPONSE_TIMEOUT="5"
    )
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", proxy.port)) as slow:
        slow.setblocking(False)
        await loop.sock_sendall(slow, proxy.request("GET /merchants/buy", b"Connection: close"))
        got = bytearray(await loop.sock_recv(slow, 1000))
        waiting = asyncio.create_task(proxy.ask("GET /carts"))
        while not waiting.done():  # 400 kB/s, of which its system tells in steps of some 100 kB
            got += await loop.sock_recv(slow, 8000)
            await asyncio.sleep(0.02)
        assert (await waiting).code == "overloaded"
        while piece := await loop.sock_recv(slow, 1_000_000):
            got += piece
    assert len(got.partition(b"\r\n\r\n")[2]) == size


async def test_bodies_that_trickle_in_keep_nobody_from_being_served(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(LIMITS__IN_FLIGHT="2", LIMITS__REPLAY_BODY="1000", UPSTREAM__MAX_CONNECTIONS="2")
    slow = [await proxy.caller() for _ in range(6)]
    for number, caller in enumerate(slow):  # small ones, chunked ones, and some that are too large to be kept
        length = (b"Content-Length: 500", b"Transfer-Encoding: chunked", b"Content-Length: 5000")[number % 3]
        line = "POST /session" if number > 2 else "POST /orders"
        await caller.send(proxy.request(line, length) + (b"1\r\nx\r\n" if number % 3 == 1 else b"x"))
    await until(lambda: sum(each.exchange is not None for each in proxy.proxy.server.connections) == 6)
    for _ in range(3):
        assert (await proxy.ask("POST /carts", body=b"{}")).status == 200
    await slow[0].send(b"x" * 499)
    assert (await slow[0].answer("POST")).status == 200
    assert [received.line.split()[1] for received in upstream.requests] == ["/v3/carts"] * 3 + ["/v3/orders"]


async def test_a_body_that_came_slowly_is_refused_when_there_is_no_place_then(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    go = asyncio.Event()

    async def held(peer: Peer) -> None:
        await go.wait()
        await peer.send(OK)

    upstream.answers.append(held)
    proxy = await start_proxy(LIMITS__IN_FLIGHT="1")
    slow = await proxy.caller()
    await slow.send(proxy.request("POST /orders", b"Content-Length: 2") + b"{")
    await until(lambda: any(each.exchange is not None for each in proxy.proxy.server.connections))
    first = asyncio.create_task(proxy.ask("GET /carts"))
    await until(lambda: upstream.requests)
    got = await slow.ask(b"}")
    assert (got.status, got.code, got.value("retry-after")) == (503, "overloaded", b"1")
    go.set()
    assert (await first).status == 200
    assert len(upstream.requests) == 1


async def test_an_upload_that_trickles_gives_way_to_whoever_waits(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(
        UPSTREAM__MAX_CONNECTIONS="1", UPSTREAM__RESPONSE_TIMEOUT="2", LIMITS__REPLAY_BODY="10", SESSION__EAGER="false"
    )
    trickling = await proxy.caller()
    await trickling.send(proxy.request("POST /orders", b"Content-Length: 100000") + b"x" * 100)
    await until(lambda: proxy.proxy.upstream.active_connections == 1)

    async def trickle() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await trickling.send(b"x")
                await asyncio.sleep(0.02)

    task = asyncio.create_task(trickle())
    assert (await proxy.ask("GET /carts")).status == 200
    got = await trickling.answer("POST")
    assert (got.status, got.code) == (400, "bad_request")
    task.cancel()
