"""The keeper of the one shared token: the owner of all its state, and what callers and operators ask of it.

The state is two values that decide and do nothing; three work on it, each calling only what stands further down::

    keeper       requests, operators and the clock ask here
      probes     is it the token that CardCash rejects, or a route?
      renewals   replaces the token, once for all who wait (`renewal`)
      shared     keeps it in step with the store: what to take over, what to save
        rights   one process at a time renews, or handles a login; `store_access`: a store that fails costs no request
      obstacles  what stands against a renewal: refusals, the pause after failures
      held_token which token is held, which of two is, what is due for it
    cardcash_calls, call_sender: what is sent to CardCash, and how often

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
    a second goes by, in use         renew, if      -              from the        as stale
                                     `eager` and it                middle: renew
                                     is the first
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
      or before it could be stored     (one that says a login is lost: only in the place of that login, stored before)
    it expires                       -              → none         → none          → none
    the application id changes       renew          as rejected, but requests go with it; nothing is taken from answers
    an operator renews               renew          renew          renew           renew

Beside it, `identity_lost`: a caller's login was in it and is gone (revoked, expired, renewed by an operator). It is told
once, goes with the anonymous tokens that follow, and ends with the next token that has an account. If the login gave way to
another account (two logged in while the store was away), only a login here ends it: nobody is moved silently.
`refusals`, "app_id" (no renewal begins) and "login" (renewals stay anonymous, and do not take an account that is held), come
from a renewal or from the store, and end when the secrets change, an operator renews, or another process forgets them.
Whoever finds the token of an account gone looks for news of it for a moment first. A renewal is begun by one of these and
joined by all others; none begins while one runs, a pause lasts, or the application id is refused. A changed secret and an
operator end pauses; an operator waits for a renewal that began before he asked. While a store on other machines cannot be
asked, each goes on alone: renewals come after a while and all over the window, what they bring is stored later, and no
caller logs in unless an account is held already. At most one renewal runs among all who share the store, and a caller that
leaves cancels nothing. Tokens are compared by identity: the clock never decides whether a rejected token is replaced.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from proxy.clock import Clock
from proxy.core.attempts import Verdict
from proxy.core.dialect import Candidate, Malformed
from proxy.core.errors import SessionUnavailable
from proxy.core.login_request import same_account
from proxy.core.token import Freshness, Token
from proxy.session.cardcash_calls import Credentials, SessionCalls
from proxy.session.held_token import Due, HeldToken
from proxy.session.obstacles import LONGEST_PAUSE, STOPPING, UNASKED, Failure, Obstacles
from proxy.session.ports import Observer, Policy
from proxy.session.probes import Probes
from proxy.session.renewal import OPERATOR
from proxy.session.renewals import Renewals
from proxy.session.shared import ALL_HAVE_LOOKED, Shared
from proxy.session.status import describe
from proxy.session.stores import SharedStore
from proxy.tasks import Tasks

__all__ = ["Policy", "SessionKeeper"]


class SessionKeeper:
    """Holds the shared token for all callers. Lives in one event loop; every method must be called there."""

    def __init__(
        self, calls: SessionCalls, *, store: SharedStore, clock: Clock, observer: Observer, policy: Policy
    ) -> None:
        self.calls = calls
        self._clock = clock
        self._observer = observer
        # The state, and who works on it, each told of those before it.
        self._held = held = HeldToken(policy.renew_ahead, policy.idle_after)
        self._obstacles = obstacles = Obstacles()
        self._shared = shared = Shared(store, held, obstacles, calls, clock=clock, observer=observer)
        self._renewals = Renewals(
            shared, held, obstacles, calls, clock=clock, observer=observer, deadline=policy.deadline
        )
        self._probes = Probes(policy)
        self._tasks = Tasks()
        self._keeping_alive: asyncio.Task[None] | None = None
        # Where in the window this process renews while the store is down.
        self._fraction = random.random()  # noqa: S311 - spreads, guards nothing
        self._harvests = 0

    async def token(self, *, patient: bool = False, account: bool = False) -> Token:
        """Return a token that is not expired; waits for a renewal only when none is held.

        `patient` is for a request that cannot be sent twice: it also waits while a rejected token is being replaced.
        `account` is for one about somebody's account: it goes anonymously only if nobody who shares the store has logged in.
        Raises `SessionUnavailable`, at once while a pause lasts or the application id is refused.
        """
        token = await self._token(patient=patient)
        if account and token.identity is None and self._shared.has_others:
            await self._shared.glance()
            token = self.current() or await self._token(patient=patient)
        return token

    def token_at_once(self, *, account: bool = False) -> Token | None:
        """Return what `token` would, if there is nothing to do, to wait for or to tell, as nearly always; else None."""
        held, windows = self._held.token, self._held.windows
        if windows is None or self._renewals.current is not None or self._held.identity_lost:
            return None
        if account and self._shared.has_others:
            return None
        now = self._clock.now()
        if now.steady >= windows.stale_at or now.wall >= windows.expires_wall:
            return None
        self._held.last_used = now.steady
        return held

    async def _token(self, *, patient: bool) -> Token:
        now = self._clock.now()
        self._held.last_used = now.steady
        held, windows = self._held.token, self._held.windows
        if held is None or windows is None:
            return await self._renewed("first")
        if windows.freshness(now) is Freshness.EXPIRED:
            return await self._renewed("expired")
        if patient and self._renewals.current is not None and self._held.is_rejected:
            return await self._renewed("rejected")
        if now.steady >= windows.renew_at:
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
            self._shared.adopt(probed.newer, later=True)
        return probed.verdict

    def offer(self, found: Candidate | Malformed, *, sent_with: Token, login_as: str | None = None) -> Token | None:
        """Consider a token found in the answer to a request sent with `sent_with`; return what is held if adopted.

        Adopted only if `sent_with` is still held: a late answer never overwrites a newer token. `login_as` says that the
        answer is to a caller's own login; its token beats an anonymous one that raced with it.
        """
        outcome = self._held.harvested(
            found, sent_with=sent_with, login_as=login_as, is_foreign=self._shared.holds_foreign, now=self._clock.now()
        )
        if isinstance(outcome, Token):
            self._harvests += 1
            self._shared.adopt(outcome, logged_in=login_as is not None, later=login_as is None)
            self._observer.harvest("adopted")
            return self.held
        self._observer.harvest(outcome)
        if outcome == "anonymous" and not sent_with.own_login and self._renewals.may_begin():
            self._renewals.begin("identity")
        held = self.current()
        if outcome == "late" and login_as and held and held.identity and not same_account(login_as, held.identity):
            self._lose_identity()
        return None

    def is_replacing(self, token: Token) -> bool:
        """Say whether this rejected token is being replaced, or has been."""
        held = self.held
        if held is None or held.value != token.value:
            return True
        return self._renewals.current is not None and self._held.is_rejected

    def login_refused(self, token: Token | None) -> bool:
        """Say whether a request with `token` went anonymously because CardCash refused our login, tried anew or not."""
        return self._obstacles.leave_anonymous(token, self.calls.credentials)

    @property
    def held(self) -> Token | None:
        """The token that is held, expired or not."""
        return self._held.token

    @property
    def identity_lost(self) -> bool:
        """Say whether a caller's login is gone, and nobody has logged in since."""
        return self._held.identity_lost

    @property
    def refusals(self) -> Mapping[str, str]:
        """What CardCash refused ("app_id", "login"), each with a sentence for people."""
        return self._obstacles.refusals

    @property
    def forgotten(self) -> Mapping[str, str]:
        """What was refused before, and is forgotten so that it may be tried again: that proves nothing yet."""
        return self._obstacles.forgotten

    @asynccontextmanager
    async def login_turn(self) -> AsyncIterator[Token]:
        """Hold the turn to handle a caller's login, among all callers here and all who share the store; gives the token.

        Whoever has the next turn finds in the store whose session this is by then. Raises `SessionUnavailable`, also when a
        fleet's store cannot be asked and the session is anonymous: another account may have logged in elsewhere.
        """
        async with self._shared.rights.login_turn() as is_everywhere:
            is_known = await self.catch_up() and is_everywhere
            held = self.current()
            if not is_known and self._shared.access.is_distant and (held is None or held.identity is None):
                raise UNASKED.error()
            if self._shared.has_others and self.identity_lost:  # others may go with that login until they have looked
                await asyncio.sleep(self._held.lost_at + ALL_HAVE_LOOKED - self._clock.now().steady)
            token = await self.token()
            try:
                yield token
            finally:
                await self.catch_up()

    @property
    def first_renewal_over(self) -> asyncio.Event:
        """Set when the first renewal has ended, well or not."""
        return self._renewals.first_is_over

    async def start(self, *, eager: bool) -> None:
        """Take over what the store holds, unless a caller's renewal does so; with `eager` make one in the background."""
        self._held.last_used, self._held.eager = self._clock.now().steady, eager
        await self._shared.look()
        if self.held is not None:
            self.first_renewal_over.set()
        elif eager and self._renewals.current is None:
            self._renewals.begin("start")

    async def renew_now(self) -> Token:
        """Renew whatever is held: an operator asks. Forgets refusals and ends pauses. Raises `SessionUnavailable`."""
        renewals = self._renewals
        self._obstacles.forget()
        await self._shared.end_pause()
        if not self.refusals and not await self._shared.refuse({}):
            self._obstacles.refusals_unsaved = True  # or what the store still has of them would count again
        if renewals.current is not None and not renewals.current.is_forced:
            # It began before the operator asked, and may have passed the point where a refusal mattered.
            await renewals.current.outcome()
        if "app_id" in self.refusals:
            raise SessionUnavailable(self.refusals["app_id"], retry_after=LONGEST_PAUSE)
        if renewals.stopping:
            raise STOPPING.error()
        outcome = await (renewals.current or renewals.begin(OPERATOR)).outcome()
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
        if self._renewals.stopping:
            return
        self._obstacles.forget()
        if self._renewals.current is not None:
            self._renewals.current.stop()
        elif self.first_renewal_over.is_set():
            self._renewals.begin("credentials")

    async def follow(self) -> None:
        """Catch up with those who share the store, if there are any; for every second, which a slow store makes longer."""
        if self._shared.look_is_due():
            await self.catch_up()

    async def catch_up(self) -> bool:
        """Take over what others stored, and store what could not be; False: the store did not say."""
        return not self._shared.has_others or await self._shared.catch_up()

    def look(self) -> None:
        """Do what is due for the token: for every second, and for requests in the second half of the window."""
        held, now = self._held.token, self._clock.now()
        if self._renewals.current is not None:
            return
        due = self._held.due(
            now,
            not_before=max(self._obstacles.pause.until, self._obstacles.background_pause.until),
            login_refused="login" in self.refusals,
            later=self._fraction if self._shared.access.is_cut_off else 0.0,
        )
        if due is Due.LOSS:
            self._lose_identity()
        elif due is not Due.NOTHING and self._renewals.may_begin():
            if held is None or due is Due.RENEWAL:
                self._renewals.begin("start" if held is None else "window")
            elif self._keeping_alive is None or self._keeping_alive.done():
                self._keeping_alive = self._tasks.spawn(self._keep_alive(held), name="session-keep-alive")

    def refuse(self) -> None:
        """Answer whoever waits for a renewal, or will, with `Draining`."""
        self._probes.stop()
        self._renewals.stop()

    async def close(self) -> None:
        """Stop all that runs, but give the last token a moment: a caller's login cannot be made again after a restart."""
        self.refuse()
        await self._probes.close()
        await self._tasks.close()
        await self._renewals.close()
        await self._shared.close()

    @property
    def alone(self) -> bool:
        """Say whether the held token is not the one in the store: it could not be stored yet, or there is none any more."""
        return self._shared.unsaved() is not None

    @property
    def pending(self) -> bool:
        """Say whether something is still to be stored."""
        return self._shared.pending

    @property
    def store_trouble(self) -> str | None:
        """What is wrong with the store, in a sentence without a secret."""
        return self._shared.access.trouble(is_pending=self.pending)

    @property
    def waiters(self) -> int:
        """How many callers wait for a renewal."""
        return self._renewals.waiters

    def status(self) -> dict[str, Any]:
        """Describe the session as it is now, under the names of `/status`."""
        return describe(self._held, self._obstacles, self._renewals, harvests=self._harvests, now=self._clock.now())

    async def _renewed(self, reason: str, rejected: Token | None = None) -> Token:
        """Join the renewal under way or begin one; `rejected` is what the caller cannot use."""
        outcome = await self._renewals.outcome(reason)
        if isinstance(outcome, Token):
            return outcome
        held = self.current() if outcome is not STOPPING else None
        if held is not None and (rejected is None or held.value != rejected.value):
            # Whatever fails, a token that lives is used: one that was harvested meanwhile, or one that others still use.
            return held
        if rejected is not None and outcome.result == "same_token":
            return rejected
        raise outcome.error()

    async def _keep_alive(self, held: Token) -> None:
        """Keep a caller's login going."""
        probed = await self._probes.of(held, self.calls)
        if self.held is not held:
            return
        if probed.newer is not None:
            self._shared.adopt(probed.newer, later=True)
            self._observer.renewal("keepalive", "ok", {"lifetime": round(probed.newer.lifetime, 3)})
            return
        rejected = probed.verdict is Verdict.REJECTED
        self._obstacles.background_pause.failed(self._clock.now().steady)
        self._observer.renewal("keepalive", "failed", {"rejected": rejected})
        if rejected:
            self._held.reject()
            if self._renewals.may_begin():
                self._renewals.begin("rejected")

    def _lose_identity(self) -> None:
        if self._held.lose_identity():
            self._observer.identity_lost()
