"""The shared token and its windows.

Owns what a token is and when it is fresh, stale or expired. Knows no clock: callers pass the time. A token is compared
by identity (`is`), never by value or by time: "is the held one still the one I sent?"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeGuard

#: Lifetime in seconds when nothing tells one.
DEFAULT_LIFETIME: Final = 600.0
#: Lifetimes outside these bounds (seconds) count as absent: 1 s … 7 days.
SHORTEST_LIFETIME: Final = 1.0
LONGEST_LIFETIME: Final = 7 * 86400.0
#: A token counts as expired min(5 s, a tenth of its life) early, so that it does not expire on the way.
EARLY_SECONDS: Final = 5.0
EARLY_FRACTION: Final = 0.1


class Freshness(Enum):
    """What a held token is good for at one moment."""

    FRESH = "fresh"
    #: In the renewal window: usable, a refresh is welcome.
    STALE = "stale"
    EXPIRED = "expired"


class Source(Enum):
    """Where a token came from (shown in `/status`)."""

    SESSION = "session"
    LOGIN = "login"
    HARVEST = "harvest"
    STORE = "store"


@dataclass(slots=True)  # frozen, one costs three times as much, and every request makes one
class Moment:
    """One reading of both clocks, in seconds; not changed any more.

    `steady` never steps and counts time asleep where the system can tell; `wall` is Unix time, the only one that means
    anything to another process or after a virtual machine was paused.
    """

    steady: float
    wall: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Token:
    """One session token; immutable, compared by identity, its value never shown.

    `born` is the moment the call that brought it was *sent*, so `lifetime` (seconds) is never over-estimated by a slow
    answer. `identity` is the e-mail of the account it carries, None when anonymous; `own_login` says that identity came
    from a caller's own login, whose password nobody here knows.
    """

    value: str
    born: Moment
    lifetime: float = DEFAULT_LIFETIME
    source: Source = Source.SESSION
    identity: str | None = None
    own_login: bool = False
    #: The application id it was made for; "" when unknown. Never shown.
    app_id: str = ""
    #: What its login shows by, see `core/identity.py`.
    marks: Mapping[str, Any] = field(default_factory=dict)
    #: It is anonymous because the login of a caller was lost, and nobody has logged in since.
    login_lost: bool = False
    #: What nobody may be told in an answer's head: its value and its application id, in lower case.
    private: tuple[bytes, ...] = field(init=False)
    #: The value of `Authorization` for requests.
    bearer: bytes = field(init=False)

    def __post_init__(self) -> None:
        private = tuple(text.lower().encode() for text in (self.value, self.app_id) if text)
        object.__setattr__(self, "private", private)
        object.__setattr__(self, "bearer", b"Bearer " + self.value.encode("ascii", "replace"))

    @property
    def expires_at(self) -> float:
        """Steady seconds from which it is no longer sent."""
        return self.born.steady + self.lifetime - min(EARLY_SECONDS, self.lifetime * EARLY_FRACTION)

    @property
    def expires_wall(self) -> float:
        """Unix time from which it is no longer sent."""
        return self.born.wall + self.lifetime - min(EARLY_SECONDS, self.lifetime * EARLY_FRACTION)

    def __repr__(self) -> str:
        who = "anonymous" if self.identity is None else "logged in"
        return f"<Token {self.source.value} {who} lifetime={self.lifetime:g}s>"


@dataclass(frozen=True, slots=True)
class Windows:
    """The times in a token's life, in steady seconds, for one `session.renew_ahead`."""

    #: From here on a refresh is welcome.
    stale_at: float
    #: From here on the background renewal acts; before it the window is left to in-band refresh by ordinary traffic.
    renew_at: float
    expires_at: float
    expires_wall: float

    @classmethod
    def of(cls, token: Token, renew_ahead: float) -> Windows:
        """Compute the windows; `renew_ahead` (seconds) is never longer than half of the token's life."""
        window = min(renew_ahead, token.lifetime / 2)
        end = token.expires_at
        # Measured from the true end of life, but never past the early expiry.
        start = min(end, token.born.steady + token.lifetime - window)
        return cls(
            stale_at=start,
            renew_at=start + (end - start) / 2,
            expires_at=end,
            expires_wall=token.expires_wall,
        )

    def freshness(self, now: Moment) -> Freshness:
        """Judge by both clocks: whichever says expired is believed, since a paused machine stops one of them."""
        if now.steady >= self.expires_at or now.wall >= self.expires_wall:
            return Freshness.EXPIRED
        return Freshness.STALE if now.steady >= self.stale_at else Freshness.FRESH


def is_lifetime(claim: float | None) -> TypeGuard[float]:
    """Say whether a claim (seconds) is a sane lifetime; any other counts as absent."""
    return claim is not None and SHORTEST_LIFETIME <= claim <= LONGEST_LIFETIME


def usable_lifetime(*claims: float | None) -> float:
    """Pick the first claim (seconds) that is a sane lifetime, else `DEFAULT_LIFETIME`."""
    return next(filter(is_lifetime, claims), DEFAULT_LIFETIME)
