"""Two proxies on one `file://` store: what one does to the session holds for the other."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from proxy.session.cardcash_calls import Credentials
from proxy.simulator import Simulator
from tests.cardcash import CardCash, Received, Reply
from tests.conftest import StartProxy, StartSimulator
from tests.server.harness import APP_ID, EMAIL, PASSWORD, Running, until

JSON = b"Content-Type: application/json"


@pytest.fixture
async def simulator(start_simulator: StartSimulator) -> Simulator:
    accounts = {EMAIL: PASSWORD, "other@example.com": "other"}
    return await start_simulator(app_ids=(APP_ID,), accounts=accounts, anonymous="guest")


@pytest.fixture
async def pair(simulator: Simulator, start_proxy: StartProxy, tmp_path: Path) -> tuple[Running, Running]:
    store = f"file://{tmp_path}/session"
    return (
        await start_proxy(origin=simulator.url, SESSION__STORE=store),
        await start_proxy(origin=simulator.url, SESSION__STORE=store),
    )


def login(email: str = EMAIL, password: str = PASSWORD) -> bytes:
    return json.dumps({"customer": {"email": email, "password": password}}).encode()


async def test_a_callers_login_at_one_is_the_others_too(pair: tuple[Running, Running]) -> None:
    one, other = pair
    assert (await one.ask("POST /customers/login", JSON, body=login())).status == 200
    await until(lambda: other.account == EMAIL)
    mine, theirs = [(await proxy.ask("GET /carts")).json["cart"]["customerId"] for proxy in pair]
    assert mine == theirs


async def test_a_second_account_is_refused_at_the_other_at_once(pair: tuple[Running, Running]) -> None:
    one, other = pair
    assert (await one.ask("POST /customers/login", JSON, body=login())).status == 200
    answer = await other.ask("POST /customers/login", JSON, body=login("other@example.com", "other"))
    assert (answer.status, answer.code) == (409, "other_account")


@pytest.fixture
async def upstream(cardcash: CardCash) -> CardCash:
    """In plain HTTP: nothing here is about bytes."""
    return cardcash


@pytest.fixture
async def three(upstream: CardCash, start_proxy: StartProxy, tmp_path: Path) -> list[Running]:
    return [await start_proxy(SESSION__STORE=f"file://{tmp_path}/session") for _ in range(3)]


async def test_of_two_logins_at_once_at_two_proxies_the_first_wins(upstream: CardCash, three: list[Running]) -> None:
    go = asyncio.Event()

    async def slow(got: Received) -> Reply:
        await go.wait()
        return await upstream.new_login(got)

    upstream.login_answers.append(slow)
    first = asyncio.create_task(three[0].ask("POST /customers/login", JSON, body=login()))
    await until(lambda: upstream.logins)
    others = [
        asyncio.create_task(proxy.ask("POST /customers/login", JSON, body=login("other@example.com", "other")))
        for proxy in three[1:]
    ]
    await until(lambda: all(proxy.proxy.guard.in_flight for proxy in three))
    go.set()
    assert (await first).status == 200
    assert [answer.status for answer in await asyncio.gather(*others)] == [409, 409]
    assert len(upstream.logins) == 1


@pytest.mark.parametrize("line", ["GET /carts", "POST /orders", "GET /v3/customers/payment-options"])
async def test_once_a_login_is_answered_no_account_call_goes_anonymously_anywhere(
    upstream: CardCash, three: list[Running], line: str
) -> None:
    for proxy in three:
        assert (await proxy.ask("GET /merchants/sell")).status == 200
    assert (await three[0].ask("POST /customers/login", JSON, body=login())).status == 200
    before = len(upstream.requests)
    await asyncio.gather(*(proxy.ask(line, body=b"") for proxy in three for _ in range(5)))
    assert {received.token for received in upstream.requests[before:]} == {upstream.tokens[-1]}


async def test_a_login_lost_at_one_is_lost_at_the_other_and_after_a_restart(
    pair: tuple[Running, Running], simulator: Simulator, start_proxy: StartProxy, tmp_path: Path
) -> None:
    one, other = pair
    assert (await one.ask("POST /customers/login", JSON, body=login())).status == 200
    await until(lambda: other.account == EMAIL)
    simulator.revoke_all()
    assert (await one.ask("GET /merchants/sell")).status == 200
    await until(lambda: other.proxy.keeper.identity_lost)
    restarted = await start_proxy(origin=simulator.url, SESSION__STORE=f"file://{tmp_path}/session")
    for proxy in (one, other, restarted):
        assert "log in again" in (await proxy.ask("GET /carts")).json["message"][0]


async def test_a_wrong_password_is_tried_once_by_all_and_an_operator_opens_it_for_all(
    simulator: Simulator, start_proxy: StartProxy, tmp_path: Path
) -> None:
    settings = {"SESSION__STORE": f"file://{tmp_path}/session", "LOGIN__EMAIL": EMAIL, "LOGIN__PASSWORD": PASSWORD}
    proxies = [await start_proxy(origin=simulator.url, **settings) for _ in range(3)]
    await until(lambda: all(proxy.account for proxy in proxies))
    logins = simulator.calls["POST /v3/customers/login"]
    for proxy in proxies:
        proxy.proxy.keeper.use_credentials(Credentials(APP_ID, EMAIL, "wrong"))
    await until(lambda: all("login" in proxy.proxy.keeper.refusals for proxy in proxies))
    assert simulator.calls["POST /v3/customers/login"] == logins + 1
    simulator.configure(accounts={EMAIL: "wrong"})
    assert (await proxies[0].admin.ask("POST /session/renew")).status == 200
    await until(lambda: not any(proxy.proxy.keeper.refusals for proxy in proxies))
    assert simulator.calls["POST /v3/customers/login"] == logins + 2
    assert [(await proxy.admin.ask("GET /readyz")).status for proxy in proxies] == [200] * 3


async def test_a_right_password_after_a_change_costs_one_login_for_all(
    simulator: Simulator, start_proxy: StartProxy, tmp_path: Path
) -> None:
    settings = {"SESSION__STORE": f"file://{tmp_path}/session", "LOGIN__EMAIL": EMAIL, "LOGIN__PASSWORD": PASSWORD}
    proxies = [await start_proxy(origin=simulator.url, **settings) for _ in range(3)]
    await until(lambda: all(proxy.account for proxy in proxies))
    logins = simulator.calls["POST /v3/customers/login"]
    simulator.configure(accounts={EMAIL: "changed"})
    for proxy in proxies:
        proxy.proxy.keeper.use_credentials(Credentials(APP_ID, EMAIL, "changed"))
    await asyncio.gather(*(proxy.ask("GET /carts") for proxy in proxies))
    await until(lambda: not any(proxy.proxy.keeper.status()["renewing"] for proxy in proxies))
    assert simulator.calls["POST /v3/customers/login"] == logins + 1


async def test_who_notices_a_changed_password_last_takes_over_what_the_first_has_made(
    simulator: Simulator, start_proxy: StartProxy, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    settings = {
        "LOGIN__EMAIL": EMAIL,
        "LOGIN__PASSWORD_FILE": str(file),
        "SESSION__STORE": f"file://{tmp_path}/session",
    }
    first, last = [await start_proxy(origin=simulator.url, **settings) for _ in range(2)]
    await until(lambda: first.account and last.account)
    logins = simulator.calls["POST /v3/customers/login"]
    held = first.proxy.keeper.held
    before = held and held.value
    simulator.configure(accounts={EMAIL: "changed"})
    file.write_text("changed")
    await first.proxy.have_read_again()
    await until(lambda: simulator.calls["POST /v3/customers/login"] == logins + 1)
    await until(lambda: last.proxy.secrets.password == "changed")

    def values() -> list[str]:
        return [proxy.proxy.keeper.held.value for proxy in (first, last) if proxy.proxy.keeper.held is not None]

    # The secret is known a moment before the renewal begins.
    await until(lambda: values()[0] == values()[1] != before and not last.proxy.keeper.status()["renewing"])
    assert simulator.calls["POST /v3/customers/login"] == logins + 1
