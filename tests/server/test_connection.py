"""Callers' connections: bodies with back-pressure, early answers, upgrades, idle and dead ones."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from typing import cast

import pytest

from proxy.server import connection
from tests.conftest import StartProxy
from tests.server.harness import OK, Caller, Peer, RawUpstream, Running, Truncated, answer, until


async def test_a_gzip_body_of_a_request_is_not_decompressed(upstream: RawUpstream, proxy: Running) -> None:
    body = bytes.fromhex("1f8b08000000000000ff4bad5048ad28012285b2c42285940228070027e2a59f14000000")
    await proxy.ask("POST /a", b"Content-Encoding: gzip", body=body)
    assert upstream.requests[0].body == body


async def test_an_idle_connection_holds_no_request_and_a_busy_one_does(upstream: RawUpstream, proxy: Running) -> None:
    go = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await go.wait()
        await peer.send(OK)

    upstream.answers.append(slow)
    busy, idle = await proxy.caller(), await proxy.caller()
    await busy.send(proxy.request("GET /a"))
    await until(lambda: upstream.requests)
    await until(lambda: len(proxy.proxy.server.connections) == 2)
    assert sum(each.is_idle for each in proxy.proxy.server.connections) == 1
    go.set()
    await busy.answer()
    await until(lambda: sum(each.is_idle for each in proxy.proxy.server.connections) == 2)
    await idle.close()


async def test_a_large_upload_streams_with_back_pressure(upstream: RawUpstream, proxy: Running) -> None:
    size = 5 << 20
    body = bytes(range(256)) * (size // 256)
    pulled = 0
    open_gate = asyncio.Event()
    digest = hashlib.sha256()

    async def slow(peer: Peer) -> None:
        nonlocal pulled
        await open_gate.wait()
        while pulled < size:
            piece = await peer.reader.read(1 << 16)
            digest.update(piece)
            pulled += len(piece)
        await peer.send(answer(201, b"done"))

    upstream.answers.append(slow)
    caller = await proxy.caller()
    sending = asyncio.create_task(caller.send(proxy.request("POST /a", body=body)))
    await until(lambda: upstream.requests)
    open_gate.set()
    got = await caller.answer()
    await sending
    assert (got.status, got.body) == (201, b"done")
    assert digest.digest() == hashlib.sha256(body).digest()
    assert proxy.sample("replay_buffer_bytes") == 0


async def test_a_chunked_upload_of_5_mb_arrives_whole(upstream: RawUpstream, proxy: Running) -> None:
    caller = await proxy.caller()
    piece = b"10000\r\n" + b"y" * 65536 + b"\r\n"
    await caller.send(proxy.request("POST /a", b"Transfer-Encoding: chunked") + piece * 80 + b"0\r\n\r\n")
    assert (await caller.answer()).status == 200
    assert upstream.requests[0].body == b"y" * (65536 * 80)


async def test_an_answer_before_the_end_of_the_upload_reaches_the_caller(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(LIMITS__REPLAY_BODY="10")

    async def early(peer: Peer) -> None:
        await peer.send(answer(413, b"too much", b"Connection: close"))
        await peer.gone()

    upstream.answers.append(early)
    caller = await proxy.caller()
    await caller.send(proxy.request("POST /a", b"Content-Length: 1000000") + b"x" * 1000)
    got = await caller.answer()
    assert (got.status, got.body) == (413, b"too much")
    assert got.value("connection") == b"close"


async def test_a_silent_connection_and_half_a_head_do_no_harm(upstream: RawUpstream, proxy: Running) -> None:
    silent, half = await proxy.caller(), await proxy.caller()
    await half.send(b"GET /a HTTP/1.1\r\nHost: 127")
    assert (await proxy.ask("GET /b")).status == 200
    await half.send(b".0.0.1\r\n\r\n")
    assert (await half.answer()).status == 200
    await silent.close()


async def test_a_request_in_single_bytes_is_understood(upstream: RawUpstream, proxy: Running) -> None:
    caller = await proxy.caller()
    for byte in proxy.request("POST /a", body=b"abc"):
        await caller.send(bytes([byte]))
        await asyncio.sleep(0)
    assert (await caller.answer()).status == 200
    assert upstream.requests[0].body == b"abc"


async def test_an_upgrade_is_answered_without_upgrading(upstream: RawUpstream, proxy: Running) -> None:
    got = await proxy.ask(
        "POST /a", b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: x", body=b"ab"
    )
    assert got.status == 200
    assert upstream.requests[0].body == b"ab"
    assert not {b"upgrade", b"http2-settings", b"connection"} & {
        name.lower() for name, _ in upstream.requests[0].fields
    }


async def test_a_caller_that_is_reset_while_its_upload_is_blocked_is_noticed(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(LIMITS__REQUEST_BODY="100MiB")
    stuck = asyncio.Event()

    async def reads_nothing(peer: Peer) -> None:
        await stuck.wait()
        await peer.gone()

    upstream.default = reads_nothing
    caller = await proxy.caller()
    size = 50_000_000  # more than all buffers on the way
    await caller.send(b"POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
    caller.writer.write(bytes(size))
    await until(lambda: any(c.paused for c in proxy.proxy.server.connections))
    caller.reset()
    await until(lambda: proxy.proxy.guard.in_flight == 0)
    await until(lambda: proxy.proxy.upstream.active_connections == 0)
    stuck.set()


async def _looked_after(proxy: Running) -> None:
    """Let the loop turn, and the server look after its connections, once."""
    proxy.proxy.server.look()
    await asyncio.sleep(0.002)


async def test_an_idle_connection_ends_after_its_time(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEPALIVE_TIMEOUT", 0.0)
    caller = await proxy.caller()
    assert (await caller.ask(proxy.request("GET /a"))).status == 200
    await _looked_after(proxy)
    assert await caller.ended() == b""


async def test_half_a_head_is_not_waited_for_longer_than_its_time(
    upstream: RawUpstream, proxy: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT", -1.0)
    caller = await proxy.caller()
    await caller.send(b"GET /a HTTP/1.1\r\n")
    await until(lambda: any(c.deadline < proxy.proxy.server.time() for c in proxy.proxy.server.connections))
    await _looked_after(proxy)
    assert await caller.ended() == b""
    assert upstream.requests == []


async def test_more_of_a_head_does_not_give_it_more_time(proxy: Running) -> None:
    caller = await proxy.caller()
    await caller.send(b"GET /a HTTP/1.1\r\n")
    await until(lambda: any(c.has_partial_head for c in proxy.proxy.server.connections))
    (connection,) = proxy.proxy.server.connections
    deadline = connection.deadline
    await caller.send(b"X-A: b\r\n")
    await until(lambda: len(connection.head.begun) > 20)
    assert connection.deadline == deadline


async def test_a_good_request_is_served_whatever_follows_it(upstream: RawUpstream, proxy: Running) -> None:
    caller = await proxy.caller()
    await caller.send(proxy.request("POST /a", body=b"{}") + b"GET /b HTTP/1.1\r\nX : y\r\n\r\n")
    assert (await caller.answer()).status == 200
    assert (await caller.answer()).code == "bad_request"
    assert await caller.ended() == b""
    assert [request.line for request in upstream.requests] == ["POST /v3/a HTTP/1.1"]


async def test_pipelined_requests_are_answered_in_their_order(upstream: RawUpstream, proxy: Running) -> None:
    go = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await go.wait()
        await peer.send(answer(200, b"first"))

    upstream.answers.append(slow)
    caller = await proxy.caller()
    await caller.send(b"".join(proxy.request("POST /a", body=b"x" * size) for size in range(5)))
    await until(lambda: upstream.requests)
    upstream.answers.extend(answer(200, b"%d" % number) for number in range(1, 5))
    go.set()
    assert [(await caller.answer()).body for _ in range(5)] == [b"first", b"1", b"2", b"3", b"4"]
    assert [len(request.body) for request in upstream.requests] == [0, 1, 2, 3, 4]


async def test_a_connection_is_kept_after_a_chunked_request_and_no_trailer_becomes_a_field(
    upstream: RawUpstream, proxy: Running
) -> None:
    caller = await proxy.caller()
    chunked = proxy.request("POST /a", b"Transfer-Encoding: chunked") + b"2\r\nab\r\n0\r\nX-Evil: stolen\r\n\r\n"
    assert (await caller.ask(chunked)).value("connection") is None
    assert (await caller.ask(proxy.request("GET /b"))).status == 200
    assert upstream.requests[0].body == b"ab"
    assert all(not request.values("x-evil") for request in upstream.requests)


async def test_what_follows_a_chunked_body_at_once_is_the_next_request(upstream: RawUpstream, proxy: Running) -> None:
    caller = await proxy.caller()
    chunked = proxy.request("POST /a", b"Transfer-Encoding: chunked") + b"2\r\nab\r\n0\r\nX-Evil: stolen\r\n\r\n"
    await caller.send((chunked + proxy.request("GET /b")) * 2)
    assert [(await caller.answer()).status for _ in range(4)] == [200] * 4
    assert [request.line[:6] for request in upstream.requests] == ["POST /", "GET /v"] * 2
    assert all(not request.values("x-evil") for request in upstream.requests)


def _slow_reader(caller: Caller) -> asyncio.ReadTransport:
    transport = cast("asyncio.ReadTransport", caller.writer.transport)
    transport.pause_reading()
    return transport


@pytest.mark.parametrize("more", [b"\r\n", b"GET /b HTTP/1.1\r\nHost: localhost\r\n\r\n", b"x" * 200_000])
async def test_bytes_after_the_last_answer_do_not_take_it_away(
    more: bytes, upstream: RawUpstream, proxy: Running
) -> None:
    body = bytes(3_000_000)
    upstream.answers.append(answer(200, body))
    caller = await proxy.caller()
    transport = _slow_reader(caller)
    await caller.send(proxy.request("GET /a", b"Connection: close"))
    await until(lambda: proxy.sample("requests_total", method="GET", route="other", status="200") or _drains(proxy))
    caller.writer.write(more)
    for _ in range(10):
        await proxy.ask("GET /b")  # turns in which they do what they do
    transport.resume_reading()
    assert (await caller.answer()).body == body


def _drains(proxy: Running) -> bool:
    return any(connection.waits_for_room for connection in proxy.proxy.server.connections)


async def test_an_answer_that_breaks_off_leaves_the_one_before_it_whole(upstream: RawUpstream, proxy: Running) -> None:
    body = bytes(1_500_000)

    async def truncated(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
        peer.writer.close()

    upstream.answers.extend([answer(200, body), truncated])
    caller = await proxy.caller()
    transport = _slow_reader(caller)
    await caller.send(proxy.request("GET /a") * 2)
    await until(lambda: len(upstream.requests) == 2 or _drains(proxy))
    transport.resume_reading()
    assert (await caller.answer()).body == body
    with pytest.raises(Truncated):
        await caller.answer()
    await until(lambda: not proxy.proxy.server.connections)


async def test_a_caller_that_is_told_of_the_end_and_stays_is_let_go(
    proxy: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGERING_TIME", -1.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(proxy.request("GET /a", b"Connection: close"))
    await reader.readuntil(b"{}")
    await until(lambda: proxy.proxy.server.look() or not proxy.proxy.server.connections)  # type: ignore[func-returns-value]
    writer.close()


async def test_empty_lines_before_a_request_are_skipped(upstream: RawUpstream, proxy: Running) -> None:
    caller = await proxy.caller()
    assert (await caller.ask(b"\r\n\r\n" + proxy.request("GET /a"))).status == 200
    for byte in b"\r\n\r\n":
        await caller.send(bytes([byte]))
        await asyncio.sleep(0.002)
    assert (await caller.ask(proxy.request("GET /a"))).status == 200


async def test_a_flood_of_empty_lines_costs_next_to_nothing(proxy: Running) -> None:
    caller = await proxy.caller()
    began = time.process_time()
    assert (await caller.ask(b"\r\n" * 2_000_000 + proxy.request("GET /a"))).status == 200
    assert time.process_time() - began < 5  # squared it would be minutes


async def test_whoever_asks_on_without_reading_is_made_to_wait(upstream: RawUpstream, proxy: Running) -> None:
    upstream.default = answer(200, bytes(300_000))
    caller = await proxy.caller()
    caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await caller.send(proxy.request("GET /a") * 300)
    await until(lambda: any(c.waits_for_room for c in proxy.proxy.server.connections))
    for _ in range(20):
        await proxy.ask("GET /b")  # turns in which it could go on
    assert sum(request.line.startswith("GET /v3/a ") for request in upstream.requests) < 100
    caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert {len((await caller.answer()).body) for _ in range(300)} == {300_000}


async def test_a_reader_that_stops_is_cut_off(
    upstream: RawUpstream, proxy: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CALLER_IDLE", -1.0)
    upstream.answers.append(answer(200, bytes(20_000_000)))
    caller = await proxy.caller()
    caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await caller.send(proxy.request("GET /a"))
    await until(lambda: any(c.waits_for_room for c in proxy.proxy.server.connections))
    proxy.proxy.server.look()
    await proxy.quiet()
    caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
    with pytest.raises(Truncated):
        await caller.answer()


async def test_a_caller_that_gets_an_early_refusal_can_still_read_it(proxy: Running) -> None:
    caller = await proxy.caller()
    await caller.send(proxy.request("POST /a", b"Content-Length: 99999999"))
    caller.writer.write(bytes(3_000_000))
    got = await caller.answer()
    assert (got.status, got.code) == (413, "body_too_large")


async def test_a_connection_that_was_just_made_may_bring_a_request_when_the_proxy_stops_and_is_served(
    proxy: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await proxy.ask("GET /carts")
    fresh, silent, used = [await proxy.caller() for _ in range(3)]  # the last one's answer shows that all are in
    await used.ask(proxy.request("GET /carts"))
    loop = asyncio.get_running_loop()
    now = loop.time()
    with monkeypatch.context() as patch:
        # No time passes until the request is there: a busy machine could take all of the 0.25 s before.
        patch.setattr(loop, "time", lambda: now)
        proxy.proxy.request_stop()
        stopping = asyncio.create_task(proxy.proxy.run())
        assert await used.ended() == b""
        got = await fresh.ask(proxy.request("GET /carts"))
        assert (got.status, got.body, got.value("connection")) == (200, b"{}", b"close")
    assert await silent.ended() == b""
    for caller in (used, fresh, silent):
        await caller.close()
    await stopping


async def test_who_stands_in_the_queue_when_the_proxy_stops_is_served_too(proxy: Running) -> None:
    await proxy.ask("GET /carts")
    # Connected by the kernel, while the loop has no turn to take them in.
    waiting = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(12)]
    for sock in waiting:
        sock.sendall(proxy.request("GET /carts"))
    proxy.proxy.request_stop()
    stopping = asyncio.create_task(proxy.proxy.run())
    answers = [await asyncio.to_thread(sock.recv, 65536) for sock in waiting]
    assert {got[:12] for got in answers} == {b"HTTP/1.1 200"}
    for sock in waiting:
        sock.close()
    await stopping
