"""`session.store: file:///path` with real processes: one session for all of a host, kept over restarts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.session.cardcash_calls import Credentials
from proxy.simulator import Simulator
from tests.cardcash import CardCash
from tests.conftest import StartProxy
from tests.server.harness import until
from tests.whole.processes import ProxyProcess, fetch, is_ready, run, serving

SESSION, LOGIN = "POST /v3/session", "POST /v3/customers/login"
ACCOUNT = {"LOGIN__EMAIL": "partner@example.com", "LOGIN__PASSWORD": "demo-password"}

Start = Callable[..., Awaitable[ProxyProcess]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "session.json"


@pytest.fixture
async def start(simulator: Simulator, file: Path) -> AsyncIterator[Start]:
    """Start processes that share `file`, logged in to the account."""
    async with contextlib.AsyncExitStack() as stack:

        async def one(**settings: str) -> ProxyProcess:
            return await stack.enter_async_context(
                serving(simulator.url, SESSION__STORE=f"file://{file}", **{**ACCOUNT, **settings})
            )

        yield one


async def several(start: Start, how_many: int = 5) -> list[ProxyProcess]:
    proxies = await asyncio.gather(*(start() for _ in range(how_many)))
    await asyncio.gather(*(is_ready(proxy) for proxy in proxies))
    return list(proxies)


async def status(proxy: ProxyProcess) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((await fetch("GET", f"http://{proxy.admin}/status"))[1])["session"]
    return answer


async def test_a_cold_start_of_five_costs_one_session_and_one_login(simulator: Simulator, start: Start) -> None:
    proxies = await several(start)
    assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (1, 1)
    sources = sorted([(await status(proxy))["source"] for proxy in proxies])
    assert sources == ["login", "store", "store", "store", "store"]


async def test_a_revoked_token_costs_one_session_however_many_callers_and_processes(
    simulator: Simulator, start: Start
) -> None:
    proxies = await several(start)
    simulator.revoke_all()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def call(proxy: ProxyProcess) -> int:
            async with client.get(f"{proxy.url}/carts") as answer:
                await answer.read()
                return answer.status

        statuses = await asyncio.gather(*(call(proxy) for proxy in proxies for _ in range(100)))
    assert set(statuses) == {200}
    assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (2, 2)


async def test_a_harvested_token_reaches_the_others_though_the_old_one_was_revoked_at_once(
    simulator: Simulator, start: Start, file: Path
) -> None:
    proxies = await several(start, 3)
    simulator.configure(refresh_window=simulator.settings.token_ttl, old_after_refresh="revoked")
    for proxy in proxies:
        before = file.read_bytes()
        assert (await fetch("GET", f"{proxy.url}/carts"))[0] == 200
        await until(lambda before=before: file.read_bytes() != before)  # type: ignore[misc]
        assert (await status(proxy))["source"] == "harvest"
    # Each but the first came with a token that was revoked by then, and got a living one from the file.
    assert simulator.counters["rejected"] == {"token_revoked": 2}
    assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (1, 1)


async def test_a_holder_of_the_lease_that_is_killed_does_not_stop_the_others(
    simulator: Simulator, start: Start
) -> None:
    simulator.fault("delay", path="/v3/session", seconds=60.0, times=1)
    holder = await start()
    await until(lambda: simulator.calls[SESSION] == 1)
    others = await asyncio.gather(*(start() for _ in range(2)))
    waiting = [(await status(proxy))["renewing"] for proxy in others]
    assert (waiting, simulator.calls[SESSION]) == ([True] * 2, 1)
    holder.signal(signal.SIGKILL)
    await asyncio.gather(*(is_ready(proxy) for proxy in others))
    assert {(await fetch("GET", f"{proxy.url}/carts"))[0] for proxy in others} == {200}
    assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (2, 1)


async def test_a_killed_proxy_goes_on_with_its_session_when_it_is_started_again(
    simulator: Simulator, start: Start
) -> None:
    first = await start()
    await is_ready(first)
    first.signal(signal.SIGKILL)
    await first.ended()
    second = await start()
    await is_ready(second)
    assert (await status(second))["source"] == "store"
    assert (await fetch("GET", f"{second.url}/carts"))[0] == 200
    assert (simulator.calls[SESSION], simulator.calls[LOGIN]) == (1, 1)


async def latched(proxy: ProxyProcess) -> None:
    """Check that all places tell of a refused login."""
    async with asyncio.timeout(30):
        while (await status(proxy))["latched"] is None:
            await asyncio.sleep(0.01)
    code, text = await fetch("GET", f"http://{proxy.admin}/readyz")
    assert (code, "login refused" in text) == (503, True)
    assert 'session_latched{what="login"} 1.0' in (await fetch("GET", f"http://{proxy.admin}/metrics"))[1]
    async with aiohttp.ClientSession() as client, client.get(f"{proxy.url}/merchants/sell") as answer:
        assert (answer.status, "login-refused" in answer.headers["Proxy-Status"]) == (200, True)


async def test_a_refused_login_stays_refused_over_a_restart_until_an_operator_asks(
    simulator: Simulator, start: Start, file: Path
) -> None:
    first = await start(LOGIN__PASSWORD="wrong-password")
    await latched(first)
    first.signal(signal.SIGKILL)
    await first.ended()
    simulator.revoke_all()  # the token that was kept does not help
    second = await start(LOGIN__PASSWORD="wrong-password")
    await latched(second)
    assert simulator.calls[LOGIN] == 1
    assert "wrong-password" not in file.read_text()
    simulator.configure(accounts={"partner@example.com": "wrong-password"})
    assert (await fetch("POST", f"http://{second.admin}/session/renew"))[0] == 200
    assert simulator.calls[LOGIN] == 2
    await is_ready(second)
    third = await start(LOGIN__PASSWORD="wrong-password")
    await is_ready(third)
    assert simulator.calls[LOGIN] == 2


async def test_a_changed_password_opens_the_latch_of_before_the_restart(simulator: Simulator, start: Start) -> None:
    first = await start(LOGIN__PASSWORD="wrong-password")
    await latched(first)
    first.signal(signal.SIGKILL)
    await first.ended()
    second = await start()
    await is_ready(second)
    assert (await status(second))["identity"] == "p…@example.com"


async def test_a_file_that_others_may_read_is_told_of_once_and_costs_no_request(
    simulator: Simulator, start: Start, file: Path
) -> None:
    proxy = await start()
    await is_ready(proxy)
    file.chmod(0o644)
    for _ in range(3):
        simulator.revoke_all()
        assert (await fetch("GET", f"{proxy.url}/carts"))[0] == 200
    await proxy.says(lambda out: b"session_store_failed" in out)
    events = proxy.events("session_store_failed")
    assert len({event["operation"] for event in events}) == len(events)
    assert all("mode 0644" in event["why"] for event in events)


async def test_another_place_in_store_file_is_told_to_need_a_restart_and_the_held_one_goes_on(
    simulator: Simulator, file: Path, tmp_path: Path
) -> None:
    url, other = tmp_path / "url", tmp_path / "other.json"
    url.write_text(f"file://{file}")
    async with serving(simulator.url, SESSION__STORE_FILE=str(url), **ACCOUNT) as proxy:
        await is_ready(proxy)
        (tmp_path / "new").write_text(f"file://{other}")
        (tmp_path / "new").rename(url)
        proxy.signal(signal.SIGHUP)
        await proxy.says(lambda out: b"secret_file_unreadable" in out)
        (told,) = proxy.events("secret_file_unreadable")
        assert (told["level"], told["setting"]) == ("warning", "session.store")
        assert "restart" in told["reason"]
        simulator.revoke_all()
        before = file.read_bytes()
        assert (await fetch("GET", f"{proxy.url}/carts"))[0] == 200
        await until(lambda: file.read_bytes() != before)
        assert not other.exists()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_file_that_cannot_be_used_is_told_of_as_a_store_that_is_down_until_it_can(
    start: Start, file: Path, workers: str
) -> None:
    proxy = await start(WORKERS=workers)
    await is_ready(proxy)
    file.chmod(0o644)

    async def told_at(path: str, words: str) -> str:
        async with asyncio.timeout(30):
            while words not in (told := (await fetch("GET", f"http://{proxy.admin}{path}"))[1]):
                await asyncio.sleep(0.1)
        return told

    store = json.loads(await told_at("/status", "mode 0644"))["store"]
    assert (store["kind"], store["host"], store["up"]) == ("file", None, False)
    await told_at("/metrics", "\ncardcash_proxy_store_up 0.0")
    await told_at("/", "The session store cannot be used")
    file.chmod(0o600)
    await told_at("/metrics", "\ncardcash_proxy_store_up 1.0")
    await told_at("/", "All is well")


async def test_a_corrupt_file_is_told_of_once_and_written_over(simulator: Simulator, start: Start, file: Path) -> None:
    file.write_text('{"version": 1, "entr')
    file.chmod(0o600)
    proxy = await start()
    await is_ready(proxy)
    await proxy.says(lambda out: b"session_store_corrupt" in out)
    assert len(proxy.events("session_store_corrupt")) == 1
    assert json.loads(file.read_text())["entries"]


@pytest.mark.parametrize("command", ["serve", "check"])
async def test_a_place_that_cannot_be_used_is_one_line_and_exit_code_2(file: Path, command: str) -> None:
    file.touch()
    file.chmod(0o644)
    done = await run(
        command,
        CARDCASH_APP_ID="demo-app-id",
        CARDCASH_SESSION__STORE=f"file://{file}",
        CARDCASH_LISTEN="127.0.0.1:0",
        CARDCASH_ADMIN__LISTEN="127.0.0.1:0",
    )
    assert await done.ended() == 2
    (line,) = done.err.decode().splitlines()
    assert line.startswith("cardcash-proxy: session.store: ")
    assert "chmod 600" in line
    assert done.out == b""


async def test_a_rotated_application_id_has_an_entry_of_its_own(
    cardcash: CardCash, start_proxy: StartProxy, file: Path
) -> None:
    store = f"file://{file}"
    running = await start_proxy(origin=cardcash.url, SESSION__STORE=store)
    keeper = running.proxy.keeper
    await until(lambda: keeper.held is not None)
    old = keeper.held
    keeper.use_credentials(Credentials("rotated-app-id"))
    await until(lambda: keeper.held is not old and not keeper.status()["renewing"])
    again = await start_proxy(origin=cardcash.url, SESSION__STORE=store, APP_ID="rotated-app-id")
    assert again.proxy.keeper.held is not None
    assert keeper.held is not None
    assert again.proxy.keeper.held.value == keeper.held.value
    before = await start_proxy(origin=cardcash.url, SESSION__STORE=store)
    assert before.proxy.keeper.held is not None and old is not None
    assert before.proxy.keeper.held.value == old.value
