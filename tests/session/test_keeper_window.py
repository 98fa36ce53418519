"""The renewal window and the clocks."""

from __future__ import annotations

import asyncio

from proxy.core.dialect import Candidate
from proxy.core.token import Windows
from proxy.session.renewals import FIRST_TRIES
from tests.session.conftest import Build
from tests.session.fakes import House, settle


async def test_in_the_window_requests_go_on_while_one_background_renewal_runs(house: House) -> None:
    token = await house.keeper.token()
    house.to_the_window()
    house.calls.gate.clear()
    assert [await house.keeper.token() for _ in range(50)] == [token] * 50
    await settle()
    assert len(house.calls.sessions) == 2
    house.calls.gate.set()
    await settle()
    assert await house.keeper.token() is not token


async def test_the_first_half_of_the_window_is_left_to_in_band_refresh(house: House) -> None:
    token = await house.keeper.token()
    house.clock.advance(token.lifetime - 200)
    await house.keeper.token()
    house.tick()
    await settle()
    assert house.keeper.status()["state"] == "stale"
    assert len(house.calls.sessions) == 1


async def test_without_a_request_the_session_is_renewed_in_the_window(house: House) -> None:
    await house.keeper.start(eager=True)
    await settle()
    house.to_the_window()
    house.tick()
    await settle()
    assert house.seen.renewals[-1] == ("window", "ok")


async def test_a_session_nobody_used_for_idle_after_is_left_to_lapse(build: Build) -> None:
    house = build(idle_after=600)
    await house.keeper.token()
    house.to_the_window()
    house.tick()
    await settle()
    assert len(house.calls.sessions) == 1


async def test_a_lapsed_session_is_made_again_on_demand(build: Build) -> None:
    house = build(idle_after=600)
    token = await house.keeper.token()
    house.clock.advance(token.lifetime)
    house.tick()
    assert await house.keeper.token() is not token
    assert house.seen.renewals[-1] == ("expired", "ok")


async def test_a_look_before_the_middle_of_the_window_renews_nothing(house: House) -> None:
    await house.keeper.token()
    house.to_the_window()
    house.clock.advance(-2)
    house.tick()
    await settle()
    assert len(house.calls.sessions) == 1
    house.clock.advance(2)
    house.tick()
    await settle()
    assert len(house.calls.sessions) == 2


async def test_after_a_failed_background_renewal_the_next_waits_for_the_pause(house: House) -> None:
    await house.keeper.token()
    house.to_the_window()
    house.outage(retry_after=20)
    house.tick()
    await settle()
    calls = len(house.calls.sessions)
    for seconds, more in ((19, 0), (1, 1)):
        house.clock.advance(seconds)
        house.tick()
        await settle()
        assert len(house.calls.sessions) == calls + more


async def test_a_try_that_is_overdue_and_fails_does_not_spin(house: House) -> None:
    await house.keeper.token()
    house.to_the_window()
    house.outage()
    for _ in range(100):
        house.tick()
        await settle()
    assert len(house.calls.sessions) == 1 + FIRST_TRIES


async def test_a_harvest_puts_the_background_renewal_off(house: House) -> None:
    token = await house.keeper.token()
    house.to_the_window()
    house.keeper.offer(Candidate("new.token.", 1200), sent_with=token)
    house.tick()
    await settle()
    assert len(house.calls.sessions) == 1


async def test_a_wall_clock_set_forward_past_the_expiry_renews(house: House) -> None:
    token = await house.keeper.token()
    house.clock.wall += token.lifetime
    assert await house.keeper.token() is not token


async def test_a_wall_clock_set_back_neither_renews_nor_lengthens_a_life(house: House) -> None:
    token = await house.keeper.token()
    house.clock.wall -= 86_400
    assert await house.keeper.token() is token
    house.clock.advance(token.lifetime)
    assert await house.keeper.token() is not token


async def test_a_machine_that_slept_past_the_expiry_renews_before_the_next_request(house: House) -> None:
    token = await house.keeper.token()
    house.clock.advance(8 * 3600)
    assert await house.keeper.token() is not token


async def test_a_wall_clock_that_jumps_does_not_move_a_pause(house: House) -> None:
    house.outage(retry_after=10)
    await asyncio.gather(house.keeper.token(), return_exceptions=True)
    house.clock.wall += 86_400
    assert house.keeper.status()["paused_seconds"] == 10


# A request that has nothing to wait for


async def test_a_request_goes_on_at_once_with_a_fresh_token_and_with_no_other(house: House) -> None:
    assert house.keeper.token_at_once() is None
    token = await house.keeper.token()
    windows = Windows.of(token, 300)
    house.clock.advance(windows.stale_at - house.clock.steady - 0.1)
    assert house.keeper.token_at_once() is token
    house.clock.advance(0.1)
    assert house.keeper.token_at_once() is None


async def test_nor_when_the_machine_slept_past_the_expiry(house: House) -> None:
    token = await house.keeper.token()
    house.clock.wall = Windows.of(token, 300).expires_wall - 0.1
    assert house.keeper.token_at_once() is token
    house.clock.wall = Windows.of(token, 300).expires_wall
    assert house.keeper.token_at_once() is None


async def test_nor_while_a_renewal_runs(house: House) -> None:
    await house.keeper.token()
    house.calls.gate.clear()
    renewing = asyncio.create_task(house.keeper.renew_now())
    await settle()
    assert house.keeper.token_at_once() is None
    house.calls.gate.set()
    renewed = await renewing
    assert house.keeper.token_at_once() is renewed


async def test_a_request_that_goes_on_at_once_is_use_of_the_session(build: Build) -> None:
    house = build(idle_after=600)
    token = await house.keeper.token()
    windows = Windows.of(token, 300)
    house.clock.advance(windows.stale_at - house.clock.steady - 1)
    assert house.keeper.token_at_once() is token
    house.to_the_window()
    house.tick()
    await settle()
    assert len(house.calls.sessions) == 2
