"""The held token: its windows, what is known against it, and what a renewed one is worth beside it.

Owns decisions only: no event loop, no clock; callers pass the time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from proxy.core.dialect import Candidate
from proxy.core.identity import contradicts, has_lost_login, marks_of_login, shows_another
from proxy.core.token import Freshness, Moment, Source, Token, Windows
from proxy.session.ports import Status
from proxy.session.renewal import Failure, Flight


@dataclass(frozen=True, slots=True)
class Kept:
    """The held token stays, although a renewal brought another; `result` says why, for the observer."""

    result: str


def is_over(token: Token, now: Moment) -> bool:
    """Say whether the token has expired by our reckoning."""
    return Windows.of(token, 0).freshness(now) is Freshness.EXPIRED


def refreshed(found: Candidate, *, sent_with: Token, login_as: str | None, now: Moment) -> Token | str:
    """Make a token of what an answer to a request with `sent_with` brought, or say why not.

    Not taken is what is unchanged, foreign (it shows another account than the held one) or anonymous where a login was.
    """
    if login_as is not None:
        known = sent_with.identity
        if contradicts(found.value, account=login_as) or (known and shows_another(found.value, sent_with.value, known)):
            return "foreign"
        marks = marks_of_login(sent_with.value, found.value) if sent_with.identity is None else sent_with.marks
        token = replace(
            sent_with, identity=login_as, own_login=True, marks=marks, login_lost=False, source=Source.LOGIN
        )
        if found.repeats(sent_with.value):
            return token
        return replace(token, value=found.value, born=now, lifetime=found.lifetime)
    if found.value == sent_with.value:
        return "unchanged"
    if shows_another(found.value, sent_with.value, sent_with.identity):
        return "foreign"
    if has_lost_login(sent_with.marks, found.value):
        # CardCash refreshed the session and forgot who it was. The held token is the better one as long as it lives.
        return "anonymous"
    return replace(sent_with, value=found.value, born=now, lifetime=found.lifetime, source=Source.HARVEST)


class Holding:
    """Which token is held, if any. Compared by identity (`is`), save where CardCash gives the same value twice."""

    def __init__(self, renew_ahead: float) -> None:
        self._renew_ahead = renew_ahead
        self.token: Token | None = None
        self.windows: Windows | None = None
        #: CardCash rejected it.
        self.is_rejected = False
        #: It was made with an application id that is no longer ours.
        self.is_foreign = False

    def adopt(self, token: Token) -> None:
        """Hold this one from now on."""
        self.token = token
        self.windows = Windows.of(token, self._renew_ahead)
        self.is_rejected = self.is_foreign = False

    def usable(self, now: Moment) -> Token | None:
        """Return the held token if it has not expired."""
        return None if self.windows is None or self.windows.freshness(now) is Freshness.EXPIRED else self.token

    def is_news(self, shared: Token, now: Moment) -> bool:
        """Say whether another process has already renewed: usable, and newer than what is held."""
        held = self.token
        if is_over(shared, now):
            return False
        return held is None or (shared.value != held.value and shared.born.wall > held.born.wall)

    def was_asked_too_early(self, token: Token, flight: Flight) -> bool:
        """Say whether the held token was rejected only after CardCash gave it again: it must be asked once more."""
        held = self.token
        return held is not None and self.is_rejected and not flight.rejected and token.value == held.value

    def weigh(self, token: Token, flight: Flight, *, login_refused: bool, now: Moment) -> Token | Kept | Failure:
        """Decide what a renewal's token is worth, against what happened while it was made."""
        base = flight.base
        held = None if self.is_rejected or self.is_foreign else self.usable(now)
        if held is not None:
            if held.identity is not None and token.identity is None and (held is not base or login_refused):
                # A login that raced with us, or the account whose login is refused by now: anonymous would be less.
                return Kept("login_refused" if held is base else "superseded")
            if held is not base and base is not None and token.value == base.value:
                return Kept("superseded")
            if token.value == held.value:
                return Failure("same_token", "CardCash gave the held token again.")
        if flight.rejected and base is not None and token.value == base.value:
            return Failure("same_token", "CardCash gave the rejected token again.")
        if is_over(token, now):
            return Failure("failed", "No session with CardCash: its token had expired when it arrived.")
        return token

    def describe(
        self,
        now: Moment,
        *,
        identity_lost: bool,
        latched: tuple[str, str] | None,
        paused_for: float,
        failures: int,
        renewals: int,
        harvests: int,
        renewing: bool,
        waiters: int,
    ) -> Status:
        """Put everything there is to know into one snapshot."""
        held, windows = self.token, self.windows
        return Status(
            state="none" if windows is None else windows.freshness(now).value,
            expires_wall=windows.expires_wall if windows else None,
            expires_in=windows.expires_at - now.steady if windows else None,
            renews_in=windows.renew_at - now.steady if windows else None,
            source=held.source.value if held else None,
            identity=held.identity if held and not identity_lost else None,
            own_login=held.own_login if held else False,
            identity_lost=identity_lost,
            latched=latched[0] if latched else None,
            latch_sentence=latched[1] if latched else None,
            paused_for=paused_for,
            failures=failures,
            renewals=renewals,
            harvests=harvests,
            renewing=renewing,
            waiters=waiters,
        )
