"""`session status` and `session renew`: what an operator types beside a running proxy, over TCP and over a unix socket."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.simulator import Simulator
from tests.server.harness import until
from tests.whole.processes import Process, ProxyProcess, fetch, run

SESSION, LOGIN = "POST /v3/session", "POST /v3/customers/login"
EMAIL, PASSWORD, APP_ID = "partner@example.com", "demo-password", "demo-app-id"


@pytest.fixture(params=["tcp", "unix"])
def admin(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the admin port is to listen."""
    if request.param == "tcp":
        yield "127.0.0.1:0"
        return
    # Not pytest's folder: the path of a socket is at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="cc-") as folder:
        yield f"unix:{folder}/admin.sock"


@asynccontextmanager
async def logged_in(
    simulator: Simulator, admin: str = "127.0.0.1:0", *, password: str = PASSWORD
) -> AsyncIterator[ProxyProcess]:
    process = await ProxyProcess.start(
        "serve",
        CARDCASH_APP_ID=APP_ID,
        CARDCASH_UPSTREAM__ORIGIN=simulator.url,
        CARDCASH_LOGIN__EMAIL=EMAIL,
        CARDCASH_LOGIN__PASSWORD=password,
        CARDCASH_LISTEN="127.0.0.1:0",
        CARDCASH_ADMIN__LISTEN=admin,
    )
    try:
        await process.ready()
        yield process
    finally:
        await process.close()


async def first_session(proxy: ProxyProcess) -> None:
    await proxy.says(lambda out: b'"session_renewal"' in out)


async def session(action: str, proxy: ProxyProcess, *flags: str) -> Process:
    return await run("session", action, "--admin.listen", proxy.admin, *flags)


async def told(proxy: ProxyProcess) -> dict[str, Any]:
    done = await session("status", proxy, "--json")
    assert await done.ended() == 0, done.text
    found: dict[str, Any] = json.loads(done.out)
    return found


def is_one_line(done: Process) -> bool:
    """A sentence on stderr, nothing on stdout."""
    return done.out == b"" and len(done.err.splitlines()) == 1 and done.err.startswith(b"cardcash-proxy")


async def test_status_tells_of_the_session_and_exits_0(simulator: Simulator, admin: str) -> None:
    async with logged_in(simulator, admin) as proxy:
        await first_session(proxy)
        done = await session("status", proxy)
        assert await done.ended() == 0, done.text
        shown = dict(line.split("  ", 1) for line in done.out.decode().splitlines())
        shown = {name.strip(): value.strip() for name, value in shown.items()}
        assert (shown["state"], shown["source"], shown["identity"]) == ("fresh", "login", "p…@example.com")
        assert (shown["latched"], shown["renewing"]) == ("-", "no")
        assert done.err == b""


async def test_status_says_how_things_stand_what_to_do_and_what_failed_last(simulator: Simulator) -> None:
    async with logged_in(simulator) as proxy:
        await first_session(proxy)
        simulator.fault("fail", path="/v3/session", status=503, times=-1)
        assert await (await session("renew", proxy)).ended() == 1
        done = await session("status", proxy)
        assert await done.ended() == 0, done.text
        shown = {line.split("  ")[0]: line for line in done.out.decode().splitlines()}
        assert "could not be renewed" in shown["summary"]
        assert "doctor --no-login" in shown["to do"]
        assert re.search(r"20\d\d-\d\d-\d\d.* renewal \(operator\): .*503", shown["last failure"])


async def test_status_as_json_is_the_session_of_the_status_page(simulator: Simulator) -> None:
    async with logged_in(simulator) as proxy:
        await first_session(proxy)
        page = json.loads((await fetch("GET", f"http://{proxy.admin}/status"))[1])["session"]
        clocks = {"expires_in_seconds", "renews_in_seconds"}
        steady = {name: value for name, value in page.items() if name not in clocks}
        shown = await told(proxy)
        assert clocks <= set(shown)
        assert {name: value for name, value in shown.items() if name not in clocks} == steady


@pytest.mark.parametrize("command", [("status",), ("status", "--json"), ("renew",), ("renew", "--json")], ids=" ".join)
async def test_nothing_secret_is_shown(simulator: Simulator, command: tuple[str, ...]) -> None:
    async with logged_in(simulator) as proxy:
        await first_session(proxy)
        action, *flags = command
        done = await session(action, proxy, *flags)
        assert b"example.com" in done.out, done.text
        # Every JWT begins so: the base64 of '{"'.
        assert [secret for secret in ("eyJ", APP_ID, EMAIL, PASSWORD) if secret in done.text] == []


async def test_renew_makes_a_session_and_logs_it_in(simulator: Simulator, admin: str) -> None:
    async with logged_in(simulator, admin) as proxy:
        await first_session(proxy)
        assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (1, 1)
        done = await session("renew", proxy)
        assert await done.ended() == 0, done.text
        assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (2, 2)


async def test_after_renew_requests_go_with_the_new_session(simulator: Simulator) -> None:
    async with logged_in(simulator) as proxy:
        await first_session(proxy)
        simulator.revoke_all()
        await session("renew", proxy)
        assert (await fetch("GET", f"{proxy.url}/carts"))[0] == 200
        assert simulator.counters["rejected"] == {}


async def test_renew_prints_the_session_it_made(simulator: Simulator) -> None:
    async with logged_in(simulator) as proxy:
        await first_session(proxy)
        done = await session("renew", proxy, "--json")
        assert json.loads(done.out)["renewals"] == 2


async def test_a_refused_login_is_told_and_renew_opens_its_latch(simulator: Simulator, admin: str) -> None:
    async with logged_in(simulator, admin, password="another") as proxy:
        await first_session(proxy)
        before = await told(proxy)
        assert (before["latched"], before["identity"]) == ("login", None)
        assert "session renew" in before["advice"]
        simulator.configure(accounts={EMAIL: "another"})
        simulator.revoke_all()
        assert (await fetch("GET", f"{proxy.url}/merchants/buy"))[0] == 200
        assert simulator.calls[LOGIN] == 1  # put right at CardCash, and still not tried by itself
        done = await session("renew", proxy)
        assert await done.ended() == 0, done.text
        after = await told(proxy)
        assert (after["latched"], after["identity"], simulator.calls[LOGIN]) == (None, "p…@example.com", 2)


async def test_a_renewal_that_fails_is_one_line_and_exit_code_1(simulator: Simulator, admin: str) -> None:
    async with logged_in(simulator, admin) as proxy:
        await first_session(proxy)
        simulator.configure(app_ids=("theirs",))
        done = await session("renew", proxy)
        assert await done.ended() == 1
        assert is_one_line(done), done.text


async def test_the_address_may_stand_in_the_file_of_the_proxy(simulator: Simulator, tmp_path: Path) -> None:
    async with logged_in(simulator) as proxy:
        await first_session(proxy)
        config = tmp_path / "proxy.yaml"
        config.write_text(f"app_id_file: /nowhere/that-is-readable\nadmin:\n  listen: {proxy.admin}\n")
        done = await run("session", "status", "--config", str(config))
        assert await done.ended() == 0, done.text


async def test_status_can_be_watched_until_ctrl_c(simulator: Simulator) -> None:
    async with logged_in(simulator) as proxy:
        await first_session(proxy)
        watch = await Process.start("session", "status", "--watch", "0.1", "--admin.listen", proxy.admin)
        try:
            await watch.says(lambda out: out.count(b"All is well") >= 2)
            await session("renew", proxy)
            await watch.says(lambda out: re.search(rb"renewals +2", out) is not None)
            watch.signal(signal.SIGINT)
            assert await watch.ended() == 0
            assert watch.err == b""
        finally:
            await watch.close()


async def test_watched_as_json_it_is_one_line_for_each_look(simulator: Simulator) -> None:
    async with logged_in(simulator) as proxy:
        await first_session(proxy)
        watch = await Process.start("session", "status", "--watch", "0.1", "--json", "--admin.listen", proxy.admin)
        try:
            await watch.says(lambda out: out.count(b"\n") >= 2)
            assert {json.loads(line)["state"] for line in bytes(watch.out).splitlines()[:2]} == {"fresh"}
        finally:
            await watch.close()


async def test_who_watches_sees_the_proxy_go_and_come_back(simulator: Simulator) -> None:
    async with logged_in(simulator) as proxy:
        await first_session(proxy)
        admin = proxy.admin
        watch = await Process.start("session", "status", "--watch", "0.1", "--admin.listen", admin)
        try:
            await watch.says(lambda out: b"All is well" in out)
            await proxy.close()
            async with asyncio.timeout(10):
                while b"no proxy answers" not in watch.err:
                    await asyncio.sleep(0.01)
            before = len(watch.out)
            async with logged_in(simulator, admin):
                await watch.says(lambda out: b"All is well" in out[before:])
        finally:
            await watch.close()


@pytest.mark.parametrize("action", ["status", "renew"])
@pytest.mark.parametrize("where", ["127.0.0.1", "unix"])
async def test_where_nothing_listens_is_one_line_and_exit_code_1(action: str, where: str, tmp_path: Path) -> None:
    address = f"unix:{tmp_path.parent}/no.sock"
    if where != "unix":
        server = await asyncio.start_server(lambda _, writer: writer.close(), where, 0)
        address = "{}:{}".format(*server.sockets[0].getsockname())
        server.close()
        await server.wait_closed()
    done = await run("session", action, "--admin.listen", address)
    assert await done.ended() == 1
    assert is_one_line(done), done.text
    assert address in done.err.decode()


async def test_the_port_of_callers_is_no_admin_port(simulator: Simulator) -> None:
    async with logged_in(simulator) as proxy:
        await first_session(proxy)
        await simulator.stop()
        for action in ("status", "renew"):
            done = await run("session", action, "--admin.listen", proxy.url.removeprefix("http://"))
            assert await done.ended() == 1
            assert is_one_line(done), done.text
            assert b"is no admin port of cardcash-proxy: it answered 502" in done.err


SOMETHING_ELSE = [
    b"",
    b"220 mail.example.com ESMTP\r\n",
    b"HTTP/1.1 404 Not Found\r\n\r\n<html>",
    b"HTTP/1.1 200 OK\r\nServer: else/1\r\nContent-Length: 2\r\n\r\n{}",
]


@pytest.mark.parametrize("answer", SOMETHING_ELSE)
async def test_something_else_at_the_address_is_one_line_and_exit_code_1(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        done = await run("session", "status", "--admin.listen", "{}:{}".format(*server.sockets[0].getsockname()))
        assert await done.ended() == 1
        assert is_one_line(done), done.text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["status", "--nonsense"],
        ["status", "positional"],
        ["status", "--config"],
        ["status", "--config", "/nowhere.yaml"],
        ["renew", "--admin.listen", "nowhere"],
        ["status", "--admin.listen", "fd:admin"],
        ["renew", "--app-id", "secret-zebra"],
        ["renew", "--watch"],
        ["status", "--watch", "often"],
    ],
)
async def test_bad_usage_is_one_line_and_exit_code_2(arguments: list[str]) -> None:
    done = await run("session", *arguments)
    assert await done.ended() == 2
    assert is_one_line(done), done.text
    assert "zebra" not in done.text


@pytest.mark.parametrize("arguments", [["session"], ["session", "status"], ["session", "renew"]])
async def test_help_is_there(arguments: list[str]) -> None:
    done = await run(*arguments, "--help")
    assert await done.ended() == 0
    assert done.out.startswith(b"usage: ")


async def test_a_renewal_by_an_operator_drops_no_request(simulator: Simulator) -> None:
    async with logged_in(simulator) as proxy:
        await first_session(proxy)
        simulator.fault("delay", path="/v3/session", seconds=1.0, times=1)
        renewing = asyncio.create_task(session("renew", proxy))
        await until(lambda: simulator.calls[SESSION] == 2)
        assert (await fetch("GET", f"{proxy.url}/carts"))[0] == 200
        assert not renewing.done()
        assert await (await renewing).ended() == 0


async def test_a_renewal_is_asked_of_a_proxy_that_listens_at_all_addresses(simulator: Simulator) -> None:
    async with logged_in(simulator, "0.0.0.0:0") as proxy:
        await first_session(proxy)
        done = await session("renew", proxy)
        assert await done.ended() == 0, done.text
