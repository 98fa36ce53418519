"""What is due in the background, while requests go on with the held token. Decides only: no event loop, no clock."""

from __future__ import annotations

from enum import Enum
from typing import Final

from proxy.core.token import Freshness, Moment, Token, Windows

#: Seconds before its end at which a token is renewed at the latest while the store is down.
LAST_MOMENT: Final = 30.0


class Due(Enum):
    """What should be done for a held token."""

    NOTHING = "nothing"
    RENEWAL = "renewal"
    #: Its password is a caller's: a new session would lose the account, so the old one is kept going.
    KEEP_ALIVE = "keep-alive"
    #: It has expired, and a caller's login with it; no request has noticed yet.
    LOSS = "loss"


def what_is_due(
    token: Token, windows: Windows, now: Moment, *, is_used: bool, not_before: float, login_refused: bool, later: float
) -> Due:
    """Say what is due for the held token; `is_used`: there was traffic lately, `not_before`: a pause's end (steady).

    While the store is down, all who share it must renew, each for itself: `later`, a fraction (0…1) of its own, spreads them
    over what is left of the window. 10,000 in 150 s make 67 calls a second. Else it is 0.
    """
    if windows.freshness(now) is Freshness.EXPIRED:
        return Due.LOSS if token.own_login else Due.NOTHING
    latest = max(windows.renew_at, windows.expires_at - LAST_MOMENT)
    renew_at = windows.renew_at + (latest - windows.renew_at) * later
    if not is_used or now.steady < max(renew_at, not_before):
        return Due.NOTHING
    if token.own_login:
        return Due.KEEP_ALIVE
    if token.identity is not None and login_refused:
        # A new session would be anonymous; the account is kept as long as it lives.
        return Due.NOTHING
    return Due.RENEWAL
