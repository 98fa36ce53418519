"""A caller's request head, judged without a socket (RFC 9112, 2 to 6)."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import BadRequest, HeadersTooLarge, ProxyError, TargetTooLong
from proxy.core.request_fields import RequestFields
from proxy.core.target import METHODS
from proxy.http.request_head import MAX_FIELD, MAX_FIELDS, MAX_TARGET, check_partial_request, read_head


class Head(NamedTuple):
    method: str
    target: str
    fields: RequestFields


def read(data: bytes) -> Head:
    return Head(*read_head(data))


def head(start: bytes = b"GET /a HTTP/1.1", *fields: bytes) -> Head:
    return read(b"\r\n".join([start, *(fields or (b"Host: localhost",))]) + b"\r\n\r\n")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_registered_method_is_served(method: str) -> None:
    got = head(b"%b /a HTTP/1.1" % method.encode(), b"Host: x", b"X-A: b")
    assert (got.method, got.target, got.fields.block) == (method, "/a", b"X-A: b\r\n")


@pytest.mark.parametrize("method", ["CONNECT", "PRI", "SOURCE", "get", "Get", "FOO", "", "*", "GETX", "DESCRIBE"])
def test_any_other_method_is_refused(method: str) -> None:
    with pytest.raises(BadRequest):
        head(b"%b / HTTP/1.1" % method.encode())


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "3.0", "0.0", "10.1", "1.1.1", "1", "", "1.01"])
def test_any_version_but_1_0_and_1_1_is_refused(version: str) -> None:
    with pytest.raises(BadRequest):
        head(b"GET / HTTP/%b" % version.encode())


def test_http_1_0_is_served_and_ends_its_connection() -> None:
    got = head(b"GET / HTTP/1.0", b"X-A: b")
    assert got.fields.http_10
    assert not got.fields.persistent


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", b"close", False),
        (b"1.1", b"keep-alive", True),
        (b"1.1", b"x, Close", False),
        (b"1.1", b"closed", True),
        (b"1.0", b"Keep-Alive", True),
        (b"1.0", b"keep-alive, close", False),
    ],
)
def test_the_caller_says_whether_its_connection_is_kept(version: bytes, connection: bytes, kept: bool) -> None:
    assert head(b"GET / HTTP/" + version, b"Host: x", b"Connection: " + connection).fields.persistent is kept


@pytest.mark.parametrize(
    "field",
    [
        b"X-A : b",
        b" X-A: b",
        b"X-A",
        b": b",
        b"X A: b",
        b"X-A: a\x00b",
        b"X-A: a\rb",
        b"X-A: a\nb",
        b"X-A: a\x7fb",
        b"X-A: b\r\n folded",
        b"X-A: b\r\n\tfolded",
        b"X-A:\r\n b",
        b"X\xe9: b",
        b"Content-Length: 1\r\nContent-Length: 1",
        b"Content-Length: 1, 1",
        b"Content-Length: +1",
        b"Content-Length: -1",
        b"Content-Length: 0x1",
        b"Content-Length: ",
        b"Content-Length: 1\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 1",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding:\x0bchunked",
        b"Host: y",
    ],
)
def test_ambiguous_fields_are_refused(field: bytes) -> None:
    with pytest.raises(BadRequest):
        head(b"POST /a HTTP/1.1", b"Host: x", field)


@pytest.mark.parametrize(
    "start",
    [
        b"GET  /a HTTP/1.1",
        b"GET /a  HTTP/1.1",
        b"GET /a HTTP/1.1 ",
        b" GET /a HTTP/1.1",
        b"GET\t/a\tHTTP/1.1",
        b"GET /a",
        b"GET /a b HTTP/1.1",
        b"GET /a http/1.1",
        b"",
    ],
)
def test_a_start_line_has_exactly_three_parts(start: bytes) -> None:
    with pytest.raises(BadRequest):
        head(start)


def test_values_keep_their_bytes_and_lose_the_white_space_around_them() -> None:
    got = head(b"GET / HTTP/1.1", b"Host: x", b"X-A: \t a b\xe9\t ", b"X-B:", b"X-a:c")
    assert got.fields.block == b"X-A: a b\xe9\r\nX-B: \r\nX-a: c\r\n"


def test_the_bounds_are_exact() -> None:
    assert head(b"GET /%b HTTP/1.1" % (b"a" * (MAX_TARGET - 1))).target
    with pytest.raises(TargetTooLong):
        head(b"GET /%b HTTP/1.1" % (b"a" * MAX_TARGET))
    assert head(b"GET / HTTP/1.1", b"X: " + b"a" * (MAX_FIELD - 3)).fields.block
    with pytest.raises(HeadersTooLarge):
        head(b"GET / HTTP/1.1", b"X: " + b"a" * (MAX_FIELD - 2))
    assert head(b"GET / HTTP/1.1", *[b"X: a"] * MAX_FIELDS).fields.block
    with pytest.raises(HeadersTooLarge):
        head(b"GET / HTTP/1.1", *[b"X: a"] * (MAX_FIELDS + 1))
    with pytest.raises(HeadersTooLarge):
        head(b"GET / HTTP/1.1", *[b"X: " + b"a" * 16000] * 5)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\x16\x03\x01\x02\x00", BadRequest),
        (b"GET / HTTP/1.1\nHost: x\n\n", BadRequest),
        (b"GET / HTTP/1.1\r\nX: \x00", BadRequest),
        (b"GET / HTTP/1.1\rX", BadRequest),
        (b" GET", BadRequest),
        (b"GET /" + b"a" * 17000, TargetTooLong),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 17000, HeadersTooLarge),
        (
            b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 1000 + b"\r\n" + (b"X: " + b"a" * 1000 + b"\r\n") * 90,
            HeadersTooLarge,
        ),
    ],
)
def test_a_hopeless_beginning_is_refused_at_once(data: bytes, error: type[ProxyError]) -> None:
    with pytest.raises(error):
        check_partial_request(data, 0)


@given(cut=st.integers(1, 40), method=st.sampled_from(sorted(METHODS)))
def test_every_beginning_of_a_good_head_is_waited_for(cut: int, method: str) -> None:
    data = b"%b /a?b HTTP/1.1\r\nHost: x\r\nX-A: \tb\r\n\r\n" % method.encode()
    for known in range(cut):
        check_partial_request(data[:cut], known)


@given(st.binary(max_size=200))
def test_nothing_but_our_own_errors_comes_of_any_bytes(data: bytes) -> None:
    try:
        got = read(data + b"\r\n\r\n")
    except ProxyError:
        return
    assert got.method in METHODS
