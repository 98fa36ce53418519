"""The upkeep of a held token: the one timer, the background renewal in the window, and the keep-alive of a caller's login.

Owns when something is done in the background. Nobody waits for it; requests go on with the held token meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.clock import Clock
from proxy.core.token import Freshness, Token, Windows
from proxy.session.cardcash_calls import SessionOutage, SessionTokenRejected
from proxy.session.held_token import Holding
from proxy.session.ports import Calls, Observer, Policy
from proxy.session.renewal import Pause
from proxy.tasks import Tasks

#: A timer may fire a clock tick early (uvloop counts milliseconds); the next look is never closer than this (seconds).
_SHORTEST_TIMER: Final = 0.01


@dataclass(frozen=True, slots=True)
class Renewing:
    """What the keeper lends: may a renewal begin now, from when (steady seconds), is the login refused; and the acts."""

    may_begin: Callable[[], bool]
    not_before: Callable[[], float]
    login_refused: Callable[[], bool]
    begin: Callable[[str], object]
    #: The held token has expired unnoticed by any request.
    lapsed: Callable[[], None]
    adopt: Callable[[Token], None]


class Upkeep:
    """Keeps the held token going while there is traffic. `close` must be called."""

    def __init__(
        self, holding: Holding, renewing: Renewing, *, calls: Calls, clock: Clock, observer: Observer, policy: Policy
    ) -> None:
        self._holding = holding
        self._renewing = renewing
        self._calls = calls
        self._clock = clock
        self._observer = observer
        self._policy = policy
        self._tasks = Tasks()
        self._timer: asyncio.TimerHandle | None = None
        self._keeping_alive = False
        self._closed = False
        #: Between background tries that bring nothing; no request is refused over it.
        self.lull = Pause()
        #: Steady seconds of the last request.
        self.last_used = float("-inf")

    async def close(self) -> None:
        """Stop the timer and a keep-alive call."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.close()

    def schedule(self) -> None:
        """Set the one timer: the next background try."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        windows = self._holding.windows
        if windows is None or self._closed:
            return
        if self._clock.now().steady < windows.expires_at:
            self._wake_at(min(self._due(windows), windows.expires_at))

    def _wake_at(self, steady: float) -> None:
        delay = steady - self._clock.now().steady
        self._timer = asyncio.get_running_loop().call_later(max(_SHORTEST_TIMER, delay), self.tick)

    def look(self) -> None:
        """Do what the timer should have done: what it called may have failed before it set the next one."""
        if self._timer is not None and self._timer.when() < asyncio.get_running_loop().time():
            self.tick()

    def tick(self) -> None:
        """Renew in the background if it is time and there was traffic; called by the timer."""
        now = self._clock.now()
        windows = self._holding.windows
        if windows is None or self._closed:
            return
        if windows.freshness(now) is Freshness.EXPIRED:
            self._renewing.lapsed()
            return
        if now.steady - self.last_used >= self._policy.idle_after:
            self._wake_at(windows.expires_at)
            return
        if now.steady < self._due(windows):
            self.schedule()
        else:
            self.act()

    def act(self) -> None:
        """Begin what is due, unless something already runs or a pause lasts."""
        held = self._holding.token
        if held is None or not self._renewing.may_begin() or self.lull.left(self._clock.now().steady) > 0:
            return
        if held.own_login:
            # Its password is the caller's: a new session would lose the account, so the old one is kept going.
            if not self._keeping_alive:
                self._keeping_alive = True
                self._tasks.spawn(self._keep_alive(held), name="session-keep-alive")
        elif held.identity is None or not self._renewing.login_refused():
            # With the login refused a new session would be anonymous; the account is kept as long as it lives.
            self._renewing.begin("window")

    def _due(self, windows: Windows) -> float:
        return max(windows.renew_at, self._renewing.not_before(), self.lull.until)

    async def _keep_alive(self, held: Token) -> None:
        token, rejected = None, False
        try:
            async with asyncio.timeout(self._policy.deadline):
                token = await self._calls.keep_alive(held, self._policy.keepalive_path)
        except SessionTokenRejected:
            rejected = True
        except (SessionOutage, TimeoutError):
            pass
        finally:
            self._keeping_alive = False
            if token is None and self._holding.token is held:
                self.lull.failed(self._clock.now().steady)
            self.schedule()
        if self._holding.token is not held:
            return
        if token is not None:
            self._renewing.adopt(token)
            self._observer.renewal("keepalive", "ok", {"lifetime": round(token.lifetime, 3)})
            return
        self._observer.renewal("keepalive", "failed", {"rejected": rejected})
        if rejected:
            self._holding.is_rejected = True
            if self._renewing.may_begin():
                self._renewing.begin("rejected")
