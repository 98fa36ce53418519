"""Response fields: what never goes down, and how `Location` leads back to the proxy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.answer_fields import AnswerFields, for_client, scrubbed

ORIGINS = (b"https://api.example", b"https://api.example:443")


def down(*headers: tuple[bytes, bytes], host: bytes | None = b"localhost:8080") -> list[bytes]:
    fields = AnswerFields([b"%b: %b" % field for field in headers])
    return list(for_client(fields, host=host, origins=ORIGINS))


def location(value: bytes, *, host: bytes | None = b"localhost:8080") -> bytes:
    (line,) = down((b"Location", value), host=host)
    return line.removeprefix(b"Location: ")


PRIVATE = (
    b"authorization", b"Authorization", b"x-token-exp-seconds", b"X-Session-Id", b"Set-Cookie", b"set-cookie2",
    b"Connection", b"Keep-Alive", b"Proxy-Connection", b"Proxy-Authenticate", b"Proxy-Authentication-Info", b"TE",
    b"Trailer", b"Upgrade", b"X-Request-ID",
)  # fmt: skip


@pytest.mark.parametrize("name", PRIVATE, ids=bytes.decode)
def test_a_private_or_hop_by_hop_field_never_goes_down(name: bytes) -> None:
    assert down((b"A", b"1"), (name, b"value"), (b"A", b"2"), (name, b"value")) == [b"A: 1", b"A: 2"]


@pytest.mark.parametrize("framing", [(b"Content-Length", b"5"), (b"transfer-encoding", b"Chunked")])
def test_framing_never_goes_down(framing: tuple[bytes, bytes]) -> None:
    assert down((b"A", b"1"), framing, (b"A", b"2")) == [b"A: 1", b"A: 2"]


def test_a_field_that_connection_names_never_goes_down() -> None:
    assert down((b"X-Hop", b"1"), (b"Via", b"2"), (b"Connection", b"close, x-HOP")) == [b"Via: 2"]


@pytest.mark.parametrize("named", [b"x-request-id", b"X-Request-ID, close"])
def test_an_upstream_cannot_name_our_request_id_away(named: bytes) -> None:
    assert down((b"Connection", named), (b"X-Request-ID", b"theirs")) == []


def test_order_case_repetition_and_bytes_of_the_rest_are_kept() -> None:
    headers = [
        (b"content-TYPE", b"text/html"),
        (b"X", b"1"),
        (b"Content-Encoding", b"br"),
        (b"x", b""),
        (b"X-Latin", b"caf\xe9"),
        (b"WWW-Authenticate", b"Bearer"),
        (b"Retry-After", b"5"),
        (b"X_Under", b"_"),
        (b"Vary", b"A,  b"),
    ]
    assert down(*headers) == [*(b"%b: %b" % field for field in headers)]


NAMES = st.sampled_from([b"A", b"a", b"Via", b"Server", b"ETag", b"Vary", b"Cookie", b"X-Session"])
VALUES = st.binary(max_size=20).map(lambda value: value.translate(None, b"\r\n\0").strip(b" \t"))


@given(
    st.lists(st.tuples(NAMES, VALUES), max_size=12),
    st.lists(st.tuples(st.sampled_from([name for name in PRIVATE if name != b"Connection"]), VALUES)),
)
def test_private_fields_change_nothing_of_the_others(
    public: list[tuple[bytes, bytes]], private: list[tuple[bytes, bytes]]
) -> None:
    expected = [*(b"%b: %b" % field for field in public)]
    assert down(*private, *public) == down(*public, *private) == expected


# Location


@pytest.mark.parametrize(
    ("value", "rewritten"),
    [
        (b"https://api.example", b"http://localhost:8080"),
        (b"https://api.example/", b"http://localhost:8080/"),
        (b"https://api.example/v3/Carts?a=%2F#B", b"http://localhost:8080/v3/Carts?a=%2F#B"),
        (b"https://api.example?a", b"http://localhost:8080?a"),
        (b"https://api.example#a", b"http://localhost:8080#a"),
        (b"https://api.example:443/v3", b"http://localhost:8080/v3"),
        (b"HTTPS://API.Example/V3", b"http://localhost:8080/V3"),
        (b"//api.example/v3", b"http://localhost:8080/v3"),
        (b"//API.example:443", b"http://localhost:8080"),
    ],
)
def test_a_location_at_the_upstreams_origin_leads_back_to_the_proxy(value: bytes, rewritten: bytes) -> None:
    assert location(value) == rewritten


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"/v3/carts",
        b"carts?next=https://api.example/",
        b"https://api.example.evil.com/",
        b"https://api.examplex",
        b"https://api.example@evil.com/",
        b"https://api.example:443@evil.com/",
        b"https://user@api.example/",
        b"https://api.example:8443/",
        b"https://api.example:4430/",
        b"https://api.example\\@evil.com/",
        b"https://api.example\\.evil.com/",
        b"https://api.example%2eevil.com/",
        b"http://api.example/",
        b"https://other.example/https://api.example/",
        b"//api.example.evil.com/",
        b"//api.example@evil.com/",
        b"///api.example/",
        b"\\\\api.example/",
        b"https:/api.example/",
    ],
)
def test_any_other_location_is_left_as_it_came(value: bytes) -> None:
    assert location(value) == value


@pytest.mark.parametrize(
    ("value", "rewritten"),
    [
        (b"https://api.example", b"/"),
        (b"https://api.example/v3?a", b"/v3?a"),
        (b"https://api.example?a", b"/?a"),
        (b"https://api.example#a", b"/#a"),
        (b"//api.example/v3", b"/v3"),
        (b"https://other.example/", b"https://other.example/"),
    ],
)
def test_without_a_host_a_location_becomes_a_path(value: bytes, rewritten: bytes) -> None:
    assert location(value, host=None) == rewritten


def test_a_location_that_became_a_path_never_leads_to_another_host() -> None:
    assert location(b"https://api.example//evil.com/x", host=None) == b"/.//evil.com/x"


def test_every_location_is_rewritten_whatever_the_case_of_its_name() -> None:
    got = down((b"LOCATION", b"https://api.example/a"), (b"location", b"https://api.example/b"))
    assert got == [b"LOCATION: http://localhost:8080/a", b"location: http://localhost:8080/b"]


def test_no_other_field_is_rewritten() -> None:
    value = b"https://api.example/a"
    assert down((b"Content-Location", value), (b"Link", value))[:2] == [
        b"Content-Location: %b" % value,
        b"Link: %b" % value,
    ]


@pytest.mark.parametrize("connection", [b"x-a, x-b", b"close, X-A,connection, x-b"])
def test_what_the_upstreams_connection_names_goes_no_further(connection: bytes) -> None:
    headers = ((b"X-A", b"1"), (b"Connection", connection), (b"X-C", b"3"), (b"x-b", b"2"), (b"Connection", b"close"))
    assert down(*headers) == [b"X-C: 3"]


def test_a_line_means_the_same_however_often_it_comes() -> None:
    headers = (
        (b"A", b"1"),
        (b"Connection", b"close, x-b"),
        (b"X-B", b"2"),
        (b"Location", b"/a"),
        (b"Content-Length", b"7"),
    )
    assert down(*headers) == down(*headers) == [b"A: 1", b"Location: /a"]


# What is read of it


def read(*headers: tuple[bytes, bytes]) -> AnswerFields:
    return AnswerFields([b"%b:%b" % field for field in headers])


def test_a_date_of_cardcash_is_one_unless_connection_names_it() -> None:
    assert read((b"DATE", b" Thu, 01 Jan 1970 00:00:00 GMT")).dated
    assert not read((b"A", b"1")).dated
    named = read((b"Date", b" x"), (b"Connection", b" close, date"))
    assert not named.dated
    assert named.down == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"timeout=5", 5), (b" Timeout = \"15\", max=100", 15), (b"max=3, timeout=7", 7), (b"timeout=0", 0),
        (b"max=100", None), (b"xtimeout=5", None), (b"timeout=soon", None),
    ],
)  # fmt: skip
def test_how_long_cardcash_keeps_a_connection_is_read(value: bytes, seconds: int | None) -> None:
    assert read((b"Keep-Alive", value)).keep_alive_timeout == seconds


def test_of_two_keep_alives_one_that_says_nothing_changes_nothing() -> None:
    assert read((b"Keep-Alive", b"timeout=5"), (b"Keep-Alive", b"max=3")).keep_alive_timeout == 5
    assert read((b"A", b"1")).keep_alive_timeout is None


@pytest.mark.parametrize("name", [b"authorization", b"X-Token-Exp-Seconds", b"Set-Cookie"])
def test_an_answer_that_may_hold_a_token_is_known_as_such(name: bytes) -> None:
    assert read((b"A", b"1"), (name, b"x")).private
    assert not read((b"A", b"1")).private


def test_all_fields_can_be_read_as_they_came() -> None:
    assert read((b"Set-Cookie", b" \ta=b\t "), (b"A", b"")).raw == [(b"Set-Cookie", b"a=b"), (b"A", b"")]


@pytest.mark.parametrize("length", [b"5", b" 5\t", b"0", b"9" * 18])
def test_a_length_is_one_plain_number(length: bytes) -> None:
    assert read((b"Content-Length", length)).content_length == int(length)


@pytest.mark.parametrize(
    "framing",
    [
        [(b"Content-Length", b"5"), (b"content-length", b"5")],
        [(b"Content-Length", b"5, 5")],
        [(b"Content-Length", b"+5")],
        [(b"Content-Length", b"")],
        [(b"Content-Length", b"9" * 19)],
        [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"gzip")],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"")],
    ],
)
def test_framing_that_two_readers_could_read_in_two_ways_is_refused(framing: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        read(*framing)


def test_chunked_is_known_in_any_case_and_without_it_there_is_no_framing() -> None:
    assert read((b"Transfer-Encoding", b" Chunked ")).chunked
    plain = read((b"A", b"1"))
    assert (plain.chunked, plain.content_length) == (False, None)


# What CardCash knows us by

HEAD = [b"HTTP/1.1 200 OK", b"A: 1", b"X-Echo: a secret-token b", b"B: 2"]


def test_a_line_in_which_a_secret_stands_never_goes_down() -> None:
    assert scrubbed(HEAD, [b"secret-token"]) == b"HTTP/1.1 200 OK\r\nA: 1\r\nB: 2"
    assert scrubbed([HEAD[0], b"X: SECRET-Token", b"B: 2"], [b"other", b"secret-token"]) == b"HTTP/1.1 200 OK\r\nB: 2"
    assert scrubbed(HEAD, [b"another-secret"]) == b"\r\n".join(HEAD)
    assert scrubbed(HEAD, []) == b"\r\n".join(HEAD)


def test_a_field_that_is_named_after_a_secret_never_goes_down() -> None:
    assert scrubbed([HEAD[0], b"secret-token: 1", b"B: 2"], [b"secret-token"]) == b"HTTP/1.1 200 OK\r\nB: 2"


def test_a_reason_in_which_a_secret_stands_is_left_out() -> None:
    assert scrubbed([b"HTTP/1.1 400 no secret-token", b"A: 1"], [b"secret-token"]) == b"HTTP/1.1 400 \r\nA: 1"


@pytest.mark.parametrize(
    ("line", "stays"),
    [
        (b"X: demo", False), (b"X: a=demo;", False), (b"X: DEMO", False), (b"X: demographics", True), (b"X: xdemo", True),
        (b"X: demo1", True), (b"X: demographics, demo", False),
    ],
)  # fmt: skip
def test_a_short_secret_counts_as_a_word_of_its_own_only(line: bytes, *, stays: bool) -> None:
    assert (line in scrubbed([b"HTTP/1.1 200 OK", line], [b"demo"])) is stays


@pytest.mark.parametrize(("secret", "stays"), [(b"seven77", True), (b"eight888", False)])
def test_a_secret_of_eight_characters_is_found_inside_a_word(secret: bytes, *, stays: bool) -> None:
    line = b"X: a" + secret + b"b"
    assert (line in scrubbed([b"HTTP/1.1 200 OK", line], [secret])) is stays
