"""What operators are told of the session: all of it, in exact words, at a moment that stands still."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.core.dialect import Candidate
from proxy.core.errors import SessionUnavailable
from proxy.session.cardcash_calls import SessionRefused
from tests.session.conftest import Build
from tests.session.fakes import LOGIN, settle

#: A session of 1,200 s that was just made, in 2027; its window is 300 s, of which the proxy takes the second half. It ends
#: 5 s early, on its way to CardCash.
HELD = {
    "state": "fresh",
    "expires_at": "2027-01-15T08:19:55+00:00",
    "expires_in_seconds": 1195.0,
    "renews_in_seconds": 1047.5,
    "renews_by_itself": True,
    "lifetime_seconds": 1195.0,
    "window_seconds": 295.0,
    "source": "session",
    "identity": None,
    "identity_from_caller": False,
    "identity_lost": False,
    "latched": None,
    "advice": None,
    "refused": [],
    "paused_seconds": 0.0,
    "failures_in_a_row": 0,
    "renewing": False,
    "waiters": 0,
    "renewals": 1,
    "harvests": 0,
}
NONE = HELD | {
    "state": "none",
    "expires_at": None,
    "expires_in_seconds": None,
    "renews_in_seconds": None,
    "renews_by_itself": False,
    "lifetime_seconds": None,
    "window_seconds": None,
    "source": None,
    "renewals": 0,
}


def made(**beside: Any) -> dict[str, Any]:
    """What is told of a session that was just made, and beside that."""
    return HELD | beside


async def test_of_a_session_that_was_just_made(build: Build) -> None:
    house = build()
    assert house.keeper.status() == NONE
    await house.keeper.token()
    assert house.keeper.status() == made()


async def test_of_one_that_is_on_its_way_to_the_end(build: Build) -> None:
    house = build()
    await house.keeper.token()
    house.clock.advance(1000.04)
    assert house.keeper.status() == made(state="stale", expires_in_seconds=195.0, renews_in_seconds=47.5)
    house.clock.advance(1000)
    ended = {"state": "expired", "expires_in_seconds": 0.0, "renews_in_seconds": 0.0, "renews_by_itself": False}
    assert house.keeper.status() == made(**ended)


async def test_of_times_the_tenths_and_of_pauses_the_thousandths_of_a_second(build: Build) -> None:
    house = build()
    house.calls.lifetime = 100.46
    await house.keeper.token()
    times = {"expires_in_seconds": 95.5, "renews_in_seconds": 72.8, "lifetime_seconds": 95.5, "window_seconds": 45.2}
    assert house.keeper.status() == made(**times, expires_at="2027-01-15T08:01:35+00:00")
    house.outage()
    with pytest.raises(SessionUnavailable):
        await house.keeper.renew(rejected=house.held)
    house.clock.advance(0.25012)
    assert house.keeper.status()["paused_seconds"] == 0.75


async def test_of_an_account_only_what_is_needed_to_know_it_by(build: Build) -> None:
    house = build(credentials=LOGIN)
    await house.keeper.token()
    assert house.keeper.status() == made(source="login", identity="p…@example.com")


async def test_of_a_callers_login_and_its_loss(build: Build) -> None:
    house = build()
    sent_with = await house.keeper.token()
    house.keeper.offer(Candidate("callers.login.", 1200), sent_with=sent_with, login_as="me@example.com")
    assert house.keeper.status() == made(
        source="login", identity="m…@example.com", identity_from_caller=True, harvests=1
    )
    house.clock.advance(1200)
    house.tick()
    gone = {"state": "expired", "expires_in_seconds": 0.0, "renews_in_seconds": 0.0, "renews_by_itself": False}
    lost = {"source": "login", "harvests": 1, "identity_from_caller": True, "identity_lost": True}
    assert house.keeper.status() == made(**gone, **lost)


async def test_of_what_cardcash_refused(build: Build) -> None:
    house = build(credentials=LOGIN)
    house.calls.on_login.append(SessionRefused("login", "Check the login."))
    await house.keeper.token()
    assert house.keeper.status() == made(latched="login", advice="Check the login.", refused=["login"])
    house.calls.on_session.append(SessionRefused("app_id", "Check the application id."))
    with pytest.raises(SessionUnavailable):
        await house.keeper.renew(rejected=house.held)
    both = house.keeper.status()
    assert (both["latched"], both["advice"]) == ("app_id", "Check the application id.")
    assert both["refused"] == ["app_id", "login"]


async def test_of_an_outage_and_the_renewal_that_may_end_it(build: Build) -> None:
    house = build()
    house.outage()
    with pytest.raises(SessionUnavailable):
        await house.keeper.token()
    house.clock.advance(0.25)
    assert house.keeper.status() == NONE | {"paused_seconds": 0.75, "failures_in_a_row": 1}
    house.clock.advance(0.75)
    house.calls.gate.clear()
    waiting = [asyncio.create_task(house.keeper.token()) for _ in range(3)]
    await settle()
    assert house.keeper.status() == NONE | {"failures_in_a_row": 1, "renewing": True, "waiters": 3}
    house.calls.down = None
    house.calls.gate.set()
    await asyncio.gather(*waiting)
    assert house.keeper.status() == made(expires_at="2027-01-15T08:19:56+00:00")


async def test_of_what_comes_without_a_request(build: Build) -> None:
    house = build(idle_after=600)
    house.outage()
    await house.keeper.start(eager=True)
    await settle()
    assert house.keeper.status()["renews_by_itself"]
    house.clock.advance(600)
    assert not house.keeper.status()["renews_by_itself"]
    house.calls.down = None
    await house.keeper.token()
    assert house.keeper.status()["renews_by_itself"]
    house.clock.advance(600)
    assert not house.keeper.status()["renews_by_itself"]


async def test_of_a_refused_application_id_that_nothing_comes_by_itself(build: Build) -> None:
    house = build()
    house.calls.on_session.append(SessionRefused("app_id", "Check the application id."))
    await house.keeper.start(eager=True)
    await settle()
    assert not house.keeper.status()["renews_by_itself"]
