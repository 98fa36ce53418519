"""`serve` as a process: drain, signals, memory, large bodies."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import socket
import time
from pathlib import Path

import pytest

from proxy.simulator import Simulator
from tests.server.harness import OK, REJECTION, Caller, Peer, RawUpstream, answer, until
from tests.whole.processes import INT, TERM, ProxyProcess, fetch, is_ready, serving


def ask(proxy: ProxyProcess, line: str, *headers: bytes) -> bytes:
    return b"\r\n".join([f"{line} HTTP/1.1\r\nHost: {proxy.host}".encode(), *headers]) + b"\r\n\r\n"


@pytest.mark.parametrize("number", [TERM, INT])
async def test_a_signal_ends_an_idle_proxy_with_exit_code_0(upstream: RawUpstream, number: int) -> None:
    async with serving(upstream.url) as proxy:
        caller = await proxy.caller()
        await caller.ask(ask(proxy, "GET /a"))
        began = time.monotonic()
        proxy.signal(number)
        assert await proxy.ended() == 0
        assert time.monotonic() - began < 2
        assert await caller.ended() == b""
        await caller.close()
        assert [e["event"] for e in proxy.lines][-2:] == ["draining", "stopped"]
        assert proxy.err == b""


async def test_a_drain_finishes_a_download_and_an_upload_and_takes_nothing_new(upstream: RawUpstream) -> None:
    go = asyncio.Event()

    async def download(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
        await go.wait()
        await peer.send(b"def")

    async def upload(peer: Peer) -> None:
        await peer.body()
        await peer.send(answer(201, b"done"))

    async with serving(upstream.url, LIMITS__REPLAY_BODY="10") as proxy:
        down, up, idle = await proxy.caller(), await proxy.caller(), await proxy.caller()
        upstream.answers.append(download)
        await down.send(ask(proxy, "GET /down"))
        await down.head()
        upstream.answers.append(upload)
        await up.send(ask(proxy, "POST /up", b"Content-Length: 1000") + b"x" * 500)
        await until(lambda: len(upstream.requests) == 2)
        proxy.signal(TERM)
        await proxy.says(lambda out: b'"draining"' in out)
        assert await idle.ended() == b""
        with pytest.raises(ConnectionError):
            await proxy.caller()
        assert (await fetch("GET", f"http://{proxy.admin}/readyz"))[0] == 503
        assert (await fetch("GET", f"http://{proxy.admin}/healthz"))[0] == 200
        await up.send(b"x" * 500)
        got = await up.answer("POST")
        assert (got.status, got.body, got.value("connection")) == (201, b"done", b"close")
        go.set()
        assert await down.ended() == b"abcdef"
        assert await proxy.ended() == 0
        assert proxy.events("drain_timeout") == []
        for caller in (down, up, idle):
            await caller.close()


async def test_a_slow_reader_gets_all_of_its_answer_in_a_drain(upstream: RawUpstream) -> None:
    # More than the kernel's buffers take, so that the last of it waits in the proxy.
    size = 12_000_000
    upstream.default = answer(200, b"z" * size)
    async with serving(upstream.url) as proxy:
        host, _, port = proxy.host.rpartition(":")
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.setblocking(False)
        await asyncio.get_running_loop().sock_connect(small, (host, int(port)))
        caller = Caller(*await asyncio.open_connection(sock=small, limit=4096))
        await caller.send(ask(proxy, "GET /a"))
        head = await caller.head()
        assert b"Content-Length: %d" % size in head
        proxy.signal(TERM)
        await proxy.says(lambda out: b'"draining"' in out)
        got = 0
        while piece := await caller.reader.read(65536):
            got += len(piece)
            if size - got < 300_000:
                await asyncio.sleep(0.01)  # slow at the end, where nothing holds the proxy but what it has not sent
        assert got == size
        assert await proxy.ended() == 0
        await caller.close()


async def test_what_is_in_flight_after_the_drain_time_is_cut_off_visibly(upstream: RawUpstream) -> None:
    async def stuck(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await peer.gone()

    upstream.default = stuck
    async with serving(upstream.url, DRAIN__TIMEOUT="0.3") as proxy:
        caller = await proxy.caller()
        await caller.send(ask(proxy, "GET /a"))
        await caller.head()
        proxy.signal(TERM)
        assert b"0\r\n\r\n" not in await caller.ended()
        assert await proxy.ended() == 0
        assert len(proxy.events("drain_timeout")) == 1
        await caller.close()


async def test_a_caller_that_waits_for_its_answer_is_told_when_the_drain_time_is_over(upstream: RawUpstream) -> None:
    async def silent(peer: Peer) -> None:
        await peer.body()
        await peer.gone()

    upstream.default = silent
    async with serving(upstream.url, DRAIN__TIMEOUT="0.3") as proxy:
        caller = await proxy.caller()
        await caller.send(ask(proxy, "POST /orders", b"Content-Length: 2") + b"{}")
        await until(lambda: len(upstream.requests) == 1)
        proxy.signal(TERM)
        got = await caller.answer("POST")
        assert (got.status, got.code) == (502, "upstream_reset")
        assert "may have been processed" in got.json["message"][0]
        assert await proxy.ended() == 0
        await caller.close()


async def test_a_drain_that_runs_out_tells_how_many_orders_were_cut_off_that_may_have_been_processed(
    upstream: RawUpstream,
) -> None:
    async def silent(peer: Peer) -> None:
        await peer.body()
        await peer.gone()

    upstream.default = silent
    async with serving(upstream.url, DRAIN__TIMEOUT="0.3") as proxy:
        ordering = [await proxy.caller() for _ in range(3)]
        for caller in ordering:
            await caller.send(ask(proxy, "POST /orders", b"Content-Length: 2") + b"{}")
        await until(lambda: len(upstream.requests) == 3)
        sending = await proxy.caller()  # nothing of it goes up before all of it is here
        await sending.send(ask(proxy, "POST /orders", b"Expect: 100-continue", b"Content-Length: 500") + b"abc")
        await sending.head()
        proxy.signal(TERM)
        assert await proxy.ended() == 0
        (line,) = proxy.events("drain_timeout")
        assert (line["in_flight"], line["maybe_processed"]) == (4, 3)
        for caller in (*ordering, sending):
            await caller.close()


@pytest.mark.parametrize("revoked", [False, True])
async def test_a_caller_that_waits_for_the_session_is_told_when_the_drain_time_is_over(
    upstream: RawUpstream, revoked: bool
) -> None:
    async def stuck(peer: Peer) -> None:
        await peer.gone()

    async with serving(upstream.url, DRAIN__TIMEOUT="0.3", SESSION__EAGER="false") as proxy:
        caller = await proxy.caller()
        if revoked:
            await caller.ask(ask(proxy, "GET /a"))
            upstream.answers.append(REJECTION)
        upstream.session_answers.append(stuck)
        await caller.send(ask(proxy, "POST /orders", b"Content-Length: 2") + b"{}")
        await until(lambda: len(upstream.sessions) == 1 + revoked)
        proxy.signal(TERM)
        await proxy.says(lambda out: b'"drain_timeout"' in out)
        began = time.monotonic()
        got = await caller.answer("POST")
        assert (got.status, got.code, got.value("retry-after")) == (503, "draining", b"1")
        await caller.close()
        assert await proxy.ended() == 0
        assert time.monotonic() - began < 1


async def test_a_caller_that_is_still_sending_is_told_when_the_drain_time_is_over(upstream: RawUpstream) -> None:
    async with serving(upstream.url, DRAIN__TIMEOUT="0.3") as proxy:
        caller = await proxy.caller()
        await caller.send(ask(proxy, "POST /orders", b"Expect: 100-continue", b"Content-Length: 500") + b"abc")
        assert b" 100 " in await caller.head()
        proxy.signal(TERM)
        got = await caller.answer("POST")
        assert (got.status, got.code, got.value("retry-after")) == (503, "draining", b"1")
        assert upstream.requests == []
        await caller.close()
        assert await proxy.ended() == 0


async def test_in_the_drain_delay_requests_are_still_served(upstream: RawUpstream) -> None:
    async with serving(upstream.url, DRAIN__DELAY="1") as proxy:
        await is_ready(proxy)
        proxy.signal(TERM)
        await proxy.says(lambda out: b'"draining"' in out)
        assert (await fetch("GET", f"http://{proxy.admin}/readyz"))[0] == 503
        caller = await proxy.caller()
        assert (await caller.ask(ask(proxy, "GET /a"))).status == 200
        assert await proxy.ended() == 0
        await caller.close()


async def test_a_second_signal_exits_at_once(upstream: RawUpstream) -> None:
    async def stuck(peer: Peer) -> None:
        await peer.gone()

    upstream.default = stuck
    async with serving(upstream.url) as proxy:
        caller = await proxy.caller()
        await caller.send(ask(proxy, "GET /a"))
        await until(lambda: upstream.requests)
        proxy.signal(TERM)
        await proxy.says(lambda out: b'"draining"' in out)
        began = time.monotonic()
        proxy.signal(TERM)
        assert await proxy.ended() == 128 + TERM
        assert time.monotonic() - began < 1
        await caller.ended()
        await caller.close()


async def test_a_renewal_in_flight_does_not_hold_the_stop(upstream: RawUpstream) -> None:
    async def stuck(peer: Peer) -> None:
        await peer.gone()

    upstream.session_answers.append(stuck)
    async with serving(upstream.url) as proxy:
        await until(lambda: upstream.sessions)
        began = time.monotonic()
        proxy.signal(TERM)
        assert await proxy.ended() == 0
        assert time.monotonic() - began < 2
        assert proxy.err == b""


async def test_a_100_mb_answer_costs_no_memory(simulator: Simulator) -> None:
    size = 100_000_000
    async with serving(simulator.url) as proxy:
        await is_ready(proxy)
        before = proxy.memory()
        assert before < 60
        caller = await proxy.caller()
        await caller.send(ask(proxy, f"GET /_stream?bytes={size}"))
        await caller.head()
        got, most, digest = 0, before, hashlib.sha256()
        while got < size:
            piece = await caller.reader.read(1 << 20)
            assert piece
            got += len(piece)
            digest.update(piece)
            most = max(most, proxy.memory())
        assert most - before < 10, f"{before:.1f} MB before, {most:.1f} MB at most"
        pattern = bytes(range(256)) * 256
        whole = hashlib.sha256()
        for start in range(0, size, len(pattern)):
            whole.update(pattern[: size - start])
        assert digest.digest() == whole.digest()
        await caller.close()


async def test_a_slow_reader_of_100_mb_costs_no_memory_either(simulator: Simulator) -> None:
    async with serving(simulator.url) as proxy:
        await is_ready(proxy)
        before = proxy.memory()
        callers = [await proxy.caller() for _ in range(10)]
        for caller in callers:
            await caller.send(ask(proxy, "GET /_stream?bytes=100000000&chunked=1"))
            await caller.head()
        for _ in range(20):  # turns in which the proxy could read ahead
            await fetch("GET", f"http://{proxy.admin}/healthz")
        assert proxy.memory() - before < 15
        for caller in callers:
            await caller.close()


async def test_a_5_mb_upload_arrives_byte_for_byte(simulator: Simulator) -> None:
    body = bytes(range(256)) * (5 * 4096)
    async with serving(simulator.url) as proxy:
        status, text = await fetch("POST", f"{proxy.url}/_echo", data=io.BytesIO(body))
        assert status == 200
        assert hashlib.sha256(body).hexdigest() in text


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_ready_in_time_and_small(upstream: RawUpstream) -> None:
    async with serving(upstream.url) as proxy:
        await is_ready(proxy)
        # 0.7 s on an idle machine; its own CPU time is what does not depend on what else runs.
        assert cpu_seconds(proxy.process.pid) < 1.5
        assert proxy.memory() < 60


async def test_an_address_in_use_is_one_line_and_exit_code_1(upstream: RawUpstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        proxy = await ProxyProcess.start(
            "serve",
            CARDCASH_APP_ID="x",
            CARDCASH_UPSTREAM__ORIGIN=upstream.url,
            CARDCASH_LISTEN=f"127.0.0.1:{port}",
            CARDCASH_ADMIN__LISTEN="127.0.0.1:0",
        )
        assert await proxy.ended() == 1
        assert proxy.err.decode().count("\n") == 1
        assert f"listen: cannot listen on 127.0.0.1:{port}" in proxy.err.decode()
        assert "Traceback" not in proxy.text


async def test_a_changed_secret_file_is_used_within_5_seconds(upstream: RawUpstream, tmp_path: Path) -> None:
    file = tmp_path / "app-id"
    file.write_text("first-id\n")
    proxy = await ProxyProcess.start(
        "serve",
        CARDCASH_APP_ID_FILE=str(file),
        CARDCASH_UPSTREAM__ORIGIN=upstream.url,
        CARDCASH_LISTEN="127.0.0.1:0",
        CARDCASH_ADMIN__LISTEN="127.0.0.1:0",
    )
    try:
        await proxy.ready()
        assert (await fetch("GET", f"{proxy.url}/a"))[0] == 200
        assert upstream.requests[-1].values("x-cc-app") == [b"first-id"]
        swapped = tmp_path / "new"
        swapped.write_text("second-id\n")
        swapped.rename(file)
        await until(lambda: any(s.values("x-cc-app") == [b"second-id"] for s in upstream.sessions), seconds=5)
        assert (await fetch("GET", f"{proxy.url}/a"))[0] == 200
        assert upstream.requests[-1].values("x-cc-app") == [b"second-id"]
        assert "second-id" not in proxy.text
    finally:
        await proxy.close()


async def test_keep_alive_callers_reuse_connections_upstream(upstream: RawUpstream) -> None:
    upstream.default = OK
    async with serving(upstream.url) as proxy:
        caller = await proxy.caller()
        for _ in range(50):
            assert (await caller.ask(ask(proxy, "GET /a"))).status == 200
        assert list(upstream.per_connection.values()) == [50]
        await caller.close()
