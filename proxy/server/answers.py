"""Answers made by the proxy itself: CardCash's envelope, a stable code, Proxy-Status (CONTRACT "What a caller sees")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus

import orjson

from proxy.core.errors import ProxyError
from proxy.server.exchange import Exchange

NAME = b"cardcash-proxy"


def send_json(exchange: Exchange, status: int, body: object, lines: Sequence[bytes], *, request_id: str) -> None:
    """Answer with a JSON body; `lines` are more header lines, each with its CRLF."""
    content = b"" if exchange.method == "HEAD" else orjson.dumps(body)
    length = len(orjson.dumps(body))
    head = [
        b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode()),
        b"Content-Type: application/json\r\n",
        b"Date: %b\r\n" % formatdate(usegmt=True).encode("ascii"),
        b"Content-Length: %d\r\n" % length,
        *lines,
        b"X-Request-ID: %b\r\n" % request_id.encode("ascii"),
        connection_line(exchange),
        b"\r\n",
        content,
    ]
    exchange.send(b"".join(head))


def send_error(exchange: Exchange, error: ProxyError, *, request_id: str) -> None:
    """Answer with an error: `{"message": ["<sentence>"], "error": "<code>"}`."""
    exchange.drop_body()
    lines = [b"Proxy-Status: %b; error=%b\r\n" % (NAME, error.proxy_status.encode())]
    if error.retry_after is not None:
        lines.append(b"Retry-After: %d\r\n" % max(1, math.ceil(error.retry_after)))
    body = {"message": [str(error)], "error": error.code}
    send_json(exchange, error.status, body, lines, request_id=request_id)


def connection_line(exchange: Exchange) -> bytes:
    """Say what becomes of the connection, where the version's default is the other (RFC 9112, 9.3)."""
    if exchange.draining:
        exchange.close_after()
    if exchange.keep_alive:
        return b"Connection: keep-alive\r\n" if exchange.http_10 else b""
    return b"Connection: close\r\n"
