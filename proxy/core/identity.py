"""Whose token is it? What a login leaves in a JWT's claims, and how its loss shows (API.md 6, question 2).

Nobody documents the claims, so they are learned: what the login's token has and the anonymous one before it had not. A
refreshed token without them has lost the login. Unreadable claims prove nothing, and then nothing is concluded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proxy.core.dialect import claims_of

#: Claims that differ between any two tokens (RFC 7519, 4.1).
_ALWAYS_DIFFERENT: Final = frozenset({"iat", "exp", "nbf", "jti"})
_ABSENT: Final = object()

#: Claims that a login changed, each with the value it had before (`_ABSENT`: none).
Marks = Mapping[str, Any]


def marks_of_login(anonymous: str, logged_in: str) -> Marks:
    """Learn what the login of `logged_in` shows by; empty when it cannot be told."""
    before, after = claims_of(anonymous), claims_of(logged_in)
    if not before or not after:
        return {}
    return {
        name: before.get(name, _ABSENT)
        for name, value in after.items()
        if name not in _ALWAYS_DIFFERENT and before.get(name, _ABSENT) != value
    }


def has_lost_login(marks: Marks, token: str) -> bool:
    """Say whether `token` has none of the marks any more: every claim is gone, or is what it was before the login.

    One mark that is left is enough to keep: a claim may be new for another reason.
    """
    claims = claims_of(token)
    if not marks or not claims:
        return False
    return all(claims.get(name, _ABSENT) in (_ABSENT, before) for name, before in marks.items())


def shortened(email: str | None) -> str | None:
    """Show whose session it is without spelling the address out: `p…@example.com`."""
    if email is None:
        return None
    name, _, domain = email.rpartition("@")
    return f"{name[:1]}…@{domain}" if name else "…"
