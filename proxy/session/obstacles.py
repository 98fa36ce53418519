"""What stands against a renewal: what CardCash refused, and the pause after failures in a row.

The keeper's, and told by it; no event loop, no clock: callers pass the time, in steady seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from proxy.session.failure_pause import ELSEWHERE, LONGEST_PAUSE, Failure, Pause
from proxy.session.stores import Stored


class Obstacles:
    """What is known against a renewal by this process, or by any that shares the store."""

    def __init__(self) -> None:
        #: What CardCash refused; a new mapping with each change, so that an older reading of the store is known as such.
        self.refusals: Mapping[str, str] = {}
        #: The store could not be told of them.
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

    def learn(self, stored: Stored, before: Mapping[str, str], now: float, *, knows_failures: bool) -> None:
        """Take over what all know; `before` are the refusals when the store was asked, `knows_failures`: it has ours."""
        # In the place of ours may stand those of other secrets, as in a rollout. That forgets nothing: two wrong passwords
        # would be tried in turn for ever.
        if self.refusals is before and not self.refusals_unsaved and not stored.refuses_others:
            self.refusals = dict(stored.refusals)
        if knows_failures or stored.paused_for > self.pause.left(now):
            self.pause.take_over(now, failures=stored.failures, left=stored.paused_for)

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
        self.refusals = {}
        self.refusals_unsaved = False
        self.pause.end()
        self.background_pause.end()
