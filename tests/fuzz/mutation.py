"""Well-formed messages made a little wrong: the ways in which parsers were made to disagree."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import SECONDS

_T = TypeVar("_T")
_CRLF = b"\r\n"
_ENDS = [
    b"\n",
    b"\r",
    b"\r\r\n",
    b"\r\n\r\n",
    b" \r\n",
    b"\t\r\n",
    b"\x00\r\n",
    b"\r\n ",
    b"\r\n\t",
    b"\n\r\n",
    b"\x0b\r\n",
]
_BITS = [
    *(b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b",", b";", b"\x0b", b"\x0c", b"\x7f", b"\x80", b"\xff", b'"'),
    *(b"0\r\n\r\n", b"5\r\nhello\r\n", b"\r\n\r\n", b"GET /v3/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    *(
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.0",
        b"#",
        b"@",
        b"//",
        b"\\",
    ),
]
_FIELDS = [
    *(b"Content-Length: 5", b"Content-Length: 0", b"Content-Length:", b"Content-Length: +5", b"Content-Length: 5, 5"),
    *(
        b"Content-Length : 5",
        b"Content-Length: 0x5",
        b"Content-Length: 5 5",
        b"content-length: 00005",
        b"Content_Length: 5",
    ),
    *(b"Content-Length: 99999999999999999999", b"Content-Length: -1", b"Content-Length: 1e1", b"Content-Length: \xb2"),
    *(
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding:",
    ),
    *(b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding : chunked", b"Transfer-Encoding: xchunked"),
    *(
        b"Transfer-Encoding:\x0bchunked",
        b"transfer-encoding: identity",
        b"Transfer-Encoding:\r\n chunked",
        b'TE: "chunked"',
    ),
    *(
        b"Transfer-Encoding: chunked,",
        b"Transfer-Encoding: chunked;q=1",
        b"Transfer-Encoding: 'chunked'",
        b" X: y",
        b"X",
        b"X : y",
        b" : y",
        b"X y : z",
        b"Authorization : Bearer mine",
    ),
    *(b"Connection: close", b"Connection: Host, Content-Length", b"Connection: Authorization, x-cc-app", b": empty"),
    *(
        b"Host: localhost",
        b"Host: example.com",
        b"Host:",
        b"Authorization: Bearer mine",
        b"x-cc-app: mine",
        b"Cookie: a=b",
    ),
    *(
        b"Upgrade: h2c",
        b"Connection: Upgrade",
        b"Expect: 100-continue",
        b"Trailer: X",
        b"X-A: a\rX-B: b",
        b"X-A: a\nX-B: b",
    ),
]
_NUMBERS = [
    b"0",
    b"00",
    b"1",
    b"6",
    b"f",
    b"1000",
    b"ffffffffffffffff",
    b"0x5",
    b"-1",
    b"+5",
    b" 5",
    b"5 ",
    b"5;",
    b"5;a=b",
    b"",
]

Mutation = Callable[[bytes], bytes]
_place = st.integers(0, 1 << 16)


def _lines(change: Callable[[list[bytes]], None]) -> Mutation:
    def mutate(data: bytes) -> bytes:
        lines = data.split(_CRLF)
        change(lines)
        return _CRLF.join(lines)

    return mutate


def _flip(place: int, value: int) -> Mutation:
    return lambda data: data[: place % len(data)] + bytes([value]) + data[place % len(data) + 1 :]


def _insert(place: int, bits: bytes) -> Mutation:
    return lambda data: data[: place % len(data)] + bits + data[place % len(data) :]


def _delete(place: int, count: int) -> Mutation:
    return lambda data: data[: place % len(data)] + data[place % len(data) + count :]


def _cut(place: int) -> Mutation:
    return lambda data: data[: 1 + place % len(data)]


def _copy(place: int, to: int) -> Mutation:
    return _lines(lambda lines: lines.insert(to % len(lines), lines[place % len(lines)]))


def _move(place: int, to: int) -> Mutation:
    return _lines(lambda lines: lines.insert(to % len(lines), lines.pop(place % len(lines))))


def _field(place: int, line: bytes) -> Mutation:
    return _lines(lambda lines: lines.insert(1 + place % 6, line))


def _number(place: int, text: bytes) -> Mutation:
    """Change a line that is a chunk size, or the value of a length."""

    def change(lines: list[bytes]) -> None:
        sizes = [n for n, line in enumerate(lines) if line.isalnum() or line.lower().startswith(b"content-length:")]
        if sizes:
            chosen = sizes[place % len(sizes)]
            lines[chosen] = b": ".join([*lines[chosen].split(b": ")[:-1], text])

    return _lines(change)


def _end(place: int, end: bytes) -> Mutation:
    def mutate(data: bytes) -> bytes:
        lines = data.split(_CRLF)
        count = 1 + place % max(1, len(lines) - 1)
        return _CRLF.join(lines[:count]) + end + _CRLF.join(lines[count:])

    return mutate


def _case(place: int) -> Mutation:
    return _lines(lambda lines: lines.__setitem__(place % len(lines), lines[place % len(lines)].swapcase()))


_MUTATION: st.SearchStrategy[Mutation] = st.one_of(
    st.builds(_flip, _place, st.integers(0, 255)),
    st.builds(_insert, _place, st.sampled_from(_BITS)),
    st.builds(_delete, _place, st.integers(1, 8)),
    st.builds(_cut, _place),
    st.builds(_copy, _place, _place),
    st.builds(_move, _place, _place),
    st.builds(_field, _place, st.sampled_from(_FIELDS)),
    st.builds(_number, _place, st.sampled_from(_NUMBERS)),
    st.builds(_end, _place, st.sampled_from(_ENDS)),
    st.builds(_case, _place),
)


def _mutated(data: bytes, mutations: Sequence[Mutation]) -> bytes:
    for mutate in mutations:
        data = mutate(data) or data
    return data


def mutated(templates: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Make one to three mutations of one of the templates."""
    return st.builds(_mutated, st.sampled_from(templates), st.lists(_MUTATION, min_size=1, max_size=3))


def pieces(data: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Send it whole or in up to three pieces."""

    def split(data: bytes, places: list[int]) -> list[bytes]:
        cuts = sorted({place % len(data) for place in places})
        parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        return [part for part in parts if part]

    return st.builds(split, data, st.one_of(st.just([]), st.lists(_place, max_size=2)))


def explore(check: Callable[[_T], None], cases: st.SearchStrategy[_T], *, examples: int) -> None:
    """Run `check` on the same cases each time; with CARDCASH_FUZZ_SECONDS on ever new ones, for so long."""
    common = settings(database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    if not SECONDS:
        settings(common, max_examples=examples, derandomize=True)(given(cases)(check))()
        return
    end = time.monotonic() + SECONDS
    number = time.time_ns()
    while time.monotonic() < end:
        seed(number)(settings(common, max_examples=400, phases=[Phase.generate, Phase.shrink])(given(cases)(check)))()
        number += 1
