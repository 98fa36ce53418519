"""`--workers N`: how workers start, die, are started again, and end."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from proxy.simulator import Simulator
from tests.cardcash import CardCash, Received, Reply
from tests.server.harness import Caller, until
from tests.whole.processes import INT, TERM, ProxyProcess, fetch, is_ready, run, serving
from tests.whole.test_workers import a_caller_at_each, call, comes_to, counted, pids, status, workers

ASK = b"GET /merchants/sell HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory of the proxy's own, with a name that is short enough for sockets."""
    place = Path(tempfile.mkdtemp())
    monkeypatch.setitem(os.environ, "TMPDIR", str(place))
    yield place
    shutil.rmtree(place, ignore_errors=True)


def is_gone(pid: int) -> bool:
    """Say whether a process has ended; one that nobody has waited for counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def is_free(address: str) -> bool:
    """Say whether the address can be listened on."""
    host, _, port = address.rpartition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, int(port)))
            sock.listen()
        except OSError as error:
            assert error.errno == errno.EADDRINUSE
            return False
        return True


async def killed(proxy: ProxyProcess, worker: int) -> int:
    """Kill a worker, and wait until it is known to be dead; returns its pid."""
    pid = (await pids(proxy))[worker]
    deaths = len(proxy.events("worker_died"))
    os.kill(pid, signal.SIGKILL)
    await proxy.says(lambda out: out.count(b'"worker_died"') > deaths and out.endswith(b"\n"))
    return pid


async def answered(proxy: ProxyProcess) -> int:
    """Ask on a new connection; 0 when that was reset."""
    try:
        return (await call(proxy, "GET", "/quick"))[0]
    except aiohttp.ClientError:
        return 0


class Stuck:
    """Lets CardCash answer `/slow` when it is told to."""

    def __init__(self, cardcash: CardCash) -> None:
        self.go = asyncio.Event()
        self.cardcash = cardcash
        cardcash.default = self._script

    async def _script(self, got: Received) -> Reply:
        if "/slow" in got.line:
            await self.go.wait()
        return Reply(200, b"done")

    async def asked(self, callers: list[Caller]) -> None:
        """Let all of them wait for an answer."""
        for caller in callers:
            await caller.send(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: sum("/slow" in got.line for got in self.cardcash.requests) == len(callers))


# Start


async def test_the_start_is_told_once_with_the_addresses_of_all(simulator: Simulator) -> None:
    async with workers(simulator.url, WORKERS="3", LOG__LEVEL="debug") as proxy:
        (started,) = proxy.events("started")
        assert (started["workers"], len(started["listen"]), len(started["admin"])) == (3, 1, 1)
        assert sorted(event["worker"] for event in proxy.events("worker_started")) == [1, 2, 3]
        assert proxy.err == b""


async def test_an_address_in_use_is_one_line_and_exit_code_1(simulator: Simulator) -> None:
    async with workers(simulator.url) as first:
        # By a proxy that shares its port among its own workers, and with nobody else.
        second = await run(
            *("serve", "--workers", "2"),
            CARDCASH_APP_ID="x",
            CARDCASH_UPSTREAM__ORIGIN=simulator.url,
            CARDCASH_LISTEN=first.host,
            CARDCASH_ADMIN__LISTEN="127.0.0.1:0",
        )
        assert await second.ended() == 1
        (line,) = second.err.decode().splitlines()
        assert line.startswith(f"cardcash-proxy: listen: cannot listen on {first.host}: something else listens there")
        assert second.out == b""
        assert (await call(first, "GET", "/merchants/sell"))[0] == 200


@pytest.mark.parametrize(
    ("setting", "value", "code", "said"),
    [
        ("CARDCASH_WORKERS", "0", 2, "cardcash-proxy: workers (environment variable CARDCASH_WORKERS): "),
        ("CARDCASH_WORKERS", "many", 2, "cardcash-proxy: workers (environment variable CARDCASH_WORKERS): "),
        ("CARDCASH_SESSION__STORE", "file:///nowhere/session", 2, "cardcash-proxy: session.store: the folder /nowhere"),
        ("HTTPS_PROXY", "socks://127.0.0.1:1", 2, "cardcash-proxy: HTTPS_PROXY (environment) must look like "),
    ],
)
async def test_what_cannot_start_is_one_line(place: Path, setting: str, value: str, code: int, said: str) -> None:
    environ = {
        "CARDCASH_APP_ID": "x",
        "CARDCASH_WORKERS": "2",
        "CARDCASH_UPSTREAM__TRUST_ENV": "true",
        "CARDCASH_LISTEN": "127.0.0.1:0",
        "CARDCASH_ADMIN__LISTEN": "127.0.0.1:0",
    }
    proxy = await run("serve", **{**environ, setting: value})
    assert await proxy.ended() == code, proxy.text
    (line,) = proxy.err.decode().splitlines()
    assert line.startswith(said)
    assert list(place.iterdir()) == []


# Death of a worker


async def test_a_killed_worker_is_started_again_and_others_serve_meanwhile(simulator: Simulator) -> None:
    async with workers(simulator.url) as proxy:
        async with a_caller_at_each(proxy) as callers:
            before = await killed(proxy, 2)
            assert (await callers[1].ask(ASK)).status == 200
        (death,) = proxy.events("worker_died")
        assert (death["worker"], death["pid"], death["signal"], death["restart_in"]) == (2, before, "SIGKILL", 0)
        # Whoever stands in the queue of the dead worker is served by the next one.
        answers = await asyncio.gather(*(call(proxy, "GET", "/merchants/sell") for _ in range(20)))
        assert {got for got, _, _ in answers} == {200}
        await is_ready(proxy)
        after = (await status(proxy))["workers"][1]
        assert after["pid"] != before and after["restarts"] == 1
        assert simulator.calls["POST /v3/session"] == 1


async def test_no_counter_goes_backwards_over_a_restart(simulator: Simulator) -> None:
    async with workers(simulator.url) as proxy:
        await asyncio.gather(*(call(proxy, "GET", "/carts") for _ in range(30)))
        await comes_to(proxy, 30, "requests_total")
        await killed(proxy, 1)
        assert await counted(proxy, "requests_total") == 30
        await is_ready(proxy)
        await asyncio.gather(*(call(proxy, "GET", "/carts") for _ in range(10)))
        await comes_to(proxy, 40, "requests_total")


async def test_no_counter_goes_backwards_whichever_worker_is_asked(simulator: Simulator) -> None:
    async with workers(simulator.url, WORKERS="3") as proxy:
        calls = asyncio.gather(*(call(proxy, "GET", "/carts") for _ in range(60)))
        seen = [await counted(proxy, "requests_total") for _ in range(40)]
        await calls
        assert seen == sorted(seen)


async def test_the_start_time_is_that_of_the_proxy_whatever_becomes_of_its_workers(simulator: Simulator) -> None:
    async with workers(simulator.url) as proxy:
        before = await counted(proxy, "process_start_time_seconds")
        for worker in (1, 2):
            await killed(proxy, worker)
            assert await counted(proxy, "process_start_time_seconds") == before
            await is_ready(proxy)
        assert await counted(proxy, "process_start_time_seconds") == before


async def test_a_worker_that_ends_in_order_takes_no_count_with_it(simulator: Simulator) -> None:
    async with workers(simulator.url) as proxy:
        async with a_caller_at_each(proxy):
            pass
        asked = len(proxy.events("request"))
        renewals = (await status(proxy))["session"]["renewals"]
        await asyncio.gather(*(call(proxy, "GET", "/carts") for _ in range(30)))
        # Nobody has asked for the counts since.
        for pid in (await pids(proxy)).values():
            os.kill(pid, TERM)
        await proxy.says(lambda out: out.count(b'"worker_started"') == 4 and out.endswith(b"\n"))
        await comes_to(proxy, asked + 30, "requests_total")
        # The session was made by a process that is gone, and taken from the store by those that are there.
        assert (await status(proxy))["session"]["renewals"] == renewals >= 1


async def test_while_a_worker_keeps_dying_callers_go_to_the_others(simulator: Simulator) -> None:
    async with workers(simulator.url) as proxy:
        for starts in (3, 4, 5):
            dead = await killed(proxy, 1)
            await proxy.says(lambda out, n=starts: out.count(b'"worker_started"') == n)  # type: ignore[misc]
            async with asyncio.timeout(30):
                while (await pids(proxy)).get(1) in (None, dead):
                    await asyncio.sleep(0.05)
        await killed(proxy, 1)
        # From now on it is down for 4 s.
        assert [event["restart_in"] for event in proxy.events("worker_died")] == [0, 1, 2, 4]
        (code, _), down = await asyncio.gather(
            fetch("GET", f"http://{proxy.admin}/healthz"), counted(proxy, "workers", state="down")
        )
        assert (code, down) == (200, 1)
        answers = [await call(proxy, "GET", "/merchants/sell") for _ in range(20)]
        assert {got for got, _, _ in answers} == {200}
        await proxy.says(lambda out: out.count(b'"worker_started"') == 6 and out.endswith(b"\n"))
        events = [(line["event"], line.get("worker")) for line in proxy.lines]
        death = max(n for n, (event, _) in enumerate(events) if event == "worker_died")
        start = max(n for n, (event, _) in enumerate(events) if event == "worker_started")
        meanwhile = {worker for event, worker in events[death:start] if event == "request"}
        assert meanwhile == {2}
        async with a_caller_at_each(proxy):
            pass


async def test_a_worker_told_to_end_finishes_what_it_does_and_is_started_again(cardcash: CardCash) -> None:
    stuck = Stuck(cardcash)
    async with workers(cardcash.url) as proxy:
        async with a_caller_at_each(proxy) as callers:
            await stuck.asked([callers[1]])
            pid = (await pids(proxy))[1]
            os.kill(pid, TERM)
            os.kill(pid, TERM)  # twice is once
            # New callers need not wait for its end; but one may be connected just when it closes its socket.
            async with asyncio.timeout(30):
                while {await answered(proxy) for _ in range(10)} != {200}:
                    pass
            assert proxy.events("worker_died") == []
            stuck.go.set()
            assert (await callers[1].answer()).body == b"done"
        await proxy.says(lambda out: out.count(b'"worker_started"') == 3)
        assert [(event["worker"], event["status"]) for event in proxy.events("worker_died")] == [(1, 0)]


async def test_callers_that_come_while_a_worker_ends_are_all_answered(simulator: Simulator) -> None:
    async with workers(simulator.url) as proxy:
        statuses: set[int] = set()
        ends = asyncio.Event()

        async def come_and_go() -> None:
            while not ends.is_set():
                caller = await proxy.caller()
                statuses.add((await caller.ask(ASK)).status)
                await caller.close()

        coming = [asyncio.create_task(come_and_go()) for _ in range(4)]
        for started in (3, 4, 5):
            os.kill((await pids(proxy))[1], TERM)
            await proxy.says(lambda out, started=started: out.count(b'"worker_started"') == started)  # type: ignore[misc]
            await is_ready(proxy)
        ends.set()
        await asyncio.gather(*coming)
        assert statuses <= {200, 503} and 200 in statuses


# The end of all


@pytest.mark.parametrize("number", [TERM, INT])
async def test_a_signal_drains_all_workers_and_exits_0(cardcash: CardCash, place: Path, number: int) -> None:
    stuck = Stuck(cardcash)
    async with workers(cardcash.url) as proxy, a_caller_at_each(proxy) as by_worker:
        callers = list(by_worker.values())
        await stuck.asked(callers)
        processes = await pids(proxy)
        proxy.signal(number)
        await proxy.says(lambda out: b'"draining"' in out)
        async with asyncio.timeout(30):
            while True:
                try:
                    await (await proxy.caller()).close()
                except ConnectionError:
                    break
        assert (await fetch("GET", f"http://{proxy.admin}/readyz"))[0] == 503
        assert (await fetch("GET", f"http://{proxy.admin}/healthz"))[0] == 200
        stuck.go.set()
        for caller in callers:
            got = await caller.answer()
            assert (got.status, got.body, got.value("connection")) == (200, b"done", b"close")
        assert await proxy.ended() == 0
        assert all(map(is_gone, processes.values()))
        assert [event["event"] for event in proxy.lines if event["event"] != "request"][-2:] == ["draining", "stopped"]
        assert proxy.err == b""
        assert list(place.iterdir()) == []


@pytest.mark.parametrize("number", ["1", "2"])
async def test_who_connects_just_before_the_stop_is_answered_and_never_reset(simulator: Simulator, number: str) -> None:
    # However slow the upstream of all of them is, which is in this process.
    async with workers(simulator.url, WORKERS=number, UPSTREAM__CONNECT_TIMEOUT="60") as proxy:
        host, _, port = proxy.host.rpartition(":")
        connected = [socket.create_connection((host, int(port))) for _ in range(200)]
        proxy.signal(TERM)
        for sock in connected:
            sock.sendall(ASK)
        later = await asyncio.gather(*(proxy.caller() for _ in range(100)), return_exceptions=True)
        answers = [await asyncio.to_thread(sock.recv, 64) for sock in connected]
        assert {got[:12] for got in answers} == {b"HTTP/1.1 200"}
        for caller in later:
            if isinstance(caller, Caller):
                await caller.close()
            else:
                assert isinstance(caller, ConnectionRefusedError)
        for sock in connected:
            sock.close()
        assert await proxy.ended() == 0


async def test_callers_of_a_worker_that_is_stopped_are_served_by_the_others(simulator: Simulator) -> None:
    async with workers(simulator.url) as proxy:
        stopped = (await pids(proxy))[2]
        os.kill(stopped, signal.SIGSTOP)
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*(call(proxy, "GET", "/merchants/sell") for _ in range(30)))
        assert [status for status, _, _ in answers] == [200] * 30
        os.kill(stopped, signal.SIGCONT)


async def test_in_the_drain_delay_all_workers_go_on_serving(simulator: Simulator) -> None:
    async with workers(simulator.url, DRAIN__DELAY="60") as proxy:
        proxy.signal(TERM)
        # Whoever answers knows of the others' drains within a second, and long before they have ended.
        async with asyncio.timeout(20):
            while (await fetch("GET", f"http://{proxy.admin}/readyz"))[0] != 503:
                await asyncio.sleep(0.01)
        async with a_caller_at_each(proxy):
            pass
        proxy.signal(TERM)
        assert await proxy.ended() == 128 + TERM


async def test_what_is_in_flight_after_the_drain_time_is_cut_off(cardcash: CardCash) -> None:
    stuck = Stuck(cardcash)
    async with workers(cardcash.url, DRAIN__TIMEOUT="0.3") as proxy, a_caller_at_each(proxy) as callers:
        await stuck.asked(list(callers.values()))
        proxy.signal(TERM)
        assert [(await caller.answer()).status for caller in callers.values()] == [502, 502]
        assert await proxy.ended() == 0
        assert sorted(event["worker"] for event in proxy.events("drain_timeout")) == [1, 2]


async def test_a_second_signal_exits_at_once_and_leaves_nothing(cardcash: CardCash, place: Path) -> None:
    stuck = Stuck(cardcash)
    async with workers(cardcash.url) as proxy, a_caller_at_each(proxy) as by_worker:
        callers = list(by_worker.values())
        await stuck.asked(callers)
        processes = await pids(proxy)
        proxy.signal(TERM)
        await proxy.says(lambda out: b'"draining"' in out)
        proxy.signal(TERM)
        assert await proxy.ended(seconds=20) == 128 + TERM  # the drain would take 100 s
        await until(lambda: all(map(is_gone, processes.values())))
        assert list(place.iterdir()) == []
        for caller in callers:
            await caller.ended()


async def test_workers_whose_supervisor_is_killed_finish_and_leave_nothing(cardcash: CardCash, place: Path) -> None:
    stuck = Stuck(cardcash)
    async with workers(cardcash.url) as proxy, a_caller_at_each(proxy) as by_worker:
        callers = list(by_worker.values())
        await stuck.asked(callers)
        processes = await pids(proxy)
        proxy.signal(signal.SIGKILL)
        await until(lambda: is_free(proxy.host))
        stuck.go.set()
        for caller in callers:
            assert (await caller.answer()).body == b"done"
        await until(lambda: all(map(is_gone, processes.values())))
        assert list(place.iterdir()) == []


async def test_a_worker_that_does_not_end_is_killed(simulator: Simulator, place: Path) -> None:
    async with serving(simulator.url, WORKERS="2", DRAIN__TIMEOUT="0") as proxy:
        await is_ready(proxy)
        os.kill((await pids(proxy))[2], signal.SIGSTOP)
        proxy.signal(TERM)
        assert await proxy.ended() == 0
        assert [event["worker"] for event in proxy.events("worker_killed")] == [2]
        assert list(place.iterdir()) == []


async def test_a_stop_during_the_start_is_a_stop(cardcash: CardCash, place: Path) -> None:
    proxy = await ProxyProcess.start(
        "serve",
        CARDCASH_APP_ID="x",
        CARDCASH_WORKERS="2",
        CARDCASH_UPSTREAM__ORIGIN=cardcash.url,
        CARDCASH_LISTEN="127.0.0.1:0",
        CARDCASH_ADMIN__LISTEN="127.0.0.1:0",
    )
    try:
        await until(lambda: any(place.iterdir()))
        proxy.signal(TERM)
        assert await proxy.ended() == 0
        assert proxy.err == b""
        assert list(place.iterdir()) == []
    finally:
        await proxy.close()
