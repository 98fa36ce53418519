"""How a renewal failed, and the pause after failures in a row. No clock: callers pass the time, in steady seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxy.core.backoff import backoff
from proxy.core.errors import Draining, SessionUnavailable, Unavailable

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
        return SessionUnavailable(self.sentence, retry_after=self.retry_after or 1.0)


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
