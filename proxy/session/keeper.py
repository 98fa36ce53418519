"""The keeper of the one shared token.

Owns which token is held, when it is renewed, and what a new one is worth. At most one renewal runs at any time, whoever
asks; a caller that leaves cancels nothing. Tokens are compared by identity: the clock never decides whether a rejected
token is replaced. How a session is made is `renewal.py`'s and `cardcash_calls.py`'s affair, where it is kept `shared.py`'s.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from proxy.clock import Clock
from proxy.core.attempts import Verdict
from proxy.core.dialect import Candidate, Malformed
from proxy.core.errors import SessionUnavailable
from proxy.core.token import Freshness, Source, Token
from proxy.session.background_renewal import Renewing, Upkeep
from proxy.session.cardcash_calls import Credentials, SessionOutage, SessionRefused
from proxy.session.failures import Obstacles
from proxy.session.held_token import Holding, Kept, refreshed
from proxy.session.neighbours import Neighbours
from proxy.session.ports import RENEWAL_DEADLINE, Calls, Observer, Policy, Status
from proxy.session.probes import Probes
from proxy.session.refusals import Latches
from proxy.session.renewal import FIRST_ATTEMPTS, LONGEST_PAUSE, STOPPING, Failure, Flight, Pause
from proxy.session.shared import Saver, Shelf
from proxy.session.stores import Store
from proxy.tasks import Tasks

__all__ = ["RENEWAL_DEADLINE", "Calls", "Observer", "Policy", "SessionKeeper", "Status"]


class SessionKeeper:
    """Holds the shared token for all callers. Lives in one event loop; every method must be called there."""

    def __init__(
        self,
        calls: Calls,
        *,
        store: Store,
        clock: Clock,
        observer: Observer,
        policy: Policy,
        outage: Pause | None = None,
    ) -> None:
        self.calls = calls
        self._shelf = Shelf(store, clock=clock, observer=observer)
        self._clock = clock
        self._observer = observer
        self._policy = policy
        self._tasks = Tasks()
        self._holding = Holding(policy.renew_ahead)
        self._saver = Saver(self._shelf, held=lambda: self.held, adopt=self._adopt)
        self._flight: Flight | None = None
        #: What CardCash refused: "app_id" stops everything, "login" only the login. Opened by a new secret or an operator.
        self.latched = Latches(self._shelf, lambda: self.calls.credentials)
        self._obstacles = Obstacles(self.latched, outage or Pause(), clock=clock, observer=observer)
        #: A caller's login is gone, and nobody has logged in since.
        self.identity_lost = False
        self._renewals = 0
        self._harvests = 0
        #: The keeper can still do its work.
        self.alive = True
        renewing = Renewing(
            may_begin=self._may_begin,
            not_before=lambda: self._obstacles.outage.until,
            login_refused=lambda: "login" in self.latched,
            begin=self._take_off,
            adopt=self._adopt_refreshed,
            lapsed=self._lapsed,
        )
        self._upkeep = Upkeep(self._holding, renewing, calls=calls, clock=clock, observer=observer, policy=policy)
        self.look = self._upkeep.look  #: To be called every second.
        self._neighbours = Neighbours(
            self._shelf,
            self._saver,
            self.latched,
            self._holding,
            clock=clock,
            observer=observer,
            adopt=self._adopt,
            renewing=lambda: self._flight is not None,
        )
        self.catch_up, self.login_turn = self._neighbours.catch_up, self._neighbours.login_turn
        self._probes = Probes(calls, path=policy.keepalive_path, deadline=policy.deadline, refreshed=self._adopt_newer)
        #: Set when the first renewal has ended, well or not.
        self.first_attempt_over = asyncio.Event()

    # What the request path asks

    async def token(self, *, patient: bool = False, account: bool = False) -> Token:
        """Return a token that is not expired; waits for a renewal only when none is held.

        `patient` is for a request that cannot be sent twice: it also waits while a rejected token is being replaced.
        `account` is for one about somebody's account: it goes anonymously only if nobody who shares the store has logged in.
        Raises `SessionUnavailable`, at once while a pause lasts or the application id is refused.
        """
        token = await self._token(patient=patient)
        if account and token.identity is None and await self._neighbours.glance():
            token = self.current() or await self._token(patient=patient)
        return token

    async def _token(self, *, patient: bool) -> Token:
        now = self._clock.now()
        self._upkeep.last_used = now.steady
        held, windows = self._holding.token, self._holding.windows
        if held is None or windows is None:
            return await self._renewed("first")
        freshness = windows.freshness(now)
        if freshness is Freshness.EXPIRED:
            return await self._renewed("expired")
        if patient and self._flight is not None and self._holding.is_rejected:
            return await self._renewed("rejected")
        if freshness is Freshness.STALE and now.steady >= windows.renew_at:
            self._upkeep.act()
        return held

    def current(self) -> Token | None:
        """Return the held token if it has not expired: for a request that has waited since it asked `token()`."""
        return self._holding.usable(self._clock.now())

    async def renew(self, *, rejected: Token) -> Token:
        """Replace a token that CardCash rejected; of any number of callers one renews.

        Returns the held token, which is the rejected one when CardCash gives no other. Raises `SessionUnavailable`.
        """
        held = self.held
        if held is not None and held.value != rejected.value:
            return await self.token()
        # By value: a login that brings no token of its own leaves the session's, in another object.
        self._holding.is_rejected = held is not None
        return await self._renewed("rejected", rejected)

    async def probe(self, token: Token) -> Verdict:
        """Try a held token that a route rejected on `session.keepalive_path`, once for all who ask."""
        return Verdict.REJECTED if self.is_replacing(token) else await self._probes.of(token)

    def offer(self, found: Candidate | Malformed, *, sent_with: Token, login_as: str | None = None) -> Token | None:
        """Consider a token found in the answer to a request sent with `sent_with`; return what is held if adopted.

        Adopted only if `sent_with` is still held: a late answer never overwrites a newer token. `login_as` says that the
        answer is to a caller's own login; its token beats an anonymous one that raced with it.
        """
        if isinstance(found, Malformed):
            self._observer.harvest("malformed")
            return None
        held = self.held
        is_late = held is not sent_with or self._holding.is_foreign
        if is_late and (login_as is None or (held is not None and held.identity is not None)):
            self._observer.harvest("late")
            return None
        outcome = refreshed(found, sent_with=sent_with, login_as=login_as, now=self._clock.now())
        if isinstance(outcome, str):
            self._observer.harvest(outcome)
            if outcome == "anonymous" and not sent_with.own_login and self._may_begin():
                self._take_off("identity")
            return None
        self._harvests += 1
        self._adopt_refreshed(outcome)
        self._observer.harvest("adopted")
        return outcome

    # What operators and the composition root ask

    async def start(self, *, eager: bool) -> None:
        """Take over what the store holds, unless a caller's renewal does so; with `eager` begin one in the background."""
        self._upkeep.last_used = self._clock.now().steady
        await self.latched.recall()
        shared = await self._shelf.load()
        if self._flight is None and self.latched.fits(shared) and self._holding.is_news(shared, self._clock.now()):
            self._adopt(replace(shared, source=Source.STORE))
            self._saver.check()
            self.first_attempt_over.set()
        elif eager and self.held is None and self._flight is None:
            self._take_off("start")

    async def renew_now(self) -> Token:
        """Renew whatever is held: an operator asks. Opens latches and ends pauses. Raises `SessionUnavailable`."""
        self.latched.clear()
        self._obstacles.end(self._upkeep.lull)
        await self.latched.forget()
        if self._flight is not None and not self._flight.fresh:
            # It began before the operator asked, and may have passed the point where a latch mattered.
            await self._flight.outcome()
        if "app_id" in self.latched:
            raise SessionUnavailable(self.latched["app_id"], retry_after=LONGEST_PAUSE)
        if not self.alive:
            raise STOPPING.error()
        outcome = await (self._flight or self._take_off("operator", fresh=True)).outcome()
        if isinstance(outcome, Failure):
            if outcome.result == "same_token" and (held := self._holding.usable(self._clock.now())) is not None:
                return held
            raise outcome.error()
        return outcome

    def use_credentials(self, credentials: Credentials) -> None:
        """Take changed secrets: opens latches, and makes a session with them while requests go on with the old one.

        A renewal under way used the old ones: it is stopped, and whoever waits for it waits for the next.
        """
        before, self.calls.credentials = self.calls.credentials, credentials
        if before == credentials or not self.alive:
            return
        if before.app_id != credentials.app_id:
            self._holding.is_foreign = self.held is not None
        self.latched.clear()
        self._obstacles.end(self._upkeep.lull)
        if self._flight is not None:
            self._flight.outdated = True
            if self._flight.task is not None:
                self._flight.task.cancel()
        elif self.first_attempt_over.is_set():
            self._take_off("credentials")

    def refuse(self) -> None:
        """Answer whoever waits for a renewal, or will, with `Draining`."""
        self.alive = False
        self._probes.stop()
        if self._flight is not None:
            self._flight.land(STOPPING)

    async def close(self) -> None:
        """Stop timers and a renewal in flight."""
        self.refuse()
        await self._upkeep.close()
        await self._probes.close()
        await self._saver.close()
        await self._tasks.close()
        await self._shelf.close()

    @property
    def waiters(self) -> int:
        """How many callers wait for a renewal."""
        return 0 if self._flight is None else len(self._flight.waiters)

    def is_replacing(self, token: Token) -> bool:
        """Say whether this rejected token is being replaced, or has been."""
        held = self.held
        if held is None or held.value != token.value:
            return True
        return self._flight is not None and self._holding.is_rejected

    @property
    def held(self) -> Token | None:
        """The token that is held, expired or not."""
        return self._holding.token

    def login_refused(self, token: Token | None) -> bool:
        """Say whether a request with `token` went anonymously because CardCash refused our login, tried anew or not."""
        return self.latched.leave_anonymous(token)

    def status(self) -> Status:
        """Describe the session as it is now."""
        now = self._clock.now()
        return self._holding.describe(
            now,
            identity_lost=self.identity_lost,
            latched=next(iter(self.latched.items()), None),
            paused_for=self._obstacles.outage.left(now.steady),
            failures=self._obstacles.outage.failures,
            renewals=self._renewals,
            harvests=self._harvests,
            renewing=self._flight is not None,
            waiters=self.waiters,
        )

    async def _renewed(self, reason: str, rejected: Token | None = None) -> Token:
        """Join the renewal in flight or begin one; `rejected` is what the caller cannot use."""
        outcome: Token | Failure | None = self._obstacle() if self._flight is None else None
        if outcome is None:
            outcome = await (self._flight or self._take_off(reason)).outcome()
        if isinstance(outcome, Token):
            return outcome
        held = self._holding.usable(self._clock.now()) if outcome is not STOPPING else None
        if held is not None and (rejected is None or held.value != rejected.value):
            # Whatever fails, a token that lives is used: one that was harvested meanwhile, or one that others still use.
            return held
        if rejected is not None and outcome.result == "same_token":
            return rejected
        raise outcome.error()

    def _may_begin(self) -> bool:
        return self._flight is None and self._obstacle() is None

    def _obstacle(self) -> Failure | None:
        """Say why no renewal may begin now."""
        return self._obstacles.now() if self.alive else STOPPING

    def _take_off(self, reason: str, *, fresh: bool = False) -> Flight:
        flight = Flight(reason, base=self.held, rejected=self._holding.is_rejected, fresh=fresh)
        self._flight = flight
        flight.task = self._tasks.spawn(self._fly(flight), name="session-renewal")
        flight.task.add_done_callback(lambda _: flight.told_by(self._landed, self._observer))
        return flight

    async def _fly(self, flight: Flight) -> Token | Failure:
        token: Token | None = None
        try:
            async with asyncio.timeout(self._policy.deadline), self._shelf.lease():
                await (self.latched.forget() if flight.fresh else self.latched.recall())
                shared = await self._shelf.load()
                if not flight.fresh and self.latched.fits(shared) and self._holding.is_news(shared, self._clock.now()):
                    return replace(shared, source=Source.STORE)
                if not flight.fresh and (obstacle := self._obstacle()) is not None:
                    return obstacle  # another process has found the outage while this one waited for the lease
                attempts = FIRST_ATTEMPTS if self._obstacles.outage.failures == 0 else 1
                token = await self.latched.make_token(self.calls, flight, attempts=attempts)
                token = await self._shelf.keep(token, yields=not flight.fresh)
        except SessionRefused as refused:
            return Failure("refused", str(refused), LONGEST_PAUSE, latch=refused.what)
        except SessionOutage as outage:
            return Failure("failed", f"No session with CardCash: {outage}", outage.retry_after)
        except TimeoutError:
            if flight.refused is not None:
                return Failure("refused", str(flight.refused), LONGEST_PAUSE, latch=flight.refused.what)
            if token is None:
                return Failure("failed", f"No session with CardCash within {self._policy.deadline:g} s.")
        assert token is not None  # noqa: S101
        return token

    def _landed(self, flight: Flight) -> None:
        self._flight = None
        self.first_attempt_over.set()
        outcome = flight.result()
        if not self.alive:
            flight.land(STOPPING)
            return
        if flight.outdated:
            self._go_on(flight, "credentials", fresh=False)
            return
        if flight.login_refused is not None:
            self.latched["login"] = flight.login_refused
        if isinstance(outcome, Token):
            if self._holding.was_asked_too_early(outcome, flight):
                self._go_on(flight, "rejected", fresh=False)
                return
            outcome = self._judged(outcome, flight)
        if isinstance(outcome, Failure):
            outcome = self._obstacles.failed(outcome, flight, lull=self._upkeep.lull)
        else:
            self._obstacles.outage.end()
        self._upkeep.schedule()
        flight.land(outcome)

    def _go_on(self, flight: Flight, reason: str, *, fresh: bool) -> None:
        """Begin the next renewal for those who waited for this one."""
        self._observer.renewal(flight.reason, "superseded", {})
        self._take_off(reason, fresh=fresh).waiters = flight.waiters

    def _judged(self, token: Token, flight: Flight) -> Token | Failure:
        """Adopt a renewal's token if it is worth it; returns what is held then."""
        held = self._holding.token
        worth = self._holding.weigh(token, flight, login_refused="login" in self.latched, now=self._clock.now())
        if isinstance(worth, Failure):
            return worth
        if isinstance(worth, Kept):
            assert held is not None  # noqa: S101
            self._observer.renewal(flight.reason, worth.result, self._refusal(worth.result))
            self._saver.save(anew=True)
            return held
        if held is not None and held.own_login and token.identity is None:
            self._lose_identity()
        if self.identity_lost and token.identity is None:
            # Kept with the token, so that it is known after a restart and by the other processes.
            token = replace(token, login_lost=True)
        self._renewals += 1
        self._adopt(token)
        self._saver.check()
        result = "login_refused" if "login" in self.latched else "ok"
        fields = {"lifetime": round(token.lifetime, 3), "source": token.source.value}
        self._observer.renewal(flight.reason, result, fields | self._refusal(result))
        return token

    def _refusal(self, result: str) -> dict[str, object]:
        return {"sentence": self.latched["login"]} if result == "login_refused" else {}

    def _lapsed(self) -> None:
        """The held token has expired and no request has asked since."""
        if self.held is not None and self.held.own_login:
            self._lose_identity()

    def _lose_identity(self) -> None:
        if not self.identity_lost:
            self.identity_lost = True
            self._observer.identity_lost()

    def _adopt(self, token: Token) -> None:
        self._holding.adopt(token)
        self.identity_lost = token.identity is None and (token.login_lost or self.identity_lost)
        self._upkeep.lull.end()
        self._upkeep.schedule()

    def _adopt_newer(self, token: Token, newer: Token) -> None:
        if self.held is token:
            self._adopt_refreshed(newer)

    def _adopt_refreshed(self, token: Token) -> None:
        self._adopt(token)
        self._saver.save()
