"""Answers made by the proxy itself: CardCash's envelope, a stable code, Proxy-Status."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus

import orjson

from proxy.core.errors import ProxyError
from proxy.server.exchange import Exchange

NAME = b"cardcash-proxy"


def send_json(exchange: Exchange, status: int, body: object, lines: Sequence[bytes], *, request_id: str) -> None:
    """Answer with a JSON body; `lines` are more header lines."""
    content = orjson.dumps(body)
    head = [
        b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode()),
        b"Content-Type: application/json",
        date_line(),
        b"Content-Length: %d" % len(content),
        *lines,
        b"X-Request-ID: %b" % request_id.encode("ascii"),
        *connection_lines(exchange),
        b"\r\n",
    ]
    exchange.send((b"\r\n".join(head), b"" if exchange.method == "HEAD" else content))


def send_error(exchange: Exchange, error: ProxyError, *, request_id: str) -> None:
    """Answer with an error."""
    exchange.drop_body()
    lines = [f"{name}: {value}".encode() for name, value in fields_of(error).items()]
    send_json(exchange, error.status, envelope_of(error), lines, request_id=request_id)


def envelope_of(error: ProxyError) -> dict[str, object]:
    """Put an error into CardCash's own envelope, with its code beside it."""
    return {"message": [str(error)], "error": error.code}


def fields_of(error: ProxyError) -> dict[str, str]:
    """Say in fields who made the error, and when to try again."""
    fields = {"Proxy-Status": f"{NAME.decode()}; error={error.proxy_status}"}
    if error.retry_after is not None:
        fields["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return fields


def date_line() -> bytes:
    """Say when the answer was made, or came without saying so itself (RFC 9110, 6.6.1)."""
    return b"Date: %b" % formatdate(time.time(), usegmt=True).encode("ascii")


def status_line(*, renewed: bool, login_refused: bool) -> bytes:
    """Say what an answer of CardCash had to do with its session (RFC 9209), if anything."""
    details = [b"session-renewed"] * renewed + [b"login-refused"] * login_refused
    return b"Proxy-Status: " + b", ".join(b'%b; details="%b"' % (NAME, detail) for detail in details)


def connection_lines(exchange: Exchange) -> tuple[bytes, ...]:
    """Say what becomes of the connection, where the version's default is the other (RFC 9112, 9.3)."""
    if exchange.keep_alive:
        return (b"Connection: keep-alive",) if exchange.http_10 else ()
    return (b"Connection: close",)
