"""What to do after an attempt, and how long to wait after failures.

Owns the decisions; sends nothing, sleeps nowhere, and gets the time and any randomness from its caller.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Final

from proxy.core.dialect import Rejection
from proxy.core.errors import UpstreamError, UpstreamReset, UpstreamUnreachable

#: Failures of a connect that a second try at once can cure; a time-out or a bad certificate comes again.
_WORTH_A_SECOND_CONNECT: Final = frozenset({"refused", "dns", "unreachable"})


#: Rejections of one request after which it is delivered whatever is known of its tokens.
MOST_REJECTIONS: Final = 5


class AfterFailure(Enum):
    """What to do when an attempt brought no answer."""

    REPEAT = "repeat"
    GIVE_UP = "give_up"


class AfterRejection(Enum):
    """What to do when CardCash rejected the token of an attempt."""

    DELIVER = "deliver"
    RENEW_AND_REPEAT = "renew_and_repeat"
    #: Renew, but hand the rejection down: the request may not be sent twice.
    RENEW_AND_DELIVER = "renew_and_deliver"
    #: Renew, and tell the caller to send it again: its body is gone.
    RENEW_AND_REFUSE = "renew_and_refuse"


def after_failure(error: UpstreamError, *, attempts: int, repeatable: bool, body_kept: bool) -> AfterFailure:
    """Decide after an attempt without an answer (API.md 4).

    `attempts` counts those made, `repeatable` is `may_repeat()`, `body_kept` says the whole body can be sent again.
    Repeated at most once, and only if provably nothing was sent or the request is on the safe list.
    """
    if attempts >= 2 or not body_kept:
        return AfterFailure.GIVE_UP
    if isinstance(error, UpstreamUnreachable) and not error.sent and error.kind in _WORTH_A_SECOND_CONNECT:
        return AfterFailure.REPEAT
    if isinstance(error, UpstreamReset) and error.kind == "reset_before_head" and (repeatable or not error.sent):
        return AfterFailure.REPEAT
    return AfterFailure.GIVE_UP


def after_rejection(
    kind: Rejection, *, rejections: int, buys: bool, body_kept: bool, dead: bool = False, was_good: bool = False
) -> AfterRejection:
    """Decide after an answer that rejected its token (CONTRACT "Sessions").

    `rejections` counts those of this request, this one included; `buys` is `dialect.buys()`. `dead` says that the token is
    known to be rejected not only here: then a second rejection is another revocation, and worth another try, up to
    `MOST_REJECTIONS`. `was_good` says that it was accepted on this very route before: worth one more try, and no more, since
    there may be routes that reject some requests whatever their token.
    """
    if rejections >= (MOST_REJECTIONS if dead else 3 if was_good else 2):
        return AfterRejection.DELIVER
    if kind is Rejection.VARIANT and buys:
        return AfterRejection.RENEW_AND_DELIVER
    return AfterRejection.RENEW_AND_REPEAT if body_kept else AfterRejection.RENEW_AND_REFUSE


def backoff(failures: int, *, first: float, cap: float) -> float:
    """Seconds of the pause after `failures` (1, 2, …) in a row: `first`, doubling, at most `cap`."""
    return min(cap, first * 2.0 ** min(failures - 1, 32))


def full_jitter(failures: int, *, first: float, cap: float, fraction: float) -> float:
    """Seconds before the next try inside one call: a random `fraction` (0…1) of the capped backoff.

    The jitter comes after the cap, so the cap holds.
    """
    return backoff(failures, first=first, cap=cap) * fraction


@dataclass(slots=True)
class _Pause:
    until: float
    failures: int


class RoutePauses:
    """Pauses of routes on which even a new token was rejected: they renew nothing until it is over.

    1 s doubling to 60 s, ended by an accepted answer on the route (CONTRACT "Sessions"). Times are steady seconds.
    Bounded: the least recently rejected route is forgotten first.
    """

    FIRST: Final = 1.0
    CAP: Final = 60.0
    MOST: Final = 1024
    #: So many routes nobody knows have pauses of their own; the rest share one, since callers can make names up.
    MOST_UNKNOWN: Final = 8
    _SHARED: Final = "unknown routes"

    def __init__(self) -> None:
        #: The pauses there are, some of them over.
        self.known: OrderedDict[str, _Pause] = OrderedDict()
        self._unknown: set[str] = set()

    def __len__(self) -> int:
        return len(self.known)

    def paused(self, route: str, now: float) -> bool:
        """Say whether rejections on the route renew nothing at present."""
        pause = self.known.get(self._key(route))
        return pause is not None and now < pause.until

    def rejected_again(self, route: str, now: float) -> None:
        """Begin or lengthen the pause; many callers rejected at once lengthen it only once."""
        route = self._key(route)
        pause = self.known.get(route)
        failures = 1 if pause is None else pause.failures + 1
        if pause is not None and now < pause.until:
            return
        self.known[route] = _Pause(now + backoff(failures, first=self.FIRST, cap=self.CAP), failures)
        self.known.move_to_end(route)
        if len(self.known) > self.MOST:
            self.known.popitem(last=False)

    def accepted(self, route: str) -> None:
        """End the pause."""
        if self.known:
            self.known.pop(self._key(route), None)

    def _key(self, route: str) -> str:
        """Name the pause of a route; `other …` is how `Route.key` calls what it does not know."""
        if " other " not in route or route in self._unknown:
            return route
        if len(self._unknown) >= self.MOST_UNKNOWN:
            return self._SHARED
        self._unknown.add(route)
        return route
