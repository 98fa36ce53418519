"""Where tokens hide in answers, and how long they live (core/README.md, "Sessions and tokens")."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.dialect import (
    Candidate,
    Malformed,
    claims_of,
    harvest,
    header_value,
    session_token,
    well_formed,
)

APP = b"app-id-123"
WALL = 1_700_000_000.0


def jwt(**claims: object) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJIUzI1NiJ9.{part}.c2lnbmF0dXJl"


ONE, TWO, THREE = jwt(n=1), jwt(n=2), jwt(n=3)


def found(*headers: tuple[str, str]) -> Candidate | Malformed | None:
    return harvest([(name.encode(), value.encode("latin-1")) for name, value in headers], cookie=APP, wall=WALL)


def taken(*headers: tuple[str, str]) -> tuple[str, float]:
    candidate = found(*headers)
    assert isinstance(candidate, Candidate)
    return candidate.value, candidate.lifetime


# harvest


def test_an_answer_without_a_token_offers_none() -> None:
    assert found() is None
    assert found(("Content-Type", "text/html"), ("x-token-exp-seconds", "1200"), ("Set-Cookie", "other=x")) is None


@pytest.mark.parametrize("name", ["authorization", "Authorization", "AUTHORIZATION"])
@pytest.mark.parametrize("value", [ONE, f"Bearer {ONE}", f"bearer {ONE}", f"BEARER  {ONE} ", f" {ONE}"])
def test_a_token_is_taken_from_the_header_with_and_without_bearer(name: str, value: str) -> None:
    assert taken((name, value), ("X-Token-Exp-Seconds", "1199")) == (ONE, 1199.0)


@pytest.mark.parametrize(
    "cookie",
    [
        f"app-id-123={ONE}",
        f"app-id-123={ONE}; Path=/; HttpOnly; Secure",
        f'app-id-123="{ONE}"; Path=/',
        f" app-id-123 = {ONE} ;Path=/",
        f"app-id-123=Bearer%20{ONE}",
        f"app%2Did%2D123={ONE.replace('.', '%2E')}",
    ],
)
def test_a_token_is_taken_from_the_cookie_named_after_the_application(cookie: str) -> None:
    assert taken(("set-cookie", cookie), ("x-token-exp-seconds", "900")) == (ONE, 900.0)


@pytest.mark.parametrize(
    "cookie",
    [
        f"App-Id-123={ONE}",
        f"app-id-12={ONE}",
        f"xapp-id-123={ONE}",
        f"a=b; app-id-123={ONE}",
        ONE,
        f"={ONE}",
        "app-id-123=",
        "app-id-123=; Max-Age=0",
        'app-id-123=""',
    ],
)
def test_another_or_an_emptied_cookie_is_no_token(cookie: str) -> None:
    assert found(("Set-Cookie", cookie)) is None


def test_the_header_comes_before_the_cookie_wherever_it_stands() -> None:
    cookie = ("Set-Cookie", f"app-id-123={TWO}")
    assert taken(cookie, ("Authorization", ONE))[0] == ONE
    assert taken(("Authorization", ONE), cookie)[0] == ONE


def test_of_two_headers_the_first_good_one_counts() -> None:
    assert taken(("Authorization", ONE), ("Authorization", TWO))[0] == ONE
    assert taken(("Authorization", "garbage"), ("Authorization", TWO))[0] == TWO


def test_of_two_lifetimes_the_first_counts() -> None:
    lifetimes = (("X-Token-Exp-Seconds", "100"), ("X-Token-Exp-Seconds", "200"))
    assert taken(("Authorization", ONE), *lifetimes)[1] == 100.0


def test_a_good_cookie_covers_for_a_malformed_header() -> None:
    assert taken(("Authorization", "garbage"), ("Set-Cookie", f"app-id-123={TWO}"))[0] == TWO


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "garbage",
        "a.b",
        "a.b.c.d",
        ".b.c",
        "a..c",
        "a.b.c d",
        "a.b.c\r\nX: y",
        "a.b.c,a.b.c",
        "Basic a.b.c",
        "a.b.ç",
        "a.b+.c",
        "a.b=.c",
        "null",
        "undefined",
    ],
)
def test_what_is_no_jwt_is_reported_as_malformed(value: str) -> None:
    assert found(("Authorization", value)) == Malformed()


def test_a_malformed_cookie_is_reported_as_malformed() -> None:
    assert found(("Set-Cookie", "app-id-123=deleted; Max-Age=0")) == Malformed()


def test_an_endless_token_is_malformed() -> None:
    assert well_formed("a.b." + "c" * (8 * 1024 - 4)) is not None
    assert well_formed("a.b." + "c" * (8 * 1024 - 3)) is None


def test_a_token_may_have_an_empty_signature() -> None:
    assert well_formed("eyJ.eyJ.") == "eyJ.eyJ."


def test_nothing_that_was_found_shows_its_value() -> None:
    assert ONE not in repr(found(("Authorization", ONE)))
    assert "garbage" not in repr(found(("Authorization", "garbage")))


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_header_value_makes_harvesting_fail(one: bytes, other: bytes) -> None:
    headers = [(b"authorization", one), (b"set-cookie", b"app-id-123=" + other), (b"x-token-exp-seconds", one)]
    candidate = harvest(headers, cookie=APP, wall=WALL)
    if isinstance(candidate, Candidate):
        assert well_formed(candidate.value) == candidate.value
        assert candidate.value.isascii()
        assert 1 <= candidate.lifetime <= 604800


# Lifetimes


def lifetime_of(token: str, *, header: bytes | None, body: object, wall: float) -> float:
    headers = [(b"authorization", token.encode())] + ([] if header is None else [(b"x-token-exp-seconds", header)])
    content = {} if body is None else {"expiresInSeconds": body}
    found = session_token(headers, json.dumps(content).encode(), cookie=APP, wall=wall)
    assert isinstance(found, Candidate)
    return found.lifetime


def test_the_lifetime_is_the_header_then_the_body_then_exp_then_ten_minutes() -> None:
    token = jwt(exp=WALL + 40)
    assert lifetime_of(token, header=b"20", body=30, wall=WALL) == 20
    assert lifetime_of(token, header=None, body=30, wall=WALL) == 30
    assert lifetime_of(token, header=None, body=None, wall=WALL) == 40
    assert lifetime_of(ONE, header=None, body=None, wall=WALL) == 600


@pytest.mark.parametrize(
    "header",
    [b"0", b"-1", b"0.5", b"604801", b"1e9", b"inf", b"nan", b"", b"soon", b"60, 60", b"\xff", b"0x20", b"9" * 400],
)
def test_an_absurd_header_counts_as_absent(header: bytes) -> None:
    assert lifetime_of(ONE, header=header, body=30, wall=WALL) == 30


@pytest.mark.parametrize(
    "body", [0, -1, 604801, True, False, "", "soon", [30], {"s": 30}, float("inf"), float("nan"), 10**400]
)
def test_an_absurd_body_counts_as_absent(body: object) -> None:
    assert lifetime_of(jwt(exp=WALL + 40), header=None, body=body, wall=WALL) == 40


@pytest.mark.parametrize(
    "exp", [None, True, "never", [], WALL, WALL - 1, WALL + 0.5, WALL + 604801, 10**400, -(10**400)]
)
def test_an_absurd_exp_counts_as_absent(exp: object) -> None:
    assert lifetime_of(jwt(exp=exp), header=None, body=None, wall=WALL) == 600


@pytest.mark.parametrize(
    ("header", "seconds"), [(b"1", 1), (b"604800", 604800), (b" 1199 ", 1199), (b"1199.5", 1199.5)]
)
def test_the_bounds_and_fractions_of_a_lifetime_are_sane(header: bytes, seconds: float) -> None:
    assert lifetime_of(ONE, header=header, body=30, wall=WALL) == seconds


def test_a_body_may_say_its_lifetime_as_text() -> None:
    assert lifetime_of(ONE, header=None, body="3600", wall=WALL) == 3600


@pytest.mark.parametrize(
    "token", ["", "a", "a.b", "a.!!!!.c", "a.AAAA.c", "a.W10.c", "a.bnVsbA.c", "a.é.c", "a." + "W1tb" * 9000 + ".c"]
)
def test_unreadable_claims_are_no_claims(token: str) -> None:
    assert claims_of(token) == {}


# POST /session


def answered(
    *, header: str | None = None, body: object = None, cookie: str | None = None, lifetime: str | None = None
) -> tuple[str, float] | None:
    headers = [
        (name, value.encode())
        for name, value in ((b"Authorization", header), (b"Set-Cookie", cookie), (b"X-Token-Exp-Seconds", lifetime))
        if value is not None
    ]
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    candidate = session_token(headers, raw, cookie=APP, wall=WALL)
    return (candidate.value, candidate.lifetime) if isinstance(candidate, Candidate) else None


@pytest.mark.parametrize(
    ("headers", "body", "wrong"),
    [
        ([(b"authorization", b"garbage")], b"{}", Malformed()),
        ([(b"authorization", b"h.%b.s" % (b"x" * 9000))], b"{}", Malformed("longer than 8192 bytes")),
        ([], b'{"access_token": "garbage"}', Malformed()),
        ([], b'{"access_token": "h.%b.s"}' % (b"x" * 9000), Malformed("longer than 8192 bytes")),
        ([(b"set-cookie", b"app-id-123=garbage")], b'{"access_token": null}', Malformed()),
        ([], b'{"access_token": ""}', None),
    ],
)
def test_what_stands_for_a_session_token_and_is_none_is_told_apart_from_nothing(
    headers: list[tuple[bytes, bytes]], body: bytes, wrong: Malformed | None
) -> None:
    assert session_token(headers, body, cookie=APP, wall=WALL) == wrong


def test_a_session_token_is_the_header_then_the_body_then_the_cookie() -> None:
    body, cookie = {"access_token": TWO}, f"app-id-123={THREE}"
    assert answered(header=ONE, body=body, cookie=cookie) == (ONE, 600)
    assert answered(body=body, cookie=cookie) == (TWO, 600)
    assert answered(body={}, cookie=cookie) == (THREE, 600)
    assert answered(body={}) is None


def test_a_malformed_place_gives_way_to_the_next() -> None:
    assert answered(header="garbage", body={"access_token": TWO}) == (TWO, 600)
    assert answered(header="garbage", body={"access_token": 5}, cookie=f"app-id-123={THREE}") == (THREE, 600)
    assert answered(header="garbage", body={"access_token": None}, cookie="app-id-123=x") is None


def test_a_session_lives_as_long_as_header_then_body_say() -> None:
    body = {"access_token": TWO, "expiresInSeconds": 3600}
    assert answered(body=body, lifetime="1199") == (TWO, 1199)
    assert answered(body=body, lifetime="0") == (TWO, 3600)
    assert answered(header=ONE, body=body) == (ONE, 3600)


def test_a_session_body_may_have_a_byte_order_mark_and_more_fields() -> None:
    body = {"access_token": TWO, "expiresInSeconds": 1200, "sessionId": "x", "renderAssets": True}
    assert answered(body=b"\xef\xbb\xbf" + json.dumps(body).encode()) == (TWO, 1200)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"<html>", b"\xff\xfe", b"[" * 60_000, b"9" * 5_000])
def test_a_session_body_that_is_no_object_leaves_the_headers(body: bytes) -> None:
    assert answered(header=ONE, body=body) == (ONE, 600)
    assert answered(body=body) is None


def test_a_header_is_found_whatever_its_case_and_the_first_counts() -> None:
    headers = [(b"X-B", b"0"), (b"X-A", b"1"), (b"x-a", b"2")]
    assert header_value(headers, b"x-a") == b"1"
    assert header_value(headers, b"x-c") is None


def test_a_token_in_any_answer_lives_as_long_as_its_claims_say_if_nothing_else_does() -> None:
    assert taken(("Authorization", jwt(exp=WALL + 40))) == (jwt(exp=WALL + 40), 40.0)


@pytest.mark.parametrize(
    ("token", "more", "repeats"),
    [
        (ONE, (), True),
        (ONE, (("X-Token-Exp-Seconds", "900"),), False),
        (ONE, (("X-Token-Exp-Seconds", "0"),), True),
        (jwt(exp=WALL + 40), (), False),
        (TWO, (), False),
    ],
)
def test_a_token_that_comes_again_without_a_word_of_its_life_is_a_repetition(
    token: str, more: tuple[tuple[str, str], ...], *, repeats: bool
) -> None:
    candidate = found(("Authorization", token), *more)
    assert isinstance(candidate, Candidate)
    assert candidate.repeats(ONE if token != jwt(exp=WALL + 40) else token) is repeats


def test_a_token_may_begin_and_end_with_any_letter() -> None:
    assert taken(("Set-Cookie", "app-id-123=X.Y.X"))[0] == "X.Y.X"


@pytest.mark.parametrize("length", range(4, 12))
def test_claims_are_read_whatever_their_length(length: int) -> None:
    assert claims_of(jwt(a="x" * length)) == {"a": "x" * length}


def test_a_token_of_the_greatest_length_that_is_malformed_for_another_reason_is_no_jwt() -> None:
    assert found(("Authorization", "x" * (8 * 1024))) == Malformed()
    assert found(("Authorization", "x" * (8 * 1024 + 1))) == Malformed("longer than 8192 bytes")


@pytest.mark.parametrize("coding", ["utf-16", "utf-32-le", "latin-1"])
def test_a_session_body_that_is_not_in_utf_8_leaves_the_headers(coding: str) -> None:
    body = json.dumps({"access_token": TWO, "x": "\u00e9"}, ensure_ascii=False).encode(coding)
    assert answered(body=body) is None
    assert answered(body=body, header=ONE) == (ONE, 600)
