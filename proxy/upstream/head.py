"""Reading an answer: its head, exact to the byte, and the chunked coding of its body.

Owns what counts as a valid answer. llhttp (strict, no leniency) judges every head and decodes chunks; the lines
are split here, because httptools cannot tell what we must know: it gives trailers out as headers, cannot be told
that an answer belongs to HEAD, and does not say where a message ended.
Must not know sockets, time or the pool.
"""

from __future__ import annotations

import re
from itertools import islice

from httptools import HttpResponseParser

from proxy.http1 import Chunks, InvalidMessage, Sink, judged

# More lines than any real answer has; bounds the work of one head.
MAX_LINES = 256
_VERSIONS = {b"HTTP/1.1 ": b"1.1", b"HTTP/1.0 ": b"1.0"}
# Lengths of the names that matter, so that most headers cost no lower().
_FRAMING = {len(b"connection"), len(b"content-length"), len(b"transfer-encoding")}
# What nearly every Connection says.
_USUAL = {value: frozenset({value}) for value in (b"", b"keep-alive", b"close")}
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:\A|[,;\s])timeout\s*=\s*\"?(\d{1,6})", re.IGNORECASE)


class Head:
    """One parsed head; also the framing that follows from it (RFC 9112, section 6.3)."""

    __slots__ = ("_parser", "_sink", "chunked", "content_length", "headers", "keep_alive", "keep_alive_timeout",
                 "reason", "status", "version")  # fmt: skip

    status: int
    reason: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]
    content_length: int | None
    chunked: bool
    keep_alive: bool
    keep_alive_timeout: int | None

    def __init__(self, data: bytes) -> None:
        """Parse `data`, a head up to and with its first empty line.

        Raises:
            InvalidMessage: not an answer we would stake money on.
        """
        lines = self._judged(data)
        count = len(lines) - 1
        start = lines[0]
        version = _VERSIONS.get(start[:9])
        code = start[9:12]
        if version is None or not code.isdigit() or code < b"100" or start[12:13] not in {b"", b" "}:
            raise InvalidMessage("malformed status line")
        self.version = version
        self.status = int(code)
        self.reason = start[13:]

        self.headers = headers = []
        self.content_length = None
        self.chunked = False
        self.keep_alive_timeout = None
        connection = b""
        for line in islice(lines, 1, count - 1):
            name, colon, value = line.partition(b":")
            value = value.strip(b" \t")
            if not colon:
                raise InvalidMessage("malformed header line")
            headers.append((name, value))
            if len(name) in _FRAMING:
                key = name.lower()
                if key == b"connection":
                    connection = connection + b"," + value if connection else value
                elif key == b"content-length":
                    self._take_length(value)
                elif key == b"transfer-encoding":
                    self._take_coding(value)
                elif key == b"keep-alive" and (hint := _KEEP_ALIVE_TIMEOUT.search(value)):
                    self.keep_alive_timeout = int(hint[1])
        # RFC 9112, section 6.3: both together are a smuggling attempt or a broken hop.
        if self.chunked and self.content_length is not None:
            raise InvalidMessage("Content-Length beside Transfer-Encoding")
        # RFC 9112, section 9.3. A chunked answer of HTTP/1.0 is read but its connection is not trusted (6.1).
        tokens = _USUAL.get(connection)
        if tokens is None:
            tokens = frozenset(token.strip(b" \t") for token in connection.lower().split(b","))
        self.keep_alive = b"close" not in tokens and (
            version == b"1.1" or (b"keep-alive" in tokens and not self.chunked)
        )

    def _judged(self, data: bytes) -> list[bytes]:
        """Let llhttp judge the head and return its lines; the last two are empty."""
        self._sink = sink = Sink()
        self._parser = HttpResponseParser(sink)
        lines = judged(self._parser, sink, data)
        if len(lines) > MAX_LINES + 3:  # the start line, the headers, two empty lines
            raise InvalidMessage("too many header lines")
        return lines

    def _take_length(self, value: bytes) -> None:
        # llhttp refuses repeated lengths and lists already; a length over 2^63 is no length.
        if self.content_length is not None or not value.isdigit() or len(value) > 18:
            raise InvalidMessage("malformed Content-Length")
        self.content_length = int(value)

    def _take_coding(self, value: bytes) -> None:
        # We send no TE, so nothing but chunked may be used (RFC 9110, section 10.1.4).
        if self.chunked or value.lower() != b"chunked":
            raise InvalidMessage("unsupported Transfer-Encoding")
        self.chunked = True

    def decoder(self) -> Chunks:
        """Return the decoder of this head's chunked body: llhttp goes on where the head ended."""
        return Chunks(self._parser, self._sink)


def check_partial(data: bytes) -> None:
    """Refuse the beginning of a head that cannot become a valid one, instead of waiting for more of it.

    Raises:
        InvalidMessage: TLS records, HTTP/0.9, HTTP/2 frames, bare LF, too many lines.
    """
    if not (data.startswith(b"HTTP/1.") or b"HTTP/1.".startswith(data)):
        raise InvalidMessage("no HTTP/1 status line")
    feeds = data.count(b"\n")
    if feeds != data.count(b"\r\n"):
        raise InvalidMessage("line feed without carriage return")
    if feeds > MAX_LINES + 1:
        raise InvalidMessage("too many header lines")
