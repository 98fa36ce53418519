"""A probe of the held token: is it the token that CardCash does not take, or only one of its routes?

Owns that there is one at a time for all who ask. What follows from its verdict is decided by `core/attempts.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.core.attempts import Verdict
from proxy.core.token import Token
from proxy.session.cardcash_calls import SessionOutage, SessionTokenRejected
from proxy.session.ports import Calls
from proxy.tasks import Tasks


class Probes:
    """Tries tokens on `path`; `refreshed(token, newer)` is told of a newer one that came in the answer."""

    def __init__(self, calls: Calls, *, path: str, deadline: float, refreshed: Callable[[Token, Token], None]) -> None:
        self._calls = calls
        self._path = path
        self._deadline = deadline
        self._refreshed = refreshed
        self._tasks = Tasks()
        self._running: tuple[Token, asyncio.Task[Verdict]] | None = None

    async def of(self, token: Token) -> Verdict:
        """Try the token, or wait for the try that runs; a caller that leaves cancels nothing."""
        if self._running is None or self._running[0] is not token or self._running[1].done():
            self._running = (token, self._tasks.spawn(self._try(token), name="session-probe"))
        task = self._running[1]
        await asyncio.wait({task})
        return Verdict.UNKNOWN if task.cancelled() or task.exception() is not None else task.result()

    def stop(self) -> None:
        """Let nobody wait any longer for the probe that runs."""
        if self._running is not None:
            self._running[1].cancel()

    async def close(self) -> None:
        """Stop a probe that runs, and wait for its end."""
        await self._tasks.close()

    async def _try(self, token: Token) -> Verdict:
        try:
            async with asyncio.timeout(self._deadline):
                newer = await self._calls.keep_alive(token, self._path)
        except SessionTokenRejected:
            return Verdict.REJECTED
        except (SessionOutage, TimeoutError):
            return Verdict.UNKNOWN
        if newer is not None:
            self._refreshed(token, newer)
        return Verdict.ACCEPTED
