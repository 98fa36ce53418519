"""Under a service manager such as systemd: it holds the sockets, and is told of start, reload, stop and life."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.simulator import Simulator
from tests.server.harness import Caller, Peer, RawUpstream, answer, until
from tests.whole.manager import AdminAnswers, Manager, manager
from tests.whole.processes import HUP, TERM, Process, ProxyProcess, fetch, is_ready, run
from tests.whole.test_workers import pids

WAYS = pytest.mark.parametrize("workers", ["1", "2"])


@asynccontextmanager
async def load(held: Manager) -> AsyncIterator[Counter[str]]:
    """Callers at all sockets without a pause, each with a connection of its own for each request; counts the answers."""
    got: Counter[str] = Counter()
    going = True

    async def caller(where: str, path: bytes) -> None:
        while going:
            try:
                if where == "unix":
                    reader, writer = await asyncio.open_unix_connection(held.path)
                else:
                    sock = held.http if where == "tcp" else held.admin
                    reader, writer = await asyncio.open_connection(*sock.getsockname())
                writer.write(b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path)
                said = (await reader.read(-1))[:12].decode()
                writer.close()
            except OSError as error:
                said = type(error).__name__
            got[f"{where} {said}"] += 1
            await asyncio.sleep(0.01)

    asks = [("tcp", b"/merchants/sell")] * 8 + [("unix", b"/merchants/sell")] * 2 + [("admin", b"/healthz")] * 2
    tasks = [asyncio.create_task(caller(*ask)) for ask in asks]
    yield got
    going = False
    await asyncio.gather(*tasks)


# Sockets that are handed over


@WAYS
async def test_a_restart_under_load_refuses_nobody_at_any_socket(
    simulator: Simulator, tmp_path: Path, workers: str
) -> None:
    async with manager(tmp_path, simulator.url, WORKERS=workers) as held:
        first = await held.start()
        async with load(held) as got:
            await until(lambda: got.total() > 100)
            # As `systemctl restart` does it: one after the other.
            first.signal(TERM)
            assert await first.ended() == 0
            second = await held.start()
            before = got.total()
            await until(lambda: got.total() > before + 50)
            # And with an overlap, as a careful rollout would.
            third = await held.start()
            second.signal(TERM)
            assert await second.ended() == 0
            before = got.total()
            await until(lambda: got.total() > before + 50)
        assert set(got) == {f"{where} HTTP/1.1 200" for where in ("tcp", "unix", "admin")}, (got, third.text[-3000:])
        third.signal(TERM)
        assert await third.ended() == 0
        # Nobody has closed, stopped or removed them.
        assert all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in held.sockets)
        assert stat.S_ISSOCK(held.path.lstat().st_mode)


async def test_who_connects_while_nothing_runs_is_served_by_the_next(simulator: Simulator, tmp_path: Path) -> None:
    async with manager(tmp_path, simulator.url) as held:
        early = Caller(*await asyncio.open_connection(*held.http.getsockname()))
        await early.send(b"GET /merchants/sell HTTP/1.1\r\nHost: localhost\r\n\r\n")
        proxy = await held.start()
        assert (await early.answer()).status == 200
        await early.close()
        (started,) = proxy.events("started")
        assert started["listen"] == [proxy.host, f"unix:{held.path}"]
        assert started["admin"] == [proxy.admin]


async def test_what_is_in_flight_is_finished_while_new_callers_wait_for_the_next(tmp_path: Path) -> None:
    upstream = RawUpstream()
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        if b"/slow" in peer.head:
            await go.wait()
        await peer.send(answer(200, b"done"))

    upstream.default = script
    await upstream.start()
    async with manager(tmp_path, upstream.url) as held:
        first = await held.start()
        await is_ready(first)
        slow, late = await first.caller(), None
        await slow.send(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: any(b"/slow" in got.head for got in upstream.requests))
        first.signal(TERM)
        await first.says(lambda out: b'"draining"' in out)
        await held.told.comes("STOPPING")
        late = await first.caller()
        await late.send(b"GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n")
        go.set()
        assert (await slow.answer()).body == b"done"
        assert await first.ended() == 0
        assert not any(b"/late" in got.head for got in upstream.requests)
        await held.start()
        assert (await late.answer()).body == b"done"
        await slow.close()
        await late.close()
    await upstream.stop()


async def test_every_fault_of_what_was_handed_over_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = await run(
        "serve",
        CARDCASH_APP_ID="x",
        CARDCASH_LISTEN="fd:http",
        CARDCASH_ADMIN__LISTEN="fd:admin",
        LISTEN_PID="1",
        LISTEN_FDS="2",
        LISTEN_FDNAMES="http:admin",
    )
    assert await done.ended() == 2
    first, second = done.err.decode().splitlines()
    assert first.startswith(
        "cardcash-proxy: listen: fd:http: the sockets were handed to process 1 (LISTEN_PID), and this"
    )
    assert second.startswith(
        "cardcash-proxy: admin.listen: fd:admin: the sockets were handed to process 1 (LISTEN_PID)"
    )
    assert done.out == b""


async def test_a_socket_that_no_setting_names_is_told_of(simulator: Simulator, tmp_path: Path) -> None:
    async with manager(tmp_path, simulator.url) as held:
        held.environ["LISTEN_FDNAMES"] = "http:spare:admin"
        proxy = await held.start()
        (warning,) = proxy.events("sockets_unused")
        assert (warning["level"], warning["names"]) == ("warning", ["spare"])


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd is not installed")
async def test_systemds_own_tool_hands_its_socket_over(simulator: Simulator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = "{}:{}".format(*free.getsockname())
    listen = ("--listen", address, "--fdname", "http", "-E", "CARDCASH_APP_ID", "-E", "CARDCASH_UPSTREAM__ORIGIN")
    proxy = await ProxyProcess.start(
        "serve",
        *("--listen", "fd:http", "--admin-listen", "127.0.0.1:0"),
        through=("systemd-socket-activate", *listen),
        CARDCASH_APP_ID="demo-app-id",
        CARDCASH_UPSTREAM__ORIGIN=simulator.url,
    )
    try:
        async with asyncio.timeout(10):
            while b"Listening on" not in proxy.err:
                await asyncio.sleep(0.01)
        assert (await fetch("GET", f"http://{address}/merchants/sell"))[0] == 200
        await proxy.ready()
        assert proxy.host == address
        proxy.signal(TERM)
        assert await proxy.ended() == 0
    finally:
        await proxy.close()


# What the manager is told


@WAYS
async def test_it_is_told_of_start_reload_and_stop_by_the_process_that_it_has_started(
    simulator: Simulator, tmp_path: Path, workers: str
) -> None:
    secret = tmp_path / "app-id"
    secret.write_text("demo-app-id")
    async with manager(tmp_path, simulator.url, WORKERS=workers) as held:
        held.environ["CARDCASH_APP_ID_FILE"] = str(secret)
        del held.environ["CARDCASH_APP_ID"]
        proxy = await held.start()
        (started,) = proxy.events("started")
        assert held.told.messages[0][1]["STATUS"] == f"Serving at {', '.join(started['listen'])}"
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        secret.write_text("another")
        proxy.signal(HUP)
        await held.told.comes("READY", 2)
        # A reload that is over has been done: by all workers. Their log is written by threads.
        await proxy.says(lambda _: len(proxy.events("secret_changed")) == int(workers), seconds=1.0)
        proxy.signal(TERM)
        assert await proxy.ended() == 0
        await held.told.comes("STOPPING")
        assert held.told.states == ["READY", "RELOADING", "READY", "STOPPING"]
        (reload,) = [message for _, message in held.told.messages if "RELOADING" in message]
        assert before <= int(reload["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        (stop,) = [message for _, message in held.told.messages if "STOPPING" in message]
        assert int(stop["EXTEND_TIMEOUT_USEC"]) >= 100_000_000  # drain.timeout
        assert "WATCHDOG" not in {name for _, message in held.told.messages for name in message}  # nobody waits for it


async def test_a_notify_socket_may_be_a_path(simulator: Simulator, tmp_path: Path) -> None:
    async with manager(tmp_path, simulator.url) as held:
        held.told.close()
        held.told = AdminAnswers(str(tmp_path / "notify"))
        held.environ["NOTIFY_SOCKET"] = held.told.address
        await held.start()


async def test_a_notify_socket_that_nobody_reads_is_one_warning(simulator: Simulator) -> None:
    proxy = await ProxyProcess.start(
        "serve",
        CARDCASH_APP_ID="demo-app-id",
        CARDCASH_UPSTREAM__ORIGIN=simulator.url,
        CARDCASH_LISTEN="127.0.0.1:0",
        CARDCASH_ADMIN__LISTEN="127.0.0.1:0",
        NOTIFY_SOCKET="/nowhere/notify",
    )
    try:
        await proxy.ready()
        proxy.signal(TERM)
        assert await proxy.ended() == 0
        assert len(proxy.events("notify_failed")) == 1
    finally:
        await proxy.close()


async def test_a_proxy_that_hangs_does_not_say_that_it_is_alive(simulator: Simulator, tmp_path: Path) -> None:
    async with manager(tmp_path, simulator.url) as held:
        proxy = await held.start(WATCHDOG_USEC="400000")
        await held.told.comes("WATCHDOG", 8)
        proxy.signal(signal.SIGSTOP)
        await held.told.falls_silent("WATCHDOG", for_=0.4)
        proxy.signal(signal.SIGCONT)
        await held.told.comes("WATCHDOG", held.told.count("WATCHDOG") + 3)


async def test_several_workers_are_alive_while_one_of_them_is(simulator: Simulator, tmp_path: Path) -> None:
    async with manager(tmp_path, simulator.url, WORKERS="2") as held:
        proxy = await held.start(WATCHDOG_USEC="400000")
        one, other = (await pids(proxy)).values()
        try:
            os.kill(one, signal.SIGSTOP)
            # It is silent for longer than a worker may be, and the proxy is alive.
            await held.told.comes("WATCHDOG", held.told.count("WATCHDOG") + 30)
            os.kill(other, signal.SIGSTOP)
            await held.told.falls_silent("WATCHDOG", for_=0.6)
        finally:
            os.kill(one, signal.SIGCONT)
            os.kill(other, signal.SIGCONT)
        await held.told.comes("WATCHDOG", held.told.count("WATCHDOG") + 3)


async def test_a_watchdog_of_another_process_is_none_of_ours(simulator: Simulator, tmp_path: Path) -> None:
    async with manager(tmp_path, simulator.url) as held:
        proxy = await held.start(WATCHDOG_USEC="20000", WATCHDOG_PID="1")
        proxy.signal(TERM)
        assert await proxy.ended() == 0
        assert held.told.states == ["READY", "STOPPING"]
        assert held.told.count("WATCHDOG") == 0


# A stop that comes early

_EARLY = """
import os, signal, sys, time
import proxy.commands.serve as serve
def run(options):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
serve.run = run
from proxy.cli import main
sys.exit(main(["serve"]))
"""
_EARLY_WORKERS = """
import os, signal, sys
fork = os.fork
def early():
    os.kill(os.getpid(), signal.SIGTERM)
    os.fork = fork
    pid = fork()
    if not pid:  # this worker is not up before the supervisor has heard of the stop, and told it
        os.kill(os.getpid(), signal.sigwait({signal.SIGTERM}))
    return pid
os.fork = early
from proxy.cli import main
sys.exit(main(["serve"]))
"""


@pytest.mark.parametrize(("program", "workers"), [(_EARLY, "1"), (_EARLY_WORKERS, "2")])
async def test_a_stop_that_comes_during_the_start_leaves_a_line_and_is_a_success(program: str, workers: str) -> None:
    process = await ProxyProcess.run_program(
        program,
        CARDCASH_APP_ID="x",
        CARDCASH_WORKERS=workers,
        CARDCASH_UPSTREAM__ORIGIN="http://127.0.0.1:9",
        CARDCASH_LISTEN="127.0.0.1:0",
        CARDCASH_ADMIN__LISTEN="127.0.0.1:0",
    )
    try:
        assert await process.ended() == 0
        (line,) = process.events("stopped")
        assert (line["level"], line["what"]) == ("info", "told to stop before it had started")
        assert line["timestamp"].endswith("Z")
    finally:
        await process.close()


async def test_such_a_line_is_for_people_where_the_log_is() -> None:
    process = await Process.run_program(_EARLY, CARDCASH_LOG__FORMAT="console")
    try:
        assert await process.ended() == 0
        assert process.out.endswith(b"[info] stopped: told to stop before it had started\n")
    finally:
        await process.close()
