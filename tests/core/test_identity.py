"""Whose token it is, by its claims."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from proxy.core.identity import has_lost_login, marks_of_login, shortened


def jwt(**claims: Any) -> str:
    parts = (json.dumps({"alg": "HS256"}), json.dumps(claims), "signature")
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)


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


def test_times_and_token_ids_are_no_marks() -> None:
    assert marks_of_login(jwt(iat=1, exp=2, jti="a", nbf=1, x=1), jwt(iat=2, exp=3, jti="b", nbf=2, x=1)) == {}


@pytest.mark.parametrize(
    ("email", "shown"), [("partner@example.com", "p…@example.com"), ("@x", "…"), ("nobody", "…"), (None, None)]
)
def test_an_email_is_shown_without_being_spelt_out(email: str | None, shown: str | None) -> None:
    assert shortened(email) == shown
