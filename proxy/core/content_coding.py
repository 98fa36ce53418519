"""Content codings, decoded with a bound: only rejections are ever decoded, and only to look at them."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import brotli

from proxy.core.dialect import RawHeaders

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: More codings than this one inside the other is nobody's honest answer.
MOST_CODINGS: Final = 3
#: Neither are more gzip members (RFC 1952, 2.2) or zstd frames (RFC 8878, 3) than this, one after the other.
MOST_MEMBERS: Final = 16
#: RFC 9659, 3: a zstd window is at most 8 MiB; the library would allocate 128 MiB for who asks for it.
_ZSTD_OPTIONS: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: 23}


_Decode = Callable[[bytes, int], bytes | None]


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _members(make: Callable[[], _Decoder], most: int, data: bytes, limit: int) -> bytes | None:
    out = b""
    for _ in range(most):
        decoder = make()
        out += decoder.decompress(data, limit + 1 - len(out))
        if not decoder.eof or len(out) > limit:
            return None
        data = decoder.unused_data
        if not data:
            return out
    return None


def _deflate(data: bytes, limit: int) -> bytes | None:
    # RFC 9110, 8.4.1.2: "deflate" is the zlib format, but some senders send the raw one.
    try:
        return _members(lambda: zlib.decompressobj(zlib.MAX_WBITS), 1, data, limit)
    except zlib.error:
        return _members(lambda: zlib.decompressobj(-zlib.MAX_WBITS), 1, data, limit)


def _brotli(data: bytes, limit: int) -> bytes | None:
    # It stops where the limit is reached, and not before (brotli 1.2).
    decoder = brotli.Decompressor()
    out = bytes(decoder.process(data, output_buffer_limit=limit + 1))
    return out if decoder.is_finished() else None


_gzip = partial(_members, lambda: zlib.decompressobj(16 + zlib.MAX_WBITS), MOST_MEMBERS)
_zstd = partial(_members, lambda: zstd.ZstdDecompressor(options=_ZSTD_OPTIONS), MOST_MEMBERS)
_DECODERS: Final[dict[bytes, _Decode]] = {
    b"gzip": _gzip,
    b"x-gzip": _gzip,
    b"deflate": _deflate,
    b"br": _brotli,
    b"zstd": _zstd,
}


def decode_answer(data: bytes, headers: RawHeaders, *, limit: int) -> bytes | None:
    """Undo what the header fields of an answer say was done to its body; None as for `decode`."""
    codings = (value for name, value in headers if name.lower() == b"content-encoding")
    return decode(data, b",".join(codings), limit=limit)


def decode(data: bytes, content_encoding: bytes, *, limit: int) -> bytes | None:
    """Undo `content_encoding` (the header's value, RFC 9110, 8.4).

    None when the coding is unknown, the data is broken or incomplete, or the result is larger than `limit` bytes: such an
    answer is not a rejection we know, and goes to the caller as it came.
    """
    names = [name for part in content_encoding.lower().split(b",") if (name := part.strip()) not in (b"", b"identity")]
    if len(names) > MOST_CODINGS:
        return None
    for name in reversed(names):
        try:
            decoded = _DECODERS[name](data, limit) if name in _DECODERS else None
        except (zlib.error, brotli.error, zstd.ZstdError, EOFError, ValueError):
            return None
        if decoded is None or len(decoded) > limit:
            return None
        data = decoded
    return data if len(data) <= limit else None
