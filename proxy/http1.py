"""What both sides of the proxy share of HTTP/1.1: how llhttp judges a message, and how chunked bodies are decoded.

llhttp judges whole heads; the fields are then read from the lines, because httptools gives trailers out as headers and
does not say where a message ended. Must not know sockets, time, or which side it serves.
"""

from __future__ import annotations

from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

#: All control characters but the tab.
CONTROLS: Final = bytes(code for code in range(32) if code != 9) + b"\x7f"


class InvalidMessage(Exception):
    """The bytes are not HTTP/1.1; the text is a short reason without any byte of them."""


class Sink:
    """What llhttp calls. It knows no connection, so a parser that holds it keeps nothing else alive."""

    # Defaults of the class instead of __init__: most messages are not chunked and change two of them at most.
    heads = 0
    done = False
    parts: list[bytes] | None = None

    def on_headers_complete(self) -> None:
        """Count a head."""
        self.heads += 1

    def on_body(self, data: bytes) -> None:
        """Keep content, less what comes after the end: it would belong to a second, unsolicited message."""
        if not self.done:
            if self.parts is None:
                self.parts = []
            self.parts.append(data)

    def on_message_complete(self) -> None:
        """Note the end."""
        self.done = True


def judged(parser: HttpRequestParser | HttpResponseParser, sink: Sink, data: bytes) -> list[bytes]:
    """Let llhttp judge `data`, a head up to and with its first empty line; returns its lines, the last two empty.

    Raises `InvalidMessage`.
    """
    try:
        parser.feed_data(data)
    except HttpParserUpgrade:
        pass  # 101, or a request for it: nobody here upgrades
    except HttpParserError as error:
        raise InvalidMessage(str(error) or "malformed head") from None
    lines = data.split(b"\r\n")
    # Every CR and LF must belong to a CRLF, so that llhttp's idea of a line is the one used here; and the controls that
    # it lets pass in places must not be there.
    if sink.heads != 1 or len(data.translate(None, CONTROLS)) != len(data) - 2 * (len(lines) - 1):
        raise InvalidMessage("control characters in the head")
    return lines


class Chunks:
    """Decodes one chunked body (RFC 9112, section 7.1); extensions and trailers are dropped.

    Trailers never reach anybody: `Sink` has no on_header, so httptools does not even collect them.
    """

    __slots__ = ("_parser", "_quiet", "_sink", "_tail", "done", "extra")

    def __init__(self, parser: HttpRequestParser | HttpResponseParser, sink: Sink) -> None:
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
            InvalidMessage: malformed chunks.
        """
        sink = self._sink
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not sink.done:
                raise InvalidMessage(str(error) or "malformed chunk") from None
            self.extra = True
        parts = sink.parts
        content = b""
        if parts:
            content = parts[0] if len(parts) == 1 else b"".join(parts)
            sink.parts = None
            self._quiet = 0
        if sink.done:
            self.done = True
            # llhttp skips empty lines and waits for the rest of a second start line without a word, so the
            # end is checked by its bytes: a line of its own, then exactly one empty line.
            tail = (self._tail + data)[-5:]
            if sink.heads != 1 or tail[1:] != b"\r\n\r\n" or tail[:1] in {b"\r", b"\n"}:
                self.extra = True
        else:
            self._tail = (self._tail + data[-5:])[-5:]
            self._quiet += 0 if content else len(data)
            if self._quiet > max_quiet:
                raise InvalidMessage("too much data without content in a chunked body")
        return content
