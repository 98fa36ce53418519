"""Reading an answer, exact to the byte.

Owns what counts as a valid answer: nothing ambiguous, and all else that RFC 9112 lets a recipient read; and where its body
ends. Must not know sockets, time or the pool.
"""

from __future__ import annotations

import re
from typing import Final

from httptools import HttpResponseParser

from proxy.core.answer_fields import AnswerFields
from proxy.http.chunks import Chunks
from proxy.http.framing import OVER, Counted, Decoder, UntilEnd
from proxy.http.heads import HeadReader, InvalidMessage, check_lines, judged

#: Bytes of a head.
MAX_HEAD: Final = 64 * 1024
#: Bytes of interim answers to one request: any number may come (RFC 9110, section 15.2), but not for ever.
_MAX_INTERIM: Final = 256 * 1024
_STATUSES: Final = {b"%d" % status: status for status in range(100, 1000)}
_AFTER_STATUS: Final = frozenset({b" ", b""})
_LATER_VERSION = re.compile(rb"\AHTTP/1\.[2-9] ")
#: A whole name at the beginning of a line, and the white space before its colon.
_BLANK_BEFORE_COLON = re.compile(rb"(\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]+:")
_LENGTH = re.compile(rb"\r\ncontent-length:([^\r\n]*)", re.IGNORECASE)


class AnswerHead(AnswerFields):
    """One parsed head."""

    __slots__ = ("keep_alive", "start", "status")

    def __init__(self, data: bytes) -> None:
        """Parse `data`, a head up to and with its first empty line.

        Raises:
            InvalidMessage: not an answer we would stake money on.
        """
        if len(data) > MAX_HEAD:
            raise InvalidMessage("head too large")
        try:
            lines = judged(HttpResponseParser, data)
        except InvalidMessage:
            plainer = _plainer(data)
            if plainer == data:
                raise
            lines = judged(HttpResponseParser, plainer)
        line = lines[0]
        status, http_11 = _STATUSES.get(line[9:12]), line.startswith(b"HTTP/1.1 ")
        if status is None or line[12:13] not in _AFTER_STATUS or not (http_11 or line.startswith(b"HTTP/1.0 ")):
            raise InvalidMessage("malformed status line")
        self.status = status
        #: The status line as it goes down.
        self.start = line if http_11 and line[12:] else b"HTTP/1.1 %b %b" % (line[9:12], line[13:])
        try:
            AnswerFields.__init__(self, lines[1:-2])
        except ValueError as error:
            raise InvalidMessage(str(error)) from None
        # RFC 9112, section 9.3. A chunked answer of HTTP/1.0 is read but its connection is not trusted (6.1).
        names = self.nominated
        self.keep_alive = b"close" not in names and (http_11 or (b"keep-alive" in names and not self.chunked))


def _plainer(data: bytes) -> bytes:
    """Rewrite what RFC 9112 tells a recipient how to read, and llhttp refuses: off the usual way, so once refused.

    A later HTTP/1 is read as 1.1 (RFC 9110, 2.5). White space between a name and its colon is removed (RFC 9112, 5.1) before
    the framing is looked at, so that it hides no field. A length that is given several times, each time the same, is that
    length (RFC 9112, 6.3, rule 5).
    """
    data = _LATER_VERSION.sub(b"HTTP/1.1 ", data)
    data = _BLANK_BEFORE_COLON.sub(rb"\1:", data)
    lengths = [length.strip(b" \t") for found in _LENGTH.finditer(data) for length in found[1].split(b",")]
    if len(lengths) > 1 and len(set(lengths)) == 1:
        data = _LENGTH.sub(b"", data)[:-2] + b"Content-Length: %b\r\n\r\n" % lengths[0]
    return data


def check_partial_answer(data: bytes | bytearray, known: int = 0) -> None:
    """Refuse the beginning of a head that cannot become a valid one, instead of waiting for more of it.

    `known` bytes of it were checked before.

    Raises:
        InvalidMessage: TLS records, HTTP/0.9, HTTP/2 frames, bare LF.
    """
    if len(data) > MAX_HEAD:
        raise InvalidMessage("head too large")
    if not (data.startswith(b"HTTP/1.") or b"HTTP/1.".startswith(data)):
        raise InvalidMessage("no HTTP/1 status line")
    check_lines(data, known)


class AnswerReader:
    """Takes one answer after the other out of a connection: feed it until `body.done`; without its `head` it expects the
    next."""

    __slots__ = ("_heads", "body", "has_body", "head", "head_only", "interim", "keep_alive")

    body: Decoder

    def __init__(self) -> None:
        self._heads = HeadReader(check_partial_answer)
        #: It answers a HEAD (RFC 9110, 9.3.2: no body, whatever the framing says).
        self.head_only = False
        #: Bytes of interim answers.
        self.interim = 0
        #: None until it is in. With it come `body`, `has_body` (though perhaps an empty one), and `keep_alive`: the answer
        #: leaves the connection as it must be for another one.
        self.head: AnswerHead | None = None
        self.has_body = self.keep_alive = False

    @property
    def begun(self) -> bool:
        """A part of a head has come."""
        return bool(self._heads.begun)

    @property
    def until_end(self) -> bool:
        """The end of the connection is the end of the body."""
        return self.head is not None and isinstance(self.body, UntilEnd)

    def feed_head(self, data: bytes) -> bytes:
        """Take bytes until `head` is there, return what of its body came with it: content if `body` is OVER, else it is to
        be fed to `feed_body` when the status is told: a body may be broken from its beginning. Raises `InvalidMessage`."""
        while data and (found := self._heads.feed(data)) is not None:
            raw, data = found
            head = AnswerHead(raw)
            if head.status >= 200:
                return self._begin(head, data)
            # We asked for none of them.
            if head.status == 101:
                raise InvalidMessage("101 without a request for it")
            self.interim += len(raw)
            if self.interim > _MAX_INTERIM:
                raise InvalidMessage("too many interim answers")
        return b""

    def feed_body(self, data: bytes) -> bytes:
        """Take more after that, return what is content of it. Raises `InvalidMessage`."""
        content = b""
        if not self.body.done:
            content, data = self.body.feed(data)
        if data:
            self.keep_alive = False  # more than an answer
        return content

    def _begin(self, head: AnswerHead, data: bytes) -> bytes:
        """Find out how the body is framed (RFC 9112, 6.3, rules 1 and 4 to 8); returns as `feed_head`."""
        self.head, self.interim, self.keep_alive = head, 0, head.keep_alive
        chunked, length = head.chunked, head.content_length
        self.has_body = not self.head_only and head.status not in {204, 304}
        if not self.has_body:
            # A body that is announced may come all the same, and later than the next request goes out.
            self.keep_alive = self.keep_alive and not (chunked or length or data)
            self.body = OVER
            return b""
        if length == len(data):
            self.body = OVER  # nearly always
        elif length is not None:
            self.body = Counted(length)
        elif chunked:
            self.body = Chunks()
        else:
            self.body = UntilEnd()
            self.keep_alive = False
        return data
