"""Whose session it is: a login that is lost is said to be lost, and no call is answered as somebody else."""

from __future__ import annotations

import json

import pytest

from proxy.simulator import Simulator
from tests.conftest import StartProxy, StartSimulator
from tests.server.harness import Running, until

APP = "app-id-of-the-tests"
EMAIL, PASSWORD = "partner@example.com", "password-of-the-tests"
JSON = b"Content-Type: application/json"


@pytest.fixture
async def cardcash(start_simulator: StartSimulator) -> Simulator:
    return await start_simulator(
        app_ids=(APP, "rotated-app-id"),
        accounts={EMAIL: PASSWORD, "other@example.com": "other"},
        # A guest may read account paths: exactly what must never be mistaken for the account's answer.
        anonymous="guest",
    )


def login(email: str = EMAIL, password: str = PASSWORD) -> bytes:
    return json.dumps({"customer": {"email": email, "password": password}}).encode()


async def customer(proxy: Running) -> object:
    answer = await proxy.ask("GET /carts")
    assert answer.status == 200, answer.body
    return answer.json["cart"]["customerId"]


async def lost(proxy: Running, cardcash: Simulator) -> None:
    """Log in as a caller, then lose it."""
    assert (await proxy.ask("POST /customers/login", JSON, body=login())).status == 200
    await customer(proxy)
    cardcash.revoke_all()
    assert (await proxy.ask("GET /merchants/sell")).status == 200


async def test_after_a_callers_login_is_lost_account_calls_are_told_to_log_in_again(
    cardcash: Simulator, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(origin=cardcash.url)
    await lost(proxy, cardcash)
    before = cardcash.calls["GET /v3/carts"]
    answer = await proxy.ask("GET /carts")
    assert (answer.status, answer.code) == (503, "session_unavailable")
    assert "log in again" in answer.json["message"][0]
    assert cardcash.calls["GET /v3/carts"] == before


async def test_the_call_that_finds_out_that_the_login_is_lost_is_not_repeated_anonymously(
    cardcash: Simulator, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(origin=cardcash.url)
    assert (await proxy.ask("POST /customers/login", JSON, body=login())).status == 200
    cardcash.revoke_all()
    assert "log in again" in (await proxy.ask("GET /carts")).json["message"][0]


async def test_a_lost_login_is_told_by_status_and_metric(cardcash: Simulator, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(origin=cardcash.url)
    await lost(proxy, cardcash)
    session = (await proxy.admin.ask("GET /status")).json["session"]
    assert (session["identity_lost"], session["identity"]) == (True, None)
    assert proxy.sample("session_identity_lost_total") == 1


async def test_after_a_lost_login_anybody_may_log_in(cardcash: Simulator, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(origin=cardcash.url)
    await lost(proxy, cardcash)
    assert (await proxy.ask("POST /customers/login", JSON, body=login("other@example.com", "other"))).status == 200
    session = (await proxy.admin.ask("GET /status")).json["session"]
    assert (session["identity_lost"], session["identity"]) == (False, "o…@example.com")
    assert await customer(proxy) is not None


async def test_a_refresh_that_forgets_the_configured_login_is_not_taken(
    cardcash: Simulator, start_proxy: StartProxy
) -> None:
    cardcash.configure(refresh_keeps_login=False)
    proxy = await start_proxy(origin=cardcash.url, LOGIN__EMAIL=EMAIL, LOGIN__PASSWORD=PASSWORD)
    account = await customer(proxy)
    # Every answer carries a refreshed, anonymous token from now on.
    cardcash.configure(refresh_window=10_000.0)
    assert [await customer(proxy) for _ in range(5)] == [account] * 5
    assert proxy.sample("session_harvests_total", result="anonymous") is not None
    assert not proxy.sample("session_harvests_total", result="adopted")


async def test_a_refresh_that_forgets_the_login_and_revokes_the_old_token_is_repaired_by_a_login(
    cardcash: Simulator, start_proxy: StartProxy
) -> None:
    cardcash.configure(refresh_keeps_login=False, old_after_refresh="revoked")
    proxy = await start_proxy(origin=cardcash.url, LOGIN__EMAIL=EMAIL, LOGIN__PASSWORD=PASSWORD)
    account = await customer(proxy)
    cardcash.configure(refresh_window=10_000.0)
    assert await customer(proxy) == account
    cardcash.configure(refresh_window=0.0)
    assert [await customer(proxy) for _ in range(3)] == [account] * 3


async def test_a_refresh_that_keeps_the_login_is_taken(cardcash: Simulator, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(origin=cardcash.url, LOGIN__EMAIL=EMAIL, LOGIN__PASSWORD=PASSWORD)
    account = await customer(proxy)
    sessions = cardcash.calls["POST /v3/session"]
    cardcash.configure(refresh_window=10_000.0)
    assert await customer(proxy) == account
    cardcash.configure(refresh_window=0.0)
    assert await customer(proxy) == account
    assert proxy.sample("session_harvests_total", result="adopted") == 1
    assert cardcash.calls["POST /v3/session"] == sessions


async def test_while_the_application_id_rotates_requests_go_with_the_pair_that_belongs_together(
    cardcash: Simulator, start_proxy: StartProxy
) -> None:
    events: list[tuple[str, object]] = []
    cardcash.on_event = lambda event, fields: events.append((event, fields))
    proxy = await start_proxy(origin=cardcash.url)
    assert (await proxy.ask("GET /merchants/sell")).status == 200
    cardcash.fault("delay", path="/v3/session", seconds=0.2, times=1)
    keeper = proxy.proxy.keeper
    keeper.use_credentials(type(keeper.calls.credentials)("rotated-app-id"))
    # Served at once with the old token, which is the old id's; the simulator refuses a mixed pair.
    answer = await proxy.ask("GET /merchants/sell")
    assert answer.status == 200
    assert answer.value("proxy-status") is None
    await until(lambda: keeper.held is not None and keeper.held.app_id == "rotated-app-id")
    assert (await proxy.ask("GET /merchants/sell")).status == 200
    assert not [event for event in events if event[0] == "token_rejected"]
