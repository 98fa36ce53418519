"""Content codings, undone within a bound."""

from __future__ import annotations

import gzip
import sys
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.content_coding import decode, decode_answer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMIT = 64 * 1024
BODY = b'{"message":["no Authorization token was found"]}'


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


CODERS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b"x-gzip", gzip.compress),
    "deflate": (b"deflate", zlib.compress),
    "raw deflate": (b"deflate", raw_deflate),
    "br": (b"br", brotli.compress),
    "zstd": (b"zstd", zstd.compress),
}
each_coding = pytest.mark.parametrize(("name", "pack"), CODERS.values(), ids=CODERS)


@each_coding
def test_every_coding_is_undone(name: bytes, pack: Callable[[bytes], bytes]) -> None:
    assert decode(pack(BODY), name, limit=LIMIT) == BODY


@each_coding
def test_an_empty_body_in_a_coding_is_empty(name: bytes, pack: Callable[[bytes], bytes]) -> None:
    assert decode(pack(b""), name, limit=LIMIT) == b""


@each_coding
def test_the_limit_itself_is_allowed_and_a_byte_more_is_not(name: bytes, pack: Callable[[bytes], bytes]) -> None:
    data = bytes(range(256)) * 4
    assert decode(pack(data), name, limit=1024) == data
    assert decode(pack(data), name, limit=1023) is None


@each_coding
def test_a_body_cut_anywhere_is_nothing(name: bytes, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(BODY)
    assert {decode(packed[:cut], name, limit=LIMIT) for cut in range(len(packed))} == {None}


@each_coding
def test_something_after_the_end_is_nothing(name: bytes, pack: Callable[[bytes], bytes]) -> None:
    assert decode(pack(BODY) + b"more", name, limit=LIMIT) is None


@pytest.mark.parametrize("coding", ["deflate", "raw deflate", "br"])
def test_a_second_body_after_the_first_is_nothing_where_the_coding_has_no_members(coding: str) -> None:
    name, pack = CODERS[coding]
    assert decode(pack(BODY) + pack(BODY), name, limit=LIMIT) is None


@each_coding
def test_a_bomb_is_given_up_at_the_limit(name: bytes, pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(b"a" * 20_000_000)
    tracemalloc.start()
    try:
        assert decode(bomb, name, limit=LIMIT) is None
        assert tracemalloc.get_traced_memory()[1] < 10 * LIMIT
    finally:
        tracemalloc.stop()


def test_a_bomb_inside_a_coding_is_given_up_at_the_limit() -> None:
    bomb = gzip.compress(gzip.compress(b"a" * 50_000_000))
    tracemalloc.start()
    try:
        assert decode(bomb, b"gzip, gzip", limit=LIMIT) is None
        assert tracemalloc.get_traced_memory()[1] < 10 * LIMIT
    finally:
        tracemalloc.stop()


def test_content_codings_are_undone_last_first() -> None:
    packed = brotli.compress(zlib.compress(gzip.compress(BODY)))
    assert decode(packed, b"gzip, deflate, br", limit=LIMIT) == BODY
    assert decode(packed, b"br, deflate, gzip", limit=LIMIT) is None


def test_more_than_three_codings_are_nothing() -> None:
    packed = BODY
    for _ in range(4):
        packed = gzip.compress(packed)
    assert decode(packed, b"gzip,gzip,gzip,gzip", limit=LIMIT) is None


@pytest.mark.parametrize("value", [b"", b" ", b"identity", b"Identity, identity", b",,"])
def test_no_coding_leaves_the_body(value: bytes) -> None:
    assert decode(BODY, value, limit=LIMIT) == BODY


def test_no_coding_is_bounded_too() -> None:
    assert decode(b"12345", b"", limit=5) == b"12345"
    assert decode(b"123456", b"", limit=5) is None


@pytest.mark.parametrize("value", [b"GZIP", b" gzip ", b"identity, gzip", b"gzip,", b"\tgzip"])
def test_content_codings_are_read_without_case_and_blanks(value: bytes) -> None:
    assert decode(gzip.compress(BODY), value, limit=LIMIT) == BODY


@pytest.mark.parametrize(
    "value", [b"compress", b"gzip2", b"dcb", b"gzip;q=1", b"unknown, gzip", b"gzip, unknown", b"\xff"]
)
def test_an_unknown_coding_is_nothing(value: bytes) -> None:
    assert decode(gzip.compress(BODY), value, limit=LIMIT) is None


def test_members_and_frames_one_after_the_other_are_one_body() -> None:
    assert decode(gzip.compress(b"one") + gzip.compress(b"two"), b"gzip", limit=6) == b"onetwo"
    assert decode(zstd.compress(b"one") + zstd.compress(b"two"), b"zstd", limit=6) == b"onetwo"
    assert decode(gzip.compress(b"one") + gzip.compress(b"two"), b"gzip", limit=5) is None


def test_a_crowd_of_empty_members_is_nothing() -> None:
    assert decode(gzip.compress(b"") * 1000, b"gzip", limit=LIMIT) is None
    assert decode(zstd.compress(b"") * 1000, b"zstd", limit=LIMIT) is None


def test_a_zstd_window_over_eight_mebibytes_is_refused() -> None:
    for window, expected in ((23, BODY), (24, None)):
        packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window})
        # In two steps, so that the frame does not know its size and asks for the whole window.
        packed = packer.compress(BODY, packer.FLUSH_BLOCK) + packer.flush()
        assert decode(packed, b"zstd", limit=LIMIT) == expected


@given(st.binary(max_size=300), st.sampled_from([b"gzip", b"deflate", b"br", b"zstd", b"deflate, gzip"]))
def test_garbage_never_raises_and_never_passes_the_limit(data: bytes, name: bytes) -> None:
    decoded = decode(data, name, limit=200)
    assert decoded is None or len(decoded) <= 200


@each_coding
@given(data=st.binary(max_size=2000))
def test_whatever_was_coded_comes_back(name: bytes, pack: Callable[[bytes], bytes], data: bytes) -> None:
    assert decode(pack(data), name, limit=2000) == data


def test_a_deflate_body_is_one_stream() -> None:
    assert decode(zlib.compress(BODY) * 2, b"deflate", limit=LIMIT) is None
    assert decode(zlib.compress(BODY) + b"x", b"deflate", limit=LIMIT) is None


@each_coding
def test_a_body_of_exactly_the_limit_is_decoded_and_one_more_byte_is_not(
    name: bytes, pack: Callable[[bytes], bytes]
) -> None:
    for size in (1, 4095, 70_000):
        assert decode(pack(b"x" * size), name, limit=size) == b"x" * size
        assert decode(pack(b"x" * (size + 1)), name, limit=size) is None


def test_the_codings_of_an_answer_are_undone_from_the_last_to_the_first() -> None:
    headers = [(b"Content-Encoding", b"gzip"), (b"A", b"br"), (b"content-encoding", b"br")]
    assert decode_answer(brotli.compress(gzip.compress(BODY)), headers, limit=LIMIT) == BODY
    assert decode_answer(BODY, [(b"A", b"br")], limit=LIMIT) == BODY
    assert decode_answer(BODY, headers, limit=LIMIT) is None
