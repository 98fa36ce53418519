"""Writing a request body that is too large for one write, or that comes piece by piece.

Owns chunk framing and the promise that a body is exactly as long as its head says; must not know the pool.
A request whose framing and body disagree would let the upstream read our next request as a part of this one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from proxy.core.errors import BadRequest

if TYPE_CHECKING:
    from proxy.upstream.connection import Connection
    from proxy.upstream.response import Response

# Written together with the head in one piece.
SMALL = 64 * 1024
# One write; the transport's high-water mark is 64 KiB, so at most this much is copied beyond it.
SLICE = 128 * 1024
# A regex, because bytes.find takes three times as long on a head and cannot ignore case.
_FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding):[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE)
LAST_CHUNK = b"0\r\n\r\n"


def declared(head: bytes) -> tuple[int | None, bool]:
    """Return what the request's head says of its body: Content-Length, and whether it is chunked.

    Raises:
        ValueError: the head is not framed in exactly one way; a fault of the program, nothing is sent.
    """
    if head[-4:] != b"\r\n\r\n":
        raise ValueError("the request head must end with an empty line")
    found = _FRAMING.search(head)
    if found is None:
        return None, False
    name, value = found.groups()
    te = len(name) == len(b"transfer-encoding")
    if _FRAMING.search(head, found.end() - 2) or not (value.lower() == b"chunked" if te else value.isdigit()):
        raise ValueError("the request head must declare its body exactly once")
    return (None, True) if te else (int(value), False)


def check_framing(head: bytes, body: bytes | AsyncIterator[bytes] | None, *, chunked: bool) -> int | None:
    """Compare head and body before anything is sent; return the length that a stream must have.

    Raises:
        ValueError: they disagree; a fault of the program, nothing is sent.
    """
    length, te = declared(head)
    if te is not chunked:
        raise ValueError("the request head and its body disagree about chunked framing")
    if chunked:
        return None
    if body is None or isinstance(body, bytes):
        if (length or 0) != len(body or b""):
            raise ValueError("the request's Content-Length is not the length of its body")
    elif length is None:
        raise ValueError("a streamed request body needs a Content-Length or chunked framing")
    return length


def framed(body: bytes, *, chunked: bool) -> bytes:
    """Return a whole body as it goes on the wire."""
    if not chunked:
        return body
    return b"%x\r\n%b\r\n%b" % (len(body), body, LAST_CHUNK) if body else LAST_CHUNK


def slices(piece: bytes) -> Iterator[bytes | memoryview]:
    """Cut a piece so that back-pressure is felt between the writes."""
    if len(piece) <= SLICE:
        yield piece
        return
    view = memoryview(piece)
    for start in range(0, len(view), SLICE):
        yield view[start : start + SLICE]


async def upload(
    connection: Connection,
    response: Response,
    body: bytes | AsyncIterator[bytes],
    *,
    chunked: bool,
    length: int | None,
) -> None:
    """Write the body; every failure goes to the exchange, none out of here. Runs in a task of its own.

    `length`: what an unchunked stream must amount to. A stream that is longer or shorter ends the
    exchange with BadRequest.
    """
    try:
        if isinstance(body, bytes):
            whole = await _write(connection, response, body, chunked=chunked)
        else:
            try:
                whole = await _stream(connection, response, body, chunked=chunked, length=length)
            finally:
                # Not left to the garbage collector: the stream may hold the caller's connection.
                if (aclose := getattr(body, "aclose", None)) is not None:
                    await aclose()
        if whole and chunked:
            whole = await connection.write(response, LAST_CHUNK)
        if whole:
            connection.upload_done(response)
    except asyncio.CancelledError as error:
        connection.upload_failed(response, error)  # a no-op when it was the exchange that stopped us
        raise
    except BaseException as error:  # propagated unchanged to whoever waits for the answer
        connection.upload_failed(response, error)


async def _write(connection: Connection, response: Response, piece: bytes, *, chunked: bool) -> bool:
    for part in slices(piece):
        data = b"".join((b"%x\r\n" % len(part), part, b"\r\n")) if chunked else part
        if not await connection.write(response, data):
            return False
    return True


async def _stream(
    connection: Connection,
    response: Response,
    body: AsyncIterator[bytes],
    *,
    chunked: bool,
    length: int | None,
) -> bool:
    total = 0
    async for piece in body:
        if not piece:
            continue  # an empty chunk would be the last one
        total += len(piece)
        if length is not None and total > length:
            raise BadRequest("The request body is longer than its Content-Length.")
        if not await _write(connection, response, piece, chunked=chunked):
            return False
        if total == length:
            break  # the upstream has all of it, and may have answered already
    if length is not None and total != length:
        raise BadRequest("The request body is shorter than its Content-Length.")
    return True
