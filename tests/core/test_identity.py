"""Whose token it is, by its claims."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from proxy.core.dialect import Candidate
from proxy.core.identity import contradicts, has_lost_login, marks_of_login, refreshed, shortened, shows_another
from proxy.core.token import Moment, Source, Token

ME, YOU = "me@x.example", "you@x.example"
NOW = Moment(1_000.0, 5_000.0)


def jwt(**claims: Any) -> str:
    parts = (json.dumps({"alg": "HS256"}), json.dumps(claims), "signature")
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)


def token(value: str = "one.", *, age: float = 0.0, **more: Any) -> Token:
    return Token(value, Moment(NOW.steady - age, NOW.wall - age), 600, **more)


def mine(value: str = "mine.", *, age: float = 0.0) -> Token:
    return token(value, age=age, identity=ME, own_login=True)


def refresh(value: str, sent_with: Token, login_as: str | None = None) -> Token | str:
    """What comes of an answer to a request with `sent_with` that brought this one."""
    return refreshed(Candidate(value, 900), sent_with=sent_with, login_as=login_as, now=NOW)


#: (anonymous, logged in, refreshed with the login, refreshed without it)
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "email is added": ({"sid": 1}, {"sid": 1, "email": "a"}, {"sid": 1, "email": "a"}, {"sid": 1}),
    "email was null": ({"email": None}, {"email": "a"}, {"email": "a"}, {"email": None}),
    "role changes": ({"role": "guest"}, {"role": "partner"}, {"role": "partner"}, {"role": "guest"}),
    "a claim is new in every token": (
        {"sid": 1},
        {"sid": 2, "customerId": 5},
        {"sid": 3, "customerId": 5},
        {"sid": 4},
    ),
    "sub is the session, then the customer": ({"sub": "s1"}, {"sub": "c5"}, {"sub": "c5"}, {"sub": "s2"}),
    "nested": ({"x": 1}, {"x": 1, "customer": {"id": 5}}, {"x": 1, "customer": {"id": 5}}, {"x": 1, "customer": None}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_refresh_that_keeps_the_login_has_not_lost_it(shape: str) -> None:
    anonymous, logged_in, kept, _ = SHAPES[shape]
    assert not has_lost_login(marks_of_login(jwt(**anonymous), jwt(**logged_in)), jwt(iat=9, **kept))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_refresh_that_forgets_the_login_has_lost_it(shape: str) -> None:
    anonymous, logged_in, _, lost = SHAPES[shape]
    assert has_lost_login(marks_of_login(jwt(**anonymous), jwt(**logged_in)), jwt(iat=9, **lost))


@pytest.mark.parametrize("token", ["not.a.jwt", jwt(), jwt(nonce=3)])
def test_where_nothing_shows_the_login_it_is_taken_to_be_kept(token: str) -> None:
    assert not has_lost_login(marks_of_login(jwt(nonce=1), jwt(nonce=2)), token)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_refresh_with_what_the_held_token_shows_is_not_anothers(shape: str) -> None:
    anonymous, logged_in, kept, _ = SHAPES[shape]
    assert not shows_another(jwt(iat=9, **kept), jwt(**logged_in), "me@x.example")
    assert not shows_another(jwt(iat=9, **anonymous), jwt(**anonymous), None)


@pytest.mark.parametrize(
    ("held", "account", "found", "another"),
    [
        # While logged in
        ({"email": ME}, ME, {"email": "you@x.example"}, True),
        ({"customerId": 5}, ME, {"customerId": 7}, True),
        ({"customerId": 5, "account": 1}, ME, {"customerId": 7, "account": 1}, True),
        ({"customer": {"id": 5, "seen": 1}}, ME, {"customer": {"id": 7, "seen": 1}}, True),
        ({"customer": {"id": 5, "seen": 1}}, ME, {"customer": {"id": 5, "seen": 2}}, False),
        ({"https://x.example/email": ME}, ME, {"https://x.example/email": "you@x.example"}, True),
        ({"customer_id": 5}, ME, {"customerId": "5"}, False),
        ({"customer-id": 5}, ME, {"customerId": "5"}, False),
        ({"email": ME}, ME, {"email": "ME@x.example"}, False),
        ({"email": ME}, ME, {"email": ME, "customerId": 5}, False),
        ({}, ME, {"email": ME}, False),
        ({}, ME, {"email": "you@x.example"}, True),
        ({}, ME, {"customerId": 7}, True),
        ({"customerId": 5}, ME, {}, False),
        ({"customerId": 5}, ME, {"email": ""}, False),
        # While anonymous
        ({}, None, {"email": ME}, True),
        ({"sid": 1}, None, {"sid": 1, "customerId": 5}, True),
        ({"customerId": None}, None, {"customerId": 5}, True),
        ({"customerId": None}, None, {"customerId": None}, False),
        ({"sub": "guest"}, None, {"sub": "guest"}, False),
        ({"sub": "guest"}, None, {"sub": "5"}, True),
        ({"sid": 1}, None, {"sid": 2, "role": "guest"}, False),
    ],
)
def test_whose_a_token_in_an_answer_is(held: Any, account: str | None, found: Any, another: bool) -> None:
    assert shows_another(jwt(**found), jwt(**held), account) is another


def test_a_token_that_cannot_be_read_shows_nobody() -> None:
    assert not shows_another("not.a.jwt", jwt(email=ME), ME)
    assert not shows_another("not.a.jwt", jwt(), None)


def test_a_logins_token_with_the_email_of_another_contradicts_it() -> None:
    assert contradicts(jwt(email="you@x.example"), account=ME)
    assert not contradicts(jwt(email="ME@x.example", customerId=5), account=ME)
    assert not contradicts(jwt(customerId=5), account=ME)


def test_times_and_token_ids_are_no_marks() -> None:
    assert marks_of_login(jwt(iat=1, exp=2, jti="a", nbf=1, x=1), jwt(iat=2, exp=3, jti="b", nbf=2, x=1)) == {}


@pytest.mark.parametrize(
    ("email", "shown"), [("partner@example.com", "p…@example.com"), ("@x", "…"), ("nobody", "…"), (None, None)]
)
def test_an_email_is_shown_without_being_spelt_out(email: str | None, shown: str | None) -> None:
    assert shortened(email) == shown


def test_of_a_token_that_cannot_be_read_nothing_is_learnt() -> None:
    assert marks_of_login("not.a.jwt", jwt(email="a")) == {}
    assert marks_of_login(jwt(email="a"), "not.a.jwt") == {}
    assert not has_lost_login({"customerId": [None, 5]}, "not.a.jwt")


def test_what_the_login_brought_and_is_there_with_another_value_is_not_lost() -> None:
    assert not has_lost_login({"customerId": [None, 5]}, jwt(customerId=7))


@pytest.mark.parametrize(
    ("found", "why_not"),
    [
        (jwt(customerId=5, n=2), None),
        (jwt(customerId=7, n=2), "foreign"),
        (jwt(n=2), "anonymous"),
        ("not.a.jwt", None),  # nothing shows
    ],
)
def test_a_token_in_an_answer_takes_the_place_of_the_held_one_if_it_is_of_the_same(
    found: str, why_not: str | None
) -> None:
    brought = refresh(found, token(jwt(customerId=5, n=1), identity=ME, marks={"customerId": [None, 5]}))
    assert (brought.value if isinstance(brought, Token) else brought) == (why_not or found)


def test_a_token_with_the_email_of_the_account_takes_the_place_of_one_that_shows_nothing() -> None:
    held = token(jwt(n=1), identity=ME)
    assert isinstance(refresh(jwt(email=ME), held), Token)
    assert refresh(jwt(email=YOU), held) == "foreign"


def test_a_login_whose_token_shows_another_account_is_foreign() -> None:
    assert refresh(jwt(email=YOU), token(), ME) == "foreign"
    assert isinstance(refresh(jwt(email=ME), token(), ME), Token)


def test_a_login_again_whose_token_shows_another_account_than_the_held_one_is_foreign() -> None:
    held = replace(mine(), value=jwt(customerId=5))
    assert refresh(jwt(customerId=6), held, ME) == "foreign"
    assert isinstance(refresh(jwt(customerId=5), held, ME), Token)


def test_a_login_is_remembered_with_what_it_shows_by() -> None:
    brought = refresh(jwt(sid=1, customerId=5), token(jwt(sid=1), age=90, login_lost=True), ME)
    assert isinstance(brought, Token)
    assert (brought.identity, brought.own_login, brought.login_lost) == (ME, True, False)
    assert (brought.marks, brought.source, brought.born, brought.lifetime) == (
        {"customerId": [None, 5]},
        Source.LOGIN,
        NOW,
        900,
    )
    again = refresh(jwt(sid=2, customerId=5), brought, ME)
    assert isinstance(again, Token)
    assert again.marks == brought.marks


def test_the_e_mail_of_the_account_shows_nobody_else() -> None:
    for login_as in (ME, None):
        assert isinstance(refresh(jwt(email=ME), mine(jwt(sid=1)), login_as), Token)


def test_a_refresh_that_has_lost_the_login_is_anonymous() -> None:
    held = refresh(jwt(sid=1, customerId=5), replace(token(), value=jwt(sid=1)), ME)
    assert isinstance(held, Token)
    assert refresh(jwt(sid=3), held) == "anonymous"


def test_a_refresh_is_as_the_held_one_but_for_its_value_and_its_life() -> None:
    brought = refresh("two.", mine("one.", age=90))
    assert isinstance(brought, Token)
    assert (brought.value, brought.born, brought.lifetime, brought.source) == ("two.", NOW, 900, Source.HARVEST)
    assert (brought.identity, brought.own_login) == (ME, True)


def test_what_shows_somebody_else_is_foreign() -> None:
    assert refresh(jwt(customerId=6), token()) == "foreign"


def test_the_sent_token_again_is_unchanged_and_a_callers_login_that_brings_it_again_logs_it_in() -> None:
    held = token(age=90)
    assert refresh("one.", held) == "unchanged"
    again = refreshed(Candidate("one.", 900, tells_lifetime=False), sent_with=held, login_as=ME, now=NOW)
    assert isinstance(again, Token)
    assert (again.value, again.born, again.lifetime) == ("one.", held.born, 600)
    assert (again.identity, again.own_login, again.source) == (ME, True, Source.LOGIN)
    longer = refresh("one.", held, ME)
    assert isinstance(longer, Token)
    assert (longer.born, longer.lifetime) == (NOW, 900)
