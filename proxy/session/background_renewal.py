"""What is due in the background, while requests go on with the held token. Decides only: no event loop, no clock."""

from __future__ import annotations

from enum import Enum

from proxy.core.token import Freshness, Moment, Token, Windows


class Due(Enum):
    """What should be done for a held token."""

    NOTHING = "nothing"
    RENEWAL = "renewal"
    #: Its password is a caller's: a new session would lose the account, so the old one is kept going.
    KEEP_ALIVE = "keep-alive"
    #: It has expired, and a caller's login with it; no request has noticed yet.
    LOSS = "loss"


def what_is_due(
    token: Token, windows: Windows, now: Moment, *, is_used: bool, not_before: float, login_refused: bool
) -> Due:
    """Say what is due for the held token; `is_used`: there was traffic lately, `not_before`: a pause's end (steady)."""
    if windows.freshness(now) is Freshness.EXPIRED:
        return Due.LOSS if token.own_login else Due.NOTHING
    if not is_used or now.steady < max(windows.renew_at, not_before):
        return Due.NOTHING
    if token.own_login:
        return Due.KEEP_ALIVE
    if token.identity is not None and login_refused:
        # A new session would be anonymous; the account is kept as long as it lives.
        return Due.NOTHING
    return Due.RENEWAL
