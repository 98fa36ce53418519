"""What is known of rejected tokens: on which routes, which routes pause, and how often rejections may begin a renewal.

One route that rejects whatever token it gets must neither storm `POST /session` nor delay the others, and many such routes
together must not either. Owns that knowledge; decides nothing about a single request, which is `attempts.py`'s affair.
Knows no clock: times are steady seconds of the caller.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from proxy.core.backoff import backoff
from proxy.core.token import Token


class RejectionHistory:
    """What all requests of one process have learned together. Bounded, however many routes callers make up.

    `processes` share the renewals that rejections may begin.
    """

    #: Renewals that rejections may begin at once, and how many more a second.
    BURST: Final = 20.0
    PER_SECOND: Final = 1.0
    #: So many other routes that began a renewal within so many seconds make it likely that the routes are odd.
    MANY_ROUTES: Final = 2
    LATELY: Final = 10.0

    def __init__(self, processes: int = 1) -> None:
        self.pauses = RoutePauses()
        self._rejected_on = _TokenRoutes()
        self._accepted_on = _TokenRoutes()
        self._burst, self._per_second = max(1.0, self.BURST / processes), self.PER_SECOND / processes
        self._allowance = self._burst
        self._counted_at = 0.0
        #: The last renewal that a rejection on each of these routes began.
        self._began: OrderedDict[str, _Began] = OrderedDict()

    def accepted(self, token: Token, route: str) -> None:
        """Note an answer that accepted the token on the route; ends the route's pause."""
        self._accepted_on.add(token, route)
        if (began := self._began.get(route)) is not None:
            began.rejected = None
        self.pauses.accepted(route)

    def was_accepted(self, token: Token, route: str) -> bool:
        """Say whether this very token was accepted on this very route."""
        return self._accepted_on.has(token, route)

    def rejected(self, token: Token, route: str) -> bool:
        """Note a rejection; returns whether the token was rejected on another route too."""
        return self._rejected_on.add(token, route) > 1

    def may_begin_renewal(self, token: Token, route: str, now: float) -> bool:
        """Take one of the renewals that rejections on all routes together may begin; False: none is left."""
        self._allowance = min(self._burst, self._allowance + max(0.0, now - self._counted_at) * self._per_second)
        self._counted_at = now
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        self._began[route] = _Began(now, token)
        self._began.move_to_end(route)
        if len(self._began) > self.BURST:
            self._began.popitem(last=False)
        return True

    def no_renewal(self, route: str) -> None:
        """Take back the last that a rejection on the route began: none was made, so it cost nothing."""
        self._allowance = min(self._burst, self._allowance + 1.0)
        self._began.pop(route, None)

    def just_renewed(self, token: Token, route: str, now: float) -> bool:
        """Say whether a rejection on the route has just begun the renewal after which `token` is held, and nothing was
        accepted there since: then another request is told already that a new token does not help."""
        began = self._began.get(route)
        if began is None or began.rejected is None or began.rejected.value == token.value:
            return False
        return now - began.at < RoutePauses.FIRST

    def comes_from_many_routes(self, route: str, now: float) -> bool:
        """Say whether several other routes began renewals lately."""
        lately = sum(other != route and now - began.at < self.LATELY for other, began in self._began.items())
        return lately >= self.MANY_ROUTES


@dataclass(slots=True)
class _Began:
    """A renewal that a rejection began."""

    at: float
    #: The token that was rejected; None: the route has accepted one since.
    rejected: Token | None


class _TokenRoutes:
    """The routes noted for one token, the last that was told of."""

    __slots__ = ("_routes", "_token")

    def __init__(self) -> None:
        self._token: Token | None = None
        self._routes: set[str] = set()

    def add(self, token: Token, route: str) -> int:
        """Note one; returns how many there are."""
        if token is not self._token:
            self._token, self._routes = token, set()
        routes = self._routes
        if len(routes) < RoutePauses.MOST:  # callers can make names up
            routes.add(route)
        return len(routes)

    def has(self, token: Token, route: str) -> bool:
        """Say whether this token was noted on this route."""
        return token is self._token and route in self._routes


@dataclass(slots=True)
class _Pause:
    until: float
    failures: int


class RoutePauses:
    """Pauses of routes on which even a new token was rejected: they renew nothing until it is over.

    1 s doubling to 60 s, ended by an accepted answer on the route. Bounded: the least recently rejected route is forgotten
    first.
    """

    FIRST: Final = 1.0
    CAP: Final = 60.0
    MOST: Final = 1024
    #: So many routes nobody knows have pauses of their own; the rest share one, since callers can make names up.
    MOST_UNKNOWN: Final = 8
    _SHARED: Final = "unknown routes"

    def __init__(self) -> None:
        #: The pauses there are, some of them over.
        self._pauses: OrderedDict[str, _Pause] = OrderedDict()
        self._unknown: set[str] = set()

    def __len__(self) -> int:
        return len(self._pauses)

    def paused(self, route: str, now: float) -> bool:
        """Say whether rejections on the route renew nothing at present."""
        pause = self._pauses.get(self._key(route))
        return pause is not None and now < pause.until

    def rejected_again(self, route: str, now: float) -> None:
        """Begin or lengthen the pause; many callers rejected at once lengthen it only once."""
        route = self._key(route)
        pause = self._pauses.get(route)
        failures = 1 if pause is None else pause.failures + 1
        if pause is not None and now < pause.until:
            return
        self._pauses[route] = _Pause(now + backoff(failures, first=self.FIRST, cap=self.CAP), failures)
        self._pauses.move_to_end(route)
        if len(self._pauses) > self.MOST:
            self._pauses.popitem(last=False)

    def accepted(self, route: str) -> None:
        """End the pause."""
        if self._pauses:
            self._pauses.pop(self._key(route), None)

    def _key(self, route: str) -> str:
        """Name the pause of a route; `other …` is how `Route.key` calls what it does not know."""
        if " other " not in route or route in self._unknown:
            return route
        if len(self._unknown) >= self.MOST_UNKNOWN:
            return self._SHARED
        self._unknown.add(route)
        return route
