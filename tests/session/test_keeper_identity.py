"""Whose session it is: logins, refusals, operators and rotating secrets."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.dialect import Candidate
from proxy.core.errors import SessionUnavailable
from proxy.core.token import Token
from proxy.session.cardcash_calls import Credentials, ForeignLogin, SessionOutage, SessionRefused, SessionTokenRejected
from tests.core.test_identity import jwt
from tests.session.conftest import Build
from tests.session.fakes import APP, LOGIN, ME, House, settle

CALLER = "caller@example.com"
REFUSED_APP = SessionRefused("app_id", "The application id was refused.")
REFUSED_LOGIN = SessionRefused("login", "The login was refused.")


async def own_login(house: House) -> Token:
    """A caller logs in through the proxy."""
    sent = await house.keeper.token()
    token = house.keeper.offer(Candidate("callers.login.", 1200), sent_with=sent, login_as=CALLER)
    assert token is not None
    return token


# Configured login


async def test_every_new_session_is_logged_in(build: Build) -> None:
    house = build(credentials=LOGIN)
    token = await house.keeper.token()
    assert (await house.keeper.renew(rejected=token)).identity == token.identity == ME
    assert len(house.calls.logins) == 2


async def test_a_refused_login_leaves_requests_anonymous_and_is_not_tried_again(build: Build) -> None:
    house = build(credentials=LOGIN)
    house.calls.on_login.append(REFUSED_LOGIN)
    token = await house.keeper.token()
    assert token.identity is None
    assert house.keeper.refusals == {"login": "The login was refused."}
    await house.keeper.renew(rejected=token)
    assert len(house.calls.logins) == 1
    assert [result for _, result in house.seen.renewals] == ["login_refused", "login_refused"]


async def test_a_login_as_another_account_is_refused_and_its_session_goes_to_nobody(build: Build) -> None:
    house = build(credentials=LOGIN)
    house.calls.on_session.extend(["first.", "second."])
    house.calls.on_login.append(ForeignLogin("It is another account's."))
    token = await house.keeper.token()
    assert (token.value, token.identity, house.seen.harvests) == ("second.", None, {"foreign": 1})
    assert house.keeper.refusals == {"login": "It is another account's."}
    await house.keeper.renew(rejected=token)
    assert (len(house.calls.logins), len(house.calls.sessions)) == (1, 3)
    assert (await house.keeper.renew_now()).identity == ME


async def test_a_login_as_another_account_is_remembered_though_no_other_session_can_be_made(build: Build) -> None:
    house = build(credentials=LOGIN)
    house.calls.on_session.extend([None, SessionOutage("down")])
    house.calls.on_login.append(ForeignLogin("It is another account's."))
    with pytest.raises(SessionUnavailable, match="down"):
        await house.keeper.token()
    sibling = build(credentials=LOGIN, store=house.store, clock=house.clock)
    await sibling.keeper.start(eager=False)
    assert sibling.keeper.refusals == house.keeper.refusals == {"login": "It is another account's."}


@pytest.mark.parametrize("then", ["is refused", "hangs"])
async def test_after_a_login_as_another_account_the_next_session_may_fail_in_every_way(build: Build, then: str) -> None:
    house = build(credentials=LOGIN, deadline=0.2)
    house.calls.on_login.append(ForeignLogin("It is another account's."))
    house.calls.on_session.extend([None, REFUSED_APP] if then == "is refused" else [])
    if then == "hangs":
        house.calls.meanwhile = house.calls.gate.clear
    with pytest.raises(SessionUnavailable, match="application id was refused" if then == "is refused" else "within"):
        await house.keeper.token()
    assert house.keeper.refusals["login"] == "It is another account's."


async def test_a_login_refused_in_the_window_does_not_take_the_account_before_its_real_expiry(build: Build) -> None:
    house = build(credentials=LOGIN)
    token = await house.keeper.token()
    house.to_the_window()
    house.calls.on_login.append(REFUSED_LOGIN)
    for _ in range(5):
        assert await house.keeper.token() is token
        house.tick()
        await settle()
    assert len(house.calls.sessions) == 2
    house.clock.advance(token.lifetime)
    assert (await house.keeper.token()).identity is None


async def test_the_mark_of_a_refused_login_stays_until_the_new_try_has_succeeded(build: Build) -> None:
    house = build(credentials=LOGIN)
    house.calls.on_login.append(REFUSED_LOGIN)
    token = await house.keeper.token()
    assert house.keeper.login_refused(token)
    house.calls.gate.clear()
    operator = asyncio.create_task(house.keeper.renew_now())
    await settle()
    assert house.keeper.login_refused(await house.keeper.token())
    house.calls.gate.set()
    assert not house.keeper.login_refused(await operator)
    # One that was sent before came back anonymous all the same.
    assert house.keeper.login_refused(token)


async def test_the_mark_of_a_refused_login_stays_when_the_new_try_fails(build: Build) -> None:
    house = build(credentials=LOGIN)
    house.calls.on_login.append(REFUSED_LOGIN)
    await house.keeper.token()
    house.outage()
    with pytest.raises(SessionUnavailable):
        await house.keeper.renew_now()
    assert house.keeper.login_refused(await house.keeper.token())


async def test_without_a_login_of_our_own_nothing_is_marked(house: House) -> None:
    assert not house.keeper.login_refused(await house.keeper.token())
    assert not house.keeper.login_refused(None)


# Refusals


async def test_a_refused_application_id_is_not_tried_again(house: House) -> None:
    house.calls.on_session.append(REFUSED_APP)
    for _ in range(3):
        with pytest.raises(SessionUnavailable, match="was refused") as caught:
            await house.keeper.token()
        assert caught.value.retry_after == 30
        house.clock.advance(3600)
    assert len(house.calls.sessions) == 1
    assert house.keeper.status()["latched"] == "app_id"


async def test_with_the_application_id_refused_the_held_token_lives_on(house: House) -> None:
    token = await house.keeper.token()
    house.to_the_window()
    house.calls.on_session.append(REFUSED_APP)
    for _ in range(3):
        assert await house.keeper.token() is token
        await settle()
        house.clock.advance(40)
    assert len(house.calls.sessions) == 2


async def test_an_operator_opens_the_latch(house: House) -> None:
    house.calls.on_session.append(REFUSED_APP)
    await asyncio.gather(house.keeper.token(), return_exceptions=True)
    assert await house.keeper.renew_now() is house.held
    assert house.keeper.refusals == {}


async def test_an_operator_who_asks_during_a_renewal_without_login_gets_one_with(build: Build) -> None:
    house = build(credentials=LOGIN)
    house.calls.on_login.append(REFUSED_LOGIN)
    first = await house.keeper.token()
    house.calls.gate.clear()
    renewal = asyncio.create_task(house.keeper.renew(rejected=first))
    await settle()
    operator = asyncio.create_task(house.keeper.renew_now())
    await settle()
    house.calls.gate.set()
    await renewal
    assert (await operator).identity == ME


async def test_an_operator_opens_no_latch_that_closed_after_he_asked(house: House) -> None:
    house.calls.gate.clear()
    house.calls.on_session.append(REFUSED_APP)
    waiting = asyncio.create_task(house.keeper.token())
    await settle()
    operator = asyncio.create_task(house.keeper.renew_now())
    await settle()
    house.calls.gate.set()
    for failed in (waiting, operator):
        with pytest.raises(SessionUnavailable, match="was refused") as caught:
            await failed
        assert caught.value.retry_after == 30
    assert len(house.calls.sessions) == 1


async def test_an_operator_renews_a_fresh_token_and_ends_a_pause(house: House) -> None:
    house.outage()
    await asyncio.gather(house.keeper.token(), return_exceptions=True)
    house.calls.down = None
    token = await house.keeper.renew_now()
    assert await house.keeper.renew_now() is not token


async def test_an_operator_gets_the_held_token_when_cardcash_gives_no_other(house: House) -> None:
    token = await house.keeper.token()
    house.calls.on_session.append(token.value)
    assert await house.keeper.renew_now() is token
    assert house.seen.renewals[-1] == ("operator", "same_token")


async def test_an_operator_is_told_of_a_failure_although_a_token_is_held(house: House) -> None:
    await house.keeper.token()
    house.outage()
    with pytest.raises(SessionUnavailable):
        await house.keeper.renew_now()


# Secrets rotate


async def test_changed_credentials_make_a_new_session_while_requests_go_on(house: House) -> None:
    old = await house.keeper.token()
    house.calls.gate.clear()
    house.keeper.use_credentials(Credentials("new-app"))
    assert await house.keeper.token() is old
    house.calls.gate.set()
    await settle()
    assert house.held.value.startswith("session-of-new-app")


async def test_the_same_credentials_again_change_nothing(house: House) -> None:
    await house.keeper.token()
    house.keeper.use_credentials(Credentials(APP))
    await settle()
    assert len(house.calls.sessions) == 1


async def test_changed_credentials_open_the_latch_and_are_tried_at_once(house: House) -> None:
    house.calls.on_session.append(REFUSED_APP)
    await asyncio.gather(house.keeper.token(), return_exceptions=True)
    house.keeper.use_credentials(Credentials("new-app"))
    await settle()
    assert house.held.value.startswith("session-of-new-app")
    assert house.keeper.refusals == {}


async def test_a_changed_password_logs_in_again_after_a_refusal(build: Build) -> None:
    house = build(credentials=LOGIN)
    house.calls.on_login.append(REFUSED_LOGIN)
    await house.keeper.token()
    house.keeper.use_credentials(Credentials(APP, ME, "right"))
    await settle()
    assert house.held.identity == ME


async def test_a_renewal_with_old_credentials_is_stopped_rather_than_waited_for(house: House) -> None:
    house.calls.gate.clear()
    await house.keeper.start(eager=True)
    await settle()
    house.keeper.use_credentials(Credentials("new-app"))
    await settle()
    assert (len(house.calls.sessions), house.calls.busy) == (2, 1)


async def test_secrets_that_change_the_moment_a_renewal_begins_are_those_it_is_made_with(build: Build) -> None:
    house = build(credentials=LOGIN)
    changed = Credentials("other-app", ME, "other password")
    house.calls.on_login.append(SessionRefused("login", "Check it."))
    asking = asyncio.create_task(house.keeper.token())
    while not house.keeper.status()["renewing"]:
        await asyncio.sleep(0)
    house.keeper.use_credentials(changed)
    assert (await asking).app_id == "other-app"
    assert (len(house.calls.sessions), house.calls.logins) == (1, [changed])
    assert (await house.store.look(changed.secrets)).refusals == {"login": "Check it."}


async def test_a_renewal_with_old_credentials_is_dropped_and_its_waiters_get_the_next(house: House) -> None:
    house.calls.gate.clear()
    waiting = [asyncio.create_task(house.keeper.token()) for _ in range(20)]
    await settle()
    house.keeper.use_credentials(Credentials("new-app"))
    house.calls.gate.set()
    tokens = await asyncio.gather(*waiting)
    assert {token.value.partition(".")[0] for token in tokens} == {"session-of-new-app"}
    assert len(house.calls.sessions) == 2
    assert house.seen.renewals == [("first", "superseded"), ("credentials", "ok")]


async def test_a_refusal_of_old_credentials_does_not_latch_the_new(house: House) -> None:
    house.calls.on_session.append(REFUSED_APP)
    house.calls.meanwhile = lambda: house.keeper.use_credentials(Credentials("new-app"))
    token = await house.keeper.token()
    assert token.value.startswith("session-of-new-app")
    assert house.keeper.refusals == {}


async def test_a_token_harvested_with_the_old_application_id_is_late(house: House) -> None:
    old = await house.keeper.token()
    house.calls.gate.clear()
    house.keeper.use_credentials(Credentials("new-app"))
    assert house.keeper.offer(Candidate("old.apps.", 1200), sent_with=old) is None
    assert house.seen.harvests == {"late": 1}


async def test_a_changed_password_that_is_refused_does_not_take_the_account(build: Build) -> None:
    house = build(credentials=LOGIN)
    token = await house.keeper.token()
    house.calls.on_login.append(REFUSED_LOGIN)
    house.keeper.use_credentials(Credentials(APP, ME, "wrong"))
    await settle()
    assert house.held is token
    assert "login" in house.keeper.refusals


async def test_a_changed_application_id_whose_login_is_refused_does_take_the_account_of_the_one_before(
    build: Build,
) -> None:
    house = build(credentials=LOGIN)
    await house.keeper.token()
    house.calls.on_login.append(REFUSED_LOGIN)
    house.keeper.use_credentials(Credentials("other-app", ME, "password"))
    await settle()
    assert (house.held.app_id, house.held.identity) == ("other-app", None)
    assert house.keeper.status()["renewals"] == 2


# CardCash forgets the login


@pytest.mark.parametrize("when", ["now", "in a pause", "during a renewal"])
async def test_a_refresh_without_the_login_begins_one_renewal_where_one_may_begin(build: Build, when: str) -> None:
    house = build(credentials=LOGIN)
    marks = {"customerId": [None, 5]}
    value = jwt(customerId=5)
    await house.store.save(Token(value, house.clock.now(), 900, identity=ME, marks=marks), replaces=None)
    await house.keeper.start(eager=False)
    house.calls.gate.clear()
    operator = None
    if when == "in a pause":
        house.outage()
        house.calls.gate.set()
        await asyncio.gather(house.keeper.renew_now(), return_exceptions=True)
    elif when == "during a renewal":
        operator = asyncio.create_task(house.keeper.renew_now())
        await settle()
    before = len(house.calls.sessions)
    assert house.keeper.offer(Candidate(jwt(sid=3), 900), sent_with=house.held) is None
    assert house.seen.harvests["anonymous"] == 1
    await settle()
    assert len(house.calls.sessions) - before == (1 if when == "now" else 0)
    house.calls.gate.set()
    if operator is not None:
        await operator
        assert len(house.calls.sessions) == 1


# A caller's own login


async def test_an_anonymous_renewal_never_replaces_a_login_that_raced_with_it(house: House) -> None:
    sent = await house.keeper.token()
    house.calls.gate.clear()
    renewal = asyncio.create_task(house.keeper.renew(rejected=sent))
    await settle()
    login = house.keeper.offer(Candidate("callers.login.", 1200), sent_with=sent, login_as=CALLER)
    house.calls.gate.set()
    assert await renewal is login is house.held
    assert house.seen.renewals[-1] == ("rejected", "superseded")


async def test_a_login_that_repeats_the_token_without_a_lifetime_keeps_the_sessions(house: House) -> None:
    sent = await house.keeper.token()
    house.clock.advance(100)
    again = Candidate(sent.value, 600, tells_lifetime=False)
    assert house.keeper.offer(again, sent_with=sent, login_as=CALLER) is house.held
    assert (house.held.identity, house.held.born, house.held.lifetime) == (CALLER, sent.born, sent.lifetime)


async def test_a_login_that_repeats_the_token_with_a_lifetime_brings_that_one(house: House) -> None:
    sent = await house.keeper.token()
    house.keeper.offer(Candidate(sent.value, 900), sent_with=sent, login_as=CALLER)
    assert house.held.lifetime == 900


async def test_a_late_login_beats_an_anonymous_token(house: House) -> None:
    sent = await house.keeper.token()
    await house.keeper.renew(rejected=sent)
    login = house.keeper.offer(Candidate("callers.login.", 1200), sent_with=sent, login_as=CALLER)
    assert house.held is login


async def test_a_late_login_does_not_beat_another_login(house: House) -> None:
    sent = await house.keeper.token()
    first = await own_login(house)
    late = house.keeper.offer(Candidate("late.login.", 1200), sent_with=sent, login_as="b@example.com")
    assert late is None
    assert house.held is first


async def test_in_the_window_a_callers_login_is_kept_alive_instead_of_replaced(house: House) -> None:
    await own_login(house)
    house.to_the_window()
    house.calls.on_keep_alive.append("kept.alive.")
    await house.keeper.token()
    await settle()
    assert (house.held.value, house.held.identity, house.held.own_login) == ("kept.alive.", CALLER, True)
    assert len(house.calls.sessions) == 1
    assert house.seen.renewals[-1] == ("keepalive", "ok")


async def test_one_keep_alive_runs_at_a_time_and_again_only_after_a_growing_pause(house: House) -> None:
    token = await own_login(house)
    house.to_the_window()
    for _ in range(100):
        assert await house.keeper.token() is token
        house.tick()
        await settle()
    assert house.calls.keep_alives == 1
    house.clock.advance(1)
    house.tick()
    await settle()
    house.clock.advance(1)
    house.tick()
    await settle()
    assert house.calls.keep_alives == 2


async def test_a_keep_alive_that_brings_nothing_does_not_delay_the_renewal_of_a_rejected_token(house: House) -> None:
    token = await own_login(house)
    house.to_the_window()
    await house.keeper.token()
    await settle()
    assert (await house.keeper.renew(rejected=token)).identity is None


async def test_a_failed_keep_alive_fails_nobody_who_waits_for_a_renewal(house: House) -> None:
    token = await own_login(house)
    house.to_the_window()
    house.calls.gate.clear()
    house.calls.on_keep_alive.append(SessionOutage("down"))
    await house.keeper.token()
    renewal = asyncio.create_task(house.keeper.renew(rejected=token))
    await settle()
    assert not renewal.done()
    house.calls.gate.set()
    assert (await renewal) is house.held


async def test_a_keep_alive_whose_token_is_rejected_renews_and_flags_the_lost_login(house: House) -> None:
    await own_login(house)
    house.to_the_window()
    house.calls.on_keep_alive.append(SessionTokenRejected("no"))
    await house.keeper.token()
    await settle()
    assert house.held.identity is None
    assert house.keeper.status()["identity_lost"]
    assert house.seen.renewals[-2:] == [("keepalive", "failed"), ("rejected", "ok")]


async def test_a_callers_login_that_lapses_unused_is_told_and_an_anonymous_session_is_not(house: House) -> None:
    token = await house.keeper.token()
    house.clock.advance(token.lifetime)
    house.tick()
    assert house.seen.losses == 0
    token = await own_login(house)
    house.clock.advance(token.lifetime)
    house.tick()
    house.tick()
    assert (house.seen.losses, house.keeper.identity_lost) == (1, True)


@pytest.mark.parametrize("way", ["revoked", "lapsed", "renewed by an operator"])
async def test_a_lost_login_of_a_caller_is_flagged_once_until_the_next_login(house: House, way: str) -> None:
    token = await own_login(house)
    if way == "revoked":
        await house.keeper.renew(rejected=token)
    elif way == "lapsed":
        house.clock.advance(token.lifetime)
        await house.keeper.token()
    else:
        await house.keeper.renew_now()
    assert house.held.identity is None
    assert house.keeper.status()["identity_lost"]
    await house.keeper.renew_now()
    assert house.seen.losses == 1
    await own_login(house)
    assert not house.keeper.status()["identity_lost"]
