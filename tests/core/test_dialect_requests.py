"""What callers' requests mean: whose login, what may be sent twice, what buys (API.md 2, 4)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.dialect import AmbiguousLogin, buys, login_body, login_email, may_repeat, same_account
from proxy.core.routes import classify

JSON = b"application/json"
FORM = b"application/x-www-form-urlencoded"
MAIL = "buyer@example.com"


def login(email: object = MAIL) -> bytes:
    return json.dumps({"customer": {"email": email, "password": "hunter2"}}).encode()


# login_email


@pytest.mark.parametrize(
    "content_type",
    [
        JSON,
        b"",
        b"text/plain",
        b"Application/JSON; charset=UTF-8",
        b'application/json;charset="utf-8"',
        FORM,
        b"application/json; charset=ISO-8859-1",
    ],
)
def test_a_json_login_is_read_whatever_its_type_says(content_type: bytes) -> None:
    assert login_email(login(), content_type) == MAIL


@pytest.mark.parametrize(
    "body",
    [
        b"customer[email]=buyer@example.com&customer[password]=x",
        b"customer%5Bemail%5D=buyer%40example.com&customer%5Bpassword%5D=x%26y",
        b"customer[password]=x&customer[email]=+buyer@example.com",
        b"a=&customer[email]=buyer@example.com",
    ],
)
def test_a_form_login_is_read(body: bytes) -> None:
    assert login_email(body, FORM) == MAIL
    assert login_email(body, b" Application/X-WWW-Form-Urlencoded ; charset=utf-8") == MAIL


def test_a_login_keeps_the_case_and_loses_the_blanks_around_it() -> None:
    assert login_email(login("  Buyer@Example.com\n"), JSON) == "Buyer@Example.com"


def test_a_login_may_begin_with_a_byte_order_mark_and_have_more_fields() -> None:
    body = b'\xef\xbb\xbf {"remember": true, "customer": {"password": "p", "email": "buyer@example.com", "x": []}}'
    assert login_email(body, JSON) == MAIL


@pytest.mark.parametrize(
    "body",
    [
        b'{"customer":{"email":"a@example.com","email":"b@example.com"}}',
        b'{"customer":{"email":"a@example.com"},"customer":{"email":"b@example.com"}}',
        b'{"customer":{"email":"a@example.com","e\\u006dail":"b@example.com"}}',
        b'{"customer":{"email":"a@example.com","x":{"y":1,"y":2}}}',
    ],
)
def test_a_json_login_with_a_key_twice_is_ambiguous(body: bytes) -> None:
    with pytest.raises(AmbiguousLogin):
        login_email(body, JSON)


@pytest.mark.parametrize(
    "body",
    [
        b"customer[email]=a@example.com&customer[email]=b@example.com",
        b"customer[email]=a@example.com&customer%5Bemail%5D=b@example.com",
        b"customer[email]=a@example.com&customer[email][]=b@example.com",
        b"customer[email]=a@example.com&customer[Email]=b@example.com",
        b"customer[email]=a@example.com&customer[email=b@example.com",
        b"customer[email]=a@example.com&customer=b",
        b"customer[email]=%E9@example.com",
        b"customer[email]=\xe9@example.com",
        b"customer[email]=a@example.com%00b",
        b"customer.email=a@example.com",
        b"email=a@example.com",
        b"customer[email]=",
        b"customer[email]=%20",
        b"",
    ],
)
def test_a_form_login_that_can_be_read_twice_or_not_at_all_is_ambiguous(body: bytes) -> None:
    with pytest.raises(AmbiguousLogin):
        login_email(body, FORM)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"buyer@example.com"',
        b'{"email":"a@example.com"}',
        b'{"customer":"a@example.com"}',
        b'{"customer":[{"email":"a@example.com"}]}',
        login(None),
        login(5),
        login([MAIL]),
        login({"$ne": None}),
        login(""),
        login(" \t"),
        login()[:-1],
        login() + b"{}",
        login().decode().encode("utf-16"),
        b'{"customer":{"email":"\xe9@example.com"}}',
        b"[" * 100_000,
        b'{"customer":{"email":' + b"9" * 5_000 + b"}}",
    ],
)
def test_a_login_without_one_email_as_text_is_ambiguous(body: bytes) -> None:
    with pytest.raises(AmbiguousLogin):
        login_email(body, JSON)


@pytest.mark.parametrize("character", ["\0", "\r\n", "\ud800", "\u200b", "\u202e", "\x7f", "\u2028"])
def test_an_email_with_a_character_that_readers_drop_or_cut_at_is_ambiguous(character: str) -> None:
    with pytest.raises(AmbiguousLogin):
        login_email(login(f"a@example.com{character}b"), JSON)


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/json; charset=utf-7",
        b"application/json; charset=utf-16le",
        b'application/json; Charset = "UTF-7"',
        b"application/json, application/x-www-form-urlencoded",
    ],
)
def test_a_login_whose_type_lets_it_be_read_otherwise_is_ambiguous(content_type: bytes) -> None:
    with pytest.raises(AmbiguousLogin):
        login_email(login("a+AEA-example.com"), content_type)


def test_letters_beyond_ascii_need_utf_8() -> None:
    body = '{"customer":{"email":"é@example.com"}}'.encode()
    assert login_email(body, b"application/json; charset=utf-8") == "é@example.com"
    with pytest.raises(AmbiguousLogin):
        login_email(body, b"application/json; charset=iso-8859-1")


def test_the_reason_of_an_ambiguous_login_shows_nothing_of_it() -> None:
    for body, content_type in ((login([MAIL]), JSON), (b'{"customer":{"email":"buyer@', JSON), (b"email=buyer@", FORM)):
        with pytest.raises(AmbiguousLogin) as caught:
            login_email(body, content_type)
        assert "buyer" not in str(caught.value)
        assert "hunter2" not in str(caught.value)


@given(st.binary(max_size=100), st.sampled_from([JSON, FORM, b"", b"x; charset=\xff"]))
def test_a_login_is_read_or_ambiguous_and_nothing_else(body: bytes, content_type: bytes) -> None:
    try:
        email = login_email(body, content_type)
    except AmbiguousLogin:
        return
    assert email == email.strip() != ""


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1), st.text(max_size=20))
def test_the_login_we_send_is_the_login_we_would_read(email: str, password: str) -> None:
    body = login_body(email, password)
    assert login_email(body, JSON) == email
    assert json.loads(body) == {"customer": {"email": email, "password": password}}


def test_accounts_are_compared_without_case() -> None:
    assert same_account("Buyer@Example.COM ", " buyer@example.com")
    assert same_account("É@example.com", "é@example.com")


@pytest.mark.parametrize(
    ("one", "other"),
    [(MAIL, "buyer@example.co"), (MAIL, "buyer+1@example.com"), ("strasse@x.de", "straße@x.de"), ("ſ@x.de", "s@x.de")],
)
def test_other_accounts_are_not_the_same(one: str, other: str) -> None:
    assert not same_account(one, other)


# may_repeat and buys


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/orders"),
        ("GET", "/wallets/5/secure-data"),
        ("HEAD", "/carts"),
        ("POST", "/session"),
        ("POST", "/carts"),
    ],
)
def test_the_safe_list_may_be_sent_twice(method: str, path: str) -> None:
    assert may_repeat(method, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/orders"),
        ("PUT", "/orders/5"),
        ("POST", "/carts/5/cards"),
        ("POST", "/cartsx"),
        ("PUT", "/carts"),
        ("DELETE", "/carts"),
        ("PATCH", "/session"),
        ("PUT", "/session"),
        ("POST", "/customers/login"),
        ("POST", "/customers"),
        ("OPTIONS", "/carts"),
        ("QUERY", "/carts"),
        ("get", "/carts"),
    ],
)
def test_everything_else_may_not_be_sent_twice(method: str, path: str) -> None:
    assert not may_repeat(method, path)


@pytest.mark.parametrize(("method", "path"), [("GET", "/carts"), ("HEAD", "/carts"), ("POST", "/carts")])
def test_a_request_with_an_overridden_method_may_not_be_sent_twice(method: str, path: str) -> None:
    assert not may_repeat(method, path, overridden=True)


ORDER_SPELLINGS = (
    "/v3/orders",
    "/v3.1/orders",
    "/v4/orders",
    "/V3/ORDERS",
    "/v3/Orders/",
    "/v3//orders",
    "/v3/./orders",
    "/v3/carts/../orders",
    "/v3/%6Frders",
    "/v3/%256frders",
    "/v3%2Forders",
    "/v3/orders;jsessionid=1",
    "/v3/carts/..;/orders",
    "/v3\\orders",
    "/v3/orders/2b1c3d4e-0000-4000-8000-000000000000",
    "/v3/orders/status/5",
    "/orders",
    "/v3/orders/5%2F..%2F..%2Fcarts",
    "/v3/orders/5\\..\\..\\carts",
)


@pytest.mark.parametrize("path", ORDER_SPELLINGS)
def test_an_order_buys_however_it_is_spelt(path: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert buys(method, classify(path).path)
        assert not may_repeat(method, classify(path).path)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reading_an_order_does_not_buy(method: str) -> None:
    assert not buys(method, classify("/v3/orders/5").path)


def test_a_read_of_orders_whose_method_a_header_overrides_buys() -> None:
    assert buys("GET", "/orders", overridden=True)


@pytest.mark.parametrize("path", ["/v3/carts", "/v3/ordersx", "/v3/xorders", "/v3/wallets/5", "/v3/session", "/", "*"])
def test_nothing_but_orders_buys(path: str) -> None:
    assert not buys("POST", classify(path).path)


@pytest.mark.parametrize("path", ["/v3/carts", "/v3.1/carts", "/v3/carts/", "/V3/Carts", "/v3//carts"])
def test_making_a_cart_may_be_sent_twice_under_every_version(path: str) -> None:
    assert may_repeat("POST", classify(path).path)
