"""`session.store: redis://` with real processes and a real Redis: one session for a fleet, whatever becomes of Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.simulator import Simulator
from tests.server.harness import until
from tests.session.redis.servers import WHERE, Server, Tls, free_port
from tests.whole.processes import ProxyProcess, fetch, is_ready, run, serving

pytestmark = pytest.mark.skipif(WHERE is None, reason="redis-server is not installed")

SESSION, LOGIN = "POST /v3/session", "POST /v3/customers/login"
ACCOUNT = {"LOGIN__EMAIL": "partner@example.com", "LOGIN__PASSWORD": "demo-password"}

Start = Callable[..., Awaitable[ProxyProcess]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "redis").start()
    yield server
    server.kill()


@pytest.fixture
async def start(simulator: Simulator, server: Server) -> AsyncIterator[Start]:
    """Start replicas that share the Redis, logged in to the account."""
    async with contextlib.AsyncExitStack() as stack:

        async def one(**settings: str) -> ProxyProcess:
            return await stack.enter_async_context(
                serving(simulator.url, **{"SESSION__STORE": server.url, **ACCOUNT, **settings})
            )

        yield one


async def several(start: Start, how_many: int = 4) -> list[ProxyProcess]:
    proxies = await asyncio.gather(*(start() for _ in range(how_many)))
    await asyncio.gather(*(is_ready(proxy, seconds=20) for proxy in proxies))
    return list(proxies)


async def status(proxy: ProxyProcess) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((await fetch("GET", f"http://{proxy.admin}/status"))[1])
    return answer


async def metric(proxy: ProxyProcess, name: str) -> float:
    text = (await fetch("GET", f"http://{proxy.admin}/metrics"))[1]
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"cardcash_proxy_{name} "))


async def call_all(proxies: list[ProxyProcess], times: int = 50) -> set[int]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def call(proxy: ProxyProcess) -> int:
            async with client.get(f"{proxy.url}/carts") as answer:
                await answer.read()
                return answer.status

        return set(await asyncio.gather(*(call(proxy) for proxy in proxies for _ in range(times))))


async def test_a_cold_start_and_a_revoked_token_cost_one_session_and_one_login_each(
    simulator: Simulator, start: Start
) -> None:
    proxies = await several(start)
    assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (1, 1)
    simulator.revoke_all()
    assert await call_all(proxies) == {200}
    assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (2, 2)


async def test_two_pods_with_four_workers_each_are_one_client(simulator: Simulator, start: Start) -> None:
    pods = await asyncio.gather(*(start(WORKERS="4") for _ in range(2)))
    await asyncio.gather(*(is_ready(pod, seconds=30) for pod in pods))
    simulator.revoke_all()
    assert await call_all(list(pods)) == {200}
    assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (2, 2)


async def test_of_two_logins_at_two_replicas_at_once_the_first_wins(simulator: Simulator, start: Start) -> None:
    simulator.configure(accounts={"one@example.com": "1", "two@example.com": "2"}, anonymous="guest")
    simulator.fault("delay", path="/v3/customers/login", seconds=0.3, times=2)
    proxies = await asyncio.gather(*(start(LOGIN__EMAIL="", LOGIN__PASSWORD="") for _ in range(2)))
    await asyncio.gather(*(is_ready(proxy) for proxy in proxies))
    accounts = [{"email": "one@example.com", "password": "1"}, {"email": "two@example.com", "password": "2"}]
    answers = await asyncio.gather(
        *(
            fetch("POST", f"{proxy.url}/customers/login", json={"customer": account})
            for proxy, account in zip(proxies, accounts, strict=True)
        )
    )
    assert sorted(code for code, _ in answers) == [200, 409]
    assert simulator.calls[LOGIN] == 1


async def test_a_login_at_a_replica_that_stood_still_while_another_account_came_first_is_409(
    simulator: Simulator, start: Start
) -> None:
    simulator.configure(accounts={"one@example.com": "1", "two@example.com": "2"}, anonymous="guest")
    simulator.fault("delay", path="/v3/customers/login", seconds=0.3, times=1)
    stopped, other = await asyncio.gather(*(start(LOGIN__EMAIL="", LOGIN__PASSWORD="") for _ in range(2)))
    await asyncio.gather(is_ready(stopped), is_ready(other))

    async def log_in(proxy: ProxyProcess, number: str) -> tuple[int, str]:
        account = {"email": f"{number}@example.com", "password": {"one": "1", "two": "2"}[number]}
        return await fetch("POST", f"{proxy.url}/customers/login", json={"customer": account})

    late = asyncio.create_task(log_in(stopped, "one"))
    await until(lambda: simulator.calls[LOGIN] == 1)
    stopped.signal(signal.SIGSTOP)
    assert (await log_in(other, "two"))[0] == 200
    stopped.signal(signal.SIGCONT)
    code, told = await late
    assert (code, json.loads(told)["error"]) == (409, "other_account")
    assert (await log_in(stopped, "one"))[0] == 409
    # Nobody is moved to the other account silently: it is told to log in again, and may, as that one.
    assert (await fetch("GET", f"{stopped.url}/carts"))[0] == 503
    assert (await log_in(stopped, "two"))[0] == 200
    assert [(await fetch("GET", f"{proxy.url}/carts"))[0] for proxy in (stopped, other)] == [200, 200]


async def test_a_holder_that_is_killed_does_not_stop_the_others(simulator: Simulator, start: Start) -> None:
    simulator.fault("delay", path="/v3/session", seconds=60.0, times=1)
    others = await asyncio.gather(*(start(SESSION__EAGER="false") for _ in range(2)))
    holder = await start()
    await until(lambda: simulator.calls[SESSION] == 1)
    holder.signal(signal.SIGKILL)
    # Within the 10 s of a renewal: longer than a right lasts that nobody extends.
    assert await call_all(others, 5) == {200}
    assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (2, 1)


async def test_a_stopped_redis_costs_a_held_token_nothing_and_all_have_one_token_again(
    simulator: Simulator, start: Start, server: Server
) -> None:
    proxies = await several(start, 3)
    with server.stopped():
        await asyncio.gather(*(one.says(lambda out: b"session_store_failed" in out) for one in proxies))
        began = time.monotonic()
        assert await call_all(proxies, 20) == {200}
        assert time.monotonic() - began < 2
        assert (await status(proxies[0]))["store"]["up"] is False
        assert await metric(proxies[0], "store_up") == 0
    for proxy in proxies:
        await until(lambda proxy=proxy: bool(proxy.events("session_store_recovered")), seconds=30)  # type: ignore[misc]
    assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (1, 1)


async def test_a_redis_that_forgets_everything_is_told_again(
    simulator: Simulator, start: Start, server: Server
) -> None:
    proxies = await several(start, 2)
    server.command("FLUSHALL")
    await until(lambda: server.holds("tag"), seconds=30)
    third = await start()
    await is_ready(third)
    assert (await status(third))["session"]["source"] == "store"
    assert await call_all([*proxies, third], 5) == {200}
    assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (1, 1)


async def test_without_a_redis_at_start_the_proxy_serves_alone_and_stores_when_it_is_there(
    simulator: Simulator, start: Start, server: Server
) -> None:
    server.kill()
    proxy = await start()
    await is_ready(proxy, seconds=20)
    assert await call_all([proxy], 5) == {200}
    told = await status(proxy)
    assert told["store"]["alone"] is True
    assert await metric(proxy, "session_alone") == 1
    server.start()
    await until(lambda: server.holds("tag"), seconds=30)
    assert simulator.calls[SESSION] == 1

    def operations(event: str) -> set[str]:
        return {str(line["operation"]) for line in proxy.events(f"session_store_{event}")}

    # Also of what is not used again: there is nothing to renew.
    await until(lambda: operations("recovered") == operations("failed") >= {"load", "enter", "save"}, seconds=30)


async def test_status_log_and_metrics_tell_of_the_store_but_never_of_user_or_password(
    start: Start, server: Server
) -> None:
    server.command("ACL", "SETUSER", "hush-user", "on", ">hush-password", "~*", "+@all")
    proxy = await start(SESSION__STORE=f"redis://hush-user:hush-password@127.0.0.1:{server.port}")
    await is_ready(proxy)
    assert (await status(proxy))["store"] == {
        "kind": "redis",
        "host": f"127.0.0.1:{server.port}",
        "up": True,
        "trouble": None,
        "pending": False,
        "alone": False,
    }
    assert "hush" not in json.dumps(await status(proxy))
    server.command("ACL", "SETUSER", "hush-user", "resetpass", ">other")
    server.command("CLIENT", "KILL", "TYPE", "normal")
    await proxy.says(lambda out: b"refuses the user or password" in out)
    told = json.dumps(await status(proxy)) + (await fetch("GET", f"http://{proxy.admin}/metrics"))[1]
    assert "hush" not in told + proxy.out.decode() + proxy.err.decode()


async def test_a_password_that_is_rotated_in_its_file_is_followed(start: Start, server: Server, tmp_path: Path) -> None:
    server.command("ACL", "SETUSER", "me", "on", ">first", "~*", "+@all")
    file = tmp_path / "store"
    file.write_text(f"redis://me:first@127.0.0.1:{server.port}\n")
    proxy = await start(SESSION__STORE="", SESSION__STORE_FILE=str(file))
    await is_ready(proxy)
    server.command("ACL", "SETUSER", "me", "resetpass", ">second")
    server.command("CLIENT", "KILL", "TYPE", "normal")
    await proxy.says(lambda out: b"refuses the user or password" in out)
    file.write_text(f"redis://me:second@127.0.0.1:{server.port}\n")
    await until(lambda: bool(proxy.events("session_store_recovered")), seconds=30)


async def test_an_authority_that_is_rotated_with_the_servers_certificate_is_followed(
    start: Start, tmp_path: Path
) -> None:
    server = Server(tmp_path / "guarded", "--tls-auth-clients", "no", tls=Tls(tmp_path / "old")).start()
    assert server.tls is not None
    file = tmp_path / "ca.pem"
    file.write_bytes(server.tls.ca.read_bytes())
    proxy = await start(SESSION__STORE=server.url, SESSION__STORE_CA_FILE=str(file))
    await is_ready(proxy)
    server.kill()
    server.tls = Tls(tmp_path / "new")
    server.start()
    await proxy.says(lambda out: b"certificate of Redis is not accepted" in out)
    file.write_bytes(server.tls.ca.read_bytes())
    await until(lambda: bool(proxy.events("session_store_recovered")), seconds=30)
    await until(lambda: server.holds("tag"), seconds=30)
    server.kill()


async def test_a_replica_shows_whoever_reads_all_commands_no_secret(
    simulator: Simulator, start: Start, server: Server
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"MONITOR\r\n")
    assert await reader.readline() == b"+OK\r\n"
    proxy = await start()
    await is_ready(proxy)
    before = simulator.tokens
    simulator.revoke_all()
    assert await call_all([proxy], 3) == {200}
    tokens = {*before, *simulator.tokens}
    assert len(tokens) >= 2
    await until(lambda: not server.holds("renewal"))
    seen = await reader.read(1 << 20)
    writer.close()
    assert seen.lower().count(b"evalsha") > 3
    for secret in (*tokens, "demo-app-id", *ACCOUNT.values()):
        assert secret.encode().lower() not in seen.lower()
    assert not any(secret in proxy.out.decode() + proxy.err.decode() for secret in (*tokens, "demo-app-id"))


@pytest.mark.parametrize("command", ["serve", "check"])
async def test_a_malformed_url_is_one_line_and_exit_code_2(command: str) -> None:
    done = await run(
        command,
        CARDCASH_APP_ID="demo-app-id",
        CARDCASH_SESSION__STORE="redis://hush:hush@host:hush",
        CARDCASH_LISTEN="127.0.0.1:0",
        CARDCASH_ADMIN__LISTEN="127.0.0.1:0",
    )
    assert await done.ended() == 2
    (line,) = done.err.decode().splitlines()
    assert "session.store" in line
    assert "has a port in its host" in line
    assert "hush" not in line


async def test_check_dials_nothing_and_shows_no_credentials() -> None:
    store = f"redis://hush:hush@127.0.0.1:{free_port()}/2"
    done = await run("check", CARDCASH_APP_ID="demo-app-id", CARDCASH_SESSION__STORE=store)
    assert await done.ended() == 0
    assert b"redis://********@127.0.0.1" in done.out
    assert b"hush" not in done.out
    assert done.err == b""


@pytest.mark.parametrize(("store", "warns"), [("redis://:pw@r.example", True), ("rediss://:pw@r.example", False)])
async def test_check_warns_of_a_password_that_travels_openly(store: str, warns: bool) -> None:
    done = await run("check", CARDCASH_APP_ID="demo-app-id", CARDCASH_SESSION__STORE=store)
    assert (await done.ended(), b"travels openly" in done.err) == (0, warns)


async def test_doctor_finds_the_redis_and_tells_what_is_wrong_with_it(simulator: Simulator, server: Server) -> None:
    async def told(store: str, **more: str) -> tuple[int | None, str]:
        done = await run(
            *("doctor", "--no-login"),
            CARDCASH_APP_ID="demo-app-id",
            CARDCASH_UPSTREAM__ORIGIN=simulator.url,
            CARDCASH_SESSION__STORE=store,
            **more,
        )
        return await done.ended(), done.out.decode()

    code, out = await told(server.url)
    assert (code, "can be written to" in out) == (0, True)
    code, out = await told(f"redis://hush:hush@127.0.0.1:{server.port}")
    assert (code, "refuses the user or password" in out, "hush" in out) == (1, True, False)
    async with serving(simulator.url, SESSION__STORE=server.url) as proxy:
        await is_ready(proxy)
        await until(lambda: server.holds("tag"))
    code, out = await told(server.url, CARDCASH_SESSION__STORE_SECRET="another")
    assert (code, "cannot be read" in out, "another" in out) == (0, True, False)


async def test_redis_is_not_imported_where_it_is_not_configured(simulator: Simulator) -> None:
    async with serving(simulator.url) as proxy:
        maps = Path(f"/proc/{proxy.pid}/maps").read_text()
    assert "cryptography" not in maps
