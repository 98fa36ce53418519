"""Heads of both sides: where one ends, which bytes may stand in it, and what llhttp says of it.

llhttp judges whole heads; the fields are then read from the lines, because httptools gives trailers out as headers and
cannot be told that an answer belongs to HEAD. Must not know sockets, time, or which side it serves.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

#: Turns every control character but the tab into another one, and leaves the rest.
_SEEN: Final = bytes(33 if (code < 32 and code != 9) or code == 127 else code for code in range(256))
_CR: Final = 13
#: RFC 9112, 2.2: what some clients send after a body.
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")


class InvalidMessage(Exception):
    """The bytes are not HTTP/1.1; the text is a short reason without any byte of them."""


#: Counts the heads that llhttp has seen the end of.
_heads: Final = count()


class _Sink:
    """What llhttp calls. It knows no connection, so a parser that holds it keeps nothing else alive."""

    # httptools 0.8 asks for each of these; what is not there costs it an AttributeError, all together 2 % of a request.
    on_message_begin = on_url = on_status = on_header = on_body = on_message_complete = None
    on_chunk_header = on_chunk_complete = None
    # No method: a call out of C enters the interpreter anew, 0.5 %.
    on_headers_complete = _heads.__next__


def judged(parser: type[HttpRequestParser | HttpResponseParser], data: bytes) -> list[bytes]:
    """Let llhttp judge `data`, a head up to and with its first empty line; returns its lines, the last two empty.

    It refuses lines that are folded (RFC 9112, 5.2), so each field is one line. Raises `InvalidMessage`.
    """
    before = next(_heads)
    try:
        parser(_Sink).feed_data(data)
    except HttpParserUpgrade:
        pass  # 101, or a request for it: nobody here upgrades
    except HttpParserError as error:
        raise InvalidMessage(str(error) or "malformed head") from None
    lines = data.split(b"\r\n")
    # llhttp's idea of a line must be the one used here, and the controls that it lets pass in places must not be there.
    _check(b"".join(lines))
    if next(_heads) - before != 2:
        raise InvalidMessage("control characters in the head")
    return lines


def check_lines(data: bytes | bytearray, known: int = 0) -> None:
    """Refuse a CR or LF that belongs to no CRLF, and all other control characters but the tab. Raises `InvalidMessage`.

    `data` may be the beginning of a head. `known` bytes were checked before, so many segments cost no more than one.
    """
    if known:
        data = data[known - (data[known - 1] == _CR) :]
    _check(data.removesuffix(b"\r").replace(b"\r\n", b""))


def _check(text: bytes | bytearray) -> None:
    if text.translate(_SEEN) != text:
        raise InvalidMessage("control characters in the head")


class HeadReader:
    """Collects heads, one after the other, from bytes that come in any pieces.

    `check` refuses a beginning that cannot become a valid head, instead of waiting for more of it; it is told how many of
    the bytes it has seen. `lenient`: empty lines before a head are skipped.
    """

    __slots__ = ("_check", "_lenient", "begun")

    def __init__(self, check: Callable[[bytes | bytearray, int], None], *, lenient: bool = False) -> None:
        self._check = check
        self._lenient = lenient
        #: What has come of a head that is not complete.
        self.begun = bytearray()

    def feed(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Return a head up to and with its first empty line, and what follows it; None: more must come.

        Raises what `check` raises; what has come stays in `begun`.
        """
        begun = self.begun
        if not begun and data[0] != _CR and (end := data.find(b"\r\n\r\n") + 4) > 3:
            return data[:end], data[end:]  # nearly always: a whole one at once
        if self._lenient and len(begun) < 2:  # nothing is told by one byte: it may be half of an empty line
            data = bytes(begun) + data
            begun.clear()
            if skipped := _EMPTY_LINES.match(data):
                data = data[skipped.end() :]
        known = len(begun)
        begun += data
        end = begun.find(b"\r\n\r\n", max(0, known - 3)) + 4
        if end > 3:
            data = bytes(begun)
            begun.clear()
            return data[:end], data[end:]
        if not self._lenient or len(begun) > 1 or begun.strip(b"\r"):
            self._check(begun, known)
        return None
