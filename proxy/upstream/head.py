"""Reading an answer: its head, exact to the byte, and the chunked coding of its body.

Owns what counts as a valid answer. llhttp (strict, no leniency) judges every head and decodes chunks; the lines
are split here, because httptools cannot tell what we must know: it gives trailers out as headers, cannot be told
that an answer belongs to HEAD, and does not say where a message ended.
Must not know sockets, time or the pool.
"""

from __future__ import annotations

import re
from itertools import islice

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

# More lines than any real answer has; bounds the work of one head.
MAX_LINES = 256
# All control characters but the tab.
_CONTROLS = bytes(code for code in range(32) if code != 9) + b"\x7f"
_VERSIONS = {b"HTTP/1.1 ": b"1.1", b"HTTP/1.0 ": b"1.0"}
# Lengths of the names that matter, so that most headers cost no lower().
_FRAMING = {len(b"connection"), len(b"content-length"), len(b"transfer-encoding")}
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:\A|[,;\s])timeout\s*=\s*\"?(\d{1,6})", re.IGNORECASE)


class InvalidAnswer(Exception):
    """The bytes are not an HTTP/1.1 answer; the text is a short reason without any byte of it."""


class _Sink:
    """What llhttp calls. It knows no connection, so a parser that holds it keeps nothing else alive."""

    # Defaults of the class instead of __init__: most answers are not chunked and change two of them at most.
    heads = 0
    done = False
    parts: list[bytes] | None = None

    def on_headers_complete(self) -> None:
        self.heads += 1

    def on_body(self, data: bytes) -> None:
        if not self.done:  # after the end it would belong to a second, unsolicited answer
            if self.parts is None:
                self.parts = []
            self.parts.append(data)

    def on_message_complete(self) -> None:
        self.done = True


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
            InvalidAnswer: not an answer we would stake money on.
        """
        lines = self._judged(data)
        count = len(lines) - 1
        start = lines[0]
        version = _VERSIONS.get(start[:9])
        code = start[9:12]
        if version is None or not code.isdigit() or code < b"100" or start[12:13] not in {b"", b" "}:
            raise InvalidAnswer("malformed status line")
        self.version = version
        self.status = int(code)
        self.reason = start[13:]

        self.headers = headers = []
        self.content_length = None
        self.chunked = False
        self.keep_alive_timeout = None
        connection: list[bytes] | None = None
        for line in islice(lines, 1, count - 1):
            name, colon, value = line.partition(b":")
            value = value.strip(b" \t")
            if not colon:
                raise InvalidAnswer("malformed header line")
            headers.append((name, value))
            if len(name) in _FRAMING:
                key = name.lower()
                if key == b"connection":
                    connection = [] if connection is None else connection
                    connection += [token.strip(b" \t") for token in value.lower().split(b",")]
                elif key == b"content-length":
                    self._take_length(value)
                elif key == b"transfer-encoding":
                    self._take_coding(value)
                elif key == b"keep-alive" and (hint := _KEEP_ALIVE_TIMEOUT.search(value)):
                    self.keep_alive_timeout = int(hint[1])
        # RFC 9112, section 6.3: both together are a smuggling attempt or a broken hop.
        if self.chunked and self.content_length is not None:
            raise InvalidAnswer("Content-Length beside Transfer-Encoding")
        # RFC 9112, section 9.3. A chunked answer of HTTP/1.0 is read but its connection is not trusted (6.1).
        if version == b"1.1":
            self.keep_alive = connection is None or b"close" not in connection
        else:
            self.keep_alive = (
                connection is not None
                and b"keep-alive" in connection
                and b"close" not in connection
                and not self.chunked
            )

    def _judged(self, data: bytes) -> list[bytes]:
        """Let llhttp judge the head and return its lines; the last two are empty."""
        self._sink = sink = _Sink()
        self._parser = parser = HttpResponseParser(sink)
        try:
            parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # 101; refused by status below and by the connection
        except HttpParserError as error:
            raise InvalidAnswer(str(error) or "malformed head") from None
        lines = data.split(b"\r\n")
        count = len(lines) - 1  # the start line, the headers, the empty line
        if count > MAX_LINES + 2:
            raise InvalidAnswer("too many header lines")
        # What is left of the data: every CR and LF must belong to a CRLF, so that llhttp's idea of a line is the
        # one used here; and the controls that it lets pass in the reason phrase must not be there.
        if sink.heads != 1 or len(data.translate(None, _CONTROLS)) != len(data) - 2 * count:
            raise InvalidAnswer("control characters in the head")
        return lines

    def _take_length(self, value: bytes) -> None:
        # llhttp refuses repeated lengths and lists already; a length over 2^63 is no length.
        if self.content_length is not None or not value.isdigit() or len(value) > 18:
            raise InvalidAnswer("malformed Content-Length")
        self.content_length = int(value)

    def _take_coding(self, value: bytes) -> None:
        # We send no TE, so nothing but chunked may be used (RFC 9110, section 10.1.4).
        if self.chunked or value.lower() != b"chunked":
            raise InvalidAnswer("unsupported Transfer-Encoding")
        self.chunked = True

    def decoder(self) -> Chunks:
        """Return the decoder of this head's chunked body: llhttp goes on where the head ended."""
        return Chunks(self._parser, self._sink)


def check_partial(data: bytes) -> None:
    """Refuse the beginning of a head that cannot become a valid one, instead of waiting for more of it.

    Raises:
        InvalidAnswer: TLS records, HTTP/0.9, HTTP/2 frames, bare LF, too many lines.
    """
    if not (data.startswith(b"HTTP/1.") or b"HTTP/1.".startswith(data)):
        raise InvalidAnswer("no HTTP/1 status line")
    feeds = data.count(b"\n")
    if feeds != data.count(b"\r\n"):
        raise InvalidAnswer("line feed without carriage return")
    if feeds > MAX_LINES + 1:
        raise InvalidAnswer("too many header lines")


class Chunks:
    """Decodes one chunked body (RFC 9112, section 7.1); extensions and trailers are dropped.

    Trailers never reach anybody: `_Sink` has no on_header, so httptools does not even collect them.
    """

    __slots__ = ("_parser", "_quiet", "_sink", "_tail", "done", "extra")

    def __init__(self, parser: HttpResponseParser, sink: _Sink) -> None:
        self._parser = parser
        self._sink = sink
        self._tail = b"\n"  # the last bytes fed; the body begins after a head
        self._quiet = 0
        self.done = False
        #: Bytes came after the end of the message in the same segment.
        self.extra = False

    def feed(self, data: bytes, max_quiet: int) -> bytes:
        """Return the content in `data`; sets `done` and `extra`.

        `max_quiet` bounds extensions and trailers: so many bytes in a row may carry no content.

        Raises:
            InvalidAnswer: malformed chunks.
        """
        sink = self._sink
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not sink.done:
                raise InvalidAnswer(str(error) or "malformed chunk") from None
            self.extra = True
        parts = sink.parts
        content = b""
        if parts:
            content = parts[0] if len(parts) == 1 else b"".join(parts)
            sink.parts = None
            self._quiet = 0
        if sink.done:
            self.done = True
            # llhttp skips empty lines and waits for the rest of a second status line without a word, so the
            # end is checked by its bytes: a line of its own, then exactly one empty line.
            tail = (self._tail + data)[-5:]
            if sink.heads != 1 or tail[1:] != b"\r\n\r\n" or tail[:1] in {b"\r", b"\n"}:
                self.extra = True
        else:
            self._tail = (self._tail + data[-5:])[-5:]
            self._quiet += 0 if content else len(data)
            if self._quiet > max_quiet:
                raise InvalidAnswer("too much data without content in a chunked body")
        return content
