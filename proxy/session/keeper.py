"""The keeper of the one shared token.

Owns which token is held, when it is renewed, and who waits for it. At most one renewal runs at any time, whoever asks;
a caller that leaves cancels nothing. Tokens are compared by identity: the clock never decides whether a rejected token is
replaced. How a session is made is `login.py`'s affair, where it is kept the store's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from proxy.clock import Clock
from proxy.core.dialect import Candidate, Malformed
from proxy.core.errors import SessionUnavailable
from proxy.core.retry import backoff
from proxy.core.token import Freshness, Source, Token, Windows
from proxy.session.login import Credentials, SessionOutage, SessionRefused, SessionTokenRejected
from proxy.session.stores import Store
from proxy.tasks import Tasks

#: A renewal, retries and login included, ends after this many seconds (CONTRACT "Sessions").
RENEWAL_DEADLINE: Final = 10.0
#: Calls of one kind in the first renewal of an outage; later ones probe with a single call each, so that the first
#: minute of an outage costs at most 4 + 6 session calls however many callers there are.
FIRST_ATTEMPTS: Final = 4
#: The pause after a failed renewal, in seconds: 1 doubling to 30 (CONTRACT "Sessions").
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0


class Calls(Protocol):
    """What the keeper needs of `login.SessionCalls`."""

    credentials: Credentials

    async def session(self, *, attempts: int) -> Token:
        """Make an anonymous session."""
        ...

    async def login(self, session: Token, *, attempts: int) -> Token:
        """Log a session in."""
        ...

    async def keep_alive(self, token: Token, path: str) -> Token | None:
        """Call something harmless with the token, for a refresh in the answer."""
        ...


class Observer(Protocol):
    """Who is told of what happens to the session; must not raise and must not wait."""

    def renewal(self, reason: str, result: str, fields: Mapping[str, object]) -> None:
        """A renewal ended; `result` is ok, login_refused, refused, failed, same_token or superseded."""
        ...

    def harvest(self, result: str) -> None:
        """A token was seen in an answer: adopted, unchanged, late or malformed."""
        ...

    def identity_lost(self) -> None:
        """The login of a caller is gone; the proxy goes on anonymously."""
        ...

    def store(self, operation: str, result: str) -> None:
        """The store was used: load, save or lease; ok, lost or failed."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings of `session.*`, durations in seconds."""

    renew_ahead: float = 300.0
    idle_after: float = 3600.0
    keepalive_path: str = "/v3/carts"


@dataclass(frozen=True, slots=True)
class Status:
    """A snapshot for `/status`; holds no token."""

    state: str
    expires_wall: float | None
    expires_in: float | None
    renews_in: float | None
    source: str | None
    identity: str | None
    own_login: bool
    identity_lost: bool
    latched: str | None
    latch_sentence: str | None
    paused_for: float
    failures: int
    renewals: int
    harvests: int
    renewing: bool
    waiters: int


@dataclass(frozen=True, slots=True)
class _Failure:
    """How a renewal failed; kept as a value, so that every waiter gets an exception of its own."""

    result: str
    sentence: str
    retry_after: float | None = None


class SessionKeeper:
    """Holds the shared token for all callers. Lives in one event loop; every method must be called there."""

    def __init__(self, calls: Calls, *, store: Store, clock: Clock, observer: Observer, policy: Policy) -> None:
        self.calls = calls
        self._store = store
        self._clock = clock
        self._observer = observer
        self._policy = policy
        self._tasks = Tasks()
        self._held: Token | None = None
        self._windows: Windows | None = None
        # The renewal in flight, what it is for, the token held when it began, and who waits for it. Fanned out from one
        # callback: thousands of waiters cost a future each, and none of them can cancel it.
        self._flight: asyncio.Task[Token | _Failure] | None = None
        self._reason = ""
        self._rejected: Token | None = None
        self._base: Token | None = None
        self._waiters: set[asyncio.Future[Token]] = set()
        self._keeping_alive = False
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._pause_until = float("-inf")
        self._last_failure = _Failure("failed", "")
        # What CardCash refused: "app_id" stops everything, "login" only the login. Opened by a new secret or an operator.
        self._latched: dict[str, str] = {}
        self._last_used = float("-inf")
        self._identity_lost = False
        self._renewals = 0
        self._harvests = 0
        self._closed = False
        #: Set when the first renewal has ended, well or not.
        self.first_attempt_over = asyncio.Event()

    # What the request path asks

    async def token(self, *, patient: bool = False) -> Token:
        """Return a token that is not expired; waits for a renewal only when none is held.

        `patient` is for a request that cannot be sent twice: it also waits while a rejected token is being replaced.
        Raises `SessionUnavailable`, at once while a pause lasts or the application id is refused.
        """
        now = self._clock.now()
        self._last_used = now.steady
        held, windows = self._held, self._windows
        if held is None or windows is None:
            return await self._renewed("first")
        if patient and self._flight is not None and self._rejected is held:
            return await self._joined()
        freshness = windows.freshness(now)
        if freshness is Freshness.EXPIRED:
            return await self._renewed("expired")
        if freshness is Freshness.STALE and now.steady >= windows.renew_at:
            self._renew_in_background()
        return held

    async def renew(self, *, rejected: Token) -> Token:
        """Replace a token that CardCash rejected; of any number of callers one renews.

        Returns the held token, which is the rejected one when CardCash gives no other. Raises `SessionUnavailable`.
        """
        held = self._held
        if held is not None and held is not rejected:
            return await self.token()
        return await self._renewed("rejected", rejected)

    def offer(self, found: Candidate | Malformed, *, sent_with: Token, login_as: str | None = None) -> Token | None:
        """Consider a token found in the answer to a request sent with `sent_with`; return what is held if adopted.

        Adopted only if `sent_with` is still held: a late answer never overwrites a newer token. `login_as` says that the
        answer is to a caller's own login; its token beats an anonymous one that raced with it.
        """
        if isinstance(found, Malformed):
            self._observer.harvest("malformed")
            return None
        held = self._held
        if login_as is None:
            if held is not sent_with:
                self._observer.harvest("late")
                return None
            if found.value == held.value:
                self._observer.harvest("unchanged")
                return None
            token = Token(
                found.value, self._clock.now(), found.lifetime, Source.HARVEST, sent_with.identity, sent_with.own_login
            )
        else:
            token = Token(found.value, self._clock.now(), found.lifetime, Source.LOGIN, login_as, own_login=True)
            self._identity_lost = False
        self._harvests += 1
        self._adopt(token)
        self._observer.harvest("adopted")
        self._tasks.spawn(self._save(token, replaces=held), name="session-save")
        return token

    # What operators and the composition root ask

    async def start(self, *, eager: bool) -> None:
        """Take over what the store holds; with `eager` begin the first renewal in the background."""
        self._last_used = self._clock.now().steady
        shared = await self._load()
        if shared is not None and Windows.of(shared, 0).freshness(self._clock.now()) is not Freshness.EXPIRED:
            self._adopt(shared)
            self.first_attempt_over.set()
        elif eager:
            self._take_off("start")

    async def renew_now(self) -> Token:
        """Renew whatever is held: an operator asks. Opens latches and ends pauses. Raises `SessionUnavailable`."""
        self._latched.clear()
        self._end_pause()
        if self._flight is None:
            self._take_off("operator")
        return await self._joined()

    def use_credentials(self, credentials: Credentials) -> None:
        """Take changed secrets: opens latches, and makes a session with them while requests go on with the old one."""
        self.calls.credentials = credentials
        self._latched.clear()
        self._end_pause()
        if self._flight is None and self._held is not None:
            self._take_off("credentials")

    async def close(self) -> None:
        """Stop timers and a renewal in flight; whoever waits for it gets `SessionUnavailable`."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.close()
        await self._store.close()

    @property
    def alive(self) -> bool:
        """Say whether the keeper can still do its work."""
        return not self._closed

    @property
    def latched(self) -> Mapping[str, str]:
        """What CardCash refused, with the sentence that says what to do."""
        return self._latched

    @property
    def waiters(self) -> int:
        """How many callers wait for a renewal."""
        return len(self._waiters)

    @property
    def held(self) -> Token | None:
        """The token that is held, expired or not."""
        return self._held

    def status(self) -> Status:
        """Describe the session as it is now."""
        now = self._clock.now()
        held, windows = self._held, self._windows
        state = "none" if held is None or windows is None else windows.freshness(now).value
        return Status(
            state=state,
            expires_wall=windows.expires_wall if windows else None,
            expires_in=windows.expires_at - now.steady if windows else None,
            renews_in=windows.renew_at - now.steady if windows else None,
            source=held.source.value if held else None,
            identity=held.identity if held else None,
            own_login=held.own_login if held else False,
            identity_lost=self._identity_lost,
            latched=next(iter(self._latched), None),
            latch_sentence=next(iter(self._latched.values()), None),
            paused_for=max(0.0, self._pause_until - now.steady),
            failures=self._failures,
            renewals=self._renewals,
            harvests=self._harvests,
            renewing=self._flight is not None,
            waiters=len(self._waiters),
        )

    # One renewal at a time

    async def _renewed(self, reason: str, rejected: Token | None = None) -> Token:
        if self._flight is None:
            if (sentence := self._latched.get("app_id")) is not None:
                raise SessionUnavailable(sentence, retry_after=LONGEST_PAUSE)
            left = self._pause_until - self._clock.now().steady
            if left > 0:
                if rejected is not None and self._last_failure.result == "same_token":
                    return rejected
                raise SessionUnavailable(self._last_failure.sentence, retry_after=left)
            self._take_off(reason, rejected)
        return await self._joined()

    async def _joined(self) -> Token:
        waiter: asyncio.Future[Token] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)

    def _renew_in_background(self) -> None:
        held = self._held
        if self._flight is not None or "app_id" in self._latched or self._clock.now().steady < self._pause_until:
            return
        if held is not None and held.own_login:
            # Its password is the caller's: a new session would lose the account, so the old one is kept going.
            if not self._keeping_alive:
                self._keeping_alive = True
                self._tasks.spawn(self._keep_alive(held), name="session-keep-alive")
            return
        self._take_off("window")

    def _take_off(self, reason: str, rejected: Token | None = None) -> None:
        self._reason, self._rejected, self._base = reason, rejected, self._held
        self._flight = self._tasks.spawn(self._fly(rejected), name="session-renewal")
        self._flight.add_done_callback(self._landed)

    async def _fly(self, rejected: Token | None) -> Token | _Failure:
        attempts = FIRST_ATTEMPTS if self._failures == 0 else 1
        try:
            async with asyncio.timeout(RENEWAL_DEADLINE), self._store.lease():
                shared = await self._load()
                if shared is not None and self._is_news(shared, rejected):
                    return shared
                token = await self._made(attempts)
                await self._save(token, replaces=shared)
                return token
        except SessionRefused as refused:
            self._latched[refused.what] = str(refused)
            return _Failure("refused", str(refused), LONGEST_PAUSE)
        except SessionOutage as outage:
            return _Failure("failed", f"No session with CardCash: {outage}", outage.retry_after)
        except TimeoutError:
            return _Failure("failed", f"No session with CardCash: it was not made within {RENEWAL_DEADLINE:g} s.")

    async def _made(self, attempts: int) -> Token:
        session = await self.calls.session(attempts=attempts)
        for _ in range(2):
            if not self.calls.credentials.logs_in or "login" in self._latched:
                return session
            try:
                return await self.calls.login(session, attempts=attempts)
            except SessionRefused as refused:
                self._latched[refused.what] = str(refused)
            except SessionTokenRejected:
                session = await self.calls.session(attempts=1)
        if "login" in self._latched:
            return session
        raise SessionOutage("CardCash rejects the tokens it has just given.")

    def _is_news(self, shared: Token, rejected: Token | None) -> bool:
        """Say whether another process has already renewed: usable, and newer than all we know."""
        known = self._held if rejected is None else rejected
        if Windows.of(shared, 0).freshness(self._clock.now()) is Freshness.EXPIRED:
            return False
        return known is None or (shared.value != known.value and shared.born.wall > known.born.wall)

    def _landed(self, flight: asyncio.Task[Token | _Failure]) -> None:
        rejected, base, held = self._rejected, self._base, self._held
        self._flight = self._rejected = self._base = None
        self.first_attempt_over.set()
        if flight.cancelled():
            outcome: Token | _Failure = _Failure("failed", "The proxy is stopping.")
        elif (error := flight.exception()) is not None:
            outcome = _Failure("failed", f"No session with CardCash: {type(error).__name__} in the renewal.")
        else:
            outcome = flight.result()
        if isinstance(outcome, Token):
            outcome = self._judged(outcome, rejected=rejected, base=base, held=held)
        if isinstance(outcome, _Failure):
            self._failed(outcome, rejected)
            return
        self._failures = 0
        self._end_pause()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(outcome)

    def _judged(
        self, token: Token, *, rejected: Token | None, base: Token | None, held: Token | None
    ) -> Token | _Failure:
        """Decide what a renewal's token is worth, against what happened while it was made."""
        if held is not None and held is not base and held.identity is not None and token.identity is None:
            # A caller logged in meanwhile: an anonymous session must not take that away.
            self._observer.renewal(self._reason, "superseded", {})
            return held
        if rejected is not None and token.value == rejected.value:
            return _Failure("same_token", "CardCash gave the rejected token again.")
        if held is not None and token.value == held.value and not self._expired():
            return _Failure("same_token", "CardCash gave the held token again.")
        if held is not None and held.own_login and token.identity is None:
            self._identity_lost = True
            self._observer.identity_lost()
        self._renewals += 1
        self._adopt(token)
        result = "login_refused" if "login" in self._latched else "ok"
        self._observer.renewal(
            self._reason, result, {"lifetime": round(token.lifetime, 3), "source": token.source.value}
        )
        return token

    def _failed(self, failure: _Failure, rejected: Token | None) -> None:
        self._failures += 1
        self._last_failure = failure
        pause = max(
            backoff(self._failures, first=FIRST_PAUSE, cap=LONGEST_PAUSE), min(failure.retry_after or 0.0, 30.0)
        )
        self._pause_until = self._clock.now().steady + pause
        self._observer.renewal(self._reason, failure.result, {"sentence": failure.sentence, "pause": pause})
        self._schedule()
        for waiter in self._waiters:
            if waiter.done():
                continue
            if failure.result == "same_token" and self._held is not None:
                waiter.set_result(self._held)
            else:
                waiter.set_exception(SessionUnavailable(failure.sentence, retry_after=pause))
        del rejected

    def _end_pause(self) -> None:
        self._failures = 0
        self._pause_until = float("-inf")

    async def _keep_alive(self, held: Token) -> None:
        try:
            async with asyncio.timeout(RENEWAL_DEADLINE):
                token = await self.calls.keep_alive(held, self._policy.keepalive_path)
        except (SessionOutage, TimeoutError):
            token = None
        finally:
            self._keeping_alive = False
        if token is not None and self._held is held:
            self._adopt(token)
            self._observer.renewal("keepalive", "ok", {"lifetime": round(token.lifetime, 3)})
            await self._save(token, replaces=held)
        elif self._held is held:
            self._failed(_Failure("failed", "The keep-alive call brought no new token."), None)

    # Holding it

    def _adopt(self, token: Token) -> None:
        self._held = token
        self._windows = Windows.of(token, self._policy.renew_ahead)
        self._schedule()

    def _expired(self) -> bool:
        return self._windows is None or self._windows.freshness(self._clock.now()) is Freshness.EXPIRED

    def _schedule(self) -> None:
        """Set the one timer: the next background renewal, or its next try after a failure."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._windows is None or self._closed:
            return
        now = self._clock.now().steady
        delay = max(self._windows.renew_at, self._pause_until) - now
        self._timer = asyncio.get_running_loop().call_later(max(0.0, delay), self.tick)

    def tick(self) -> None:
        """Renew in the background if it is time and there was traffic; called by the timer, and by tests."""
        now = self._clock.now()
        windows = self._windows
        if windows is None or self._closed or now.steady - self._last_used >= self._policy.idle_after:
            return
        if windows.freshness(now) is Freshness.EXPIRED:
            return
        if now.steady < windows.renew_at:
            self._schedule()
            return
        self._renew_in_background()

    async def _load(self) -> Token | None:
        token = await self._store.load()
        self._observer.store("load", "ok" if token is not None else "empty")
        return token

    async def _save(self, token: Token, *, replaces: Token | None) -> None:
        saved = await self._store.save(token, replaces=replaces)
        self._observer.store("save", "ok" if saved else "lost")
