"""CardCash's wire, as core/README.md has it: header names, where a token stands in an answer, the body of a login.

What a rejected token looks like stands in `rejections.py`, what a failed session call means in `failed_calls.py`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from proxy.core.rejections import json_or
from proxy.core.token import is_lifetime, usable_lifetime

RawHeaders = Sequence[tuple[bytes, bytes]]

APP_HEADER: Final = b"x-cc-app"
TOKEN_HEADER: Final = b"authorization"
LIFETIME_HEADER: Final = b"x-token-exp-seconds"
SESSION_ID_HEADER: Final = b"x-session-id"

#: JWS compact serialization, RFC 7515, 3.1: three base64url parts; the signature may be empty.
_JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\Z")
_PLAIN_NUMBER: Final = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,9})?\Z")
_LONGEST_TOKEN: Final = 8 * 1024


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token found in an answer, with its lifetime in seconds; the value is never shown."""

    value: str = field(repr=False)
    lifetime: float
    #: The answer or the token itself says how long it lives; else `lifetime` is a guess.
    tells_lifetime: bool = True

    def repeats(self, value: str) -> bool:
        """Say whether it is this token once more, without a word about its life: then its life is what it was."""
        return self.value == value and not self.tells_lifetime


@dataclass(frozen=True, slots=True)
class Malformed:
    """Something stood where a token stands, and was not one; `fault` says what it is instead."""

    fault: str = "not a JWT"


def well_formed(text: str) -> str | None:
    """Return the token in `text`, with or without "Bearer ", or None when it is not a JWT."""
    text = text.strip()
    if text[:7].casefold() == "bearer ":
        text = text[7:].strip()
    return text if len(text) <= _LONGEST_TOKEN and _JWT.match(text) else None


def claims_of(token: str) -> dict[str, Any]:
    """Read a JWT's claims without verifying them (the key is CardCash's); empty when unreadable."""
    part = token.partition(".")[2].partition(".")[0]
    try:
        return _object(base64.urlsafe_b64decode(part + "=="))
    except ValueError:
        return {}


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
    return _first_good([*_in_header(headers), *_in_cookies(headers, cookie)], headers, None, wall)


def session_token(headers: RawHeaders, body: bytes, *, cookie: bytes, wall: float) -> Candidate | Malformed | None:
    """Read the answer of `POST /session` (core/README.md): header, then the body's `access_token`, then the cookie.

    `Malformed` only when none of the three holds a good one.
    """
    content = _object(body)
    in_body = content.get("access_token")
    bodies = [in_body] if isinstance(in_body, str) and in_body else []
    offered = [*_in_header(headers), *bodies, *_in_cookies(headers, cookie)]
    return _first_good(offered, headers, content.get("expiresInSeconds"), wall)


def _in_header(headers: RawHeaders) -> list[str]:
    return [value.decode("latin-1") for name, value in headers if name.lower() == TOKEN_HEADER]


def _in_cookies(headers: RawHeaders, wanted: bytes) -> list[str]:
    values = (_cookie_value(value, wanted) for name, value in headers if name.lower() == b"set-cookie")
    return [value.decode("latin-1") for value in values if value]


def _cookie_value(set_cookie: bytes, wanted: bytes) -> bytes:
    name, _, rest = set_cookie.partition(b"=")
    name = name.strip()
    if name != wanted and unquote_to_bytes(name) != wanted:
        return b""
    return unquote_to_bytes(rest.partition(b";")[0].strip().strip(b'"'))


def _first_good(
    offered: Sequence[str], headers: RawHeaders, body_lifetime: object, wall: float
) -> Candidate | Malformed | None:
    if not offered:
        return None
    token = next(filter(None, map(well_formed, offered)), None)
    if token is None:
        long = len(offered[0].strip()) > _LONGEST_TOKEN
        return Malformed(f"longer than {_LONGEST_TOKEN} bytes") if long else Malformed()
    by_header = _seconds(header_value(headers, LIFETIME_HEADER))
    claims = (by_header, _seconds(body_lifetime), _left_by_claims(token, wall))
    return Candidate(token, usable_lifetime(*claims), any(map(is_lifetime, claims)))


def header_value(headers: RawHeaders, name: bytes) -> bytes | None:
    """Return the first value of `name` (lower case), or None."""
    return next((value for key, value in headers if key.lower() == name), None)


def _object(text: bytes) -> dict[str, Any]:
    content = json_or(text, None)
    return content if isinstance(content, dict) else {}


def login_body(email: str, password: str) -> bytes:
    """Write the body of `POST /customers/login`."""
    return json.dumps({"customer": {"email": email, "password": password}}).encode()
