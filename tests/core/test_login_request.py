"""Whose login a caller's body is, and when it could be somebody else's too."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.dialect import login_body
from proxy.core.login_request import AmbiguousLogin, login_email, same_account

JSON = b"application/json"
FORM = b"application/x-www-form-urlencoded"
MAIL = "buyer@example.com"


def login(email: object = MAIL) -> bytes:
    return json.dumps({"customer": {"email": email, "password": "hunter2"}}).encode()


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


OTHER = b"&customer[email]=other@example.com&z="


@pytest.mark.parametrize("content_type", [JSON, FORM, b""])
@pytest.mark.parametrize(
    "password",
    [
        "&customer[email]=b@x.example&customer[password]=p&z=",
        "&customer%5Bemail%5D=b@x.example",
        "&customer%255bemail%255d=b@x.example",
        ";customer[email]=b@x.example",
        "&customer.email=b@x.example",
        "&CUSTOMER[EMAIL]=b@x.example",
        "&email=b@x.example",
        "&customer[]=b@x.example",
        "&cu\u017ftomer=b@x.example",
        "p&x=y&customer[email",
    ],
)
def test_a_json_login_that_is_also_a_form_is_ambiguous(password: str, content_type: bytes) -> None:
    for ascii_only in (True, False):
        text = json.dumps({"customer": {"email": MAIL, "password": password}}, ensure_ascii=ascii_only)
        if ascii_only and not password.isascii():
            continue
        with pytest.raises(AmbiguousLogin):
            login_email(text.encode(), content_type)


@pytest.mark.parametrize("password", ["a&b=c&d", "p;q=1", "100%&=", '{"email"}', "customer[email]=b", "%", "%zz&%zz"])
def test_a_password_may_hold_any_character(password: str) -> None:
    assert login_email(json.dumps({"customer": {"email": MAIL, "password": password}}).encode(), JSON) == MAIL


@pytest.mark.parametrize(
    "body",
    [
        b'{"customer":{"email":"a@example.com"},"email":"b@example.com"}',
        b'{"customer":{"email":"a@example.com"},"Customer":{"email":"b@example.com"}}',
        b'{"customer":{"email":"a@example.com","EMail":"b@example.com"}}',
        b'{"customer":{"email":"a@example.com","email\\u0000":"b@example.com"}}',
        b'{"customer":{"email":"a@example.com"},"cu\\u017ftomer":{"email":"b@example.com"}}',
        b'{"customer":{"email":"a@example.com"},"customer[email]":"b@example.com"}',
        b'{"customer":{"email":"a@example.com"},"customer.email":"b@example.com"}',
        b'{"customer":{"email":"a@example.com","__proto__":{"email":"b@example.com"}}}',
        b'{"customer":{"email":"a@example.com"},"user":{"email":"b@example.com"}}',
        b'{"Customer":{"email":"a@example.com"}}',
    ],
)
def test_a_json_login_with_a_second_email_for_another_reader_is_ambiguous(body: bytes) -> None:
    with pytest.raises(AmbiguousLogin):
        login_email(body, JSON)


@pytest.mark.parametrize(
    "more",
    [
        b"&x=1;customer[email]=b@example.com",
        b"&customer%255Bemail%255D=b@example.com",
        b"&x=1\r\ncustomer[email]=b@example.com",
        b"&customer%00[email]=b@example.com",
        b"&customer[e%C2%ADmail]=b@example.com",
        b"&customer_email=b@example.com",
        b"&customer[x][email]=b@example.com",
        b"&email=b@example.com",
        b"&%EF%25BD%2583ustomer=b@example.com",  # a wide c, whose bytes are coded at different depths
        b"&" + b"%" + b"25" * 20 + b"41=x",
    ],
)
def test_a_form_login_with_a_second_email_for_another_reader_is_ambiguous(more: bytes) -> None:
    with pytest.raises(AmbiguousLogin):
        login_email(b"customer[email]=a@example.com" + more, FORM)


@pytest.mark.parametrize(
    "body",
    [
        b'{"customer":{"email":"a@example.com","password":"' + OTHER + b'"}}',
        b' \n{"customer":{"email":"a@example.com","password":"' + OTHER + b'"}}',
        b'\xef\xbb\xbf{"customer":{"email":"a@example.com","password":"' + OTHER + b'"}}',
        b'\xef\xbb\xbf\xef\xbb\xbf{"customer":{"email":"a@example.com","password":"' + OTHER + b'"}}',
        b'x={"customer":{"email":"a@example.com"}}&customer[email]=b@example.com;email=c',
    ],
)
def test_a_form_login_that_is_also_json_is_ambiguous(body: bytes) -> None:
    with pytest.raises(AmbiguousLogin):
        login_email(body, FORM)


@pytest.mark.parametrize("query", ["customer[email]=b@example.com", "customer%5Bemail%5D=b", "email=b", "x=1&customer"])
def test_a_login_with_an_account_in_its_query_too_is_ambiguous(query: str) -> None:
    for harmless in ("checkout=condensed", "%FF=1", "x%c3=%a9"):
        assert login_email(login(), JSON, harmless) == MAIL
    with pytest.raises(AmbiguousLogin):
        login_email(login(), JSON, query)


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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (MAIL, "buyer@example.co"),
        (MAIL, "buyer+1@example.com"),
        ("strasse@x.de", "straße@x.de"),
        ("ſ@x.de", "s@x.de"),
        ("\u212aate@x.de", "kate@x.de"),
        ("É@example.com", "é@example.com"),
        ("\u00a0a@x.de", "a@x.de"),
    ],
)
def test_other_accounts_are_not_the_same(one: str, other: str) -> None:
    assert not same_account(one, other)


_PARTS = st.sampled_from(
    ["&", ";", "=", "customer", "[email]", "email", "%5B", "%25", "b@x.example", "{", '"', "\n", "p"]
)


@given(st.lists(_PARTS, max_size=8).map("".join), st.sampled_from([JSON, FORM]))
def test_a_login_that_is_read_is_read_as_no_other_account_by_a_form_reader(password: str, kind: bytes) -> None:
    body = json.dumps({"customer": {"email": MAIL, "password": password}}).encode()
    try:
        login_email(body, kind)
    except AmbiguousLogin:
        return
    for separator in ("&", ";"):
        names = list(parse_qs(body.decode(), keep_blank_values=True, separator=separator, max_num_fields=99))
        assert not [name for name in names if "email" in unquote(name) and not name.startswith("{")]


def refused(body: bytes, content_type: bytes = JSON) -> bool:
    try:
        login_email(body, content_type)
    except AmbiguousLogin:
        return True
    return False


@pytest.mark.parametrize("around", ["\u00a0", "\u2003", "\u200b", "\x0b", "\x1f"])
def test_blanks_that_not_every_reader_takes_away_make_it_no_login(around: str) -> None:
    assert refused(login(around + MAIL))
    assert refused(login(MAIL + around))


def test_a_key_with_something_invisible_in_it_is_that_key_once_more() -> None:
    assert refused('{"customer": {"email": "a@b.c", "e\u200bmail": "d@b.c"}}'.encode())
    assert refused('{"customer": {"email": "a@b.c"}, "x": {"em\u00adail": "d@b.c"}}'.encode())


def test_a_login_inside_a_list_is_none() -> None:
    assert refused(b"[" + login() + b"]")


@pytest.mark.parametrize("content_type", [JSON, FORM])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_json_on_several_lines_is_read(newline: str, content_type: bytes) -> None:
    content = {"customer": {"email": MAIL, "password": "a=b"}}
    for indent in (None, 2):
        text = newline + json.dumps(content, indent=indent).replace("\n", newline) + newline
        assert login_email(text.encode(), content_type) == MAIL


def test_json_on_several_lines_that_is_a_form_too_is_none() -> None:
    assert refused(b'{"customer": {"email": "a@b.c", "x":\n"customer[email]=d@b.c"\n}}')
    assert refused(b'{"customer": {"email": "a@b.c"}, "x":\n"&customer[email]=d@b.c"}')


@pytest.mark.parametrize(
    "body",
    [
        b"customer%255Bemail%255D=a@b.c",
        b"x=1;customer[email]=a@b.c",
        b"customer[email]=",
        b"customer[email]",
        b"customer[email]=%ff",
    ],
)
def test_a_form_that_only_some_would_read_as_a_login_is_none(body: bytes) -> None:
    assert refused(body, FORM)


def test_accounts_are_compared_whatever_stands_in_a_claim() -> None:
    assert not same_account("\ud800", MAIL)
    assert same_account("\ud800", "\ud800")
    assert same_account(" Buyer@Example.com\t", MAIL)


def test_nothing_of_a_login_is_repeated_by_its_refusal() -> None:
    with pytest.raises(AmbiguousLogin) as caught:
        login_email(b'{"customer": {"email": "hunter2', JSON)
    assert str(caught.value) == ""
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
