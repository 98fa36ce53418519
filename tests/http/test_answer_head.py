"""What counts as a valid answer; without sockets."""

from __future__ import annotations

import base64
import gc
import json
from pathlib import Path

import pytest
from httptools import HttpResponseParser

from proxy.http.answer_head import AnswerHead, AnswerReader, check_partial_answer
from proxy.http.chunks import Chunks
from proxy.http.framing import OVER
from proxy.http.heads import InvalidMessage

ODD = Path(__file__).parents[3] / "shared" / "data" / "odd-responses.json"
START = b"HTTP/1.1 200 OK\r\n"


def test_headers_are_exact() -> None:
    head = AnswerHead(
        START + b"X-Empty:\r\nx-cAsE:  a b \t\r\nX-Empty:   \r\nSet-Cookie: a\r\nSet-Cookie: b\r\nL: \xff\xe9\r\n\r\n"
    )
    assert head.raw == [
        (b"X-Empty", b""),
        (b"x-cAsE", b"a b"),
        (b"X-Empty", b""),
        (b"Set-Cookie", b"a"),
        (b"Set-Cookie", b"b"),
        (b"L", b"\xff\xe9"),
    ]


@pytest.mark.parametrize(
    ("line", "status", "down"),
    [
        (b"HTTP/1.1 200 OK", 200, b"HTTP/1.1 200 OK"),
        (b"HTTP/1.1 200 ", 200, b"HTTP/1.1 200 "),
        (b"HTTP/1.1 200", 200, b"HTTP/1.1 200 "),
        (b"HTTP/1.0 200", 200, b"HTTP/1.1 200 "),
        (b"HTTP/1.0 999 \xe9t\xe9  x ", 999, b"HTTP/1.1 999 \xe9t\xe9  x "),
    ],
)
def test_the_status_line_goes_down_with_its_exact_reason(line: bytes, status: int, down: bytes) -> None:
    head = AnswerHead(line + b"\r\n\r\n")
    assert (head.status, head.start) == (status, down)


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 099 X", b"HTTP/1.1 20 X", b"HTTP/1.1 2000 X", b"HTTP/1.1 2x0 X", b"HTTP/1.1  200 X",
        b"HTTP/1.1\t200 X", b"HTTP/1.12 200 X", b"HTTP/2.0 200 X", b"HTTP/0.9 200 X", b"http/1.1 200 X", b"ICY 200 X",
        b"HTTP/1.1 -20 X", b"HTTP/1.1 200 a\x00b", b"HTTP/1.1 200 a\x01b", b"HTTP/1.1 200 a\x7f", b"HTTP/1.1 200X",
        b"\r\nHTTP/1.1 200 X", b" HTTP/1.1 200 X", b"HTTP/1.1 200 a\nb", b"HTTP/1.1 200 a\rb",
    ],
)  # fmt: skip
def test_a_malformed_status_line_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidMessage):
        AnswerHead(line + b"\r\n\r\n")


@pytest.mark.parametrize(
    "lines",
    [
        b"A: b\r\n c", b"A: b\r\n\tc", b"A: b\r\n c: d", b"A: b\r\n\tc: d", b"A:\r\n b", b"A:\r\n :", b" A: b",
        b"A", b": b", b" : b", b"A b: c", b"A b : c", b"A(: b",
        b"A( : b", b"A : b\r\n c : d", b"A\x0b: b", b"A : b\nC: d", b"A\xe9: b", b"A: b\nC: d",
        b"A: b\rc", b"A: \x00", b"A: \x01", b"A: \x0b", b"A: \x7f",
        b"Content-Length: 5\r\nContent-Length: 6", b"Content-Length: 5\r\nContent-Length: 05", b"Content-Length: 5, 6",
        b"Content-Length: -5", b"Content-Length: +5", b"Content-Length: 0x5", b"Content-Length:",
        b"Content-Length: 5 6",
        b"Content-Length: 18446744073709551615", b"Content-Length: 99999999999999999999",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Transfer-Encoding: gzip", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, gzip",
        b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: identity", b"Transfer-Encoding:", b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked;q=1", b"Transfer-Encoding: \x0bchunked",
    ],
)  # fmt: skip
def test_a_malformed_header_is_refused(lines: bytes) -> None:
    with pytest.raises(InvalidMessage):
        AnswerHead(START + lines + b"\r\n\r\n")


@pytest.mark.parametrize("blank", [b" ", b"\t", b" \t  "])
def test_white_space_before_a_colon_is_taken_out_and_nothing_else_is_touched(blank: bytes) -> None:
    head = AnswerHead(
        b"HTTP/1.1 201 So : it is\r\nX-Edge%b: 1\r\nA:b : c \r\nEmpty%b:\r\nconnection%b:X-Gone\r\nX-Gone%b: y\r\n"
        b"authorization%b: secret\r\nSet-Cookie%b: a=b\r\nContent-Length%b: 2\r\n\r\n" % ((blank,) * 7)
    )
    assert (head.start, head.content_length, head.private) == (b"HTTP/1.1 201 So : it is", 2, True)
    assert head.down == [b"X-Edge: 1", b"A:b : c ", b"Empty:"]
    assert (b"authorization", b"secret") in head.raw


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length : 5\r\nContent-Length: 6", b"Content-Length: 5\r\nContent-Length\t: 6",
        b"Content-Length : 5\r\nContent-Length : 6", b"Content-Length : 5, 6", b"Content-Length :", b"Content-Length : x",
        b"Content-Length : 5\r\nTransfer-Encoding: chunked", b"Content-Length: 5\r\nTransfer-Encoding : chunked",
        b"Transfer-Encoding : chunked\r\nContent-Length : 5", b"Transfer-Encoding : gzip",
        b"Transfer-Encoding : chunked\r\nTransfer-Encoding: chunked", b"Transfer-Encoding : xchunked",
        b"Content-Length : 5\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
    ],
)  # fmt: skip
def test_framing_with_white_space_before_its_colon_is_judged_as_without(lines: bytes) -> None:
    with pytest.raises(InvalidMessage):
        AnswerHead(START + lines + b"\r\n\r\n")


def test_lengths_that_differ_by_white_space_before_their_colons_alone_are_one() -> None:
    assert AnswerHead(START + b"Content-Length : 5\r\nContent-Length: 5\r\n\r\n").content_length == 5
    head = AnswerHead(b"HTTP/1.4 200 OK\r\nTransfer-Encoding \t: chunked\r\n\r\n")
    assert (head.chunked, head.content_length) == (True, None)


def test_chunked_is_recognised_without_case() -> None:
    head = AnswerHead(START + b"transfer-ENCODING: ChunKed \r\n\r\n")
    assert head.chunked
    assert head.content_length is None


def test_an_offer_to_upgrade_is_a_normal_answer() -> None:
    head = AnswerHead(START + b"Connection: upgrade\r\nUpgrade: h2,h2c\r\nContent-Length: 2\r\n\r\n")
    assert head.keep_alive
    assert head.content_length == 2


@pytest.mark.parametrize(
    ("data", "keep"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: x\r\nconnection: y , close\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: closed\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", False),
    ],
)
def test_persistence_follows_version_and_connection(data: bytes, keep: bool) -> None:
    assert AnswerHead(data).keep_alive is keep


@pytest.mark.parametrize(("value", "seconds"), [(b"timeout=5, max=9", 5), (b"max=9,Timeout=7", 7), (b"x", None)])
def test_the_upstreams_own_idle_timeout_is_read(value: bytes, seconds: int | None) -> None:
    assert AnswerHead(START + b"Keep-Alive: " + value + b"\r\n\r\n").keep_alive_timeout == seconds


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02", b"<html>", b"HTTP/2", b"HTTP/1.1 200 OK\nA", b"HTTP/1.1 200 OK\n\n"]
)
def test_what_cannot_become_a_head_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(InvalidMessage):
        check_partial_answer(data)


@pytest.mark.parametrize("data", [b"", b"H", b"HTTP/1.", b"HTTP/1.1 200 OK\r", b"HTTP/1.1 200 OK\r\nA: b\r\n\r"])
def test_the_beginning_of_a_head_is_waited_for(data: bytes) -> None:
    check_partial_answer(data)


def chunked(*segments: bytes) -> tuple[bytes, bool, bool]:
    decoder, body, extra = Chunks(), b"", b""
    for segment in segments:
        if decoder.done:
            extra += segment
            continue
        content, extra = decoder.feed(segment)
        body += content
    return body, decoder.done, bool(extra)


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"005\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!"),
        (b"5 \r\nhello\r\n0\t \r\n\r\n", b"hello"),
        (b'5;a=b;c="d"\r\nhello\r\n0;x\r\n\r\n', b"hello"),
        (b"5\r\nhello\r\n0\r\nX: y\r\nSet-Cookie:\r\n\r\n", b"hello"),
    ],
)
def test_chunks_are_decoded_however_they_are_cut(data: bytes, body: bytes) -> None:
    assert chunked(data) == (body, True, False)
    assert chunked(*[data[i : i + 1] for i in range(len(data))]) == (body, True, False)
    for cut in range(1, len(data)):
        assert chunked(data[:cut], data[cut:]) == (body, True, False)


@pytest.mark.parametrize(
    "rest", [b"\r\n", b"\n", b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"junk", b"0\r\n\r\n"]
)
def test_anything_after_the_last_chunk_is_noticed(rest: bytes) -> None:
    data = b"2\r\nok\r\n0\r\n\r\n" + rest
    for cut in range(len(data) - len(rest)):
        body, done, extra = chunked(*[part for part in (data[:cut], data[cut:]) if part])
        assert (body, done, extra) == (b"ok", True, True)


@pytest.mark.parametrize(
    "data",
    [
        b"0x5\r\n", b"5 \n", b" 5\r\n", b"5\n", b"5\r\nhelloX", b"5\r\nhello\n", b"-5\r\n", b"+5\r\n", b"\r\n",
        b"g\r\n",
        b"fffffffffffffffff\r\n", b"5;\x01\r\n", b"5;a\nhello", b"0\r\nX y\r\n\r\n", b"0\r\nX: y\n\r\n",
    ],
)  # fmt: skip
def test_malformed_chunks_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidMessage):
        chunked(data)


@pytest.mark.parametrize("data", [b"5;" + b"a" * 20_000, b"0\r\n" + (b"X: " + b"a" * 9000 + b"\r\n") * 10])
def test_endless_extensions_and_trailers_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidMessage):
        chunked(*[data[place : place + 900] for place in range(0, len(data), 900)])


def test_a_parser_is_no_part_of_a_garbage_cycle() -> None:
    gc.collect()
    gc.disable()
    try:
        AnswerHead(START + b"A: b\r\n\r\n")
        assert not [found for found in gc.get_objects() if isinstance(found, HttpResponseParser)]
    finally:
        gc.enable()


@pytest.mark.skipif(not ODD.exists(), reason="the shared data folder is absent")
def test_odd_answers_are_refused_or_read_but_never_crash() -> None:
    for name, _, encoded in json.loads(ODD.read_text())["answers"]:
        data = base64.b64decode(encoded)
        end = data.find(b"\r\n\r\n") + 4
        try:
            if end == 3:
                check_partial_answer(data)
                continue
            head = AnswerHead(data[:end])
            if head.chunked:
                Chunks().feed(data[end:])
        except InvalidMessage as error:
            assert str(error), name
        else:
            assert data.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), name
            assert not (head.chunked and head.content_length is not None), name


def read(*segments: bytes, head_only: bool = False) -> tuple[int, bytes, bool, bool]:
    """Status, content, whether the end was seen, and whether the connection is as it must be for another answer."""
    reader, content = AnswerReader(), b""
    reader.head_only = head_only
    for segment in segments:
        if reader.head is not None:
            content += reader.feed_body(segment)
        elif rest := reader.feed_head(segment):
            content += rest if reader.body is OVER else reader.feed_body(rest)
    assert reader.head is not None
    return reader.head.status, content, reader.body.done, reader.keep_alive


@pytest.mark.parametrize(
    ("data", "head_only", "expected"),
    [
        (START + b"Content-Length: 2\r\n\r\nok", False, (200, b"ok", True, True)),
        (START + b"Content-Length: 2\r\n\r\nok!", False, (200, b"ok", True, False)),
        (START + b"Content-Length: 0\r\n\r\n", False, (200, b"", True, True)),
        (START + b"Content-Length: 3\r\n\r\nok", False, (200, b"ok", False, True)),
        (START + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", False, (200, b"ok", True, True)),
        (START + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n!", False, (200, b"ok", True, False)),
        (START + b"\r\nuntil the end", False, (200, b"until the end", False, False)),
        (START + b"Content-Length: 2\r\n\r\n", True, (200, b"", True, False)),
        (START + b"\r\n", True, (200, b"", True, True)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, (204, b"", True, True)),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + START + b"Content-Length: 2\r\n\r\nok", False, (200, b"ok", True, True)),
    ],
)
def test_an_answer_is_read_however_it_is_cut(
    data: bytes, head_only: bool, expected: tuple[int, bytes, bool, bool]
) -> None:
    assert read(data, head_only=head_only) == expected
    assert read(*[data[i : i + 1] for i in range(len(data))], head_only=head_only) == expected
    for cut in range(1, len(data)):
        assert read(data[:cut], data[cut:], head_only=head_only) == expected


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 101 Up\r\n\r\n", (b"HTTP/1.1 103 H\r\nA: %b\r\n\r\n" % bytes([65] * 60_000)) * 5]
)
def test_an_upgrade_and_interim_answers_without_end_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidMessage):
        read(data)
