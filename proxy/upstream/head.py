"""Reading an answer: its head, exact to the byte, and the chunked coding of its body.

Owns what counts as a valid answer. llhttp (strict, no leniency) judges every head and decodes chunks; the lines
are split here, because httptools cannot tell what we must know: it gives trailers out as headers, cannot be told
that an answer belongs to HEAD, and does not say where a message ended.
Must not know sockets, time or the pool.
"""

from __future__ import annotations

from httptools import HttpResponseParser

from proxy.core.answer import AnswerFields
from proxy.http1 import Chunks, InvalidMessage, Sink, judged

# More lines than any real answer has; bounds the work of one head.
MAX_LINES = 256
_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_VERSIONS = {b"HTTP/1.1 ": b"1.1", b"HTTP/1.0 ": b"1.0"}


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
        sink = Sink()
        lines = judged(HttpResponseParser(sink), sink, data)
        if len(lines) > MAX_LINES + 3:  # the start line, the headers, two empty lines
            raise InvalidMessage("too many header lines")
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


def chunk_decoder() -> Chunks:
    """Return the decoder of a chunked body.

    llhttp begins with a head of ours: of the answer's own it may think otherwise than we do ("chunked" and a tab).
    """
    sink = Sink()
    parser = HttpResponseParser(sink)
    parser.feed_data(_CHUNKED_HEAD)
    return Chunks(parser, sink)


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
