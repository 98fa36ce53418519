"""Reading the head of an answer, exact to the byte.

Owns what counts as a valid answer: nothing ambiguous, and all else that RFC 9112 lets a recipient read. llhttp (strict)
judges every head; the lines are split here, because httptools cannot be told that an answer belongs to HEAD.
Must not know sockets, time or the pool.
"""

from __future__ import annotations

import re

from httptools import HttpResponseParser

from proxy.core.answer_fields import AnswerFields
from proxy.http.chunks import InvalidMessage, Sink, judged

_VERSIONS = {b"HTTP/1.1 ": b"1.1", b"HTTP/1.0 ": b"1.0"}
_LATER_VERSION = re.compile(rb"\AHTTP/1\.[2-9] ")
_LENGTH = re.compile(rb"\r\ncontent-length:([^\r\n]*)", re.IGNORECASE)


class Head:
    """One parsed head; also the framing that follows from it (RFC 9112, section 6.3)."""

    __slots__ = ("fields", "keep_alive", "reason", "status", "version")

    status: int
    reason: bytes
    version: bytes
    fields: AnswerFields
    keep_alive: bool

    def __init__(self, data: bytes) -> None:
        """Parse `data`, a head up to and with its first empty line.

        Raises:
            InvalidMessage: not an answer we would stake money on.
        """
        try:
            lines = _judged(data)
        except InvalidMessage:
            plainer = _plainer(data)
            if plainer == data:
                raise
            lines = _judged(plainer)
        start = lines[0]
        version = _VERSIONS.get(start[:9])
        code = start[9:12]
        if version is None or not code.isdigit() or code < b"100" or start[12:13] not in {b"", b" "}:
            raise InvalidMessage("malformed status line")
        self.version = version
        self.status = int(code)
        self.reason = start[13:]

        try:
            self.fields = fields = AnswerFields(lines[1:-2])
        except ValueError as error:
            raise InvalidMessage(str(error)) from None
        # RFC 9112, section 9.3. A chunked answer of HTTP/1.0 is read but its connection is not trusted (6.1).
        tokens = fields.nominated
        self.keep_alive = b"close" not in tokens and (
            version == b"1.1" or (b"keep-alive" in tokens and not fields.chunked)
        )


def _judged(data: bytes) -> list[bytes]:
    sink = Sink()
    return judged(HttpResponseParser(sink), sink, data)


def _plainer(data: bytes) -> bytes:
    """Rewrite what RFC 9112 tells a recipient how to read, and llhttp refuses: off the usual way, so once refused.

    A later HTTP/1 is read as 1.1 (RFC 9110, 2.5); a length that is given several times, each time the same, is that length
    (RFC 9112, 6.3, rule 5).
    """
    data = _LATER_VERSION.sub(b"HTTP/1.1 ", data)
    lengths = [length.strip(b" \t") for found in _LENGTH.finditer(data) for length in found[1].split(b",")]
    if len(lengths) > 1 and len(set(lengths)) == 1:
        data = _LENGTH.sub(b"", data)[:-2] + b"Content-Length: %b\r\n\r\n" % lengths[0]
    return data


def check_partial(data: bytes) -> None:
    """Refuse the beginning of a head that cannot become a valid one, instead of waiting for more of it.

    Raises:
        InvalidMessage: TLS records, HTTP/0.9, HTTP/2 frames, bare LF.
    """
    if not (data.startswith(b"HTTP/1.") or b"HTTP/1.".startswith(data)):
        raise InvalidMessage("no HTTP/1 status line")
    if data.count(b"\n") != data.count(b"\r\n"):
        raise InvalidMessage("line feed without carriage return")
