"""The fields of an answer: read once for its framing, for what is private in it, and for the lines that go down.

Bytes in, bytes out: lines keep their bytes and their order (RFC 9110, 5.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from proxy.core.dialect import APP_HEADER, LIFETIME_HEADER, SESSION_ID_HEADER, TOKEN_HEADER, RawHeaders
from proxy.core.request_fields import HOP_BY_HOP, NO_NAMES, OPTIONS, names_of

#: Where a refreshed token and its lifetime stand (`core/README.md`).
_PRIVATE: Final = frozenset({TOKEN_HEADER, LIFETIME_HEADER, b"set-cookie"})
#: Never handed down; the framing is written anew, `X-Request-ID` is the one sent up.
NEVER_DOWN: Final = (
    HOP_BY_HOP
    | _PRIVATE
    | {SESSION_ID_HEADER, APP_HEADER, b"set-cookie2", b"proxy-authenticate", b"proxy-authentication-info"}
    | {b"content-length", b"x-request-id"}
)
#: What is looked at on its way.
_READ: Final = NEVER_DOWN | {b"date", b"location"}
_KEEP_ALIVE_TIMEOUT: Final = re.compile(rb"(?:\A|[,;\s])timeout\s*=\s*\"?(\d{1,6})", re.IGNORECASE)
#: Bytes of a secret that is not met by chance inside another word; and of a status line before its reason.
_LONG: Final = 8
_BEFORE_REASON: Final = len(b"HTTP/1.1 200 ")


class AnswerFields:
    """What the proxy itself reads of an answer's fields, and the lines that go down."""

    __slots__ = ("_lines", "chunked", "content_length", "dated", "down", "keep_alive_timeout", "locations", "nominated",
                 "private")  # fmt: skip

    def __init__(self, lines: Sequence[bytes]) -> None:
        """Read the field lines of a head that llhttp has judged. Raises `ValueError` for framing that is ambiguous."""
        self._lines = lines
        #: Field lines for the caller, without CRLF; names of `Connection` already gone.
        self.down: list[bytes] = []
        # The fields of `_READ`, by their names in lower case; those that came more than once as a list (RFC 9110, 5.3).
        found: dict[bytes, bytes] = {}
        down = self.down
        for line in lines:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name in _READ:
                found[name] = b"%b,%b" % (found[name], value) if name in found else value
                if name in NEVER_DOWN:
                    continue
            down.append(line)
        #: There is a field in which a token, its lifetime or a cookie may stand.
        self.private = not _PRIVATE.isdisjoint(found)
        #: There may be a `Location` among `down`; there is a `Date`.
        self.locations, self.dated = b"location" in found, b"date" in found
        #: What `Connection` says: options and names of fields, in lower case.
        self.nominated = NO_NAMES
        if b"connection" in found:
            self.nominated = names_of(found[b"connection"])
            if not self.nominated <= OPTIONS:
                self.down = [line for line in down if line.partition(b":")[0].lower() not in self.nominated]
                self.dated = self.dated and b"date" not in self.nominated
        #: Seconds of `Keep-Alive: timeout`.
        self.keep_alive_timeout: int | None = None
        if b"keep-alive" in found and (timeout := _KEEP_ALIVE_TIMEOUT.search(found[b"keep-alive"])):
            self.keep_alive_timeout = int(timeout[1])
        self.chunked = b"transfer-encoding" in found
        self.content_length: int | None = None
        if b"content-length" in found:
            length = found[b"content-length"].strip(b" \t")
            # llhttp refuses lists of lengths and repeated ones already; a length over 2^63 is none.
            if not length.isdigit() or len(length) > 18:
                raise ValueError("malformed Content-Length")
            self.content_length = int(length)
            # RFC 9112, 6.3: both together are a smuggling attempt or a broken hop.
            if self.chunked:
                raise ValueError("Content-Length beside Transfer-Encoding")
        # We send no TE, so nothing but chunked may be used (RFC 9110, 10.1.4).
        elif self.chunked and found[b"transfer-encoding"].strip(b" \t").lower() != b"chunked":
            raise ValueError("unsupported Transfer-Encoding")

    @property
    def raw(self) -> RawHeaders:
        """All fields as they came: names and values."""
        return [_split(line) for line in self._lines]


def _split(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip(b" \t")


def for_client(fields: AnswerFields, host: bytes | None, origins: Iterable[bytes]) -> list[bytes]:
    """Return the field lines for the caller, without CRLF, framing and `X-Request-ID`.

    `host` is the caller's `Host`: a `Location` at one of the upstream's own `origins` (lower case) leads back through it.
    """
    if not fields.locations:
        return fields.down
    return [
        b"%b: %b" % (_split(line)[0], _location(_split(line)[1], host, origins))
        if line[:9].lower() == b"location:"
        else line
        for line in fields.down
    ]


def scrubbed(head: list[bytes], secrets: Iterable[bytes]) -> bytes:
    """Join the lines of a head, without those in which one of `secrets` stands, and in the status line without its reason.

    `secrets` are in lower case.
    """
    whole = b"\r\n".join(head)
    if not _exposes(whole, secrets):
        return whole
    start, *fields = head
    if _exposes(start, secrets):
        start = start[:_BEFORE_REASON]
    return b"\r\n".join((start, *(line for line in fields if not _exposes(line, secrets))))


def _exposes(text: bytes, secrets: Iterable[bytes]) -> bool:
    """Say whether a secret stands in `text`; a short one only as a word of its own, lest it is met by chance."""
    text = text.lower()
    for secret in secrets:
        # `in` takes three times as long here: CPython tries bytes as a number first.
        if text.find(secret) >= 0 and (
            len(secret) >= _LONG or re.search(rb"(?<![a-z0-9])%b(?![a-z0-9])" % re.escape(secret), text)
        ):
            return True
    return False


def _location(value: bytes, host: bytes | None, origins: Iterable[bytes]) -> bytes:
    low = value.lower()
    for origin in origins:
        # RFC 3986, 4.2: "//host/path" has the scheme of the answer, so it is at the upstream's origin as well.
        start = origin[origin.index(b"//") :] if low.startswith(b"//") else origin
        rest = value[len(start) :]
        if low.startswith(start) and rest[:1] in (b"", b"/", b"?", b"#"):
            if host is not None:
                return b"http://" + host + rest
            if rest.startswith(b"//"):
                return b"/." + rest  # or the path would be read as another host (RFC 3986, 4.2)
            return rest if rest.startswith(b"/") else b"/" + rest
    return value
