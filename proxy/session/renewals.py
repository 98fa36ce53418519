"""The one renewal under way, for all who wait: when one may begin, what its token is worth, and what its failure costs.

How it comes by a token is `session_maker.py`'s affair, whose place in the session's life the table in `keeper.py`.
"""

from __future__ import annotations

import asyncio

from proxy.clock import Clock
from proxy.core.token import Source, Token
from proxy.session.failure_pause import BUG, STOPPING, Failure
from proxy.session.held_token import HeldToken, Stays
from proxy.session.obstacles import Obstacles
from proxy.session.ports import Calls, Observer
from proxy.session.renewal import Renewal
from proxy.session.session_maker import SessionMaker
from proxy.session.shared import Shared
from proxy.tasks import Tasks


class Renewals:
    """Renews the held token, once for all who ask meanwhile."""

    def __init__(
        self,
        maker: SessionMaker,
        shared: Shared,
        held: HeldToken,
        obstacles: Obstacles,
        calls: Calls,
        *,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._maker = maker
        self._shared = shared
        self._held = held
        self._obstacles = obstacles
        self._calls = calls
        self._clock = clock
        self._observer = observer
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
            if renewal.credentials is not self._calls.credentials:  # they changed before it had begun
                self._begin_for_the_same(renewal, "credentials")
            try:
                outcome = await self._maker.make(renewal)
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
        elif token.source is Source.STORE:  # it was made, and counted, elsewhere
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
        self._begin_for_the_same(renewal, reason)

    def _begin_for_the_same(self, renewal: Renewal, reason: str) -> None:
        renewal.begin(reason, self._held.token, self._calls.credentials, rejected=self._held.is_rejected)
