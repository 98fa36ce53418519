"""Request fields: what the proxy reads, what goes up, what never does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import BadRequest, BodyTooLarge, HeadersTooLarge
from proxy.core.request_fields import LARGEST_HEAD, RequestFields, for_upstream, is_ours, read_request

INJECTED = b"Host: api.example\r\nX-Request-ID: id\r\n"
Headers = list[tuple[bytes, bytes]]


def lines(*headers: tuple[bytes, bytes], required: bytes | None = None) -> list[bytes]:
    return read_request(list(headers), required=required).block.splitlines(keepends=True)


def head(*headers: tuple[bytes, bytes], method: str = "GET", target: str = "/v3/carts") -> bytes:
    fields = read_request(list(headers))
    start = f"{method} {target} HTTP/1.1\r\n".encode()
    host, agent = b"Host: api.example\r\n", b"User-Agent: proxy/1\r\n"
    return b"".join(for_upstream(fields, start, host, b"X-Request-ID: id", agent))


# What never goes up

PRIVATE = (
    b"Authorization", b"x-cc-app", b"X-CC-App", b"Cookie", b"Cookie2", b"Proxy-Authorization", b"Proxy-Connection",
    b"Proxy-Anything", b"Forwarded", b"X-Forwarded-For", b"X-Forwarded-Host", b"X-FORWARDED-PROTO", b"X-Forwarded-Prefix",
    b"Keep-Alive", b"TE", b"Trailer", b"Upgrade", b"Expect", b"HTTP2-Settings", b"Host", b"X-Request-ID",
)  # fmt: skip


@pytest.mark.parametrize("name", PRIVATE, ids=bytes.decode)
def test_a_private_or_hop_by_hop_field_never_goes_up(name: bytes) -> None:
    assert lines((b"A", b"1"), (name, b"value"), (b"B", b"2")) == [b"A: 1\r\n", b"B: 2\r\n"]


@pytest.mark.parametrize("name", PRIVATE, ids=bytes.decode)
def test_a_look_alike_with_underscores_never_goes_up(name: bytes) -> None:
    if b"-" in name:
        assert lines((name.replace(b"-", b"_"), b"value"), (name.replace(b"-", b"_", 1), b"value")) == []


@pytest.mark.parametrize("name", [b"Content_Length", b"Transfer_Encoding", b"Transfer-%45ncoding", b"content%2dlength"])
def test_a_look_alike_of_framing_is_refused(name: bytes) -> None:
    with pytest.raises(BadRequest):
        read_request([(name, b"5")])


def test_chunked_is_no_content_coding() -> None:
    with pytest.raises(BadRequest):
        read_request([(b"Content-Encoding", b"gzip, Chunked")])


@pytest.mark.parametrize("name", [b"Set_Cookie", b"X_Custom"])
def test_other_names_with_underscores_go_up(name: bytes) -> None:
    assert lines((name, b"5")) == [name + b": 5\r\n"]


@pytest.mark.parametrize(
    "connection", [b"X-Drop", b"close, x-drop", b"keep-alive , X-DROP,", b"\tx-drop\t", b",x-drop"]
)
def test_a_field_that_connection_names_never_goes_up(connection: bytes) -> None:
    assert lines((b"X-Drop", b"1"), (b"X-Keep", b"2"), (b"Connection", connection)) == [b"X-Keep: 2\r\n"]


def test_names_of_several_connection_fields_count_wherever_they_stand() -> None:
    headers = ((b"Connection", b"a"), (b"A", b"1"), (b"B", b"2"), (b"A", b"3"), (b"C", b"4"), (b"Connection", b"b"))
    assert lines(*headers) == [b"C: 4\r\n"]


@pytest.mark.parametrize(
    "named",
    [b"x-cc-app", b"authorization", b"host", b"user-agent", b"x-request-id", b"content-length", b"transfer-encoding"],
)
def test_a_caller_cannot_name_our_own_fields_away(named: bytes) -> None:
    plain = head((b"Content-Length", b"5"))
    assert head((b"Connection", b"close, " + named), (b"Content-Length", b"5")) == plain


def test_chunked_framing_cannot_be_named_away() -> None:
    got = head((b"Connection", b"transfer-encoding"), (b"Transfer-Encoding", b"chunked"))
    assert got.endswith(b"Transfer-Encoding: chunked\r\n")


def test_naming_the_user_agent_away_leaves_ours() -> None:
    got = head((b"User-Agent", b"curl"), (b"Connection", b"User-Agent"))
    assert b"curl" not in got
    assert got.count(b"User-Agent: proxy/1\r\n") == 1


def test_the_required_header_is_read_and_never_goes_up() -> None:
    headers: Headers = [(b"X-Proxy-Key", b"secret"), (b"x_proxy_key", b"secret"), (b"X-PROXY-KEY", b"again")]
    fields = read_request(headers, required=b"x-proxy-key")
    assert fields.required == (b"secret", b"again")
    assert fields.block == b""


@pytest.mark.parametrize(
    "name", [b"authorization", b"cookie", b"proxy-authorization", b"x-forwarded-secret", b"x-request-id", b"forwarded"]
)
def test_a_field_that_never_goes_up_can_be_the_required_one(name: bytes) -> None:
    fields = read_request([(name.title(), b"secret")], required=name)
    assert fields.required == (b"secret",)
    assert fields.block == b""


# What goes up as it came


def test_order_case_repetition_and_bytes_of_the_rest_are_kept() -> None:
    headers: Headers = [
        (b"x-B", b"1"),
        (b"ACCEPT", b"*/*"),
        (b"x-B", b""),
        (b"X-Latin", b"caf\xe9 \xff"),
        (b"x-b", b"a,  b ;c"),
        (b"X-Under_Score", b"_"),
        (b"Accept-Encoding", b"br, gzip;q=0"),
        (b"Content-Encoding", b"gzip"),
        (b"Range", b"bytes=0-"),
    ]
    assert lines(*headers) == [b"%b: %b\r\n" % field for field in headers]


NAMES = st.sampled_from(
    [b"A", b"a", b"X-One", b"x-one", b"X_One", b"Accept", b"Via", b"If-Match", b"Date", b"X-Forward"]
)
VALUES = st.binary(max_size=20).map(lambda value: value.translate(None, b"\r\n\0"))


@given(st.lists(st.tuples(NAMES, VALUES), max_size=12), st.lists(st.tuples(st.sampled_from(PRIVATE[:15]), VALUES)))
def test_private_fields_change_nothing_of_the_others(public: Headers, private: Headers) -> None:
    expected = [b"%b: %b\r\n" % field for field in public]
    assert lines(*private, *public) == lines(*public, *private) == expected


# The head


def test_the_head_is_request_line_ours_theirs_and_framing() -> None:
    assert head((b"User-Agent", b"curl"), (b"Content-Length", b"007"), (b"X", b"1"), method="GET", target="/v3/a?b=%20") == (
        b"GET /v3/a?b=%20 HTTP/1.1\r\n" + INJECTED + b"User-Agent: curl\r\nX: 1\r\nContent-Length: 7\r\n"
    )  # fmt: skip


@pytest.mark.parametrize("headers", [[], [(b"User-Agent", b"")]], ids=["none", "empty"])
def test_our_user_agent_stands_in_for_a_missing_one(headers: Headers) -> None:
    assert head(*headers) == b"GET /v3/carts HTTP/1.1\r\n" + INJECTED + b"User-Agent: proxy/1\r\n"


JSON_LINE = b"Content-Type: application/json\r\n"


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(
    "headers",
    [[], [(b"Content-Type", b"")], [(b"Content-Type", b"text/x"), (b"Connection", b"content-type")]],
    ids=["none", "empty", "named away"],
)
def test_post_and_put_without_a_content_type_go_up_as_json(method: str, headers: Headers) -> None:
    got = head(*headers, method=method)
    assert got.lower().count(b"content-type") == 1
    assert JSON_LINE in got


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PATCH", "OPTIONS", "POSTER", "PUTS"])
def test_other_methods_get_no_content_type(method: str) -> None:
    assert b"content-type" not in head(method=method).lower()


@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
def test_a_callers_content_type_goes_up_as_it_came(method: str) -> None:
    got = head((b"content-type", b"application/x-www-form-urlencoded; a=b"), method=method)
    assert b"\r\ncontent-type: application/x-www-form-urlencoded; a=b\r\n" in got
    assert got.lower().count(b"content-type") == 1


def test_a_callers_user_agent_is_kept_and_ours_stays_away() -> None:
    assert head((b"user-agent", b"one")).endswith(b"user-agent: one\r\n")


def test_a_request_without_body_has_no_framing_and_an_empty_one_keeps_its_length() -> None:
    assert b"ontent-length" not in head(method="POST").lower()
    assert head((b"Content-Length", b"0"), method="POST").endswith(b"Content-Length: 0\r\n")


# Framing (RFC 9112, 6)


@pytest.mark.parametrize(
    "value",
    [b"", b" ", b"-1", b"+5", b"5,5", b"5, 5", b"0x5", b"5 5", b"1e3", b"1_0", b"5;", b"\xb2", b"\xd9\xa1"],
)
def test_a_content_length_that_is_not_one_plain_number_is_refused(value: bytes) -> None:
    with pytest.raises(BadRequest):
        read_request([(b"Content-Length", value)])


def test_a_content_length_beyond_all_numbers_is_a_body_too_large() -> None:
    with pytest.raises(BodyTooLarge):
        read_request([(b"Content-Length", b"9" * 19)])


@pytest.mark.parametrize("second", [b"5", b"6"])
def test_a_second_content_length_is_refused_even_if_equal(second: bytes) -> None:
    with pytest.raises(BadRequest):
        read_request([(b"Content-Length", b"5"), (b"content-length", second)])


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"identity",
        b"gzip",
        b"gzip, chunked",
        b"chunked, chunked",
        b"chunked,",
        b"chunked;q=1",
        b"xchunked",
        b"\x0bchunke",
        b"chunked, identity",
        b'"chunked"',
    ],
)
def test_a_transfer_encoding_that_is_not_exactly_chunked_is_refused(value: bytes) -> None:
    with pytest.raises(BadRequest):
        read_request([(b"Transfer-Encoding", value)])


def test_chunked_is_read_without_case() -> None:
    assert read_request([(b"TRANSFER-ENCODING", b"Chunked")]).chunked


def test_a_second_transfer_encoding_is_refused() -> None:
    with pytest.raises(BadRequest):
        read_request([(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")])


@pytest.mark.parametrize("turn", [1, -1])
def test_length_and_transfer_encoding_together_are_refused(turn: int) -> None:
    headers = [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")][::turn]
    with pytest.raises(BadRequest):
        read_request(headers)


def test_http_1_0_has_no_transfer_encoding_and_no_expectation() -> None:
    with pytest.raises(BadRequest):
        read_request([(b"Transfer-Encoding", b"chunked")], http_10=True)
    assert not read_request([(b"Expect", b"100-continue")], http_10=True).expects_continue


def test_an_expectation_is_read_without_case() -> None:
    assert read_request([(b"Expect", b"100-Continue")]).expects_continue
    assert not read_request([(b"Expect", b"something")]).expects_continue


def test_a_second_host_is_refused_even_if_equal() -> None:
    with pytest.raises(BadRequest):
        read_request([(b"Host", b"localhost"), (b"host", b"localhost")])


def test_fields_over_the_bound_are_refused_together() -> None:
    line = (b"X-Filler", b"x" * 1016)
    assert len(lines(*[line] * 64)) == 64 * 1024 // 1024 == LARGEST_HEAD // 1024
    with pytest.raises(HeadersTooLarge):
        lines(*[line] * 64, (b"A", b""))


# What else is read


@pytest.mark.parametrize("value", [b"a", b"A-b_c.9", b"x" * 128])
def test_a_good_request_id_is_kept(value: bytes) -> None:
    assert read_request([(b"x-request-ID", value)]).request_id == value.decode()


@pytest.mark.parametrize(
    "value", [b"", b"x" * 129, b"a b", b"a\n", b"a/b", b"a,b", b"\xe9", b"a\r\nX: y", b"{}", b"a\0"]
)
def test_a_bad_request_id_is_not_kept(value: bytes) -> None:
    assert read_request([(b"X-Request-ID", value)]).request_id is None


def test_two_request_ids_are_none() -> None:
    assert read_request([(b"X-Request-ID", b"a"), (b"X-Request-ID", b"a")]).request_id is None


@pytest.mark.parametrize(
    "name", [b"X-HTTP-Method-Override", b"x-http-method", b"X-Method-Override", b"X_HTTP_Method_Override"]
)
def test_a_method_override_goes_up_and_is_remembered(name: bytes) -> None:
    fields = read_request([(name, b"POST")])
    assert fields.overrides
    assert fields.block == name + b": POST\r\n"


def test_a_method_override_is_remembered_even_if_connection_names_it() -> None:
    fields = read_request([(b"Connection", b"x-http-method-override"), (b"X-HTTP-Method-Override", b"POST")])
    assert fields.overrides
    assert fields.block == b""


@pytest.mark.parametrize("name", [b"X-Original-URL", b"x-rewrite-url", b"X_Original_URL"])
def test_another_target_goes_up_and_is_remembered(name: bytes) -> None:
    fields = read_request([(name, b" /orders ")])
    assert fields.other_targets == ("/orders",)
    assert fields.block.lower().startswith(name.lower() + b": ")


def test_what_guards_judge_is_read_and_goes_up() -> None:
    headers = [(b"Origin", b"http://a"), (b"ORIGIN", b"null"), (b"Sec-Fetch-Site", b"none"), (b"Content-Type", b"a/b")]
    fields = read_request(headers)
    assert (fields.origins, fields.fetch_site, fields.content_type) == ((b"http://a", b"null"), b"none", b"a/b")
    assert fields.block.count(b"\r\n") == 4


@pytest.mark.parametrize("name", [b"origin", b"sec-fetch-site"])
def test_a_caller_cannot_hide_a_browser_from_the_guards_by_connection(name: bytes) -> None:
    fields = read_request([(b"Connection", name), (name, b"http://evil.example")])
    assert fields.origins or fields.fetch_site


@pytest.mark.parametrize("name", [b"Content-Type", b"User-Agent", b"Content-Range", b"ETag"])
def test_a_field_that_is_no_list_stands_only_once(name: bytes) -> None:
    with pytest.raises(BadRequest):
        read_request([(name, b"a"), (b"X-A", b"b"), (name.lower(), b"a")])


def test_lists_may_stand_in_several_fields() -> None:
    assert len(lines(*[(b"Accept", b"a"), (b"Content-Encoding", b"gzip"), (b"X-A", b"b")] * 2)) == 6


def test_nothing_is_read_of_an_empty_head() -> None:
    assert read_request([]) == RequestFields()


# What else is read


@pytest.mark.parametrize(
    ("connection", "http_10", "persistent"),
    [
        (None, False, True), (b"keep-alive", False, True), (b"close", False, False), (b"Close", False, False),
        (b"x-hop, close", False, False), (b"x-hop", False, True), (b"keep-alive, close", False, False),
        (None, True, False), (b"keep-alive", True, True), (b"Keep-Alive, x-hop", True, True), (b"close", True, False),
        (b"x-hop", True, False), (b"keep-alive, close", True, False),
    ],
)  # fmt: skip
def test_a_connection_is_kept_as_its_version_and_its_options_say(
    connection: bytes | None, *, http_10: bool, persistent: bool
) -> None:
    headers = [] if connection is None else [(b"Connection", connection)]
    fields = read_request(headers, http_10=http_10)
    assert (fields.persistent, fields.http_10) == (persistent, http_10)


@pytest.mark.parametrize(
    ("headers", "has_body"),
    [
        ([], False), ([(b"Content-Length", b"0")], False), ([(b"Content-Length", b"5")], True),
        ([(b"Transfer-Encoding", b"chunked")], True),
    ],
)  # fmt: skip
def test_a_request_has_a_body_if_it_announces_one(headers: Headers, *, has_body: bool) -> None:
    assert read_request(headers).has_body is has_body


def test_the_first_application_id_of_a_caller_is_known_and_names_its_cookie() -> None:
    assert read_request([(b"X-CC-App", b"one"), (b"x-cc-app", b"two")]).app_id == b"one"
    assert read_request([]).app_id == b""


def test_every_method_that_is_named_instead_is_known() -> None:
    fields = read_request([(b"X-HTTP-Method-Override", b" put "), (b"x_http_method", b"Delete"), (b"A", b"1")])
    assert fields.overrides == ("PUT", "DELETE")


def test_the_codings_of_a_body_are_known_in_their_order() -> None:
    fields = read_request([(b"Content-Encoding", b"gzip"), (b"content-encoding", b"br"), (b"Content-Type", b"a/b")])
    assert (fields.content_encoding, fields.content_type) == (b"gzip, br", b"a/b")


def test_what_connection_names_away_counts_as_left_out() -> None:
    headers = [(b"Connection", b"user-agent, content-type, x-hop"), (b"User-Agent", b"a"), (b"Content-Type", b"b")]
    fields = read_request([*headers, (b"X-Hop", b"1: 2"), (b"B", b"2")])
    assert (fields.user_agent, fields.content_type, fields.block) == (False, b"", b"B: 2\r\n")
    other = read_request([(b"Connection", b"x-hop"), *headers[1:], (b"X-Hop", b"1")])
    assert (other.user_agent, other.content_type) == (True, b"b")


def test_an_empty_user_agent_is_left_out_and_nothing_after_it() -> None:
    assert lines((b"User-Agent", b""), (b"Content-Type", b""), (b"A", b"1")) == [b"A: 1\r\n"]


@pytest.mark.parametrize(
    "name", [b"Authorization", b"X_CC_App", b"x-forwarded-host", b"Proxy-Authorization", b"ORIGIN", b"User_Agent"]
)
def test_a_header_that_means_something_here_cannot_be_the_one_that_callers_must_send(name: bytes) -> None:
    assert is_ours(name)


@pytest.mark.parametrize("name", [b"X-Internal-Key", b"Accept", b"x-proxy"])
def test_any_other_header_can_be_the_one_that_callers_must_send(name: bytes) -> None:
    assert not is_ours(name)


def test_a_length_of_eighteen_digits_is_read_and_a_longer_one_is_too_large() -> None:
    assert read_request([(b"Content-Length", b"1" * 18)]).content_length == int("1" * 18)
    with pytest.raises(BodyTooLarge):
        read_request([(b"Content-Length", b"1" * 19)])
