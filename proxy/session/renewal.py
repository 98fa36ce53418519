"""One renewal: what it is for, who waits for it, and the calls that make its token.

Owns the order of session and login inside one renewal. When a renewal starts and what its token is worth at the end is
the keeper's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from proxy.core.errors import Draining, SessionUnavailable, Unavailable
from proxy.core.retry import backoff
from proxy.core.token import Token
from proxy.session.cardcash_calls import SessionOutage, SessionRefused, SessionTokenRejected
from proxy.session.ports import Calls, Observer

#: Calls of one kind in the first renewal of an outage; later ones probe with a single session call each, so that the
#: first minute of an outage costs at most 7 + 5 session calls however many callers there are (the contract allows 12).
FIRST_ATTEMPTS: Final = 5
#: The pause after a failed renewal, in seconds: 1 doubling to 30 (CONTRACT "Sessions").
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0


class Cells(Protocol):
    """Two numbers that can be read and written."""

    def __getitem__(self, index: int, /) -> float: ...

    def __setitem__(self, index: int, value: float, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """How a renewal failed; a value, so that every waiter raises an exception of its own. `latch`: what was refused."""

    result: str
    sentence: str
    retry_after: float | None = None
    latch: str | None = None
    #: Its pause has begun already.
    told: bool = False

    def error(self) -> Unavailable:
        """Make the exception of one waiter."""
        if self is STOPPING:
            return Draining(self.sentence)
        return SessionUnavailable(self.sentence, retry_after=self.retry_after or 1.0)


#: What is known of an outage of which another process has told.
ELSEWHERE: Final = Failure("failed", "No session with CardCash: the last tries failed.")
#: Something went wrong at the end of a renewal that CardCash has no part in.
BUG: Final = Failure("failed", "No session: the proxy failed at the end of a renewal; its log says where.")
#: Nobody can wait any longer: `drain.timeout` is over.
STOPPING: Final = Failure("failed", "The proxy is stopping.")


class Flight:
    """One renewal under way.

    Its waiters are futures of their own, fanned out when it lands: thousands cost a future each, and none of them can
    cancel it. `base` is the token held when it began; `rejected` says that it began because CardCash rejected that one;
    `fresh` that what another process stored will not do.
    """

    __slots__ = (
        *("_began", "base", "fresh", "login_refused", "outdated", "reason", "refused", "rejected", "task", "waiters"),
    )

    def __init__(self, reason: str, *, base: Token | None, rejected: bool, fresh: bool) -> None:
        self._began = asyncio.get_running_loop().time()
        self.reason = reason
        self.base = base
        self.rejected = rejected
        self.fresh = fresh
        #: The sentence of a login that CardCash refused in this renewal.
        self.login_refused: str | None = None
        #: CardCash refused the application id in this renewal.
        self.refused: SessionRefused | None = None
        #: The credentials it uses are no longer ours: whatever it brings is dropped.
        self.outdated = False
        self.waiters: set[asyncio.Future[Token | Failure]] = set()
        self.task: asyncio.Task[Token | Failure] | None = None

    async def outcome(self) -> Token | Failure:
        """Wait for the landing; a cancelled waiter leaves the rest alone."""
        waiter: asyncio.Future[Token | Failure] = asyncio.get_running_loop().create_future()
        waiters = self.waiters
        waiters.add(waiter)
        try:
            return await waiter
        finally:
            waiters.discard(waiter)

    def land(self, outcome: Token | Failure) -> None:
        """Tell all who wait."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(outcome)

    def told_by(self, judge: Callable[[Flight], None], observer: Observer) -> None:
        """Let `judge` land it; whoever waits is told even if that fails, and uses the held token if it lives."""
        try:
            judge(self)
            observer.renewal_took(asyncio.get_running_loop().time() - self._began)
        except Exception:
            self.land(BUG)
            raise

    def result(self) -> Token | Failure:
        """Read what the ended task brought, whatever way it ended."""
        if self.task is None or self.task.cancelled():
            return Failure("failed", "No session with CardCash: the renewal was stopped.")
        if (error := self.task.exception()) is not None:
            return Failure("failed", f"No session with CardCash: {type(error).__name__} in the renewal.")
        return self.task.result()


async def make_token(calls: Calls, flight: Flight, *, attempts: int, login: bool) -> Token:
    """Make a session and log it in; a refused login leaves it anonymous and is noted in `flight`.

    Raises `SessionOutage` or `SessionRefused`. A session whose token is rejected at login is made anew once, in the first
    renewal of an outage only: probes cost one session call each.
    """
    session = await calls.session(attempts=attempts)
    again = attempts > 1
    while login and calls.credentials.logs_in:
        if flight.rejected and flight.base is not None and session.value == flight.base.value:
            # The rejected token came again (API.md 2, "or returns existing"): no login could succeed with it.
            return session
        try:
            return await calls.login(session, attempts=attempts)
        except SessionRefused as refused:
            flight.login_refused = str(refused)
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
    return session


class Pause:
    """A growing pause after failures in a row. Times are steady seconds.

    `cells` are where its two numbers are kept: a list of its own, or memory that several processes share.
    """

    __slots__ = ("_cells",)

    def __init__(self, cells: Cells | None = None) -> None:
        self._cells: Cells = [0.0, float("-inf")] if cells is None else cells

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return int(self._cells[0])

    @property
    def until(self) -> float:
        """When it is over."""
        return self._cells[1]

    def failed(self, now: float, *, at_least: float = 0.0) -> float:
        """Begin the next, longer pause, at most `LONGEST_PAUSE`; returns its seconds."""
        failures = self.failures + 1
        pause = backoff(failures, first=FIRST_PAUSE, cap=LONGEST_PAUSE)
        pause = max(pause, min(at_least, LONGEST_PAUSE))
        self._cells[0], self._cells[1] = failures, now + pause
        return pause

    def left(self, now: float) -> float:
        """Seconds still to wait, 0 when it is over."""
        return max(0.0, self.until - now)

    def end(self) -> None:
        """Forget the failures."""
        self._cells[0], self._cells[1] = 0.0, float("-inf")
