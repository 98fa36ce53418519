"""The chunked coding, to the byte (RFC 9112, 7.1): decoded for both sides, a caller's within bounds: it may mean ill.

Not llhttp's, because httptools does not say where a message ended, and because llhttp refuses the white space that RFC 9112
allows around chunk extensions. Must not know sockets or time.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.http.heads import InvalidMessage

#: Bytes of one line of a chunked body: a chunk's size with its extensions, or a trailer; and of all its trailers.
_LONGEST_LINE: Final = 16 * 1024
_LONGEST_TRAILERS: Final = 64 * 1024
#: Within bounds: bytes of all extensions and trailers, and chunks, besides what the content allows. A chunk costs some 2 µs,
#: so a body of single bytes would hold up everybody else.
_MOST_EXTRAS: Final = 64 * 1024
_MOST_CHUNKS: Final = 16 * 1024
#: Bytes of content that allow one more of either.
_PER_EXTRA: Final = 8
_PER_CHUNK: Final = 16
#: Hexadecimal digits of a size that could still be meant; more is larger than anything.
_MOST_DIGITS: Final = 12
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
#: chunk-size [ *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS ( token / quoted-string ) ] ) ] (RFC 9112, 7.1 and 7.1.1).
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]+)(?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?)*" % (_TOKEN, _TOKEN, _QUOTED))
_SIZE_BEGUN: Final = re.compile(rb"[0-9A-Fa-f]+[ \t]*(?:;|\r?\Z)")
#: field-name ":" OWS field-value OWS (RFC 9110, 5).
_TRAILER: Final = re.compile(rb"%b:[\t -~\x80-\xff]*" % _TOKEN)
#: RFC 9110, 6.5.1: fields that say where a message ends or goes may not come after it.
_FORBIDDEN: Final = frozenset({b"content-length", b"transfer-encoding", b"host"})


class NoSize(InvalidMessage):
    """A chunk's size is larger than anything."""


class OutOfProportion(InvalidMessage):
    """There is more around the content than it is worth; the text says of what, after "the body"."""


class Chunks:
    """Decodes one chunked body. Feed it until `done`; extensions and trailers are dropped. `bounded`: as a caller's."""

    __slots__ = ("_bounded", "_chunks", "_content", "_extras", "_in_trailers", "_left", "_line", "_trailers", "done")

    def __init__(self, *, bounded: bool = False) -> None:
        self._bounded = bounded
        #: Lines, bytes around the content, and bytes of content announced so far.
        self._chunks = self._extras = self._content = 0
        #: Bytes of the current chunk that are still to come, with the CRLF behind them; 0: a line comes.
        self._left = 0
        self._line = b""
        self._in_trailers = False
        self._trailers = 0
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the content in `data`, and what follows the end of the body.

        Raises `InvalidMessage` for anything that is not the chunked coding, `NoSize` for a size that is no size,
        `OutOfProportion` beyond the bounds.
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
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), data[place:] if self.done else b""

    def _count(self, size: int, extra: int) -> None:
        """Refuse what is out of all proportion: a line announces `size` bytes of content, in `extra` more than it must."""
        self._extras += extra
        self._chunks += 1
        if self._bounded and self._extras > _MOST_EXTRAS + self._content // _PER_EXTRA:
            raise OutOfProportion("has too much in its chunk extensions and trailers")
        if self._bounded and self._chunks > _MOST_CHUNKS + self._content // _PER_CHUNK:
            raise OutOfProportion("comes in too many small chunks")
        self._content += size

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
            self._count(0, len(line))
            return
        # Some servers fill a size up with white space. The grammar has none there, but nobody reads another size: nginx,
        # curl and Go skip it, llhttp where it is told to. A caller has no such excuse.
        found = _SIZE.fullmatch(line if self._bounded else line.rstrip(b" \t"))
        if found is None:
            raise InvalidMessage("malformed chunk")
        digits = found[1].lstrip(b"0")
        if len(digits) > _MOST_DIGITS:
            raise NoSize("a chunk larger than anything")
        size = int(digits or b"0", 16)
        self._count(size, max(0, len(line) - len(digits) - 1))
        self._in_trailers = not size
        self._left = size + 2 if size else 0
