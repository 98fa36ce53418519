"""Whose token is it? What a login leaves in a JWT's claims, and how its loss shows (core/README.md, open question 2).

Nobody documents the claims, so they are learned: what the login's token has and the anonymous one before it had not. A
refreshed token without them has lost the login. Unreadable claims prove nothing, and then nothing is concluded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from proxy.core.dialect import Candidate, claims_of
from proxy.core.login_request import same_account
from proxy.core.token import Moment, Source, Token

#: Claims that differ between any two tokens (RFC 7519, 4.1).
_ALWAYS_DIFFERENT: Final = frozenset({"iat", "exp", "nbf", "jti"})
#: Names, in lower case and without `_` and `-`, that say who somebody is: a third value means a third somebody.
_WHO: Final = frozenset(
    {"sub", "email", "mail", "username", "customeremail", "useremail"}
    | {"customerid", "customer", "userid", "user", "uid", "accountid", "account"}
)
#: What says it within one of those: `{"customer": {"id": 5}}`.
_WHO_WITHIN: Final = _WHO | {"id", "uuid"}

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
    return any(claims.get(name) == before or _plain(name) in _WHO for name, (before, _) in marks.items())


def shows_another(found: str, held: str, account: str | None) -> bool:
    """Say whether a token found in an answer shows an identity that is not known to be the held one's.

    `held` is the token that the request carried, `account` the e-mail of its account, None when it is anonymous. A sign-up,
    or a login that a lenient server takes for one, may be answered with somebody else's token. One that shows nothing of
    an identity is as good as the held one.
    """
    known, shown = _identity_in(held), _identity_in(found)
    strange = [what for what, value in shown.items() if not _is_of(value, known.get(what), account)]
    return any(what in known or account is None for what in strange) or (bool(strange) and len(strange) == len(shown))


def contradicts(found: str, *, account: str) -> bool:
    """Say whether the token of a login as `account` shows the e-mail of another."""
    return any("@" in value and not same_account(value, account) for value in _identity_in(found).values())


def logged_in(session: Token, found: Candidate | None, *, account: str, own: bool, now: Moment) -> Token:
    """Make the token of a login as `account`: one that brought none of its own has logged in the session's.

    `own`: it is a caller's own login.
    """
    token = replace(session, source=Source.LOGIN, identity=account, own_login=own, login_lost=False)
    if found is None or found.repeats(session.value):
        return token
    marks = marks_of_login(session.value, found.value) if session.identity is None else session.marks
    return replace(token, value=found.value, born=now, lifetime=found.lifetime, marks=marks)


def refreshed(found: Candidate, *, sent_with: Token, now: Moment, login_as: str | None = None) -> Token | str:
    """Make a token of what an answer to a request with `sent_with` brought, or say why not.

    Not taken is what is unchanged, foreign (it shows another account than the held one) or anonymous where a login was.
    `login_as` says that the request was a caller's own login.
    """
    value, known = sent_with.value, sent_with.identity
    if login_as is not None:
        if contradicts(found.value, account=login_as) or (known and shows_another(found.value, value, known)):
            return "foreign"
        return logged_in(sent_with, found, account=login_as, own=True, now=now)
    if found.value == value:
        return "unchanged"
    if shows_another(found.value, value, known):
        return "foreign"
    if has_lost_login(sent_with.marks, found.value):
        # CardCash refreshed the session and forgot who it was. The held token is the better one as long as it lives.
        return "anonymous"
    return replace(sent_with, value=found.value, born=now, lifetime=found.lifetime, source=Source.HARVEST)


def _is_of(value: str, known: str | None, account: str | None) -> bool:
    if known is not None and same_account(value, known):
        return True
    return account is not None and "@" in value and same_account(value, account)


def _identity_in(token: str) -> dict[tuple[str, ...], str]:
    """List what a token's claims say of who somebody is: where → what."""
    found: dict[tuple[str, ...], str] = {}
    for name, value in claims_of(token).items():
        if (who := _plain(name)) not in _WHO:
            continue
        inner = (
            {(who, _plain(each)): one for each, one in value.items()} if isinstance(value, dict) else {(who,): value}
        )
        for where, one in inner.items():
            told = one != "" and isinstance(one, (str, int, float)) and not isinstance(one, bool)
            if told and where[-1] in _WHO_WITHIN:
                found[where] = str(one)
    return found


def _plain(name: str) -> str:
    # Some put a namespace before their claims: "https://cardcash.example/email".
    return name.rpartition("/")[2].replace("_", "").replace("-", "").lower()


def shortened(email: str | None) -> str | None:
    """Show whose session it is without spelling the address out: `p…@example.com`."""
    if email is None:
        return None
    name, _, domain = email.rpartition("@")
    return f"{name[:1]}…@{domain}" if name else "…"
