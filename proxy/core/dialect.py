"""Every fact about CardCash's wire, in one place; where each is from stands in core/README.md.

Owns header names, the shapes of session and login, what a rejected token looks like, where tokens hide in answers, and
what may be sent twice. Knows no sockets and no clock.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import chain
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from proxy.core.path_readings import Route
from proxy.core.token import is_lifetime, usable_lifetime

RawHeaders = Sequence[tuple[bytes, bytes]]

APP_HEADER: Final = b"x-cc-app"
TOKEN_HEADER: Final = b"authorization"
LIFETIME_HEADER: Final = b"x-token-exp-seconds"
SESSION_ID_HEADER: Final = b"x-session-id"

#: Documented: what an expired or missing token is answered with; compared trimmed and without case.
DOCUMENTED_REJECTION: Final = "no Authorization token was found"
#: Undocumented, but usual for the libraries behind such an API (core/README.md, "Errors").
REJECTION_VARIANTS: Final = frozenset(
    {
        "jwt expired",
        "jwt malformed",
        "invalid token",
        "invalid signature",
        "jwt not active",
        "the token has expired",
        "authorization token expired",
    }
)
#: A rejection is a short envelope; a longer answer is not one (core/README.md, "Errors").
LONGEST_REJECTION: Final = 64 * 1024
#: Statuses a rejection can have: 400 is documented.
REJECTION_STATUSES: Final = frozenset({400, 401})

#: JWS compact serialization, RFC 7515, 3.1: three base64url parts; the signature may be empty.
_JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\Z")
_PLAIN_NUMBER: Final = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,9})?\Z")
_LONGEST_TOKEN: Final = 8 * 1024


class Rejection(Enum):
    """What a 400 or 401 says about the token it was sent with."""

    NONE = "none"
    #: The documented wording in CardCash's envelope: refused before anything was processed.
    DOCUMENTED = "documented"
    #: A wording nobody documented: surely a rejection, but not surely before anything was processed.
    VARIANT = "variant"
    #: A bare 400 to a HEAD, which has no body that could say more.
    BARE = "bare"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token found in an answer, with its lifetime in seconds; the value is never shown."""

    value: str = field(repr=False)
    lifetime: float
    where: str
    #: The answer or the token itself says how long it lives; else `lifetime` is a guess.
    tells_lifetime: bool = True

    def repeats(self, value: str) -> bool:
        """Say whether it is this token once more, without a word about its life: then its life is what it was."""
        return self.value == value and not self.tells_lifetime


@dataclass(frozen=True, slots=True)
class Malformed:
    """Something stood where a token stands, and was not one; `fault` says what it is instead."""

    where: str
    fault: str = "not a JWT"


def judge_rejection(status: int, body: bytes) -> Rejection:
    """Judge a decoded answer body by its whole message, never by a substring or the status alone.

    Accepted shapes: CardCash's envelope with `message` as an array (its first element) or a string, other fields or none
    beside it, a BOM, white space; as variants also a bare JSON string or array, or plain text.
    """
    if status not in REJECTION_STATUSES or len(body) > LONGEST_REJECTION:
        return Rejection.NONE
    try:
        text = body.decode("utf-8-sig").strip().strip("\0")
    except UnicodeDecodeError:
        return Rejection.NONE
    try:
        content: Any = json.loads(text)
        envelope = isinstance(content, dict)
    except (ValueError, RecursionError):
        content, envelope = text, False
    message = content.get("message") if isinstance(content, dict) else content
    if isinstance(message, list):
        message = message[0] if message else None
    if not isinstance(message, str):
        return Rejection.NONE
    wording = message.strip().lower()
    if wording == DOCUMENTED_REJECTION.lower():
        # To the letter, with its status and in the envelope it is documented. express-jwt's "No authorization token was
        # found" differs by its capitals only; it is among the variants, and money is safer with it there.
        documented = status == 400 and envelope and message.strip() == DOCUMENTED_REJECTION
        return Rejection.DOCUMENTED if documented else Rejection.VARIANT
    return Rejection.VARIANT if wording in REJECTION_VARIANTS else Rejection.NONE


def well_formed(text: str) -> str | None:
    """Return the token in `text`, with or without "Bearer ", or None when it is not a JWT."""
    text = text.strip()
    if text[:7].casefold() == "bearer ":
        text = text[7:].strip()
    return text if len(text) <= _LONGEST_TOKEN and _JWT.match(text) else None


def claims_of(token: str) -> dict[str, Any]:
    """Read a JWT's claims without verifying them (the key is CardCash's); empty when unreadable."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError, RecursionError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, bytes)):
        return None
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, str) and not _PLAIN_NUMBER.match(value.strip()):
        return None  # float() also takes 1_000, nan and the digits of other scripts
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _left_by_claims(token: str, wall: float) -> float | None:
    exp = _seconds(claims_of(token).get("exp"))
    return None if exp is None else exp - wall


def harvest(headers: RawHeaders, *, cookie: bytes, wall: float) -> Candidate | Malformed | None:
    """Look for a token in the head of an answer: the header first, the cookie named after the application id second.

    `cookie` is that name, `wall` the Unix time. Of several the first good one counts; a malformed value is reported only
    when there is none.
    """
    offered = [*_in_header(headers), *_in_cookies(headers, cookie)]
    return _first_good(offered, header_value(headers, LIFETIME_HEADER), None, wall) if offered else None


def session_token(headers: RawHeaders, body: bytes, *, cookie: bytes, wall: float) -> Candidate | Malformed | None:
    """Read the answer of `POST /session` (core/README.md): header, then the body's `access_token`, then the cookie.

    `Malformed` only when none of the three holds a good one.
    """
    content = _json_object(body)
    in_body = content.get("access_token")
    offered = [*_in_header(headers), *_in_cookies(headers, cookie)]
    if isinstance(in_body, str) and in_body:
        offered.insert(sum(where == "header" for where, _ in offered), ("body", in_body))
    found = _first_good(offered, header_value(headers, LIFETIME_HEADER), content.get("expiresInSeconds"), wall)
    return replace(found, where="session", tells_lifetime=True) if isinstance(found, Candidate) else found


def _in_header(headers: RawHeaders) -> list[tuple[str, str]]:
    return [("header", value.decode("latin-1")) for name, value in headers if name.lower() == TOKEN_HEADER]


def _in_cookies(headers: RawHeaders, wanted: bytes) -> list[tuple[str, str]]:
    values = [_cookie_value(value, wanted) for name, value in headers if name.lower() == b"set-cookie"]
    return [("cookie", value.decode("latin-1")) for value in values if value]


def _cookie_value(set_cookie: bytes, wanted: bytes) -> bytes:
    name, _, rest = set_cookie.partition(b"=")
    name = name.strip()
    if name != wanted and unquote_to_bytes(name) != wanted:
        return b""
    return unquote_to_bytes(rest.partition(b";")[0].strip().strip(b'"'))


def _first_good(
    offered: Iterable[tuple[str, str]], lifetime: bytes | None, body_lifetime: object, wall: float
) -> Candidate | Malformed | None:
    malformed: Malformed | None = None
    for where, text in offered:
        token = well_formed(text)
        if token is not None:
            claims = (_seconds(lifetime), _seconds(body_lifetime), _left_by_claims(token, wall))
            return Candidate(token, usable_lifetime(*claims), where, any(map(is_lifetime, claims)))
        if malformed is None:
            long = len(text.strip()) > _LONGEST_TOKEN
            malformed = Malformed(where, f"longer than {_LONGEST_TOKEN} bytes") if long else Malformed(where)
    return malformed


def header_value(headers: RawHeaders, name: bytes) -> bytes | None:
    """Return the first value of `name` (lower case), or None."""
    return next((value for key, value in headers if key.lower() == name), None)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


class FailedCall(Enum):
    """What a failed session or login call means."""

    #: CardCash said no: the application id or the login is wrong. Trying again could lock the account.
    REFUSED = "refused"
    #: Anything else: the edge, an overload, a failure. Trying again later is right.
    OUTAGE = "outage"
    #: The session token itself was rejected: a new session, then again.
    REJECTED = "rejected"


def judge_failure(status: int, body: bytes) -> FailedCall:
    """Tell a refusal from an outage, for an answer to a session or login call that brought no token.

    A refusal is a 4xx other than 408 and 429 in CardCash's own envelope and not a token rejection. Nobody documents
    whether 401's body is an array, a string or plain text (open question 4), so short plain text that is not a page
    counts as well: hammering a login locks the account. "error code: 1020" is the page of Cloudflare's edge as text.
    """
    if not 400 <= status < 500 or status in (408, 429):
        return FailedCall.OUTAGE
    if judge_rejection(status, body) is not Rejection.NONE:
        return FailedCall.REJECTED
    text = body[: LONGEST_REJECTION + 1].decode("utf-8", "replace").lstrip("\ufeff").strip()
    if not text or text.startswith("<") or "<html" in text[:1024].lower() or text.lower().startswith("error code:"):
        return FailedCall.OUTAGE
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        return FailedCall.REFUSED if len(text) <= 256 and "\n" not in text else FailedCall.OUTAGE
    if isinstance(content, dict):
        return FailedCall.REFUSED if "message" in content or "error" in content else FailedCall.OUTAGE
    return FailedCall.REFUSED if isinstance(content, (str, list)) else FailedCall.OUTAGE


def login_body(email: str, password: str) -> bytes:
    """Write the body of `POST /customers/login`."""
    return json.dumps({"customer": {"email": email, "password": password}}).encode()


#: Fields by which some servers let a request be another method's, and keys of a query that do the same.
METHOD_OVERRIDES: Final = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})
_OVERRIDING_KEYS: Final = re.compile(
    rb"(?:\A|[&;?])\s*(?:_method|x-http-method(?:-override)?|x-method-override)\s*(?:[=&;]|\Z)", re.IGNORECASE
)


def overrides_method(query: str) -> bool:
    """Say whether a query may make another method of the request's."""
    return _OVERRIDING_KEYS.search(unquote_to_bytes(query)) is not None


def may_repeat(method: str, path: str, *, overridden: bool = False) -> bool:
    """Say whether a request may be sent twice although the first may have been processed.

    `path` is the normalised path without its version. The safe list: every GET (HEAD is one without the body, RFC 9110,
    9.3.2), `POST /session`, `POST /carts`; nothing that is `overridden`.
    """
    if overridden:
        return False
    return method in ("GET", "HEAD") or (method == "POST" and path in ("/session", "/carts"))


def buys(method: str, route: Route) -> bool:
    """Say whether a request can spend money: anything but a read that any server may take for an order.

    Whatever has the word in it counts, since a lenient server may see it in `orders.json` or `orders%00`, and so does a
    path that nobody can read to its end. To take too much for an order costs a caller a second try of his own, no more.
    """
    if method in ("GET", "HEAD", "OPTIONS"):
        return False
    readings = chain(route.views, (view for view, _ in route.lenient))
    return route.unfathomed or any("orders" in view for view in readings)
