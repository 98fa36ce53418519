"""Header fields on their way through: read once, hop-by-hop and private ones dropped, ours put in.

Bytes in, bytes out: names keep their case, values their bytes, fields their order (RFC 9110, 5.3). Our own fields go in
*after* the fields that `Connection` names were removed, so that a caller cannot name ours away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from proxy.core.dialect import APP_HEADER, TOKEN_HEADER, RawHeaders
from proxy.core.errors import BadRequest, BodyTooLarge, HeadersTooLarge
from proxy.core.repeatability import METHOD_OVERRIDES, TARGET_OVERRIDES

#: RFC 9110, 7.6.1, and the older names it lists; framing is written anew on each side.
HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
#: Never forwarded up (config/README.md, "On the wire"); `Host`, `X-Request-ID` and the framing are replaced by ours.
NEVER_UP: Final = (
    HOP_BY_HOP
    | {TOKEN_HEADER, APP_HEADER, b"cookie", b"cookie2", b"forwarded", b"x-forwarded", b"http2-settings"}
    | {b"host", b"content-length", b"expect", b"x-request-id"}
)
#: RFC 9110: these are no lists; two of them are an attempt at being read differently by different servers.
_ONCE: Final = frozenset(
    {b"content-type", b"user-agent", b"content-range", b"content-location", b"etag", b"max-forwards", b"server"}
)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_NEVER_UP_PREFIXES: Final = (b"proxy-", b"x-forwarded-")
#: Fields that mean something here and go up all the same.
_READ: Final = METHOD_OVERRIDES | TARGET_OVERRIDES | {b"content-encoding", b"origin", b"sec-fetch-site"} | _ONCE
#: Nobody's but the proxy's or HTTP's for another reason: what `callers.require_header` cannot be.
_OURS: Final = NEVER_UP | _FRAMING | _READ
#: Bytes of names and values together; what real APIs accept at most, and a bound on what a caller can make us hold.
LARGEST_HEAD: Final = 64 * 1024
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z")
#: Options of `Connection` that name no field.
OPTIONS: Final = frozenset({b"close", b"keep-alive"})
#: Requests that CardCash wants a Content-Type of, and what is sent when the caller gave none.
_TYPED: Final = (b"POST ", b"PUT ")
_JSON: Final = b"Content-Type: application/json\r\n"
NO_NAMES: Final[frozenset[bytes]] = frozenset()


@dataclass(slots=True)
class RequestFields:
    """What the proxy itself reads of a request's fields, and the lines that go up. Shared by requests: not changed any more
    once they are read."""

    #: Field lines for the upstream, each with its CRLF; names of `Connection` already gone.
    block: bytes = b""
    http_10: bool = False
    host: bytes | None = None
    origins: tuple[bytes, ...] = ()
    fetch_site: bytes | None = None
    request_id: str | None = None
    user_agent: bool = False
    content_length: int | None = None
    chunked: bool = False
    #: The line for the upstream that says how the body is framed, with its CRLF.
    framing: bytes = b""
    #: There is a body with anything in it to read.
    has_body: bool = False
    expects_continue: bool = False
    #: The caller wants to keep the connection (RFC 9112, 9.3).
    persistent: bool = True
    #: Empty: none goes up as the caller's.
    content_type: bytes = b""
    content_encoding: bytes = b""
    #: The application id that the caller sent, if it sent one; it does not go up, and names the cookie of its SDK.
    app_id: bytes = b""
    #: What some servers take for the real method, in upper case.
    overrides: tuple[str, ...] = ()
    #: What some servers take for the real target.
    other_targets: tuple[str, ...] = ()
    #: The lines they were read from; None: too many to keep.
    source: bytes | None = None
    #: Values of the header that `callers.require_header` names; it is never forwarded.
    required: tuple[bytes, ...] = ()


def is_ours(name: bytes) -> bool:
    """Tell whether a header means something to the proxy or to HTTP itself, in any case, with `_` for `-` too."""
    low = name.lower().replace(b"_", b"-")
    return low in _OURS or low.startswith(_NEVER_UP_PREFIXES)


def read_request(raw: RawHeaders, *, http_10: bool = False, required: bytes | None = None) -> RequestFields:
    """Go through a request's fields once (RFC 9112, 6 for the framing).

    `required` is the lower-case name of `callers.require_header`. Raises `BadRequest` for framing that is ambiguous or
    not understood.
    """
    fields = RequestFields(http_10=http_10, persistent=not http_10)
    lines: list[bytes] = []
    once: set[bytes] = set()
    nominated = NO_NAMES
    request_ids = size = 0
    for name, value in raw:
        low = name.lower()
        size += len(name) + len(value)
        if low == required:
            fields.required += (value,)
        if low in NEVER_UP:
            if low == b"host":
                if fields.host is not None:
                    raise BadRequest("The request has more than one Host.")
                fields.host = value
            elif low == b"content-length":
                fields.content_length = _length(value, fields.content_length)
            elif low == b"transfer-encoding":
                # RFC 9112, 6.1: anything we do not understand must not be guessed at; HTTP/1.0 has no codings.
                if http_10 or fields.chunked or value.strip().lower() != b"chunked":
                    raise BadRequest("Transfer-Encoding must be exactly chunked, once, and not in HTTP/1.0.")
                fields.chunked = True
            elif low == b"connection":
                nominated |= names_of(value)
            elif low == b"expect":
                fields.expects_continue = not http_10 and value.strip().lower() == b"100-continue"
            elif low == APP_HEADER:
                fields.app_id = fields.app_id or value
            elif low == b"x-request-id":
                request_ids += 1
                known = request_ids == 1 and _REQUEST_ID.match(value)
                fields.request_id = value.decode("ascii") if known else None
            continue
        if low in _READ:
            if low in once:
                raise BadRequest("A header field that may stand only once stands more often.")
            if low in _ONCE:
                once.add(low)
            if not value and low in (b"user-agent", b"content-type"):
                continue  # as good as left out
            _read_known(fields, low, value)
        elif low == required or low.startswith(_NEVER_UP_PREFIXES):
            continue
        elif b"_" in low or b"%" in low:
            # Servers that map fields to variables cannot tell `_` from `-`, and some decode.
            dashed = unquote_to_bytes(low).replace(b"_", b"-").lower()
            if dashed in _FRAMING:
                raise BadRequest("A header field looks like Content-Length or Transfer-Encoding, but is neither.")
            if dashed == required or dashed in NEVER_UP or dashed.startswith(_NEVER_UP_PREFIXES):
                continue
            if dashed in METHOD_OVERRIDES or dashed in TARGET_OVERRIDES:
                _read_known(fields, dashed, value)
        lines.append(b"%b: %b\r\n" % (name, value))
    if size > LARGEST_HEAD:
        raise HeadersTooLarge(f"The header fields of the request are larger than {LARGEST_HEAD} bytes together.")
    if fields.chunked and fields.content_length is not None:
        raise BadRequest("Content-Length and Transfer-Encoding cannot stand together.")
    if nominated:
        fields.persistent = b"close" not in nominated and (not http_10 or b"keep-alive" in nominated)
        if names := nominated - OPTIONS:
            lines = [line for line in lines if line.partition(b":")[0].lower() not in names]
            fields.user_agent = fields.user_agent and b"user-agent" not in names
            fields.content_type = b"" if b"content-type" in names else fields.content_type
    fields.has_body = fields.chunked or bool(fields.content_length)
    if fields.chunked:
        fields.framing = b"Transfer-Encoding: chunked\r\n"
    elif fields.content_length is not None:
        fields.framing = b"Content-Length: %d\r\n" % fields.content_length
    fields.block = b"".join(lines)
    return fields


def _read_known(fields: RequestFields, low: bytes, value: bytes) -> None:
    """Take a field that means something here and goes up all the same."""
    if low == b"user-agent":
        fields.user_agent = True
    elif low == b"content-type":
        fields.content_type = value
    elif low == b"content-encoding":
        if b"chunked" in value.lower():
            raise BadRequest("chunked is no Content-Encoding.")
        fields.content_encoding = b", ".join(filter(None, (fields.content_encoding, value)))
    elif low == b"origin":
        fields.origins += (value,)
    elif low == b"sec-fetch-site":
        fields.fetch_site = value
    elif low in METHOD_OVERRIDES:
        fields.overrides += (value.decode("latin-1").strip().upper(),)
    elif low in TARGET_OVERRIDES:
        fields.other_targets += (value.decode("latin-1").strip(),)


def _length(value: bytes, before: int | None) -> int:
    # RFC 9110, 8.6: 1*DIGIT; a list of equal values would be legal, but nobody honest sends one.
    if before is not None or not value.isdigit():
        raise BadRequest("Content-Length must be one plain number.")
    if len(value) > 18:
        raise BodyTooLarge("The request body is larger than anything.")
    return int(value)


def names_of(connection: bytes) -> frozenset[bytes]:
    """Return what a `Connection` field names, in lower case."""
    return frozenset(filter(None, map(bytes.strip, connection.lower().split(b","))))


def for_upstream(
    fields: RequestFields, start: bytes, host: bytes, id_line: bytes, user_agent: bytes
) -> tuple[bytes, ...]:
    """Write the request head up to, not including, `x-cc-app`, `Authorization` and the empty line; returns its parts.

    `start` is the request line, `host` the upstream's Host, `user_agent` what is sent when the caller sent none (CardCash
    answers 401 without one): lines with their CRLF; `id_line` is the request's X-Request-ID without it. A POST or PUT
    without a Content-Type goes up as JSON: CardCash requires one, with or without a body; a caller's own is never touched.
    """
    agent = b"" if fields.user_agent else user_agent
    kind = _JSON if not fields.content_type and start.startswith(_TYPED) else b""
    return start, host, id_line, b"\r\n", fields.block, agent, kind, fields.framing
