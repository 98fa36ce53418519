"""The keeper of the one shared token: the only owner of its state. All that stands in the other files is told by arguments.

In one of these states is the token, in one of those (below) the way to a new one:

    none       there is none, or it has expired: requests wait for a renewal
    held       requests go with it
    stale      as held, in the renewal window: requests go with it while one background renewal runs
    rejected   CardCash did not take it: who was told so waits for a renewal, the others still go with it

What can happen, and what is then done and held:

    what happens                     none           held           stale           rejected
    a request asks                   renew, wait    the token      the token;      the token;
                                                                   from the        a patient one
                                                                   middle: renew   waits
    a request's token was rejected   renew, wait    renew, wait    renew, wait     join, wait
      (that very one; an older: nothing)            → rejected     → rejected
    an answer brings a newer one     -              → held         → held          → held
      (to a request with that very one, and of its account; else it is left)
    a caller's login brings one      → held         → held         → held          → held
      (late: only in place of an anonymous one)
    a renewal brings one             → held         → held         → held          → held
    ... brings that very one         -              pause of the background only   → held by a further
                                                                                   renewal, or pause
    ... brings less (anonymous)      → held         an account that came meanwhile, or whose login is refused, stays
    ... fails                        pause; who waits is told so, unless the token is usable and was not rejected to him
    another process's is better,     → held         → held         → held          → held
      or was stored in its place,
      or before it could be stored
    it expires                       -              → none         → none          → none
    the application id changes       renew          as rejected, but requests go with it; nothing is taken from answers
    an operator renews               renew          renew          renew           renew

Beside it, `identity_lost`: a caller's login was in it and is gone (revoked, expired, renewed by an operator); it is told
once, goes with the anonymous tokens that follow, and ends with the next token that has an account. If it gave way to
another account (two logged in while the store was away; the first that is stored wins), only a login here ends it: nobody
is moved to another account silently. And `refusals`:
"app_id" (no renewal begins) and "login" (renewals stay anonymous, and do not take an account that is held); they come
from a renewal or from the store, and end when the secrets change, an operator renews, or another process forgets them.
A renewal is begun by one of these and joined by all others; none begins while one runs, a pause lasts, or the application
id is refused. A changed secret and an operator end pauses; an operator waits for a renewal that began before he asked.
While a store on other machines cannot be asked, each goes on alone: renewals after a while and spread over the window, what
they bring is stored later, and no caller logs in unless the account is held already.
At most one renewal runs at any time among all who share the store, and a caller that leaves cancels nothing. Tokens are
compared by identity: the clock never decides whether a rejected token is replaced.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final

from proxy.clock import Clock
from proxy.core.attempts import Verdict
from proxy.core.dialect import Candidate, Malformed
from proxy.core.errors import SessionUnavailable
from proxy.core.login_request import same_account
from proxy.core.token import Freshness, Source, Token
from proxy.session.background_renewal import Due, alone_from, what_is_due
from proxy.session.cardcash_calls import Credentials
from proxy.session.failures import BUG, LONGEST_PAUSE, STOPPING, UNASKED, Failure, Pause
from proxy.session.held_token import HeldToken, Stays
from proxy.session.obstacles import Obstacles
from proxy.session.ports import RENEWAL_DEADLINE, Calls, Observer, Policy
from proxy.session.probes import Probes
from proxy.session.refusals import is_foreign, leave_anonymous, secrets_of, will_do
from proxy.session.renewal import OPERATOR, Renewal
from proxy.session.session_maker import SessionMaker
from proxy.session.shared import Shared
from proxy.session.status import Status, describe
from proxy.session.store_access import STORE_DEADLINE
from proxy.session.stores import SharedStore, Stored
from proxy.tasks import Tasks

__all__ = ["RENEWAL_DEADLINE", "Calls", "Observer", "Policy", "SessionKeeper", "Status"]

#: Seconds by which a token that traffic brought is stored later, at random: of many replicas one is the first.
_SPREAD: Final = 1.0


class SessionKeeper:
    """Holds the shared token for all callers. Lives in one event loop; every method must be called there."""

    def __init__(self, calls: Calls, *, store: SharedStore, clock: Clock, observer: Observer, policy: Policy) -> None:
        self.calls = calls
        self._clock = clock
        self._observer = observer
        self._policy = policy
        self._shared = Shared(store, clock=clock, observer=observer)
        self._maker = SessionMaker(calls, self._shared, clock, deadline=policy.deadline)
        self._probes = Probes(policy)
        self._tasks = Tasks()
        self._held = HeldToken(policy.renew_ahead)
        self._obstacles = Obstacles()
        self._renewal: Renewal | None = None
        #: Between background tries that bring nothing; no request is refused over it.
        self._background_pause = Pause()
        self._keeping_alive: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None
        #: Ends the wait of a token that is stored later.
        self._save_now = asyncio.Event()
        #: Where in the window this process renews while the store is down.
        self._fraction = random.random()  # noqa: S311 - spreads, guards nothing
        #: A caller's login is gone, and nobody has logged in since.
        self.identity_lost = False
        #: Steady seconds of the last request.
        self._last_used = float("-inf")
        self._renewals = 0
        self._harvests = 0
        self._stopping = False
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
        if account and token.identity is None and self._shared.has_others:
            before = self.refusals
            self._take_over(await self._shared.glance(self._secrets), before)
            token = self.current() or await self._token(patient=patient)
        return token

    def token_at_once(self, *, account: bool = False) -> Token | None:
        """Return what `token` would, if there is nothing to do or to wait for, as nearly always; else None."""
        held, windows = self._held.token, self._held.windows
        if windows is None or self._renewal is not None or (account and self._shared.has_others):
            return None
        now = self._clock.now()
        if now.steady >= windows.stale_at or now.wall >= windows.expires_wall:
            return None
        self._last_used = now.steady
        return held

    async def _token(self, *, patient: bool) -> Token:
        now = self._clock.now()
        self._last_used = now.steady
        held, windows = self._held.token, self._held.windows
        if held is None or windows is None:
            return await self._renewed("first")
        freshness = windows.freshness(now)
        if freshness is Freshness.EXPIRED:
            return await self._renewed("expired")
        if patient and self._renewal is not None and self._held.is_rejected:
            return await self._renewed("rejected")
        if freshness is Freshness.STALE and now.steady >= windows.renew_at:
            self.look()
        return held

    def current(self) -> Token | None:
        """Return the held token if it has not expired: for a request that has waited since it asked `token()`."""
        return self._held.usable(self._clock.now())

    async def renew(self, *, rejected: Token) -> Token:
        """Replace a token that CardCash rejected; of any number of callers one renews.

        Returns the held token, which is the rejected one when CardCash gives no other. Raises `SessionUnavailable`.
        """
        held = self.held
        if held is not None and held.value != rejected.value:
            return await self.token()
        # By value: a login that brings no token of its own leaves the session's, in another object.
        self._held.reject()
        return await self._renewed("rejected", rejected)

    async def probe(self, token: Token) -> Verdict:
        """Try a held token that a route rejected on `session.keepalive_path`, once for all who ask."""
        if self.is_replacing(token):
            return Verdict.REJECTED
        probed = await self._probes.of(token, self.calls)
        if probed.newer is not None and self.held is token:
            self._adopt_refreshed(probed.newer)
        return probed.verdict

    def offer(self, found: Candidate | Malformed, *, sent_with: Token, login_as: str | None = None) -> Token | None:
        """Consider a token found in the answer to a request sent with `sent_with`; return what is held if adopted.

        Adopted only if `sent_with` is still held: a late answer never overwrites a newer token. `login_as` says that the
        answer is to a caller's own login; its token beats an anonymous one that raced with it.
        """
        outcome = self._held.harvested(
            found, sent_with=sent_with, login_as=login_as, is_foreign=self._is_foreign(), now=self._clock.now()
        )
        if isinstance(outcome, Token):
            self._harvests += 1
            self._adopt_refreshed(outcome, logged_in=login_as is not None)
            self._observer.harvest("adopted")
            return outcome
        self._observer.harvest(outcome)
        if outcome == "anonymous" and not sent_with.own_login and self._may_begin():
            self._begin("identity")
        held = self.current()
        if outcome == "late" and login_as and held and held.identity and not same_account(login_as, held.identity):
            self._lose_identity()
        return None

    def is_replacing(self, token: Token) -> bool:
        """Say whether this rejected token is being replaced, or has been."""
        held = self.held
        if held is None or held.value != token.value:
            return True
        return self._renewal is not None and self._held.is_rejected

    def login_refused(self, token: Token | None) -> bool:
        """Say whether a request with `token` went anonymously because CardCash refused our login, tried anew or not."""
        return leave_anonymous(token, self.calls.credentials, self.refusals)

    @property
    def held(self) -> Token | None:
        """The token that is held, expired or not."""
        return self._held.token

    @property
    def refusals(self) -> Mapping[str, str]:
        """What CardCash refused ("app_id", "login"), each with a sentence for people."""
        return self._obstacles.refusals

    @asynccontextmanager
    async def login_turn(self) -> AsyncIterator[Token]:
        """Hold the turn to handle a caller's login, among all callers here and all who share the store; gives the token.

        Whoever has the next turn finds in the store whose session this is by then. Raises `SessionUnavailable`, also when
        the store of a fleet cannot be asked and the session is anonymous: another account may have logged in elsewhere.
        """
        async with self._shared.rights.login_turn() as is_everywhere:
            is_known = await self.catch_up() and is_everywhere
            held = self.current()
            if not is_known and self._shared.access.is_distant and (held is None or held.identity is None):
                raise UNASKED.error()
            token = await self.token()
            try:
                yield token
            finally:
                await self.catch_up()

    # What operators and the composition root ask

    async def start(self, *, eager: bool) -> None:
        """Take over what the store holds, unless a caller's renewal does so; with `eager` begin one in the background."""
        self._last_used = self._clock.now().steady
        before = self.refusals
        if (stored := await self._shared.look(self._secrets)) is not None:
            self._learn(stored, before)
            shared = stored.token
            if (
                self._renewal is None
                and will_do(shared, self.calls.credentials, self.refusals)
                and self._held.is_news(shared, self.held, self._clock.now())
            ):
                self._adopt(replace(shared, source=Source.STORE))
                self._save()
                self.first_attempt_over.set()
        if eager and self.held is None and self._renewal is None:
            self._begin("start")

    async def renew_now(self) -> Token:
        """Renew whatever is held: an operator asks. Forgets refusals and ends pauses. Raises `SessionUnavailable`."""
        self._obstacles.forget()
        self._background_pause.end()
        await self._shared.end_pause()
        if not self.refusals:
            await self._shared.refuse({}, self._secrets)
        if self._renewal is not None and not self._renewal.is_forced:
            # It began before the operator asked, and may have passed the point where a refusal mattered.
            await self._renewal.outcome()
        if "app_id" in self.refusals:
            raise SessionUnavailable(self.refusals["app_id"], retry_after=LONGEST_PAUSE)
        if self._stopping:
            raise STOPPING.error()
        outcome = await (self._renewal or self._begin(OPERATOR)).outcome()
        if isinstance(outcome, Failure):
            if outcome.result == "same_token" and (held := self.current()) is not None:
                return held
            raise outcome.error()
        return outcome

    def use_credentials(self, credentials: Credentials) -> None:
        """Take changed secrets: forgets refusals, and makes a session with them while requests go on with the old one.

        A renewal under way used the old ones: it is stopped, and whoever waits for it waits for the next.
        """
        if self.calls.credentials == credentials:
            return
        self.calls.credentials = credentials
        if self._stopping:
            return
        self._obstacles.forget()
        self._background_pause.end()
        if self._renewal is not None:
            self._renewal.stop()
        elif self.first_attempt_over.is_set():
            self._begin("credentials")

    async def follow(self) -> None:
        """Catch up with those who share the store, if there are any; for every second, which a slow store makes longer."""
        if self._shared.has_others and self._shared.look_is_due():
            await self.catch_up()

    async def catch_up(self) -> bool:
        """Take over what others stored, and store what could not be; False: the store did not say."""
        if not self._shared.has_others:
            return True
        await self._saved()
        before = self.refusals
        if self._obstacles.refusals_unsaved:
            self._obstacles.refusals_unsaved = not await self._shared.refuse(before, self._secrets)
        stored = await self._shared.look(self._secrets)
        self._take_over(stored, before)
        self._save()
        return stored is not None

    def look(self) -> None:
        """Do what is due for the held token: for every second, and for requests in the second half of the window."""
        held, windows = self._held.token, self._held.windows
        if held is None or windows is None or self._renewal is not None:
            return
        now = self._clock.now()
        not_before = max(self._obstacles.pause.until, self._background_pause.until)
        if self._shared.access.is_cut_off:
            not_before = max(not_before, alone_from(windows, self._fraction))
        due = what_is_due(
            held,
            windows,
            now,
            is_used=now.steady - self._last_used < self._policy.idle_after,
            not_before=not_before,
            login_refused="login" in self.refusals,
        )
        if due is Due.LOSS:
            self._lose_identity()
        elif due is not Due.NOTHING and self._may_begin():
            if due is Due.RENEWAL:
                self._begin("window")
            elif self._keeping_alive is None or self._keeping_alive.done():
                self._keeping_alive = self._tasks.spawn(self._keep_alive(held), name="session-keep-alive")

    def refuse(self) -> None:
        """Answer whoever waits for a renewal, or will, with `Draining`."""
        self._stopping = True
        self.first_attempt_over.set()
        self._probes.stop()
        if self._renewal is not None:
            self._renewal.tell(STOPPING)

    async def close(self) -> None:
        """Stop all that runs, but give the last token a moment: a caller's login cannot be made again after a restart."""
        self.refuse()
        await self._probes.close()
        await self._saved()
        await self._tasks.close()
        await self._shared.close()

    @property
    def alone(self) -> bool:
        """Say whether the held token is not the one in the store: it could not be stored yet, or there is none any more."""
        return self._unsaved() is not None

    @property
    def pending(self) -> bool:
        """Say whether something is still to be stored."""
        return self.alone or self._obstacles.refusals_unsaved

    @property
    def waiters(self) -> int:
        """How many callers wait for a renewal."""
        return 0 if self._renewal is None else len(self._renewal.waiters)

    def status(self) -> Status:
        """Describe the session as it is now."""
        return describe(
            self._held,
            self._obstacles,
            self._clock.now(),
            identity_lost=self.identity_lost,
            renewals=self._renewals,
            harvests=self._harvests,
            waiters=None if self._renewal is None else len(self._renewal.waiters),
        )

    # Renewals

    async def _renewed(self, reason: str, rejected: Token | None = None) -> Token:
        """Join the renewal under way or begin one; `rejected` is what the caller cannot use."""
        outcome: Token | Failure | None = self._obstacle() if self._renewal is None else None
        if outcome is None:
            outcome = await (self._renewal or self._begin(reason)).outcome()
        if isinstance(outcome, Token):
            return outcome
        held = self.current() if outcome is not STOPPING else None
        if held is not None and (rejected is None or held.value != rejected.value):
            # Whatever fails, a token that lives is used: one that was harvested meanwhile, or one that others still use.
            return held
        if rejected is not None and outcome.result == "same_token":
            return rejected
        raise outcome.error()

    def _may_begin(self) -> bool:
        return self._renewal is None and self._obstacle() is None

    def _obstacle(self) -> Failure | None:
        """Say why no renewal may begin now; whoever needs a token meanwhile is told so at once."""
        return STOPPING if self._stopping else self._obstacles.first(self._clock.now().steady)

    def _begin(self, reason: str) -> Renewal:
        renewal = Renewal(reason, self.held, self.calls.credentials, rejected=self._held.is_rejected)
        self._renewal = renewal
        self._tasks.spawn(self._renew(renewal), name="session-renewal")
        return renewal

    async def _renew(self, renewal: Renewal) -> None:
        """Renew until those who wait are told."""
        while self._renewal is renewal:
            bug: Exception | None = None
            if renewal.credentials is not self.calls.credentials:  # they changed before it had begun
                renewal.begin("credentials", self.held, self.calls.credentials, rejected=self._held.is_rejected)
            try:
                outcome = await self._maker.make(renewal, self._held, self._obstacles)
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
        self.first_attempt_over.set()
        if self._stopping:
            self._tell(renewal, STOPPING)
            return
        if renewal.credentials is not self.calls.credentials:
            self._begin_anew(renewal, "credentials")
            return
        self._obstacles.refused(renewal.refused)
        if isinstance(outcome, Token):
            if self._held.was_asked_too_early(outcome, renewal):
                self._begin_anew(renewal, "rejected")
                return
            outcome = self._judged(outcome, renewal)
        if isinstance(outcome, Token):
            self._obstacles.pause.end()
            self._tell(renewal, outcome, recovered=True)
        elif outcome.already_reported:
            self._tell(renewal, outcome)
        else:
            self._failed(renewal, outcome)

    def _tell(
        self, renewal: Renewal, outcome: Token | Failure, *, failed_for: float | None = None, recovered: bool = False
    ) -> None:
        self._renewal = None
        renewal.tell(outcome)
        self._shared.rights.end(failed_for=failed_for, recovered=recovered)
        self._observer.renewal_took(asyncio.get_running_loop().time() - renewal.began)

    def _begin_anew(self, renewal: Renewal, reason: str) -> None:
        """Begin the next renewal for those who waited for this one."""
        self._shared.rights.end()
        self._observer.renewal(renewal.reason, "superseded", {})
        renewal.begin(reason, self.held, self.calls.credentials, rejected=self._held.is_rejected)

    def _failed(self, renewal: Renewal, failure: Failure) -> None:
        """Begin a pause: of background tries when the held token is merely given again, else of all renewals."""
        now = self._clock.now().steady
        if harmless := failure.result == "same_token" and not renewal.rejected:
            seconds = self._background_pause.failed(now, at_least=failure.retry_after or 0.0)
            failure = replace(failure, retry_after=seconds)
        else:
            failure = self._obstacles.failed(failure, now)
        fields = {"sentence": failure.sentence, "pause": failure.retry_after}
        self._observer.renewal(renewal.reason, failure.result, fields)
        self._tell(renewal, failure, failed_for=None if harmless else failure.retry_after)

    def _judged(self, token: Token, renewal: Renewal) -> Token | Failure:
        """Adopt a renewal's token if it is worth it; returns what is held then."""
        held, login_refused = self._held.token, "login" in self.refusals
        worth = self._held.weigh(
            token, renewal, is_foreign=self._is_foreign(), login_refused=login_refused, now=self._clock.now()
        )
        if isinstance(worth, Failure):
            return worth
        if isinstance(worth, Stays):
            assert held is not None  # noqa: S101
            self._observer.renewal(renewal.reason, worth.result, self._refusal(worth.result))
            self._save()
            return held
        if held is not None and held.own_login and token.identity is None:
            self._lose_identity()
        if self.identity_lost and token.identity is None:
            # Kept with the token, so that it is known after a restart and by the other processes.
            token = replace(token, login_lost=True)
        self._renewals += 1
        self._adopt(token)
        self._save()
        result = "login_refused" if login_refused else "ok"
        fields = {"lifetime": round(token.lifetime, 3), "source": token.source.value}
        self._observer.renewal(renewal.reason, result, fields | self._refusal(result))
        return token

    def _refusal(self, result: str) -> dict[str, object]:
        return {"sentence": self.refusals["login"]} if result == "login_refused" else {}

    async def _keep_alive(self, held: Token) -> None:
        """Keep a caller's login going."""
        probed = await self._probes.of(held, self.calls)
        if self.held is not held:
            return
        if probed.newer is not None:
            self._adopt_refreshed(probed.newer)
            self._observer.renewal("keepalive", "ok", {"lifetime": round(probed.newer.lifetime, 3)})
            return
        rejected = probed.verdict is Verdict.REJECTED
        self._background_pause.failed(self._clock.now().steady)
        self._observer.renewal("keepalive", "failed", {"rejected": rejected})
        if rejected:
            self._held.reject()
            if self._may_begin():
                self._begin("rejected")

    # State

    @property
    def _secrets(self) -> str:
        return secrets_of(self.calls.credentials)

    def _is_foreign(self) -> bool:
        """Say whether the held token is another application id's."""
        return self.held is not None and is_foreign(self.held, self.calls.credentials)

    def _adopt(self, token: Token, *, logged_in: bool = False) -> None:
        """Hold this one from now on; `logged_in`: a caller has just done so here."""
        before, held = self.held, self.current()
        if before is not None and before.own_login and held is None and token.identity is not None and not logged_in:
            self._lose_identity()  # it expired unnoticed
        moves = held is not None and held.identity is not None and token.identity is not None
        if token.identity is None:
            self.identity_lost = token.login_lost or self.identity_lost
        elif logged_in or not moves:
            self.identity_lost = False
        elif held is not None and not same_account(str(held.identity), token.identity):
            self._lose_identity()
        self._held.adopt(token)
        self._shared.adopted(token)
        self._background_pause.end()

    def _adopt_refreshed(self, token: Token, *, logged_in: bool = False) -> None:
        self._adopt(token, logged_in=logged_in)
        self._save(later=not logged_in and self._shared.access.is_distant)

    def _lose_identity(self) -> None:
        if not self.identity_lost:
            self.identity_lost = True
            self._observer.identity_lost()

    # What is shared

    def _learn(self, stored: Stored, before: Mapping[str, str]) -> None:
        knows_failures = self._shared.rights.knows_failures
        self._obstacles.learn(stored, before, self._clock.now().steady, knows_failures=knows_failures)

    def _take_over(self, stored: Stored | None, before: Mapping[str, str]) -> None:
        """Learn, and hold their token if it is the better one.

        During a renewal, which learns by itself when it is its turn, only a login is taken: it beats an anonymous one.
        """
        if stored is None:
            return
        if self._renewal is None:
            self._learn(stored, before)
        theirs, held = stored.token, self.current()
        if self._renewal is not None and (
            held is None or held.identity is not None or not theirs or not theirs.identity
        ):
            return
        if theirs is not None and self._yields_to(theirs, is_new=self._shared.is_new(theirs)):
            self._take(theirs)

    def _yields_to(self, theirs: Token, *, is_new: bool = True) -> bool:
        held = self.current()
        return will_do(theirs, self.calls.credentials, self.refusals) and self._held.yields_to(
            theirs, held, self._clock.now(), is_new=is_new
        )

    def _take(self, theirs: Token) -> None:
        self._adopt(replace(theirs, source=Source.STORE))
        self._save()
        self._observer.renewal("store", "ok", {"source": "store"})

    def _save(self, *, later: bool = False) -> None:
        """See to it that the held token gets into the store: one writer, which always ends with the newest.

        `later`: at a random moment soon, if then no other process has stored one that will do.
        """
        if not later:
            self._save_now.set()
        if (self._saving is None or self._saving.done()) and self._unsaved() is not None:
            if later:
                self._save_now.clear()
            self._saving = self._tasks.spawn(self._write(later=later), name="session-save")

    def _unsaved(self) -> Token | None:
        held = self.current()
        # One of another application id is in the store for whoever has that one, and is to be replaced here.
        return None if held is None or self._shared.has(held) or self._is_foreign() else held

    async def _saved(self) -> None:
        """Wait until what is held was written, or could not be in time."""
        if self._saving is not None:
            self._save_now.set()
            await asyncio.wait({self._saving}, timeout=STORE_DEADLINE)

    async def _write(self, *, later: bool) -> None:
        if later:
            with suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(0, _SPREAD)):  # noqa: S311 - spreads, guards nothing
                    await self._save_now.wait()
            before = self.refusals
            self._take_over(await self._shared.look(self._secrets), before)
        while (held := self._unsaved()) is not None:
            winner = await self._shared.save(held, self._secrets, yields_to=self._yields_to)
            if winner is None:
                return  # it stays unsaved until the next look
            if winner is not held and self.held is held:
                self._take(winner)
