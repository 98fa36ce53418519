"""Callers' connections: bodies with back-pressure, early answers, upgrades, idle and dead ones."""

from __future__ import annotations

import asyncio
import hashlib

from tests.conftest import StartProxy
from tests.server.harness import OK, Peer, RawUpstream, Running, answer, until


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
    assert len(proxy.proxy.server.idle_connections()) == 1
    go.set()
    await busy.answer()
    await until(lambda: len(proxy.proxy.server.idle_connections()) == 2)
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
