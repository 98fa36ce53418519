"""One harmless call with the held token: is it taken, and does the answer bring a newer one?

Asked by requests (is it the token that CardCash does not take, or only one of its routes?) and in the renewal window of a
caller's login. Owns that there is one at a time for all who ask; what follows is decided by them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from proxy.core.attempts import Verdict
from proxy.core.token import Token
from proxy.session.cardcash_calls import SessionCalls, SessionOutage, SessionTokenRejected
from proxy.session.ports import Policy
from proxy.tasks import Tasks


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """What a probe has shown."""

    verdict: Verdict
    newer: Token | None = None


class Probes:
    """Tries tokens on `session.keepalive_path`."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._tasks = Tasks()
        self._running: tuple[Token, asyncio.Task[ProbeOutcome]] | None = None

    async def of(self, token: Token, calls: SessionCalls) -> ProbeOutcome:
        """Try the token, or wait for the try that runs; a caller that leaves cancels nothing."""
        if self._running is None or self._running[0] is not token or self._running[1].done():
            self._running = (token, self._tasks.spawn(self._try(token, calls), name="session-probe"))
        task = self._running[1]
        await asyncio.wait({task})
        return ProbeOutcome(Verdict.UNKNOWN) if task.cancelled() or task.exception() is not None else task.result()

    def stop(self) -> None:
        """Let nobody wait any longer for the probe that runs."""
        if self._running is not None:
            self._running[1].cancel()

    async def close(self) -> None:
        """Stop a probe that runs, and wait for its end."""
        await self._tasks.close()

    async def _try(self, token: Token, calls: SessionCalls) -> ProbeOutcome:
        try:
            async with asyncio.timeout(self._policy.deadline):
                newer = await calls.keep_alive(token, self._policy.keepalive_path)
        except SessionTokenRejected:
            return ProbeOutcome(Verdict.REJECTED)
        except (SessionOutage, TimeoutError):
            return ProbeOutcome(Verdict.UNKNOWN)
        return ProbeOutcome(Verdict.ACCEPTED, newer)
