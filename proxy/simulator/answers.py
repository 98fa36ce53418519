"""How answers look: CardCash's envelope and its variants (core/README.md, "Errors"), codings, and broken answers.

Owns the bytes of an answer. Knows neither tokens nor state.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import struct
import sys
import zlib
from typing import Any

import brotli
from aiohttp import web

from proxy.simulator.catalogue import dumps
from proxy.simulator.settings import SimulatorSettings

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

JSON_TYPE = "application/json; charset=utf-8"
# Key of a response that must go out without Content-Type; aiohttp would add one (app.py removes it again).
BARE = web.ResponseKey("no_content_type", bool)
# The page an edge in front of CardCash shows; nothing in it is JSON (core/README.md, "Origins, versions, times").
EDGE_PAGE = b"<!DOCTYPE html><html><head><title>Attention Required!</title></head><body><h1>Error</h1></body></html>"

_CAUSES = {
    "missing": "No authorization token was found",
    "expired": "jwt expired",
    "malformed": "jwt malformed",
    "signature": "invalid signature",
}


def answer(value: object, status: int = 200) -> web.Response:
    """Answer with JSON."""
    return web.Response(status=status, body=dumps(value), headers={"Content-Type": JSON_TYPE})


def serialised(body: bytes) -> web.Response:
    """Answer with JSON that is ready."""
    return web.Response(body=body, headers={"Content-Type": JSON_TYPE})


def envelope(message: str, status: int = 400, shape: str = "array") -> web.Response:
    """Answer with an error: {"message": ["…"]}, {"message": "…"}, plain text, an HTML page, or nothing."""
    if shape == "plain":
        return web.Response(status=status, text=message)
    if shape == "html":
        return web.Response(status=status, body=EDGE_PAGE, headers={"Content-Type": "text/html; charset=UTF-8"})
    if shape == "empty":
        return web.Response(status=status)
    return answer({"message": [message] if shape == "array" else message}, status)


def rejection(settings: SimulatorSettings, cause: str) -> web.Response:
    """Answer that the token is rejected, in the wording and wrapping the settings choose."""
    message = settings.rejection_message
    if message == "by-cause":
        message = _CAUSES.get(cause, "invalid token")
    plain = envelope(message, settings.rejection_status, settings.rejection_shape)
    body = plain.body if isinstance(plain.body, bytes) else b""
    if settings.rejection_extra and body.startswith(b"{"):
        body = dumps({"statusCode": settings.rejection_status, **json.loads(body), "error": "Bad Request"})
    padding = b" " * settings.rejection_padding
    body = padding + body + padding
    if settings.rejection_bom:
        body = b"\xef\xbb\xbf" + body
    headers = {"Content-Type": settings.rejection_content_type or "text/plain"}
    if settings.rejection_encoding != "identity":
        body, headers["Content-Encoding"] = encode(body, settings.rejection_encoding)
    response = web.Response(status=settings.rejection_status, body=body, headers=headers)
    if not settings.rejection_content_type:
        response[BARE] = True
    if settings.rejection_chunked:
        response.enable_chunked_encoding()
    return response


def encode(body: bytes, coding: str) -> tuple[bytes, str]:
    """Compress: (bytes, Content-Encoding). "deflate" is zlib as the RFC says, "deflate-raw" as some servers do."""
    if coding == "gzip":
        return gzip.compress(body, 5), coding
    if coding == "br":
        packed: bytes = brotli.compress(body, quality=4)
        return packed, coding
    if coding == "zstd":
        return zstd.compress(body), coding
    packer = zlib.compressobj(5, wbits=-15 if coding == "deflate-raw" else 15)
    return packer.compress(body) + packer.flush(), "deflate"


def decode(body: bytes, coding: str) -> bytes:
    """Undo the Content-Encoding of a request. Raises ValueError for what cannot be read."""
    try:
        if coding in ("gzip", "x-gzip"):
            return gzip.decompress(body)
        if coding == "deflate":
            return zlib.decompress(body)
        if coding == "br":
            return bytes(brotli.decompress(body))
        if coding == "zstd":
            return bytes(zstd.decompress(body))
    except Exception as error:
        raise ValueError("body does not decode") from error
    if coding in ("", "identity"):
        return body
    raise ValueError("unknown Content-Encoding")


def cut(request: web.Request) -> None:
    """Close the connection of `request` with RST: whatever the client has not read is lost to it."""
    transport = request.transport
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def cut_within(request: web.Request, response: web.StreamResponse, *, in_body: bool) -> None:
    """Send a part of `response`, half of its head or half of its body, then RST."""
    body = response.body if isinstance(response, web.Response) and isinstance(response.body, bytes) else b""
    body = body or b'{"cut": "here"}'
    head = f"HTTP/1.1 {response.status} {response.reason}\r\nContent-Type: {JSON_TYPE}\r\nContent-Length: {len(body)}"
    part = head.encode() + b"\r\n\r\n" + body[: len(body) // 2] if in_body else head.encode()[: len(head) // 2]
    if request.transport is not None:
        request.transport.write(part)
        # Without a pause the RST would overtake the bytes in the kernel and the client would see neither.
        await asyncio.sleep(0.02)
    cut(request)


async def drip(request: web.Request, response: web.StreamResponse, seconds: float) -> web.StreamResponse:
    """Send the head and half of the body of `response`, wait, send the rest."""
    body: Any = response.body if isinstance(response, web.Response) else None
    if not isinstance(body, bytes) or request.method == "HEAD":
        await asyncio.sleep(seconds)
        return response
    slow = web.StreamResponse(status=response.status, headers=response.headers)
    slow.content_length = len(body)
    await slow.prepare(request)
    await slow.write(body[: len(body) // 2])
    await asyncio.sleep(seconds)
    with contextlib.suppress(ConnectionError):
        await slow.write(body[len(body) // 2 :])
    return slow
