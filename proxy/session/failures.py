"""Why no renewal may begin now: the application id is refused, or the last tries failed and a pause lasts.

Owns the pauses after failed renewals. Whoever needs a token meanwhile is told so at once.
"""

from __future__ import annotations

from dataclasses import replace

from proxy.clock import Clock
from proxy.session.ports import Observer
from proxy.session.refusals import Latches
from proxy.session.renewal import ELSEWHERE, LONGEST_PAUSE, Failure, Flight, Pause


class Obstacles:
    """What stands against a renewal. `outage` is the pause between renewals that fail; workers share it."""

    def __init__(self, latched: Latches, outage: Pause, *, clock: Clock, observer: Observer) -> None:
        self.outage = outage
        self._latched = latched
        self._clock = clock
        self._observer = observer
        self._last_failure = ELSEWHERE

    def now(self) -> Failure | None:
        """Say what stands against one at this moment."""
        if (sentence := self._latched.get("app_id")) is not None:
            return Failure("refused", sentence, LONGEST_PAUSE, told=True)
        left = self.outage.left(self._clock.now().steady)
        return replace(self._last_failure, retry_after=left, told=True) if left > 0 else None

    def failed(self, failure: Failure, flight: Flight, *, lull: Pause) -> Failure:
        """Begin a pause: of background tries (`lull`) when the held token is merely given again, else of all renewals."""
        if failure.told:
            return failure
        if failure.latch is not None:
            self._latched[failure.latch] = failure.sentence
        harmless = failure.result == "same_token" and not flight.rejected
        pause = lull if harmless else self.outage
        seconds = pause.failed(self._clock.now().steady, at_least=failure.retry_after or 0.0)
        self._observer.renewal(flight.reason, failure.result, {"sentence": failure.sentence, "pause": seconds})
        failure = replace(failure, retry_after=seconds)
        if not harmless:
            self._last_failure = failure
        return failure

    def end(self, lull: Pause) -> None:
        """End all pauses: an operator asks, or the secrets are others."""
        self.outage.end()
        lull.end()
