"""Failures: growing pauses, answers at once, and never a storm."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.errors import SessionUnavailable
from proxy.session.cardcash_calls import SessionOutage, SessionRefused, SessionTokenRejected
from proxy.session.renewals import FIRST_TRIES
from proxy.session.stores.memory import MemoryStore
from tests.server.harness import until
from tests.session.conftest import Build
from tests.session.fakes import LOGIN, FakeClock, House, settle


async def refused(house: House) -> float:
    with pytest.raises(SessionUnavailable) as caught:
        await house.keeper.token()
    assert caught.value.retry_after is not None
    return caught.value.retry_after


async def test_pauses_double_from_1_to_30_seconds(house: House) -> None:
    house.outage()
    pauses = []
    for _ in range(7):
        pauses.append(await refused(house))
        house.clock.advance(pauses[-1])
    assert pauses == [1, 2, 4, 8, 16, 30, 30]


async def test_a_pause_is_never_longer_than_30_seconds_whatever_cardcash_asks(house: House) -> None:
    house.outage(retry_after=3600)
    assert await refused(house) == 30


async def test_a_pause_is_as_long_as_cardcash_asks(house: House) -> None:
    house.outage(retry_after=7)
    assert await refused(house) == 7


async def test_while_a_pause_lasts_requests_are_refused_at_once_with_what_is_left_of_it(house: House) -> None:
    house.outage(retry_after=10)
    await refused(house)
    calls = len(house.calls.sessions)
    house.clock.advance(4)
    assert await refused(house) == 6
    assert len(house.calls.sessions) == calls


async def test_a_success_ends_the_outage_without_a_restart(house: House) -> None:
    house.outage()
    await refused(house)
    house.clock.advance(1)
    house.calls.down = None
    await house.keeper.token()
    assert house.keeper.status()["failures_in_a_row"] == 0
    house.outage()
    with pytest.raises(SessionUnavailable) as caught:
        await house.keeper.renew(rejected=house.held)
    assert caught.value.retry_after == 1


async def minute_of(house: House) -> int:
    """Have 20 callers ask every tenth of a second for a minute; returns the session calls of it."""
    began = house.clock.steady
    while house.clock.steady < began + 60:
        await asyncio.gather(*(house.keeper.token() for _ in range(20)), return_exceptions=True)
        house.clock.advance(0.1)
    return len([sent for sent in house.calls.sessions if sent >= began])


async def test_the_first_minute_of_an_outage_costs_at_most_12_session_calls(house: House) -> None:
    house.outage()
    assert 5 <= await minute_of(house) <= 12


async def test_the_first_minute_of_tokens_rejected_at_login_costs_at_most_12_session_calls(build: Build) -> None:
    house = build(credentials=LOGIN)
    house.calls.on_login.extend([SessionTokenRejected("no")] * 100)
    assert 5 <= await minute_of(house) <= 12


async def test_the_first_minute_of_a_login_outage_costs_at_most_12_logins(build: Build) -> None:
    house = build(credentials=LOGIN)
    house.calls.on_login.extend([SessionOutage("down")] * 100)
    assert 5 <= await minute_of(house) <= 12
    assert 5 <= len(house.calls.logins) <= 12


async def test_a_minute_of_outage_with_a_rejected_token_costs_at_most_12_session_calls(house: House) -> None:
    token = await house.keeper.token()
    house.outage()
    began = house.clock.steady
    house.calls.sessions.clear()
    while house.clock.steady < began + 60:
        await asyncio.gather(*(house.keeper.renew(rejected=token) for _ in range(20)), return_exceptions=True)
        house.clock.advance(0.1)
    assert 5 <= len(house.calls.sessions) <= 12


async def test_a_token_held_is_used_until_its_real_expiry_whatever_fails(house: House) -> None:
    token = await house.keeper.token()
    house.outage()
    while house.clock.steady < token.expires_at:
        assert await house.keeper.token() is token
        house.tick()
        await settle()
        house.clock.advance(5)
    assert house.seen.renewals.count(("window", "failed")) > 3
    await refused(house)


async def test_a_request_whose_token_expires_while_it_waits_is_refused_when_the_renewal_fails(house: House) -> None:
    token = await house.keeper.token()
    house.calls.gate.clear()
    house.outage()
    renewal = asyncio.create_task(house.keeper.renew(rejected=token))
    patient = asyncio.create_task(house.keeper.token(patient=True))
    await settle()
    house.clock.advance(token.lifetime)
    house.calls.gate.set()
    for waiting in (renewal, patient):
        with pytest.raises(SessionUnavailable):
            await waiting


async def test_a_token_that_had_expired_when_it_arrived_is_not_handed_out(house: House) -> None:
    house.calls.lifetime = 2
    house.calls.meanwhile = lambda: house.clock.advance(5)
    with pytest.raises(SessionUnavailable, match="had expired when it arrived"):
        await house.keeper.token()


async def test_the_same_token_again_after_a_rejection_is_handed_back_and_pauses(house: House) -> None:
    token = await house.keeper.token()
    house.calls.on_session.extend([token.value] * 5)
    calls = len(house.calls.sessions)
    for _ in range(3):
        assert await house.keeper.renew(rejected=token) is token
    assert len(house.calls.sessions) == calls + 1
    assert house.keeper.status()["paused_seconds"] == 1
    house.clock.advance(1)
    assert await house.keeper.renew(rejected=token) is token
    assert house.keeper.status()["paused_seconds"] == 2


async def test_the_same_token_again_is_never_logged_in(build: Build) -> None:
    house = build(credentials=LOGIN)
    house.calls.on_login.append("same.token.")
    token = await house.keeper.token()
    house.calls.on_session.append("same.token.")
    assert await house.keeper.renew(rejected=token) is token
    assert len(house.calls.logins) == 1


async def test_the_held_token_given_again_in_the_window_does_not_delay_a_rejections_renewal(house: House) -> None:
    token = await house.keeper.token()
    house.to_the_window()
    house.calls.on_session.append(token.value)
    await house.keeper.token()
    await settle()
    assert house.seen.renewals[-1] == ("window", "same_token")
    assert (await house.keeper.renew(rejected=token)).value != token.value


async def test_a_session_rejected_at_login_is_made_anew_once(build: Build) -> None:
    house = build(credentials=LOGIN)
    house.calls.on_login.append(SessionTokenRejected("no"))
    token = await house.keeper.token()
    assert token.identity is not None
    assert (len(house.calls.sessions), len(house.calls.logins)) == (2, 2)
    assert house.calls.tries == [FIRST_TRIES, 2]


async def test_later_in_an_outage_a_renewal_costs_one_session_call_though_its_token_is_rejected_at_login(
    build: Build,
) -> None:
    house = build(credentials=LOGIN)
    house.calls.on_login += [SessionTokenRejected("no")] * 3
    house.clock.advance(await refused(house))
    assert len(house.calls.sessions) == 2
    await refused(house)
    assert len(house.calls.sessions) == 3
    assert house.calls.tries[-1] == 1


async def test_a_token_rejected_while_it_is_given_again_is_asked_for_once_more_and_then_pauses(house: House) -> None:
    token = await house.keeper.token()
    house.to_the_window()
    house.calls.gate.clear()
    house.calls.on_session += [token.value, token.value]
    await house.keeper.token()
    await settle()
    rejected = asyncio.create_task(house.keeper.renew(rejected=token))
    await settle()
    house.calls.gate.set()
    assert await rejected is token
    assert len(house.calls.sessions) == 3
    assert house.seen.renewals[-2:] == [("window", "superseded"), ("rejected", "same_token")]
    assert house.keeper.status()["paused_seconds"] > 0


async def seconds_of(house: House, seconds: int) -> None:
    """Let so many seconds go by in which nobody calls."""
    for _ in range(seconds):
        house.tick()
        await settle()
        house.clock.advance(1)


async def test_a_first_session_that_failed_is_made_without_a_request_when_cardcash_is_back(house: House) -> None:
    house.outage()
    await house.keeper.start(eager=True)
    await seconds_of(house, 120)
    house.calls.down = None
    await seconds_of(house, 31)
    assert house.keeper.status()["state"] == "fresh"
    assert house.seen.renewals[-1] == ("start", "ok")


async def test_a_first_session_that_fails_costs_at_most_12_calls_in_a_minute_and_one_a_pause(house: House) -> None:
    house.outage()
    await house.keeper.start(eager=True)
    await seconds_of(house, 61)
    assert len(house.calls.sessions) <= 12
    assert house.calls.tries == [FIRST_TRIES, 1, 1, 1, 1, 1]
    began = house.calls.sessions[0]
    assert [sent - began for sent in house.calls.sessions[FIRST_TRIES:]] == [1, 3, 7, 15, 31]


async def test_without_eager_a_failed_session_is_tried_again_for_a_request_only(house: House) -> None:
    await house.keeper.start(eager=False)
    house.outage()
    await refused(house)
    calls = len(house.calls.sessions)
    await seconds_of(house, 120)
    assert len(house.calls.sessions) == calls


async def test_a_first_session_is_not_tried_for_ever_where_nobody_calls(build: Build) -> None:
    house = build(idle_after=600)
    house.outage()
    await house.keeper.start(eager=True)
    await seconds_of(house, 600)
    calls = len(house.calls.sessions)
    await seconds_of(house, 120)
    assert len(house.calls.sessions) == calls
    await refused(house)  # a request asks: it counts as used again
    await seconds_of(house, 31)
    assert len(house.calls.sessions) > calls + 1


async def test_a_first_session_is_not_tried_again_while_the_application_id_is_refused(house: House) -> None:
    house.calls.on_session.append(SessionRefused("app_id", "Check the application id."))
    await house.keeper.start(eager=True)
    await seconds_of(house, 120)
    assert len(house.calls.sessions) == 1


async def test_a_session_that_ended_in_an_outage_is_made_again_for_a_request_only(house: House) -> None:
    await house.keeper.start(eager=True)
    await settle()
    house.outage()
    house.clock.advance(house.held.lifetime)
    calls = len(house.calls.sessions)
    await seconds_of(house, 120)
    assert len(house.calls.sessions) == calls


async def test_of_many_processes_without_a_first_session_one_tries_it_each_pause(build: Build) -> None:
    class Store(MemoryStore):
        shared = True

    clock = FakeClock()
    store = Store(clock)
    houses = [build(clock=clock, store=store.another()) for _ in range(5)]
    for house in houses:
        house.outage()
        await house.keeper.start(eager=True)
    for _ in range(45):
        await until(lambda: not any(house.keeper.status()["renewing"] for house in houses))
        for house in houses:
            await house.keeper.follow()
            house.tick()
        clock.advance(1)
    await until(lambda: not any(house.keeper.status()["renewing"] for house in houses))
    assert sorted(tries for house in houses for tries in house.calls.tries) == [1, 1, 1, 1, 1, FIRST_TRIES]
