"""The chunked coding of callers' bodies (RFC 9112, 7.1), without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.chunks import Chunks, NoSize
from proxy.http.heads import InvalidMessage


def decoded(*segments: bytes) -> tuple[bytes, bytes, bool]:
    """Content, what follows, and whether the end was seen."""
    body, content, rest = Chunks(bounded=True), b"", b""
    for segment in segments:
        if body.done:
            rest += segment
            continue
        piece, rest = body.feed(segment)
        content += piece
    return content, rest, body.done


GOOD = {
    b"0\r\n\r\n": b"",
    b"3\r\nabc\r\n0\r\n\r\n": b"abc",
    b"A\r\n0123456789\r\n00\r\n\r\n": b"0123456789",
    b"a\r\n0123456789\r\n1\r\nx\r\n000\r\n\r\n": b"0123456789x",
    b"2\r\n\r\n\r\n0\r\n\r\n": b"\r\n",
    b"3;a\r\nabc\r\n0;b=c\r\n\r\n": b"abc",
    b'3 ; a = b ;c="d e\\"f;g"\r\nabc\r\n0\r\n\r\n': b"abc",
    b'6; hello="cool world"\r\nabcdef\r\n0\r\n\r\n': b"abcdef",
    b"1\r\nx\r\n0\r\nA: b\r\nC:\r\nD: \xe9\t\r\n\r\n": b"x",
}


@pytest.mark.parametrize("raw", GOOD)
def test_good_bodies_are_decoded_and_end_exactly(raw: bytes) -> None:
    assert decoded(raw + b"GET / HTTP/1.1\r\n") == (GOOD[raw], b"GET / HTTP/1.1\r\n", True)


@pytest.mark.parametrize("raw", GOOD)
def test_it_makes_no_difference_how_the_bytes_come(raw: bytes) -> None:
    assert decoded(*(raw[place : place + 1] for place in range(len(raw)))) == (GOOD[raw], b"", True)
    for cut in range(len(raw)):
        assert decoded(raw[:cut], raw[cut:] + b"NEXT") == (GOOD[raw], b"NEXT", True)
        assert decoded(raw[:cut])[2] is False


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"3\r\nabc\rX0\r\n\r\n",
        b"3\r\nabc\r\n0\r\n\n",
        b"3\r\nabc\r\n0\r\nA : b\r\n\r\n",
        b"3\r\nabc\r\n0\r\nA: \x00\r\n\r\n",
        b"3\r\nabc\r\n0\r\nA\r\n\r\n",
        b"3\r\nabc\r\n0\r\n A: b\r\n\r\n",
        b"3\r\nabc\r\n0\r\nA: b\rC: d\r\n\r\n",
        b"3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n",
        b"3\r\nabc\r\n0\r\ntransfer-encoding: chunked\r\n\r\n",
        b"3\r\nabc\r\n0\r\nHost: x\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"+3\r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"3g\r\nabc\r\n0\r\n\r\n",
        b"3;\r\nabc\r\n0\r\n\r\n",
        b"3;a=\r\nabc\r\n0\r\n\r\n",
        b"3;;a\r\nabc\r\n0\r\n\r\n",
        b"3;a\x00\r\nabc\r\n0\r\n\r\n",
        b"3;a\rb\r\nabc\r\n0\r\n\r\n",
        b'3;a="b\r\nabc\r\n0\r\n\r\n',
        b"3_0\r\nabc\r\n0\r\n\r\n",
        b"\xef\xbc\x93\r\nabc\r\n0\r\n\r\n",
    ],
)
def test_anything_else_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decoded(raw)
    with pytest.raises(InvalidMessage):
        decoded(*(raw[place : place + 1] for place in range(len(raw))))


@pytest.mark.parametrize("size", [b"ffffffffffffffff", b"10000000000000000", b"1" + b"0" * 100])
def test_a_size_that_is_no_size_is_too_large(size: bytes) -> None:
    with pytest.raises(NoSize):
        decoded(size + b"\r\n")


@pytest.mark.parametrize(
    "raw",
    [
        b"3;" + b"a" * 20_000,
        b"0" * 20_000,
        (b"1;" + b"a" * 10_000 + b"\r\nx\r\n") * 10,
        b"0\r\n" + b"A: b\r\n" * 20_000,
    ],
    ids=["line", "digits", "extensions", "trailers"],
)
def test_extensions_and_trailers_are_bounded(raw: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decoded(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"1\r\nx\r\n" * 10_000,
        (b"20\r\n" + b"x" * 32 + b"\r\n") * 50_000,
        (b"2000;a=%b\r\n%b\r\n" % (b"s" * 90, bytes(8192))) * 1200,
    ],
    ids=["bytes", "lines", "signed"],
)
def test_many_chunks_with_enough_in_them_are_fine(raw: bytes) -> None:
    assert decoded(raw + b"0\r\n\r\n")[2]


def test_a_body_of_single_bytes_is_refused_before_it_holds_up_others() -> None:
    with pytest.raises(InvalidMessage):
        decoded(b"1\r\nx\r\n" * 20_000)


@pytest.mark.parametrize(
    "raw", [b"3;a" + b" " * 16_000 + b"\x01\r\n", b"3;" + b"a;" * 8_000 + b"=\r\n"], ids=["spaces", "names"]
)
def test_no_line_takes_long_to_judge(raw: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decoded(raw)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.data())
def test_any_body_comes_out_as_it_went_in(pieces: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\nREST"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    segments = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert decoded(*segments) == (b"".join(pieces), b"REST", True)


@given(st.lists(st.sampled_from([b"0", b"3", b"a", b";", b"=", b'"', b" ", b"\r\n", b"\r", b"\n", b"abc", b":"])))
def test_nothing_but_our_own_errors_comes_of_any_bytes(parts: list[bytes]) -> None:
    try:
        content, _, _ = decoded(b"".join(parts))
    except InvalidMessage:
        return
    assert len(content) <= sum(map(len, parts))
