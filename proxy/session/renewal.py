"""One renewal: what it is for, who waits for it, and the calls that make its token.

Owns the order of session and login inside one renewal. When one begins and what its token is worth at the end is the
keeper's affair.
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.core.token import Token
from proxy.session.cardcash_calls import Credentials, SessionOutage, SessionRefused, SessionTokenRejected
from proxy.session.failures import Failure
from proxy.session.ports import Calls

#: Calls of one kind in the first renewal of an outage; later ones probe with a single session call each, so that the
#: first minute of an outage costs at most 7 + 5 session calls however many callers there are (twelve are allowed).
FIRST_ATTEMPTS: Final = 5
#: The reason of a renewal that an operator asked for: what another process stored will not do.
OPERATOR: Final = "operator"


class Renewal:
    """One renewal under way, or several in a row for the same who wait.

    They have futures of their own, fanned out at the end: thousands cost a future each, and none of them can cancel it.
    """

    def __init__(self, reason: str, base: Token | None, credentials: Credentials, *, rejected: bool) -> None:
        self.waiters: set[asyncio.Future[Token | Failure]] = set()
        self.begin(reason, base, credentials, rejected=rejected)

    def begin(self, reason: str, base: Token | None, credentials: Credentials, *, rejected: bool) -> None:
        """Begin, or begin anew for those who wait.

        `base` is the token held now; `rejected` says that CardCash rejected that one.
        """
        self.reason = reason
        self.base = base
        self.rejected = rejected
        #: Those it is made with; when they are no longer ours, whatever it brings is dropped.
        self.credentials = credentials
        #: What CardCash refused in it.
        self.refused: dict[str, str] = {}
        #: Its deadline, while it runs.
        self.scope: asyncio.Timeout | None = None
        self.began = asyncio.get_running_loop().time()

    @property
    def is_forced(self) -> bool:
        """Say whether another process's token will not do."""
        return self.reason == OPERATOR

    async def outcome(self) -> Token | Failure:
        """Wait for the end; a cancelled waiter leaves the rest alone."""
        waiter: asyncio.Future[Token | Failure] = asyncio.get_running_loop().create_future()
        self.waiters.add(waiter)
        try:
            return await waiter
        finally:
            self.waiters.discard(waiter)

    def tell(self, outcome: Token | Failure) -> None:
        """Tell all who wait."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(outcome)

    def stop(self) -> None:
        """Give up what it does now: its credentials are others'."""
        if self.scope is not None and not self.scope.expired():
            self.scope.reschedule(asyncio.get_running_loop().time())


async def make_token(calls: Calls, renewal: Renewal, *, attempts: int, login: bool) -> Token | None:
    """Make a session and log it in; a refused login leaves it anonymous, None: the application id was refused.

    What is refused is noted in `renewal`. Raises `SessionOutage`. A session whose token is rejected at login is made anew
    once, in the first renewal of an outage only: probes cost one session call each.
    """
    try:
        session = await calls.session(attempts=attempts)
        again = attempts > 1
        while login and calls.credentials.logs_in:
            if renewal.rejected and renewal.base is not None and session.value == renewal.base.value:
                # The rejected token came again ("or returns existing", core/README.md): no login could succeed with it.
                return session
            try:
                return await calls.login(session, attempts=attempts)
            except SessionRefused as refused:
                renewal.refused[refused.what] = str(refused)
                return session
            except SessionTokenRejected:
                dead = session
            if not again:
                raise SessionOutage("CardCash rejects the tokens it has just given.")
            again = False
            # One that is lost is sent once more: the renewal must not fail over it.
            session = await calls.session(attempts=2)
            if session.value == dead.value:
                raise SessionOutage("CardCash rejects the token it has just given, and gives it again.")
    except SessionRefused as refused:
        renewal.refused[refused.what] = str(refused)
        return None
    return session
