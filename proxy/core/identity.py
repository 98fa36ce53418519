"""Whose token is it? What a login leaves in a JWT's claims, and how its loss shows (API.md 6, question 2).

Nobody documents the claims, so they are learned: what the login's token has and the anonymous one before it had not. A
refreshed token without them has lost the login. Unreadable claims prove nothing, and then nothing is concluded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from proxy.core.dialect import claims_of

#: Claims that differ between any two tokens (RFC 7519, 4.1).
_ALWAYS_DIFFERENT: Final = frozenset({"iat", "exp", "nbf", "jti"})
#: Names, in lower case and without `_`, that say who somebody is: a third value means a third somebody.
_WHO: Final = frozenset({"sub", "email", "customerid", "customer", "userid", "user", "uid", "accountid", "account"})

#: Claims that a login changed: name → [the value before it, the value after it]; null says "not there".
Marks = Mapping[str, Sequence[Any]]


def marks_of_login(anonymous: str, logged_in: str) -> Marks:
    """Learn what the login of `logged_in` shows by; empty when it cannot be told."""
    before, after = claims_of(anonymous), claims_of(logged_in)
    if not before or not after:
        return {}
    return {
        name: [before.get(name), value]
        for name, value in after.items()
        if name not in _ALWAYS_DIFFERENT and before.get(name) != value
    }


def has_lost_login(marks: Marks, token: str) -> bool:
    """Say whether `token` shows that the login is gone. Where nothing shows it, it is taken to be kept.

    One mark with the login's own value is enough to keep. Claims that are new in every token (a session id, a nonce) say
    nothing; those that the login brought and that are gone again, or are back to what they were, do.
    """
    claims = claims_of(token)
    if not marks or not claims or any(claims.get(name) == after for name, (_, after) in marks.items()):
        return False
    added = [name for name, (before, _) in marks.items() if before is None]
    if added:
        return all(claims.get(name) is None for name in added)
    return any(
        claims.get(name) == before or name.replace("_", "").lower() in _WHO for name, (before, _) in marks.items()
    )


def shortened(email: str | None) -> str | None:
    """Show whose session it is without spelling the address out: `p…@example.com`."""
    if email is None:
        return None
    name, _, domain = email.rpartition("@")
    return f"{name[:1]}…@{domain}" if name else "…"
