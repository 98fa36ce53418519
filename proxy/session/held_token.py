"""The held token: its windows, what is due for it in the background, and what others are worth beside it.

Owns decisions only: no event loop, no clock; callers pass the time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from proxy.core.dialect import Candidate, Malformed
from proxy.core.identity import refreshed
from proxy.core.login_request import same_account
from proxy.core.token import Freshness, Moment, Token, Windows
from proxy.session.obstacles import Failure
from proxy.session.renewal import Renewal

#: Seconds before its end at which a token is renewed at the latest while the store is down.
LAST_MOMENT: Final = 30.0


class Due(Enum):
    """What should be done for the held token, or for want of a first one, in the background."""

    NOTHING = "nothing"
    RENEWAL = "renewal"
    #: Its password is a caller's: a new session would lose the account, so the old one is kept going.
    KEEP_ALIVE = "keep-alive"
    #: It has expired, and a caller's login with it; no request has noticed yet.
    LOSS = "loss"


@dataclass(frozen=True, slots=True)
class Stays:
    """The held token stays, although a renewal brought another; `result` says why, for the observer."""

    result: str


def is_over(token: Token, now: Moment) -> bool:
    """Say whether the token has expired by our reckoning."""
    return Windows.of(token, 0).freshness(now) is Freshness.EXPIRED


def shown(token: Token) -> tuple[str, str | None, bool]:
    """Return what makes a token another one to whoever shares it."""
    return token.value, token.identity, token.login_lost


class HeldToken:
    """Which token is held, if any. Compared by identity (`is`), save where CardCash gives the same value twice."""

    def __init__(self, renew_ahead: float, idle_after: float) -> None:
        self._renew_ahead = renew_ahead
        self._idle_after = idle_after
        #: Steady seconds of the last request, or of the start.
        self.last_used = float("-inf")
        #: The first one is made without a request.
        self.eager = False
        self.token: Token | None = None
        self.windows: Windows | None = None
        #: CardCash rejected it.
        self.is_rejected = False
        #: A caller's login was in it and is gone, and nobody has logged in since.
        self.identity_lost = False
        #: When that was found here, in steady seconds.
        self.lost_at = float("-inf")
        # The values of the last ones that it rejected: wherever they come from, they are no news.
        self._rejected: deque[str] = deque(maxlen=8)

    def adopt(self, token: Token, now: Moment, *, logged_in: bool = False) -> bool:
        """Hold this one from now on; says whether a login is lost thereby, to be told once.

        `logged_in`: a caller has just done so here.
        """
        before, was_lost = self.token, self.identity_lost
        is_gone = before is None or before.identity is None or (was_lost and is_over(before, now))
        tells = False
        if token.identity is None:
            tells = before is not None and before.own_login and not token.login_lost
            self.identity_lost = token.login_lost or was_lost or tells
            if self.identity_lost and not token.login_lost:
                # Stored with the token, so that it is known after a restart and by the other processes.
                token = replace(token, login_lost=True)
        elif logged_in or is_gone or before is None:
            self.identity_lost = False
        elif not same_account(str(before.identity), token.identity):
            tells = self.identity_lost = True
        if self.identity_lost and not was_lost:
            self.lost_at = now.steady
        self.token = token
        self.windows = Windows.of(token, self._renew_ahead)
        self.is_rejected = False
        if token.value in self._rejected:  # CardCash has given it again
            self._rejected.remove(token.value)
        return tells and not was_lost

    def lose_identity(self) -> bool:
        """Note that a caller's login is gone; says whether that is new."""
        was_lost, self.identity_lost = self.identity_lost, True
        return not was_lost

    def reject(self) -> None:
        """Note that CardCash rejected it."""
        if self.token is not None:
            self.is_rejected = True
            self._rejected.append(self.token.value)

    def usable(self, now: Moment) -> Token | None:
        """Return the held token if it has not expired."""
        return None if self.windows is None or self.windows.freshness(now) is Freshness.EXPIRED else self.token

    def renews_by_itself(self, now: Moment) -> bool:
        """Say whether the next renewal needs no request: there was traffic lately, and a token is held that has not expired.

        Or there was none yet and the first is made eagerly: what failed at the start is tried again.
        """
        if now.steady - self.last_used >= self._idle_after:
            return False
        return self.eager if self.windows is None else self.windows.freshness(now) is not Freshness.EXPIRED

    def due(self, now: Moment, *, not_before: float, login_refused: bool, later: float) -> Due:
        """Say what is due in the background; `not_before`: a pause's end (steady).

        While the store is down, all who share it must renew, each for itself: `later`, a fraction (0…1) of its own,
        spreads them over what is left of the window. 10,000 in 150 s make 67 calls a second. Else it is 0.
        """
        token, windows = self.token, self.windows
        if token is None or windows is None:
            return Due.RENEWAL if self.renews_by_itself(now) and now.steady >= not_before else Due.NOTHING
        if windows.freshness(now) is Freshness.EXPIRED:
            return Due.LOSS if token.own_login else Due.NOTHING
        latest = max(windows.renew_at, windows.expires_at - LAST_MOMENT)
        renew_at = windows.renew_at + (latest - windows.renew_at) * later
        if not self.renews_by_itself(now) or now.steady < max(renew_at, not_before):
            return Due.NOTHING
        if token.own_login:
            return Due.KEEP_ALIVE
        if token.identity is not None and login_refused:
            # A new session would be anonymous; the account is kept as long as it lives.
            return Due.NOTHING
        return Due.RENEWAL

    def yields_to(self, theirs: Token, ours: Token | None, now: Moment, *, is_new: bool, was_shared: bool) -> bool:
        """Say whether another process's token is to be held in the place of `ours`.

        A login beats none, then the younger wins; and if they have stored it since ours was adopted (`is_new`), any that
        carries no less: whoever was first in the store has won, and ages may be wrong by as long as a store hung.
        A caller's login is lost to one that says so, if it is the one that was found gone: `was_shared`, the store had ours.
        """
        if is_over(theirs, now) or theirs.value in self._rejected:
            return False
        if ours is None:
            return True
        if theirs.login_lost and ours.own_login and was_shared:
            # One that nobody has seen yet is not what was gone: CardCash has refreshed it, and revoked the one before.
            return theirs.born.wall > ours.born.wall
        if (theirs.identity is None) != (ours.identity is None):
            return theirs.identity is not None
        if is_new:
            return shown(theirs) != shown(ours)
        return theirs.value != ours.value and theirs.born.wall > ours.born.wall

    def is_news(self, shared: Token, base: Token | None, now: Moment) -> bool:
        """Say whether another process has already renewed: usable, and newer than what was held."""
        if is_over(shared, now) or shared.value in self._rejected:
            return False
        return base is None or (shared.value != base.value and shared.born.wall > base.born.wall)

    def may_be_refreshed(self, renewal: Renewal, now: Moment) -> bool:
        """Say whether a rejected token may have been refreshed elsewhere, and others not know of it yet.

        Always hoped for where it was a caller's login, which nobody can make again, else in the window of a refresh only.
        """
        base = renewal.base
        if not renewal.rejected or base is None or base.identity is None:
            return False
        return base.own_login or Windows.of(base, self._renew_ahead).freshness(now) is Freshness.STALE

    def came_meanwhile(self, shared: Token, base: Token | None) -> Token | None:
        """Return the held token if it is this one, and was adopted after `base` was held."""
        held = None if self.is_rejected or self.token is base else self.token
        return held if held is not None and shown(held) == shown(shared) else None

    def harvested(
        self, found: Candidate | Malformed, *, sent_with: Token, login_as: str | None, is_foreign: bool, now: Moment
    ) -> Token | str:
        """Make a token of what an answer to a request with `sent_with` brought, or say why not, for the observer.

        Late is what came to a request with another token than the held one; a caller's login is late only where somebody
        has logged in meanwhile. `is_foreign`: the held one is another application id's.
        """
        if isinstance(found, Malformed):
            return "malformed"
        is_late = self.token is not sent_with or is_foreign
        if is_late and (login_as is None or (self.token is not None and self.token.identity is not None)):
            return "late"
        return refreshed(found, sent_with=sent_with, login_as=login_as, now=now)

    def was_asked_too_early(self, token: Token, renewal: Renewal) -> bool:
        """Say whether the held token was rejected only after CardCash gave it again: it must be asked once more."""
        held = self.token
        return held is not None and self.is_rejected and not renewal.rejected and token.value == held.value

    def weigh(
        self, token: Token, renewal: Renewal, *, is_foreign: bool, login_refused: bool, now: Moment
    ) -> Token | Stays | Failure:
        """Decide what a renewal's token is worth, against what happened while it was made.

        `is_foreign`: the held one is another application id's.
        """
        base = renewal.base
        if token is self.token:
            return Stays("superseded")  # it came meanwhile, from another process or a login here
        held = None if self.is_rejected or is_foreign else self.usable(now)
        if held is not None:
            if held.identity is not None and token.identity is None and (held is not base or login_refused):
                # A login that raced with us, or the account whose login is refused by now: anonymous would be less.
                return Stays("login_refused" if held is base else "superseded")
            if held is not base and base is not None and token.value == base.value:
                return Stays("superseded")
            if token.value == held.value:
                return Failure("same_token", "CardCash gave the held token again.")
        if renewal.rejected and base is not None and token.value == base.value:
            return Failure("same_token", "CardCash gave the rejected token again.")
        if is_over(token, now):
            return Failure("failed", "No session with CardCash: its token had expired when it arrived.")
        return token
