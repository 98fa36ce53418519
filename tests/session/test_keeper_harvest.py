"""Tokens found in answers: adopted in order, or not at all."""

from __future__ import annotations

from proxy.core.dialect import Candidate, Malformed
from proxy.core.token import Source
from tests.session.conftest import Build
from tests.session.fakes import LOGIN, ME, House

NEW = Candidate("new.token.", 900)


async def test_a_token_in_an_answer_to_the_held_token_is_adopted(house: House) -> None:
    sent = await house.keeper.token()
    token = house.keeper.offer(NEW, sent_with=sent)
    assert token is not None
    assert await house.keeper.token() is token
    assert (token.value, token.lifetime, token.source) == ("new.token.", 900, Source.HARVEST)
    house.keeper.offer(Candidate("newer.token.", 900), sent_with=token)
    assert house.keeper.status()["harvests"] == 2


async def test_a_late_answer_never_overwrites_a_newer_token(house: House) -> None:
    sent = await house.keeper.token()
    first = house.keeper.offer(NEW, sent_with=sent)
    assert house.keeper.offer(Candidate("late.token.", 900), sent_with=sent) is None
    assert house.held is first
    assert house.seen.harvests == {"adopted": 1, "late": 1}
    assert (house.keeper.identity_lost, house.seen.losses) == (False, 0)


async def test_the_same_token_is_unchanged(house: House) -> None:
    sent = await house.keeper.token()
    assert house.keeper.offer(Candidate(sent.value, 900), sent_with=sent) is None
    assert house.held is sent
    assert house.seen.harvests == {"unchanged": 1}


async def test_a_malformed_token_is_counted_and_dropped(house: House) -> None:
    sent = await house.keeper.token()
    assert house.keeper.offer(Malformed(), sent_with=sent) is None
    assert house.held is sent
    assert house.seen.harvests == {"malformed": 1}


async def test_a_harvested_token_inherits_the_account(build: Build) -> None:
    house = build(credentials=LOGIN)
    token = house.keeper.offer(NEW, sent_with=await house.keeper.token())
    assert token is not None
    assert (token.identity, token.own_login) == (ME, False)


async def test_a_harvested_token_of_a_callers_login_stays_the_callers(house: House) -> None:
    login = house.keeper.offer(NEW, sent_with=await house.keeper.token(), login_as="a@example.com")
    assert login is not None
    token = house.keeper.offer(Candidate("refreshed.token.", 900), sent_with=login)
    assert token is not None
    assert (token.identity, token.own_login) == ("a@example.com", True)


async def test_a_new_token_on_the_answer_that_rejects_the_old_saves_the_renewal(house: House) -> None:
    sent = await house.keeper.token()
    token = house.keeper.offer(NEW, sent_with=sent)
    assert await house.keeper.renew(rejected=sent) is token
    assert len(house.calls.sessions) == 1
