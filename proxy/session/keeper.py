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
    another process's is better      → held         → held         → held          → held
    it expires                       -              → none         → none          → none
    the application id changes       renew          as rejected, but requests go with it; nothing is taken from answers
    an operator renews               renew          renew          renew           renew

Beside it, `identity_lost`: a caller's login was in it and is gone (revoked, expired, renewed by an operator); it is told
once, goes with the anonymous tokens that follow, and ends with the next token that has an account. And `refusals`:
"app_id" (no renewal begins) and "login" (renewals stay anonymous, and do not take an account that is held); they come
from a renewal or from the store, and end when the secrets change, an operator renews, or another process forgets them.
A renewal is begun by one of these and joined by all others; none begins while one runs, a pause lasts, or the application
id is refused. A changed secret and an operator end pauses; an operator waits for a renewal that began before he asked.
At most one renewal runs at any time among all who share the store, and a caller that leaves cancels nothing. Tokens are
compared by identity: the clock never decides whether a rejected token is replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TypeGuard

from proxy.clock import Clock
from proxy.core.attempts import Verdict
from proxy.core.dialect import Candidate, Malformed
from proxy.core.errors import SessionUnavailable
from proxy.core.token import Freshness, Source, Token
from proxy.session.background_renewal import Due, what_is_due
from proxy.session.cardcash_calls import Credentials, SessionOutage
from proxy.session.failures import BUG, ELSEWHERE, LONGEST_PAUSE, STOPPING, Failure, Pause
from proxy.session.held_token import HeldToken, Stays, outranks, refreshed
from proxy.session.ports import RENEWAL_DEADLINE, Calls, Observer, Policy, Status
from proxy.session.probes import Probes
from proxy.session.refusals import is_foreign, leave_anonymous, logs_in, secrets_of, will_do
from proxy.session.renewal import FIRST_ATTEMPTS, OPERATOR, Renewal, make_token
from proxy.session.shared import STORE_DEADLINE, Shared
from proxy.session.stores import SharedStore, Stored, Turn
from proxy.tasks import Tasks

__all__ = ["RENEWAL_DEADLINE", "Calls", "Observer", "Policy", "SessionKeeper", "Status"]


class SessionKeeper:
    """Holds the shared token for all callers. Lives in one event loop; every method must be called there."""

    def __init__(self, calls: Calls, *, store: SharedStore, clock: Clock, observer: Observer, policy: Policy) -> None:
        self.calls = calls
        self._clock = clock
        self._observer = observer
        self._policy = policy
        self._shared = Shared(store, clock=clock, observer=observer)
        self._probes = Probes(policy)
        self._tasks = Tasks()
        self._held = HeldToken(policy.renew_ahead)
        self._renewal: Renewal | None = None
        #: What CardCash refused; a new mapping with each change, so that an older reading of the store is known as such.
        self.refusals: Mapping[str, str] = {}
        #: The store could not be told of them.
        self._refusals_unsaved = False
        self._pause = Pause()
        self._last_failure = ELSEWHERE
        #: Between background tries that bring nothing; no request is refused over it.
        self._background_pause = Pause()
        self._keeping_alive: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None
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
        self._held.is_rejected = held is not None
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
        if isinstance(found, Malformed):
            self._observer.harvest("malformed")
            return None
        held = self.held
        is_late = held is not sent_with or self._is_foreign()
        if is_late and (login_as is None or (held is not None and held.identity is not None)):
            self._observer.harvest("late")
            return None
        outcome = refreshed(found, sent_with=sent_with, login_as=login_as, now=self._clock.now())
        if isinstance(outcome, str):
            self._observer.harvest(outcome)
            if outcome == "anonymous" and not sent_with.own_login and self._may_begin():
                self._begin("identity")
            return None
        self._harvests += 1
        self._adopt_refreshed(outcome)
        self._observer.harvest("adopted")
        return outcome

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

    # What operators and the composition root ask

    async def start(self, *, eager: bool) -> None:
        """Take over what the store holds, unless a caller's renewal does so; with `eager` begin one in the background."""
        self._last_used = self._clock.now().steady
        before = self.refusals
        stored = await self._shared.look(self._secrets)
        if stored is not None:
            self._learn(stored, before)
        shared = None if stored is None else stored.token
        if self._renewal is None and self._is_news(shared):
            self._adopt(replace(shared, source=Source.STORE))
            self._save()
            self.first_attempt_over.set()
        elif eager and self.held is None and self._renewal is None:
            self._begin("start")

    async def renew_now(self) -> Token:
        """Renew whatever is held: an operator asks. Forgets refusals and ends pauses. Raises `SessionUnavailable`."""
        self._forget()
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
        self._forget()
        if self._renewal is not None:
            self._renewal.stop()
        elif self.first_attempt_over.is_set():
            self._begin("credentials")

    async def catch_up(self) -> bool:
        """Take over what others stored, and store what could not be; False: nobody shares the store. For every second."""
        if not self._shared.has_others:
            return False
        await self._saved()
        before = self.refusals
        if self._refusals_unsaved:
            self._refusals_unsaved = not await self._shared.refuse(before, self._secrets)
        self._take_over(await self._shared.look(self._secrets), before)
        self._save()
        return True

    def look(self) -> None:
        """Do what is due for the held token: for every second, and for requests in the second half of the window."""
        held, windows = self._held.token, self._held.windows
        if held is None or windows is None or self._renewal is not None:
            return
        now = self._clock.now()
        due = what_is_due(
            held,
            windows,
            now,
            is_used=now.steady - self._last_used < self._policy.idle_after,
            not_before=max(self._pause.until, self._background_pause.until),
            login_refused="login" in self.refusals,
        )
        if due is Due.LOSS:
            self._lose_identity()
        elif due is not Due.NOTHING and self._may_begin():
            if due is Due.RENEWAL:
                self._begin("window")
            elif self._keeping_alive is None or self._keeping_alive.done():
                self._keeping_alive = self._tasks.spawn(self._keep_alive(held), name="session-keep-alive")

    def login_turn(self) -> AbstractAsyncContextManager[None]:
        """Hold the turn to handle a caller's login, among all callers here and all who share the store."""
        return self._shared.login_turn()

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
        return self.alone or self._refusals_unsaved

    @property
    def waiters(self) -> int:
        """How many callers wait for a renewal."""
        return 0 if self._renewal is None else len(self._renewal.waiters)

    def status(self) -> Status:
        """Describe the session as it is now."""
        now = self._clock.now()
        held, windows = self._held.token, self._held.windows
        what, sentence = next(iter(self.refusals.items()), (None, None))
        return Status(
            state="none" if windows is None else windows.freshness(now).value,
            expires_wall=windows.expires_wall if windows else None,
            expires_in=max(0.0, windows.expires_at - now.steady) if windows else None,
            renews_in=max(0.0, windows.renew_at - now.steady) if windows else None,
            lifetime=windows.expires_at - held.born.steady if held and windows else None,
            window=windows.expires_at - windows.stale_at if windows else None,
            source=held.source.value if held else None,
            identity=held.identity if held and not self.identity_lost else None,
            own_login=held.own_login if held else False,
            identity_lost=self.identity_lost,
            refused=what,
            refusal=sentence,
            paused_for=self._pause.left(now.steady),
            failures=self._pause.failures,
            renewals=self._renewals,
            harvests=self._harvests,
            renewing=self._renewal is not None,
            waiters=self.waiters,
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
        if self._stopping:
            return STOPPING
        if (sentence := self.refusals.get("app_id")) is not None:
            return Failure("refused", sentence, LONGEST_PAUSE, already_reported=True)
        left = self._pause.left(self._clock.now().steady)
        return replace(self._last_failure, retry_after=left, already_reported=True) if left > 0 else None

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
                outcome = await self._attempt(renewal)
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

    async def _attempt(self, renewal: Renewal) -> Token | Failure:
        """Take another process's token or make one, and store it."""
        token: Token | None = None
        secrets = self._secrets
        try:
            async with asyncio.timeout(self._policy.deadline) as renewal.scope:
                if renewal.reason == "credentials":
                    await self._shared.end_pause()  # it was about others
                if (found := await self._enter(renewal, secrets)) is not None:
                    return found
                # While the store is away all replicas renew, each for itself: none of them insists.
                is_alone = self._shared.is_cut_off
                attempts = 1 if is_alone or self._pause.failures else FIRST_ATTEMPTS
                token = await make_token(self.calls, renewal, attempts=attempts, login="login" not in self.refusals)
                if renewal.refused:
                    # Before the right is given back: the next in line must not try it too. It counts here only at the
                    # end, since it may be about secrets that have just changed.
                    self._refusals_unsaved = not await self._shared.refuse(
                        {**self.refusals, **renewal.refused}, secrets
                    )
                if (
                    token is not None and not is_alone
                ):  # else it is stored when the store is back, and nobody waits for it
                    token = await self._shared.save(token, secrets, yields=not renewal.is_forced) or token
        except SessionOutage as outage:
            return Failure("failed", f"No session with CardCash: {outage}", outage.retry_after)
        except TimeoutError:
            if token is None and not renewal.refused:
                return Failure("failed", f"No session with CardCash within {self._policy.deadline:g} s.")
        return Failure("refused", renewal.refused["app_id"], LONGEST_PAUSE) if token is None else token

    async def _enter(self, renewal: Renewal, secrets: str) -> Token | Failure | None:
        """Wait for the right to renew; None: it is ours, or the store does not answer. Else there is no need to renew."""
        known = self.held
        while True:
            before = self.refusals
            needs_login = logs_in(self.calls.credentials, before)
            entered = await self._shared.enter(secrets, known=known, needs_login=needs_login, forced=renewal.is_forced)
            if entered is None:
                return None
            if renewal.is_forced:
                if entered.stored.refusals and not self.refusals:
                    await self._shared.refuse({}, secrets)
                return None
            self._learn(entered.stored, before)
            shared = entered.stored.token
            if entered.turn is Turn.NEWS:
                if self._is_news(shared):
                    return replace(shared, source=Source.STORE)
                known = shared
            elif (obstacle := self._obstacle()) is not None:
                return obstacle
            elif entered.turn is Turn.GRANTED:
                return None

    def _settle(self, renewal: Renewal, outcome: Token | Failure) -> None:
        """Take what a renewal brought, and tell those who wait, or begin anew for them."""
        self.first_attempt_over.set()
        if self._stopping:
            self._tell(renewal, STOPPING)
            return
        if renewal.credentials is not self.calls.credentials:
            self._begin_anew(renewal, "credentials")
            return
        if renewal.refused:
            self.refusals = {**self.refusals, **renewal.refused}
        if isinstance(outcome, Token):
            if self._held.was_asked_too_early(outcome, renewal):
                self._begin_anew(renewal, "rejected")
                return
            outcome = self._judged(outcome, renewal)
        if isinstance(outcome, Token):
            self._pause.end()
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
        self._shared.end(failed_for=failed_for, recovered=recovered)
        self._observer.renewal_took(asyncio.get_running_loop().time() - renewal.began)

    def _begin_anew(self, renewal: Renewal, reason: str) -> None:
        """Begin the next renewal for those who waited for this one."""
        self._shared.end()
        self._observer.renewal(renewal.reason, "superseded", {})
        renewal.begin(reason, self.held, self.calls.credentials, rejected=self._held.is_rejected)

    def _failed(self, renewal: Renewal, failure: Failure) -> None:
        """Begin a pause: of background tries when the held token is merely given again, else of all renewals."""
        harmless = failure.result == "same_token" and not renewal.rejected
        pause = self._background_pause if harmless else self._pause
        seconds = pause.failed(self._clock.now().steady, at_least=failure.retry_after or 0.0)
        failure = replace(failure, retry_after=seconds)
        if not harmless:
            self._last_failure = failure
        self._observer.renewal(renewal.reason, failure.result, {"sentence": failure.sentence, "pause": seconds})
        self._tell(renewal, failure, failed_for=None if harmless else seconds)

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
            self._held.is_rejected = True
            if self._may_begin():
                self._begin("rejected")

    # State

    @property
    def _secrets(self) -> str:
        return secrets_of(self.calls.credentials)

    def _is_foreign(self) -> bool:
        """Say whether the held token is another application id's."""
        return self.held is not None and is_foreign(self.held, self.calls.credentials)

    def _is_news(self, shared: Token | None) -> TypeGuard[Token]:
        """Say whether what another process stored makes a renewal needless."""
        return will_do(shared, self.calls.credentials, self.refusals) and self._held.is_news(shared, self._clock.now())

    def _adopt(self, token: Token) -> None:
        self._held.adopt(token)
        self.identity_lost = token.identity is None and (token.login_lost or self.identity_lost)
        self._background_pause.end()

    def _adopt_refreshed(self, token: Token) -> None:
        self._adopt(token)
        self._save()

    def _lose_identity(self) -> None:
        if not self.identity_lost:
            self.identity_lost = True
            self._observer.identity_lost()

    def _forget(self) -> None:
        """Forget what is against a renewal: an operator asks, or the secrets are others."""
        self.refusals = {}
        self._refusals_unsaved = False
        self._pause.end()
        self._background_pause.end()

    # What is shared

    def _learn(self, stored: Stored, before: Mapping[str, str]) -> None:
        """Take over what is against a renewal; `before` are the refusals when the store was asked."""
        if self.refusals is before and not self._refusals_unsaved:
            self.refusals = dict(stored.refusals)
        now = self._clock.now().steady
        if self._shared.knows_failures or stored.paused_for > self._pause.left(now):
            self._pause.take_over(now, failures=stored.failures, left=stored.paused_for)

    def _take_over(self, stored: Stored | None, before: Mapping[str, str]) -> None:
        """Learn, and hold their token if it is the better one.

        During a renewal, which learns by itself when it is its turn, only a login is taken: it beats an anonymous one.
        """
        if stored is None:
            return
        if self._renewal is None:
            self._learn(stored, before)
        shared, held = stored.token, self.current()
        if not will_do(shared, self.calls.credentials, self.refusals):
            return
        if not outranks(shared, held, self._clock.now()) and not self._shared.replaced(held):
            return
        if self._renewal is not None and (shared.identity is None or held is None or held.identity is not None):
            return
        self._adopt(replace(shared, source=Source.STORE))
        self._save()
        self._observer.renewal("store", "ok", {"source": "store"})

    def _save(self) -> None:
        """See to it that the held token gets into the store: one writer, which always ends with the newest."""
        if (self._saving is None or self._saving.done()) and self._unsaved() is not None:
            self._saving = self._tasks.spawn(self._write(), name="session-save")

    def _unsaved(self) -> Token | None:
        held = self.current()
        return None if held is None or self._shared.has(held) else held

    async def _saved(self) -> None:
        """Wait until what is held was written, or could not be in time."""
        if self._saving is not None:
            await asyncio.wait({self._saving}, timeout=STORE_DEADLINE)

    async def _write(self) -> None:
        while (held := self._unsaved()) is not None:
            winner = await self._shared.save(held, self._secrets, yields=True)
            if winner is None:
                return  # it stays unsaved until the next look
            if winner is not held and self.held is held:
                self._adopt(replace(winner, source=Source.STORE))
