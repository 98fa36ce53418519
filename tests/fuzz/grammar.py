"""A small strict reading of HTTP/1.1 messages by RFC 9112, for judging what the proxy accepts, sends and answers.

Shares no code with the product and none with the parsers under it; where the RFC lets a recipient be lenient, it is not.
What a caller sends is read as llhttp and nginx do in two harmless points: CR and LF before a request line are skipped (2.2
has it for whole empty lines), and several spaces part the words of that line (3). Of answers a later HTTP/1 is read as 1.1
(RFC 9110, 2.5) and a length that is repeated unchanged as one (6.3, rule 5); of those of the upstream the white space before
a colon is taken out, as a proxy must (5.1): an order that was answered must not be lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


class Malformed(Exception):
    """No continuation can make these bytes a message."""


class Unfinished(Exception):
    """The bytes are the beginning of a message."""


@dataclass(frozen=True)
class Message:
    """One request or answer. `start` has the three parts of its first line; `size` bytes were read for it."""

    start: tuple[bytes, bytes, bytes]
    fields: list[tuple[bytes, bytes]]
    body: bytes
    size: int

    @property
    def status(self) -> int:
        return int(self.start[1])

    @property
    def target(self) -> bytes:
        return self.start[1]

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name]

    @property
    def what(self) -> tuple[bytes, bytes, bytes]:
        """Method, target and body."""
        return self.start[0], self.start[1], self.body


_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~]+) (HTTP/1\.[01])\Z")
_CALLERS_LINE = re.compile(rb"(" + _TOKEN + rb") +([!-~]+) +(HTTP/1\.[01])\Z")
_STATUS_LINE = re.compile(rb"(HTTP/1\.[0-9]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?\Z")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*((?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?)[ \t]*\Z")
_BLANK_BEFORE_COLON = re.compile(rb"\A(" + _TOKEN + rb")[ \t]+:")
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_CHUNK = re.compile(
    rb"([0-9A-Fa-f]{1,15})((?:[ \t]*;[ \t]*"
    + _TOKEN
    + rb"(?:[ \t]*=[ \t]*(?:"
    + _TOKEN
    + rb"|"
    + _QUOTED
    + rb"))?)*)\Z"
)


def _fields(lines: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    fields = []
    for line in lines:
        found = _FIELD.match(line)
        if found is None:
            raise Malformed("field line")
        fields.append((found[1], found[2]))
    return fields


def _head(
    data: bytes, first_line: re.Pattern[bytes], *, of_upstream: bool = False
) -> tuple[re.Match[bytes], list[tuple[bytes, bytes]], int]:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        raise Unfinished
    lines = data[:end].split(b"\r\n")
    found = first_line.match(lines[0])
    if found is None:
        raise Malformed("first line")
    if of_upstream:
        lines[1:] = [_BLANK_BEFORE_COLON.sub(rb"\1:", line) for line in lines[1:]]
    return found, _fields(lines[1:]), end + 4


def _framing(fields: list[tuple[bytes, bytes]]) -> int | str | None:
    """Return the length, "chunked", or None where nothing is said."""
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    codings = [value for name, value in fields if name.lower() == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise Malformed("more than one framing")
    if codings:
        if codings[0].lower() != b"chunked":
            raise Malformed("transfer coding")
        return "chunked"
    if not lengths:
        return None
    if not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
        raise Malformed("length")
    return int(lengths[0])


def _once(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Read a length that is repeated unchanged as one."""
    values = [value for name, value in fields if name.lower() == b"content-length"]
    lengths = {length.strip(b" \t") for value in values for length in value.split(b",")}
    others = [field for field in fields if field[0].lower() != b"content-length"]
    return [*others, (b"Content-Length", lengths.pop())] if len(lengths) == 1 else fields


def _line(data: bytes, start: int) -> tuple[bytes, int]:
    end = data.find(b"\r\n", start)
    if end < 0:
        raise Unfinished
    return data[start:end], end + 2


def _chunked(data: bytes, start: int, *, of_answer: bool = False) -> tuple[bytes, int]:
    body = b""
    while True:
        line, start = _line(data, start)
        # White space that fills a line of an answer up is skipped, as other clients do.
        found = _CHUNK.match(line.rstrip(b" \t") if of_answer else line)
        if found is None:
            raise Malformed("chunk size")
        size = int(found[1], 16)
        if size == 0:
            break
        if data[start + size : start + size + 2] != b"\r\n"[: max(0, len(data) - start - size)]:
            raise Malformed("chunk end")
        if len(data) < start + size + 2:
            raise Unfinished
        body += data[start : start + size]
        start += size + 2
    trailers: list[bytes] = []
    while True:
        line, start = _line(data, start)
        if not line:
            if {name.lower() for name, _ in _fields(trailers)} & {b"content-length", b"transfer-encoding"}:
                raise Malformed("framing among the trailers")  # RFC 9110, 6.5.1
            return body, start
        trailers.append(line)


def _counted(data: bytes, start: int, length: int) -> tuple[bytes, int]:
    if len(data) < start + length:
        raise Unfinished
    return data[start : start + length], start + length


def read_request(data: bytes, *, of_caller: bool = False) -> Message:
    """Read the first request in `data`. Raises `Malformed`, `Unfinished`."""
    skipped = len(data) - len(data.lstrip(b"\r\n")) if of_caller else 0
    line, fields, start = _head(data[skipped:], _CALLERS_LINE if of_caller else _REQUEST_LINE)
    start += skipped
    framing = _framing(fields)
    if framing == "chunked":
        if line[3] == b"HTTP/1.0":
            raise Malformed("transfer coding in HTTP/1.0")
        body, end = _chunked(data, start)
    else:
        body, end = _counted(data, start, int(framing or 0))
    hosts = [name for name, _ in fields if name.lower() == b"host"]
    if len(hosts) > 1 or (not hosts and line[3] == b"HTTP/1.1"):
        raise Malformed("Host")
    return Message((line[1], line[2], line[3]), fields, body, end)


def requests_in(data: bytes) -> Iterator[Message]:
    """Yield the requests of a caller at the start of `data`, up to the first fault or the end."""
    while data:
        try:
            message = read_request(data, of_caller=True)
        except (Malformed, Unfinished):
            return
        yield message
        data = data[message.size :]


def read_answer(data: bytes, *, closed: bool, head: bool = False, of_upstream: bool = False) -> Message:
    """Read the first answer in `data`; `closed`: no more will come; `head`: it answers HEAD; `of_upstream`: it is
    what the proxy reads, not what it sends."""
    line, fields, start = _head(data, _STATUS_LINE, of_upstream=of_upstream)
    framing = _framing(_once(fields))
    status = int(line[2])
    if head or status < 200 or status in (204, 304):
        body, end = b"", start
    elif framing == "chunked":
        body, end = _chunked(data, start, of_answer=True)
    elif isinstance(framing, int):
        body, end = _counted(data, start, framing)
    elif closed:
        body, end = data[start:], len(data)
    else:
        raise Unfinished
    return Message((line[1], line[2], line[3] or b""), fields, body, end)


def final_answer(data: bytes, *, closed: bool, head: bool = False, of_upstream: bool = False) -> tuple[Message, bytes]:
    """Read interim answers and the final one; also what stands behind it."""
    while True:
        message = read_answer(data, closed=closed, head=head, of_upstream=of_upstream)
        data = data[message.size :]
        if message.status == 101:
            raise Malformed("an upgrade nobody asked for")
        if message.status >= 200:
            return message, data


def answers_in(data: bytes, heads: Sequence[bool], *, closed: bool) -> tuple[list[Message], bytes]:
    """Read answers one after the other; also the rest, which is no whole answer.

    `heads`: which of the requests were HEAD, as far as they could be read.
    """
    answers: list[Message] = []
    while data:
        known = len(answers) < len(heads)
        # A fault behind a HEAD in the same segment is answered first, with a body.
        ways = [heads[len(answers)], False] if known else [False, True]
        read = [found for way in ways if (found := _whole(data, closed=closed, head=way))]
        if not read:
            return answers, data
        message, data = next((found for found in read if not found[1]), read[0])
        answers.append(message)
    return answers, b""


def _whole(data: bytes, *, closed: bool, head: bool) -> tuple[Message, bytes] | None:
    try:
        return final_answer(data, closed=closed, head=head)
    except Unfinished:
        return None
