"""The chunked coding of a caller's body, decoded to the byte, so that the next request begins exactly where it ends.

RFC 9112, section 7.1, and nothing more lenient: extensions and trailers are judged and dropped. llhttp is not used here,
because httptools does not say where a message ended. Must not know sockets or time.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.core.errors import BadRequest, BodyTooLarge

#: Bytes of one line: a chunk's size with its extensions, or a trailer; and of all extensions and trailers of a body,
#: besides what its content allows.
_LONGEST_LINE: Final = 16 * 1024
_MOST_EXTRAS: Final = 64 * 1024
#: Chunks of a body; each costs some 2 µs, so a body of single bytes would hold up everybody else.
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
#: field-name ":" OWS field-value OWS (RFC 9110, 5).
_TRAILER: Final = re.compile(rb"%b:[\t -~\x80-\xff]*" % _TOKEN)
#: RFC 9110, 6.5.1: fields that say where a message ends or goes may not come after it.
_FORBIDDEN: Final = frozenset({b"content-length", b"transfer-encoding", b"host"})
_INVALID: Final = "The request body is not framed correctly."


class ChunkedBody:
    """Decodes one body. Feed it until `done`; what `feed` returns besides the content lies behind the body."""

    __slots__ = ("_chunks", "_content", "_extras", "_in_trailers", "_left", "_line", "done")

    def __init__(self) -> None:
        #: Bytes of the current chunk that are still to come, with the CRLF behind them; 0: a line comes.
        self._left = 0
        self._line = b""
        self._in_trailers = False
        self._extras = 0
        self._chunks = 0
        #: Bytes of content announced so far.
        self._content = 0
        self.done = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Return the pieces of content in `data`, and what follows the end of the body.

        Raises `BadRequest` for anything that is not the chunked coding, `BodyTooLarge` for a size that is no size.
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
                raise BadRequest(_INVALID)
            if not end:
                self._check_partial(line)
                self._line = line
                break
            place, self._line = end, b""
            if line[-2:] != b"\r\n":
                raise BadRequest(_INVALID)
            self._take_line(line[:-2])
            if self.done:
                break
        # Many small chunks must not become many small objects.
        return [b"".join(pieces)] if len(pieces) > 1 else pieces, data[place:] if self.done else b""

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
                raise BadRequest(_INVALID)
            self._left -= 1
            place += 1
        return place

    def _take_line(self, line: bytes) -> None:
        if self._in_trailers:
            if not line:
                self.done = True
            elif not _TRAILER.fullmatch(line) or line.partition(b":")[0].lower() in _FORBIDDEN:
                raise BadRequest(_INVALID)
            self._count(len(line))
            return
        found = _SIZE.fullmatch(line)
        if found is None:
            raise BadRequest(_INVALID)
        digits = found[1].lstrip(b"0")
        if len(digits) > _MOST_DIGITS:
            raise BodyTooLarge("The request body is larger than anything.")
        self._count(len(line) - len(digits) - 1)
        size = int(digits or b"0", 16)
        self._chunks += 1
        if self._chunks > _MOST_CHUNKS + self._content // _PER_CHUNK:
            raise BadRequest("The request body comes in too many small chunks.")
        self._content += size
        self._in_trailers = not size
        self._left = size + 2 if size else 0

    def _count(self, extra: int) -> None:
        self._extras += max(0, extra)
        if self._extras > _MOST_EXTRAS + self._content // _PER_EXTRA:
            raise BadRequest("The request body has too much in its chunk extensions and trailers.")

    def _check_partial(self, line: bytes) -> None:
        """Refuse what can never become a size, instead of waiting for its end."""
        if not self._in_trailers and not re.match(rb"[0-9A-Fa-f]+(?:[ \t]*(?:;|\Z)|\r?\Z)", line):
            raise BadRequest(_INVALID)
