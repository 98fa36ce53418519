"""What both sides of the proxy share of HTTP/1.1: how llhttp judges a message, and how chunked bodies are decoded.

llhttp judges whole heads; the fields are then read from the lines, because httptools gives trailers out as headers.
Chunks are not llhttp's, because httptools does not say where a message ended, and because llhttp refuses the white space
that RFC 9112 allows around chunk extensions. Must not know sockets, time, or which side it serves.
"""

from __future__ import annotations

import re
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

#: All control characters but the tab.
CONTROLS: Final = bytes(code for code in range(32) if code != 9) + b"\x7f"
#: Bytes of one line of a chunked body: a chunk's size with its extensions, or a trailer; and of all its trailers.
_LONGEST_LINE: Final = 16 * 1024
_LONGEST_TRAILERS: Final = 64 * 1024
#: Hexadecimal digits of a size that could still be meant; more is larger than anything.
_MOST_DIGITS: Final = 12
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
#: chunk-size [ *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS ( token / quoted-string ) ] ) ] (RFC 9112, 7.1 and 7.1.1).
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]+)(?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?)*" % (_TOKEN, _TOKEN, _QUOTED))
_SIZE_BEGUN: Final = re.compile(rb"[0-9A-Fa-f]+(?:[ \t]*(?:;|\Z)|\r?\Z)")
#: field-name ":" OWS field-value OWS (RFC 9110, 5).
_TRAILER: Final = re.compile(rb"%b:[\t -~\x80-\xff]*" % _TOKEN)
#: RFC 9110, 6.5.1: fields that say where a message ends or goes may not come after it.
_FORBIDDEN: Final = frozenset({b"content-length", b"transfer-encoding", b"host"})


class InvalidMessage(Exception):
    """The bytes are not HTTP/1.1; the text is a short reason without any byte of them."""


class NoSize(InvalidMessage):
    """A chunk's size is larger than anything."""


class Sink:
    """What llhttp calls. It knows no connection, so a parser that holds it keeps nothing else alive."""

    heads = 0

    def on_headers_complete(self) -> None:
        """Count a head."""
        self.heads += 1


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
    """Decodes one chunked body, to the byte (RFC 9112, 7.1). Feed it until `done`; extensions and trailers are dropped."""

    __slots__ = ("_in_trailers", "_left", "_line", "_trailers", "done")

    def __init__(self) -> None:
        #: Bytes of the current chunk that are still to come, with the CRLF behind them; 0: a line comes.
        self._left = 0
        self._line = b""
        self._in_trailers = False
        self._trailers = 0
        self.done = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Return the content in `data`, one piece at most, and what follows the end of the body.

        Raises `InvalidMessage` for anything that is not the chunked coding, `NoSize` for a size that is no size.
        """
        pieces: list[bytes] = []
        place = 0
        while place < len(data):
            if self._left:
                place = self._take_content(data, place, pieces)
                continue
            end = data.find(b"\n", place) + 1
            line = self._line + data[place : end or len(data)]
            if len(line) > _LONGEST_LINE:
                raise InvalidMessage("a line too long in a chunked body")
            if not end:
                # What can never become a size is refused now, instead of waiting for its end.
                if not self._in_trailers and not _SIZE_BEGUN.match(line):
                    raise InvalidMessage("malformed chunk")
                self._line = line
                break
            place, self._line = end, b""
            if line[-2:] != b"\r\n":
                raise InvalidMessage("line feed without carriage return")
            self._take_line(line[:-2])
            if self.done:
                break
        # Many small chunks must not become many small objects.
        return [b"".join(pieces)] if len(pieces) > 1 else pieces, data[place:] if self.done else b""

    def counted(self, size: int, extra: int) -> None:
        """Bound a body: told of each line, with the content that it announces and its bytes beyond."""

    def _take_content(self, data: bytes, place: int, pieces: list[bytes]) -> int:
        content = self._left - 2
        if content > 0:
            piece = data[place : place + content]
            pieces.append(piece)
            place += len(piece)
            self._left -= len(piece)
        # The CRLF behind the content may come in two pieces.
        while self._left in (1, 2) and place < len(data):
            if data[place] != b"\n\r"[self._left - 1]:
                raise InvalidMessage("malformed end of a chunk")
            self._left -= 1
            place += 1
        return place

    def _take_line(self, line: bytes) -> None:
        if self._in_trailers:
            self._trailers += len(line)
            if not line:
                self.done = True
            elif not _TRAILER.fullmatch(line) or line.partition(b":")[0].lower() in _FORBIDDEN:
                raise InvalidMessage("malformed trailer")
            elif self._trailers > _LONGEST_TRAILERS:
                raise InvalidMessage("too many trailers")
            self.counted(0, len(line))
            return
        found = _SIZE.fullmatch(line)
        if found is None:
            raise InvalidMessage("malformed chunk")
        digits = found[1].lstrip(b"0")
        if len(digits) > _MOST_DIGITS:
            raise NoSize("a chunk larger than anything")
        size = int(digits or b"0", 16)
        self.counted(size, max(0, len(line) - len(digits) - 1))
        self._in_trailers = not size
        self._left = size + 2 if size else 0
