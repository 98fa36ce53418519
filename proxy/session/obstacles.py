"""What stands against a renewal: what CardCash refused, and the pause after failures in a row; and what follows from them.

What was refused ("app_id", "login") is not tried again: accounts must not be locked out. It is forgotten when the secrets
change or an operator asks, and for nothing else: it outlives a restart, and holds for all who share the store.
No event loop, no clock: callers pass the time, in steady seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeGuard

from proxy.core.backoff import backoff
from proxy.core.errors import Draining, SessionUnavailable, Unavailable
from proxy.core.token import Token
from proxy.session.cardcash_calls import Credentials
from proxy.session.stores import Stored

#: The pause after a failed renewal, in seconds: 1 doubling to 30.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Failure:
    """How a renewal failed; a value, so that every waiter raises an exception of its own."""

    result: str
    sentence: str
    retry_after: float | None = None
    #: Its pause has begun, and the observer knows of it.
    already_reported: bool = False

    def error(self) -> Unavailable:
        """Make the exception of one waiter."""
        if self is STOPPING:
            return Draining(self.sentence)
        error = SessionUnavailable(self.sentence, retry_after=self.retry_after or 1.0)
        error.at_once = self.already_reported
        return error


#: What is known of an outage of which another process has told.
ELSEWHERE: Final = Failure("failed", "No session with CardCash: the last tries failed.")
#: Something went wrong at the end of a renewal that CardCash has no part in.
BUG: Final = Failure("failed", "No session: the proxy failed at the end of a renewal; its log says where.")
#: A caller wants to log in, and whether another account has done so elsewhere is not known.
UNASKED: Final = Failure(
    "failed",
    "The store cannot be asked whether another account has logged in elsewhere, so nobody can log in now: "
    "check session.store.",
    retry_after=5.0,
)
#: Nobody can wait any longer: `drain.timeout` is over.
STOPPING: Final = Failure("failed", "The proxy is stopping.")


class Pause:
    """A growing pause after failures in a row."""

    def __init__(self) -> None:
        self.failures = 0
        self.until = float("-inf")

    def failed(self, now: float, *, at_least: float = 0.0) -> float:
        """Begin the next, longer pause, at most `LONGEST_PAUSE`; returns its seconds."""
        self.failures += 1
        pause = backoff(self.failures, first=FIRST_PAUSE, cap=LONGEST_PAUSE)
        pause = max(pause, min(at_least, LONGEST_PAUSE))
        self.until = now + pause
        return pause

    def take_over(self, now: float, *, failures: int, left: float) -> None:
        """Take over the pause of all who share the store."""
        self.failures, self.until = failures, now + left

    def left(self, now: float) -> float:
        """Seconds still to wait, 0 when it is over."""
        return max(0.0, self.until - now)

    def end(self) -> None:
        """Forget the failures."""
        self.failures, self.until = 0, float("-inf")


class Obstacles:
    """What is known against a renewal by this process, or by any that shares the store."""

    def __init__(self) -> None:
        #: What CardCash refused; a new mapping with each change, so that an older reading of the store is known as such.
        self.refusals: Mapping[str, str] = {}
        #: Those that were forgotten, as long as no token shows that they hold no more.
        self.forgotten: Mapping[str, str] = {}
        #: The store could not be told of them, or that they are forgotten.
        self.refusals_unsaved = False
        self.pause = Pause()
        #: Between background tries that bring nothing; no request is refused over it.
        self.background_pause = Pause()
        self._last_failure = ELSEWHERE

    def first(self, now: float) -> Failure | None:
        """Say why no renewal may begin now; whoever needs a token meanwhile is told so at once."""
        if (sentence := self.refusals.get("app_id")) is not None:
            return Failure("refused", sentence, LONGEST_PAUSE, already_reported=True)
        left = self.pause.left(now)
        return replace(self._last_failure, retry_after=left, already_reported=True) if left > 0 else None

    def logs_in(self, credentials: Credentials) -> bool:
        """Say whether a renewal would try to log in."""
        return credentials.logs_in and "login" not in self.refusals

    def will_do(self, shared: Token | None, credentials: Credentials) -> TypeGuard[Token]:
        """Say whether another process's token is all that a renewal could bring: with the account, unless it is refused."""
        if shared is None or not credentials.made(shared):
            return False
        return shared.identity is not None or not self.logs_in(credentials)

    def leave_anonymous(self, token: Token | None, credentials: Credentials) -> bool:
        """Say whether a refused login is why a request with `token` goes anonymously.

        With a login configured there is no other reason for it. A refusal that was forgotten proves nothing yet: the mark
        stays until the login that is tried anew has succeeded.
        """
        return "login" in self.refusals or (token is not None and token.identity is None and credentials.logs_in)

    def learn(self, stored: Stored, before: Mapping[str, str], now: float, *, knows_failures: bool) -> None:
        """Take over what all know; `before` are the refusals when the store was asked, `knows_failures`: it has ours."""
        # In the place of ours may stand those of other secrets, as in a rollout, or what only others can read, whose
        # `store_secret` is another. That forgets nothing: both would try what is refused in turn for ever.
        if self.refusals is before and not self.refusals_unsaved and not stored.refuses_others:
            if not stored.refusals:
                self.forgotten = self.refusals or self.forgotten
            self.refusals = dict(stored.refusals)
        if knows_failures or stored.paused_for > self.pause.left(now):
            self.pause.take_over(now, failures=stored.failures, left=stored.paused_for)

    def adopted(self, token: Token) -> None:
        """Learn from a token that is held now: nobody gets one without an application id, nor an account without a login."""
        self.background_pause.end()
        self.forgotten = {
            what: why for what, why in self.forgotten.items() if what == "login" and token.identity is None
        }

    def refused(self, refused: Mapping[str, str]) -> None:
        """Remember what a renewal was refused."""
        if refused:
            self.refusals = {**self.refusals, **refused}

    def failed(self, failure: Failure, now: float, *, is_harmless: bool) -> Failure:
        """Begin the pause after a failed renewal, of the background only if it is harmless; returns it with its seconds."""
        pause = self.background_pause if is_harmless else self.pause
        failure = replace(failure, retry_after=pause.failed(now, at_least=failure.retry_after or 0.0))
        if not is_harmless:
            self._last_failure = failure
        return failure

    def forget(self) -> None:
        """Forget all of it: an operator asks, or the secrets are others."""
        self.forgotten = self.refusals or self.forgotten
        self.refusals = {}
        self.refusals_unsaved = False
        self.pause.end()
        self.background_pause.end()
