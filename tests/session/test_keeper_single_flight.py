"""One renewal for all who need one, and none who leaves takes it along."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from proxy.core.dialect import Candidate
from proxy.core.errors import Draining, SessionUnavailable
from proxy.session.cardcash_calls import SessionOutage
from tests.session.conftest import Build
from tests.session.fakes import House, settle


async def test_500_first_requests_cost_one_session_call_and_share_one_token(house: House) -> None:
    house.calls.gate.clear()
    waiting = [asyncio.create_task(house.keeper.token()) for _ in range(500)]
    await settle()
    assert house.keeper.waiters == 500
    house.calls.gate.set()
    assert len({id(token) for token in await asyncio.gather(*waiting)}) == 1
    assert len(house.calls.sessions) == 1
    assert house.keeper.waiters == 0


async def test_500_callers_on_a_rejected_token_cost_one_renewal(house: House) -> None:
    old = await house.keeper.token()
    tokens = await asyncio.gather(*(house.keeper.renew(rejected=old) for _ in range(500)))
    assert {token.value for token in tokens} == {house.held.value}
    assert house.held is not old
    assert len(house.calls.sessions) == 2


async def test_a_caller_that_leaves_cancels_nothing(house: House) -> None:
    house.calls.gate.clear()
    leaving, staying = (asyncio.create_task(house.keeper.token()) for _ in range(2))
    await settle()
    leaving.cancel()
    await settle()
    assert leaving.cancelled()
    assert house.keeper.waiters == 1
    house.calls.gate.set()
    assert await staying is house.held
    assert len(house.calls.sessions) == 1


async def test_a_renewal_goes_on_when_every_caller_has_left(house: House) -> None:
    house.calls.gate.clear()
    leaving = asyncio.create_task(house.keeper.token())
    await settle()
    leaving.cancel()
    await settle()
    house.calls.gate.set()
    await settle()
    assert house.held.value == "session-of-app-id.1."


async def test_each_waiter_of_a_failed_renewal_gets_an_exception_of_its_own(house: House) -> None:
    house.outage()
    results = await asyncio.gather(*(house.keeper.token() for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, SessionUnavailable) for result in results)
    assert len({id(result) for result in results}) == 3


async def test_a_token_no_longer_held_renews_nothing(house: House) -> None:
    old = await house.keeper.token()
    new = await house.keeper.renew(rejected=old)
    assert await house.keeper.renew(rejected=old) is new
    assert len(house.calls.sessions) == 2


async def test_a_rejected_value_is_renewed_whatever_object_carries_it(house: House) -> None:
    sent = await house.keeper.token()
    # A caller's login that brought no token of its own: the same value, now with an account.
    house.keeper.offer(Candidate(sent.value, 600), sent_with=sent, login_as="a@example.com")
    renewed = await house.keeper.renew(rejected=sent)
    assert renewed.value != sent.value


async def test_a_rejection_joins_the_background_renewal_under_way(house: House) -> None:
    old = await house.keeper.token()
    house.to_the_window()
    house.calls.gate.clear()
    await house.keeper.token()
    renewal = asyncio.create_task(house.keeper.renew(rejected=old))
    await settle()
    house.calls.gate.set()
    assert (await renewal).value != old.value
    assert len(house.calls.sessions) == 2


async def test_a_rejection_asks_again_when_the_renewal_begun_before_it_brings_the_rejected_token(house: House) -> None:
    old = await house.keeper.token()
    house.to_the_window()
    house.calls.gate.clear()
    house.calls.on_session.append(old.value)
    await house.keeper.token()
    renewal = asyncio.create_task(house.keeper.renew(rejected=old))
    await settle()
    house.calls.gate.set()
    assert (await renewal).value != old.value
    assert len(house.calls.sessions) == 3


async def test_a_rejected_token_counts_as_being_replaced_until_it_is_and_after(house: House) -> None:
    token = await house.keeper.token()
    house.calls.gate.clear()
    operator = asyncio.create_task(house.keeper.renew_now())
    await settle()
    told = [house.keeper.is_replacing(token)]  # it is renewed, but not for being rejected
    renewal = asyncio.create_task(house.keeper.renew(rejected=token))
    await settle()
    told.append(house.keeper.is_replacing(token))
    house.calls.gate.set()
    await asyncio.gather(operator, renewal)
    told.append(house.keeper.is_replacing(token))
    house.outage()
    with pytest.raises(SessionUnavailable):
        await house.keeper.renew(rejected=house.held)
    told.append(house.keeper.is_replacing(house.held))  # nobody does: it is held until its end
    assert told == [False, True, True, False]


async def test_a_request_that_cannot_be_repeated_waits_while_a_rejected_token_is_replaced(house: House) -> None:
    old = await house.keeper.token()
    house.calls.gate.clear()
    renewal = asyncio.create_task(house.keeper.renew(rejected=old))
    patient = asyncio.create_task(house.keeper.token(patient=True))
    await settle()
    assert not patient.done()
    assert await house.keeper.token() is old
    house.calls.gate.set()
    assert await patient is await renewal


async def test_a_patient_request_goes_on_with_the_held_token_when_the_renewal_fails(house: House) -> None:
    old = await house.keeper.token()
    house.calls.gate.clear()
    house.outage()
    renewal = asyncio.create_task(house.keeper.renew(rejected=old))
    await settle()
    patient = asyncio.create_task(house.keeper.token(patient=True))
    await settle()
    house.calls.gate.set()
    assert await patient is old
    with pytest.raises(SessionUnavailable):
        await renewal


async def test_closing_answers_those_who_wait(house: House) -> None:
    house.calls.gate.clear()
    waiting = asyncio.create_task(house.keeper.token())
    await settle()
    await house.keeper.close()
    with pytest.raises(Draining):
        await waiting


async def test_who_waits_is_answered_before_the_store_has_the_last_token(house: House) -> None:
    house.calls.gate.clear()
    waiting = asyncio.create_task(house.keeper.token())
    await settle()
    house.keeper.refuse()
    with pytest.raises(Draining):
        await waiting
    house.calls.gate.set()


async def test_a_request_whose_token_was_rejected_is_told_that_the_proxy_stops(house: House) -> None:
    held = await house.keeper.token()
    house.calls.gate.clear()
    waiting = [asyncio.create_task(house.keeper.renew(rejected=held))]
    await settle()
    waiting.append(asyncio.create_task(house.keeper.token(patient=True)))
    await settle()
    house.keeper.refuse()
    for task in waiting:
        with pytest.raises(Draining):
            await task
    house.calls.gate.set()


async def test_after_closing_nothing_begins(house: House) -> None:
    await house.keeper.close()
    with pytest.raises(Draining):
        await house.keeper.token()
    with pytest.raises(Draining):
        await house.keeper.renew_now()
    assert house.calls.sessions == []


async def test_the_first_attempt_is_over_when_it_failed(house: House) -> None:
    house.outage()
    await house.keeper.start(eager=True)
    assert not house.keeper.first_renewal_over.is_set()
    await settle()
    assert house.keeper.first_renewal_over.is_set()


async def test_the_first_attempt_is_over_when_the_keeper_closes(house: House) -> None:
    house.calls.gate.clear()
    await house.keeper.start(eager=True)
    await settle()
    await house.keeper.close()
    assert house.keeper.first_renewal_over.is_set()


async def test_without_eager_the_first_request_makes_the_session(house: House) -> None:
    await house.keeper.start(eager=False)
    await settle()
    assert house.calls.sessions == []
    await house.keeper.token()
    assert len(house.calls.sessions) == 1


async def test_a_renewal_that_meets_a_bug_fails_like_an_outage(house: House) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    house.calls.on_session.append(ZeroDivisionError("secret"))
    with pytest.raises(SessionUnavailable, match="ZeroDivisionError in the renewal") as caught:
        await house.keeper.token()
    assert "secret" not in str(caught.value)
    await settle()
    assert len(reported) == 1


async def test_a_renewal_ends_at_its_deadline(build: Build) -> None:
    house = build(deadline=0.01)
    house.calls.gate.clear()
    with pytest.raises(SessionUnavailable, match=r"within 0\.01 s"):
        await house.keeper.token()


async def test_at_most_one_session_call_is_under_way_whatever_happens(house: House) -> None:
    house.calls.gate.clear()
    first = asyncio.create_task(house.keeper.token())
    operator = asyncio.create_task(house.keeper.renew_now())
    await settle()
    house.keeper.use_credentials(type(house.calls.credentials)("other-app"))
    await settle()
    house.calls.gate.set()
    await asyncio.gather(first, operator)
    assert house.calls.most_busy == 1


async def test_a_login_outage_is_an_outage(build: Build) -> None:
    from tests.session.fakes import LOGIN

    house = build(credentials=LOGIN)
    house.calls.on_login.append(SessionOutage("login is down"))
    with pytest.raises(SessionUnavailable, match="login is down"):
        await house.keeper.token()


async def test_whoever_waits_is_told_even_if_telling_of_the_renewal_fails(build: Build) -> None:
    house = build()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    class Breaks(type(house.seen)):  # type: ignore[misc]
        def renewal(self, reason: str, result: str, fields: Mapping[str, object]) -> None:
            raise ZeroDivisionError

    house.seen.__class__ = Breaks
    async with asyncio.timeout(30):
        assert await house.keeper.token() is house.held
        house.outage()
        with pytest.raises(SessionUnavailable):
            house.clock.advance(1e6)
            await house.keeper.token()
