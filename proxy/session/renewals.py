"""The one renewal under way, for all who wait.

When one may begin; how it comes by its token: another process's, or a session and a login of our own, which are then
stored; what that token is worth by then, and what a failure costs. Its place in the session's life: `keeper.py`, the table.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from proxy.clock import Clock
from proxy.core.token import Source, Token
from proxy.session.cardcash_calls import ForeignLogin, SessionCalls, SessionOutage, SessionRefused, SessionTokenRejected
from proxy.session.held_token import HeldToken, Stays
from proxy.session.obstacles import BUG, ELSEWHERE, LONGEST_PAUSE, STOPPING, Failure, Obstacles
from proxy.session.ports import Observer
from proxy.session.renewal import Renewal
from proxy.session.shared import Shared
from proxy.session.stores import Turn
from proxy.tasks import Tasks

#: Calls of one kind in the first renewal of an outage; later ones probe with a single session call each, so that the
#: first minute of an outage costs at most 7 + 5 session calls however many callers there are (twelve are allowed).
FIRST_TRIES: Final = 5
#: Seconds within which a token that came by traffic elsewhere is in the store, one on other machines and one of this host;
#: and before the first look for it; the next come after twice as long each.
NEWS_TAKES: Final = (1.0, 0.2)
_FIRST_ASK: Final = 0.02


class Renewals:
    """Renews the held token, once for all who ask meanwhile, within `deadline` seconds."""

    def __init__(
        self,
        shared: Shared,
        held: HeldToken,
        obstacles: Obstacles,
        calls: SessionCalls,
        *,
        clock: Clock,
        observer: Observer,
        deadline: float,
    ) -> None:
        self._shared = shared
        self._held = held
        self._obstacles = obstacles
        self._calls = calls
        self._clock = clock
        self._observer = observer
        self._deadline = deadline
        self._tasks = Tasks()
        self.current: Renewal | None = None
        self.succeeded = 0
        self.stopping = False
        #: Set when the first renewal has ended, well or not.
        self.first_is_over = asyncio.Event()

    @property
    def waiters(self) -> int:
        """How many callers wait."""
        return 0 if self.current is None else len(self.current.waiters)

    def may_begin(self) -> bool:
        """Say whether one could begin now."""
        return self.current is None and self._obstacle() is None

    def begin(self, reason: str) -> Renewal:
        """Begin one; none is under way."""
        self.current = renewal = Renewal(
            reason, self._held.token, self._calls.credentials, rejected=self._held.is_rejected
        )
        self._shared.renewing = True
        self._tasks.spawn(self._run(renewal), name="session-renewal")
        return renewal

    async def outcome(self, reason: str) -> Token | Failure:
        """Join the one under way or begin one, and wait for its end; at once where none may begin."""
        if self.current is None and (obstacle := self._obstacle()) is not None:
            return obstacle
        return await (self.current or self.begin(reason)).outcome()

    def stop(self) -> None:
        """Answer whoever waits, or will, with `Draining`."""
        self.stopping = True
        self.first_is_over.set()
        if self.current is not None:
            self.current.tell(STOPPING)

    async def close(self) -> None:
        """End the one under way."""
        await self._tasks.close()

    def _obstacle(self) -> Failure | None:
        """Say why none may begin now; whoever needs a token meanwhile is told so at once."""
        return STOPPING if self.stopping else self._obstacles.first(self._clock.now().steady)

    async def _run(self, renewal: Renewal) -> None:
        """Renew until those who wait are told."""
        while self.current is renewal:
            bug: Exception | None = None
            try:
                outcome = await self._make(renewal)
            except Exception as error:
                bug = error
                outcome = Failure("failed", f"No session with CardCash: {type(error).__name__} in the renewal.")
            try:
                self._settle(renewal, outcome)
            except Exception:
                # They use the held token if it lives.
                self._tell(renewal, BUG)
                raise
            if bug is not None:
                raise bug

    async def _make(self, renewal: Renewal) -> Token | Failure:
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
                tries = 1 if is_alone or self._obstacles.pause.failures else FIRST_TRIES
                token = await self._call(renewal, tries=tries)
                if renewal.refused:
                    # Before the right is given back: the next in line must not try it too. It counts here only at the
                    # end, since it may be about secrets that have just changed.
                    refusals = {**self._obstacles.refusals, **renewal.refused}
                    told = await self._shared.refuse(refusals, renewal.credentials)
                    self._obstacles.refusals_unsaved = not told
                    if token is None and "app_id" not in renewal.refused:
                        token = await self._call(renewal, tries=tries)
                if isinstance(token, Token) and not is_alone:
                    # Else it is stored when the store is back, and nobody waits for that.
                    token = await self._shared.put(token, yields=not renewal.is_forced) or token
        except SessionOutage as outage:
            return Failure("failed", f"No session with CardCash: {outage}", outage.retry_after)
        except TimeoutError:
            if token is None and "app_id" not in renewal.refused:
                return Failure("failed", f"No session with CardCash within {self._deadline:g} s.")
        return Failure("refused", renewal.refused["app_id"], LONGEST_PAUSE) if token is None else token

    async def _enter(self, renewal: Renewal) -> Token | Failure | None:
        """Wait for the right to renew; None: it is ours, or the store does not answer. Else there is no need to renew."""
        credentials, obstacles = renewal.credentials, self._obstacles
        known = renewal.base
        time = asyncio.get_running_loop().time
        news_until, wait = time(), _FIRST_ASK
        if self._held.may_be_refreshed(renewal, self._clock.now()) and self._shared.has_others:
            news_until += NEWS_TAKES[0 if self._shared.access.is_distant else 1]
        while True:
            entered = await self._shared.enter(known=known, forced=renewal.is_forced)
            if entered is None:
                return None
            if renewal.is_forced:
                if entered.stored.refusals and not obstacles.refusals:
                    await self._shared.refuse({})
                return None
            now, theirs = self._clock.now(), entered.stored.token
            if entered.turn is Turn.NEWS:
                if obstacles.will_do(theirs, credentials):
                    if (taken := self._held.came_meanwhile(theirs, renewal.base)) is not None:
                        return taken
                    if self._held.is_news(theirs, renewal.base, now):
                        return replace(theirs, source=Source.STORE)
                known = theirs
            elif (obstacle := obstacles.first(now.steady)) is not None:
                return obstacle
            elif entered.turn is Turn.GRANTED:
                if time() >= news_until:
                    return None
                await asyncio.sleep(min(wait, news_until - time()))  # with the right, which is granted again
                wait *= 2

    async def _call(self, renewal: Renewal, *, tries: int) -> Token | Failure | None:
        """Make a session and log it in; a refused login leaves it anonymous.

        None: the application id was refused, or the session is another account's since its login, and the next is not.
        A session whose token is rejected at login is made anew once, in the first renewal of an outage only: probes cost
        one session call each. Raises `SessionOutage`.
        """
        calls = self._calls
        login = self._obstacles.logs_in(calls.credentials) and not renewal.refused
        if renewal.credentials is not calls.credentials:
            return ELSEWHERE  # they changed this very moment: the renewal is begun anew
        try:
            session = await calls.session(tries=tries, until=renewal.until)
            again = tries > 1
            while login:
                if renewal.rejected and renewal.base is not None and session.value == renewal.base.value:
                    # The rejected token came again ("or returns existing", core/README.md): no login could succeed with it.
                    return session
                # A needless login counts towards a lock-out: whoever was stopped meanwhile asks for the right anew.
                if not await self._shared.rights.is_still_ours():
                    if (found := await self._enter(renewal)) is not None:
                        return found
                    login = self._obstacles.logs_in(calls.credentials)
                    continue
                try:
                    return await calls.login(session, tries=tries, until=renewal.until)
                except ForeignLogin as refused:
                    renewal.refused[refused.what] = str(refused)
                    self._observer.harvest("foreign")
                    return None
                except SessionRefused as refused:
                    renewal.refused[refused.what] = str(refused)
                    return session
                except SessionTokenRejected:
                    dead = session
                if not again:
                    raise SessionOutage("CardCash rejects the tokens it has just given.")
                again = False
                # One that is lost is sent once more: the renewal must not fail over it.
                session = await calls.session(tries=2, until=renewal.until)
                if session.value == dead.value:
                    raise SessionOutage("CardCash rejects the token it has just given, and gives it again.")
        except SessionRefused as refused:
            renewal.refused[refused.what] = str(refused)
            return None
        return session

    def _settle(self, renewal: Renewal, outcome: Token | Failure) -> None:
        """Take what a renewal brought, and tell those who wait, or begin anew for them."""
        self.first_is_over.set()
        if self.stopping:
            self._tell(renewal, STOPPING)
            return
        if renewal.credentials is not self._calls.credentials:
            self._supersede(renewal, "credentials")
            return
        self._obstacles.refused(renewal.refused)
        if isinstance(outcome, Token):
            if self._held.was_asked_too_early(outcome, renewal):
                self._supersede(renewal, "rejected")
                return
            outcome = self._adopted(outcome, renewal)
        if isinstance(outcome, Token):
            self._obstacles.pause.end()
            self._tell(renewal, outcome, recovered=True)
        elif outcome.already_reported:
            self._tell(renewal, outcome)
        else:
            self._fail(renewal, outcome)

    def _adopted(self, token: Token, renewal: Renewal) -> Token | Failure:
        """Adopt a renewal's token if it is worth it; returns what is held then."""
        login_refused = "login" in self._obstacles.refusals
        worth = self._held.weigh(
            token,
            renewal,
            is_foreign=self._shared.holds_foreign,
            login_refused=login_refused,
            now=self._clock.now(),
        )
        if isinstance(worth, Failure):
            return worth
        result, fields = "login_refused" if login_refused else "ok", {}
        if isinstance(worth, Stays):
            result = worth.result
            self._shared.save()
        elif token.source is Source.STORE and not renewal.refused:  # it was made, and counted, elsewhere
            self._shared.take(token)
            return self._held.token or token
        else:
            self.succeeded += 1
            self._shared.adopt(token)
            fields = {"lifetime": round(token.lifetime, 3), "source": token.source.value}
        if result == "login_refused":
            fields["sentence"] = self._obstacles.refusals["login"]
        self._observer.renewal(renewal.reason, result, fields)
        return self._held.token or token

    def _fail(self, renewal: Renewal, failure: Failure) -> None:
        """Begin a pause: of background tries when the held token is merely given again, else of all renewals."""
        is_harmless = failure.result == "same_token" and not renewal.rejected
        failure = self._obstacles.failed(failure, self._clock.now().steady, is_harmless=is_harmless)
        fields = {"sentence": failure.sentence, "pause": failure.retry_after}
        self._observer.renewal(renewal.reason, failure.result, fields)
        self._tell(renewal, failure, failed_for=None if is_harmless else failure.retry_after)

    def _tell(
        self, renewal: Renewal, outcome: Token | Failure, *, failed_for: float | None = None, recovered: bool = False
    ) -> None:
        self.current, self._shared.renewing = None, False
        renewal.tell(outcome)
        self._shared.rights.end(failed_for=failed_for, recovered=recovered)
        self._observer.renewal_took(asyncio.get_running_loop().time() - renewal.began)

    def _supersede(self, renewal: Renewal, reason: str) -> None:
        """Begin the next renewal for those who waited for this one."""
        self._shared.rights.end()
        self._observer.renewal(renewal.reason, "superseded", {})
        renewal.begin(reason, self._held.token, self._calls.credentials, rejected=self._held.is_rejected)
