"""Content codings, decoded with a bound: only rejections are ever decoded, and only to look at them."""

from __future__ import annotations

import sys
import zlib
from typing import Final

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: More codings than this one inside the other is nobody's honest answer.
MOST_CODINGS: Final = 3


def _inflate(data: bytes, limit: int, wbits: int) -> bytes | None:
    decoder = zlib.decompressobj(wbits)
    out = decoder.decompress(data, limit + 1)
    return out if decoder.eof else None


def _gzip(data: bytes, limit: int) -> bytes | None:
    return _inflate(data, limit, 16 + zlib.MAX_WBITS)


def _deflate(data: bytes, limit: int) -> bytes | None:
    # RFC 9110, 8.4.1.2: "deflate" is the zlib format, but some senders send the raw one.
    try:
        return _inflate(data, limit, zlib.MAX_WBITS)
    except zlib.error:
        return _inflate(data, limit, -zlib.MAX_WBITS)


def _brotli(data: bytes, limit: int) -> bytes | None:
    decoder = brotli.Decompressor()
    out = bytes(decoder.process(data, output_buffer_limit=limit + 1))
    while not decoder.is_finished() and len(out) <= limit:
        more = bytes(decoder.process(b"", output_buffer_limit=limit + 1 - len(out)))
        if not more:
            return None
        out += more
    return out


def _zstd(data: bytes, limit: int) -> bytes | None:
    decoder = zstd.ZstdDecompressor()
    out = bytes(decoder.decompress(data, limit + 1))
    return out if decoder.eof else None


_DECODERS: Final = {b"gzip": _gzip, b"x-gzip": _gzip, b"deflate": _deflate, b"br": _brotli, b"zstd": _zstd}


def decode(data: bytes, content_encoding: bytes, *, limit: int) -> bytes | None:
    """Undo `content_encoding` (the header's value, RFC 9110, 8.4).

    None when the coding is unknown, the data is broken or incomplete, or the result is larger than `limit` bytes: such an
    answer is not a rejection we know, and goes to the caller as it came.
    """
    codings = [
        name for part in content_encoding.lower().split(b",") if (name := part.strip()) not in (b"", b"identity")
    ]
    if len(codings) > MOST_CODINGS:
        return None
    for name in reversed(codings):
        decoder = _DECODERS.get(name)
        if decoder is None:
            return None
        try:
            decoded = decoder(data, limit)
        except (zlib.error, brotli.error, zstd.ZstdError, EOFError, ValueError):
            return None
        if decoded is None or len(decoded) > limit:
            return None
        data = decoded
    return data if len(data) <= limit else None
