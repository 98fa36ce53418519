"""How a body is framed on the wire (RFC 9112, 6): decoded as it comes in, encoded and checked as it goes out.

A request whose framing and body disagree would let the other side read the next request as a part of this one.
Must not know sockets or time.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final, TypeVar

from proxy.http.chunks import Chunks

_Content = TypeVar("_Content", bound=bytes | memoryview)
LAST_CHUNK: Final = b"0\r\n\r\n"
# A regex, because bytes.find takes three times as long on a head and cannot ignore case.
_FRAMING: Final = re.compile(rb"\r\n(content-length|transfer-encoding):[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE)


class Counted:
    """A body of so many bytes (Content-Length). Feed it until `done`."""

    __slots__ = ("_left", "done")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = not length

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the content in `data`, and what follows the end of the body."""
        self._left = left = self._left - len(data)
        if left > 0:
            return data, b""
        self.done = True
        return (data[:left], data[left:]) if left else (data, b"")


class UntilEnd:
    """A body that lasts as long as its connection; only an answer's can (RFC 9112, 6.3, rule 8)."""

    __slots__ = ()
    done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return all of it: nothing follows."""
        return data, b""


class Over:
    """A body of which all came with its head, or that there is not. Nothing more is to be fed."""

    __slots__ = ()
    done = True

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what follows its end: all of it."""
        return b"", data


OVER: Final = Over()
Decoder = Counted | UntilEnd | Chunks | Over


def chunk(content: _Content) -> tuple[bytes, _Content, bytes]:
    """Return the parts of one chunk, its content uncopied; empty content would be the last one."""
    return b"%x\r\n" % len(content), content, b"\r\n"


def framed(body: bytes, *, chunked: bool) -> bytes:
    """Return a whole body as it goes on the wire."""
    if not chunked:
        return body
    return b"".join((*chunk(body), LAST_CHUNK)) if body else LAST_CHUNK


def check_framing(head: bytes, body: bytes | AsyncIterator[bytes] | None, *, chunked: bool) -> int | None:
    """Compare a request's head and body before anything is sent; return the length that a stream must have.

    Raises:
        ValueError: they disagree; a fault of the program, nothing is sent.
    """
    if head[-4:] != b"\r\n\r\n":
        raise ValueError("the request head must end with an empty line")
    found = _FRAMING.search(head)
    if found is not None and _FRAMING.search(head, found.end() - 2):
        raise ValueError("the request head must declare its body exactly once")
    name, value = found.groups() if found is not None else (b"", b"")
    if (len(name) == len(b"transfer-encoding")) is not chunked:
        raise ValueError("the request head and its body disagree about chunked framing")
    if found is not None and not (value.lower() == b"chunked" if chunked else value.isdigit()):
        raise ValueError("the request head must declare its body in a way that is known")
    if chunked:
        return None
    length = None if found is None else int(value)
    if body is None or isinstance(body, bytes):
        if (length or 0) != len(body or b""):
            raise ValueError("the request's Content-Length is not the length of its body")
    elif length is None:
        raise ValueError("a streamed request body needs a Content-Length or chunked framing")
    return length
