"""How a renewal comes by its token: another process's, or a session and a login of our own, which are then stored.

Owns the order of the right, the session call, the login and the save. When a renewal begins, and what its token is worth at
the end, is the keeper's affair, whose state is told by arguments.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from proxy.clock import Clock
from proxy.core.token import Source, Token
from proxy.session.cardcash_calls import SessionOutage, SessionRefused, SessionTokenRejected
from proxy.session.failure_pause import ELSEWHERE, LONGEST_PAUSE, Failure
from proxy.session.held_token import HeldToken
from proxy.session.obstacles import Obstacles
from proxy.session.ports import Calls
from proxy.session.refusals import logs_in, will_do
from proxy.session.renewal import Renewal
from proxy.session.shared import Shared
from proxy.session.stores import Turn

#: Calls of one kind in the first renewal of an outage; later ones probe with a single session call each, so that the
#: first minute of an outage costs at most 7 + 5 session calls however many callers there are (twelve are allowed).
FIRST_ATTEMPTS: Final = 5


class SessionMaker:
    """Makes a renewal's token, within `deadline` seconds. One renewal runs at a time."""

    def __init__(
        self, calls: Calls, shared: Shared, held: HeldToken, obstacles: Obstacles, clock: Clock, *, deadline: float
    ) -> None:
        self._calls = calls
        self._shared = shared
        self._held = held
        self._obstacles = obstacles
        self._clock = clock
        self._deadline = deadline

    async def make(self, renewal: Renewal) -> Token | Failure:
        """Take another process's token or make one; notes in `renewal` what was refused."""
        token: Token | Failure | None = None
        try:
            async with asyncio.timeout(self._deadline) as renewal.scope:
                if renewal.reason == "credentials":
                    await self._shared.end_pause()  # it was about others
                if (found := await self._enter(renewal)) is not None:
                    return found
                # While the store is away all replicas renew, each for itself: none of them insists.
                is_alone = self._shared.access.is_cut_off
                attempts = 1 if is_alone or self._obstacles.pause.failures else FIRST_ATTEMPTS
                token = await self._call(renewal, attempts=attempts)
                if renewal.refused:
                    # Before the right is given back: the next in line must not try it too. It counts here only at the
                    # end, since it may be about secrets that have just changed.
                    refusals = {**self._obstacles.refusals, **renewal.refused}
                    told = await self._shared.refuse(refusals, renewal.credentials)
                    self._obstacles.refusals_unsaved = not told
                if isinstance(token, Token) and not is_alone:
                    # Else it is stored when the store is back, and nobody waits for that.
                    token = await self._shared.put(token, yields=not renewal.is_forced) or token
        except SessionOutage as outage:
            return Failure("failed", f"No session with CardCash: {outage}", outage.retry_after)
        except TimeoutError:
            if token is None and not renewal.refused:
                return Failure("failed", f"No session with CardCash within {self._deadline:g} s.")
        return Failure("refused", renewal.refused["app_id"], LONGEST_PAUSE) if token is None else token

    async def _enter(self, renewal: Renewal) -> Token | Failure | None:
        """Wait for the right to renew; None: it is ours, or the store does not answer. Else there is no need to renew."""
        credentials, obstacles = renewal.credentials, self._obstacles
        known = renewal.base
        while True:
            needs_login = logs_in(credentials, obstacles.refusals)
            entered = await self._shared.enter(known=known, needs_login=needs_login, forced=renewal.is_forced)
            if entered is None:
                return None
            if renewal.is_forced:
                if entered.stored.refusals and not obstacles.refusals:
                    await self._shared.refuse({})
                return None
            now, theirs = self._clock.now(), entered.stored.token
            if entered.turn is Turn.NEWS:
                if will_do(theirs, credentials, obstacles.refusals):
                    if (taken := self._held.came_meanwhile(theirs, renewal.base)) is not None:
                        return taken
                    if self._held.is_news(theirs, renewal.base, now):
                        return replace(theirs, source=Source.STORE)
                known = theirs
            elif (obstacle := obstacles.first(now.steady)) is not None:
                return obstacle
            elif entered.turn is Turn.GRANTED:
                return None

    async def _call(self, renewal: Renewal, *, attempts: int) -> Token | Failure | None:
        """Make a session and log it in; a refused login leaves it anonymous, None: the application id was refused.

        A session whose token is rejected at login is made anew once, in the first renewal of an outage only: probes cost
        one session call each. Raises `SessionOutage`.
        """
        calls = self._calls
        login = logs_in(calls.credentials, self._obstacles.refusals)
        if renewal.credentials is not calls.credentials:
            return ELSEWHERE  # they changed this very moment: the renewal is begun anew
        try:
            session = await calls.session(attempts=attempts)
            again = attempts > 1
            while login:
                if renewal.rejected and renewal.base is not None and session.value == renewal.base.value:
                    # The rejected token came again ("or returns existing", core/README.md): no login could succeed with it.
                    return session
                # A needless login counts towards a lock-out: whoever was stopped meanwhile asks for the right anew.
                if not await self._shared.rights.is_still_ours():
                    if (found := await self._enter(renewal)) is not None:
                        return found
                    login = logs_in(calls.credentials, self._obstacles.refusals)
                    continue
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
