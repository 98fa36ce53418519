"""The two rights that one process at a time has, as the keeper asks for them: waits, patience, extending, giving back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from proxy.clock import Clock
from proxy.core.token import Token
from proxy.session.store_access import STORE_DEADLINE, StoreAccess
from proxy.session.stores import EXTEND_EVERY, LEASE, Entered, Right, Turn
from proxy.tasks import Tasks

#: Seconds between two tries to get a right that another has, doubling; each is made longer or shorter by half.
_FIRST_WAIT: Final = 0.02
_LONGEST_WAIT: Final = 0.25
#: Seconds that one use of the store may take in any case.
_LAST_TRY: Final = 0.5
#: Seconds of patience, random between the two, with a store that answers but says no: it is full, or does not know us.
#: Waiting does not mend that, and nobody has the right meanwhile, so all who need a token will make one each; 50 replicas
#: with a revoked token were seen to do so spread over these seconds, where 5 to 7 of them (what a failover takes) only made
#: every caller wait. Not at once: what is full for a moment (others' keys expire) gives the right to one after all.
_BRIEF: Final = (0.5, 2.0)


class Rights:
    """Asks for the rights of one participant. None of its methods raises, but for cancellation."""

    def __init__(self, access: StoreAccess, clock: Clock) -> None:
        self._access = access
        self._store = access.store
        self._clock = clock
        self._tasks = Tasks()
        # Guards the turn to handle a login within this process; held over that call, as the turn is.
        self._one_login = asyncio.Lock()
        # The right to renew is extended while a renewal runs, and given back behind the backs of those who waited for that.
        self._extending: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        #: Until when it is ours for sure (steady seconds); None: it was not granted, or is lost.
        self._ours_until: float | None = None
        self._is_lost = False
        #: The store was told of our last failure, so that what it says of the pause holds here too.
        self.knows_failures = True

    async def enter(self, secrets: str, *, known: Token | None, forced: bool) -> Entered | None:
        """Ask for the right to renew, until there is news, a pause, or it is ours; None: go on alone. Then call `end`."""
        self._stop_extending()
        if self._ending is not None:
            await asyncio.wait({self._ending})
        patience = _Patience(self._access)
        while True:
            asked = self._clock.now().steady
            entering = self._store.enter(secrets, known=known, forced=forced)
            entered = await self._access.do("enter", entering, seconds=patience.seconds_for_a_try())
            if entered is None and patience.is_over():
                return None
            if entered is not None:
                self._access.observer.store("enter", entered.turn.value)
                if entered.turn is not Turn.BUSY:
                    break
            await patience.wait()
        if entered.turn is Turn.GRANTED:
            self._is_lost, self._ours_until = False, asked + LEASE
            self._extending = self._tasks.spawn(self._extend(Right.RENEWAL), name="session-store-extend")
        return entered

    async def is_still_ours(self) -> bool:
        """Say whether the right to renew is still ours, or was never granted; if this process was stopped, it may not be."""
        if self._is_lost or self._ours_until is None or self._clock.now().steady < self._ours_until:
            return not self._is_lost
        return await self._access.do("extend", self._store.extend(Right.RENEWAL)) is not False

    def end(self, *, failed_for: float | None = None, recovered: bool = False) -> None:
        """Give the right to renew back, without waiting; the renewal failed and begins a pause, or all is well again."""
        self._stop_extending()
        before, now = self._ending, self._clock.now().steady
        self.knows_failures = failed_for is None

        async def in_turn() -> None:
            if before is not None:
                await asyncio.wait({before})
            if failed_for is None:
                await self._access.done("lease", self._store.leave(Right.RENEWAL, recovered=recovered))
            else:
                # The pause has begun already, for those who were told of it.
                left = max(0.0, failed_for - (self._clock.now().steady - now))
                self.knows_failures = await self._access.done("lease", self._store.failed(left))

        self._ending = self._tasks.spawn(in_turn(), name="session-store-end")

    @asynccontextmanager
    async def login_turn(self) -> AsyncIterator[bool]:
        """Hold the turn to handle a caller's login; gives False when the store cannot give it: it holds here only."""
        patience = _Patience(self._access)  # of who waits in line, too
        async with self._one_login:
            extending: asyncio.Task[None] | None = None
            taken: bool | None = None
            try:
                while True:
                    taking = self._store.take_login_turn()
                    taken = await self._access.do("lease", taking, seconds=patience.seconds_for_a_try())
                    if taken or (taken is None and patience.is_over()):
                        break
                    await patience.wait()
                if taken:
                    self._access.observer.store("lease", "ok")
                    extending = self._tasks.spawn(self._extend(Right.LOGIN), name="session-store-extend")
                yield taken is not None
            finally:
                if extending is not None:
                    extending.cancel()
                leaving = self._access.done("lease", self._store.leave(Right.LOGIN))
                if taken is None:  # nobody waits for a store that does not answer
                    self._tasks.spawn(leaving, name="session-store-leave")
                else:
                    await leaving

    async def close(self) -> None:
        """Let go of the rights."""
        if self._ending is not None:
            await asyncio.wait({self._ending})
        await self._tasks.close()

    async def _extend(self, right: Right) -> None:
        while True:
            await asyncio.sleep(EXTEND_EVERY)
            asked = self._clock.now().steady
            extended = await self._access.do("extend", self._store.extend(right))
            if extended is False:
                self._access.observer.store("extend", "lost")
                self._is_lost = self._is_lost or right is Right.RENEWAL
                return
            if extended and right is Right.RENEWAL:
                self._ours_until = asked + LEASE

    def _stop_extending(self) -> None:
        self._ours_until, self._is_lost = None, False
        if self._extending is not None:
            self._extending.cancel()
            self._extending = None


class _Patience:
    """How long one who asks waits for a store that does not answer, and between two tries."""

    def __init__(self, access: StoreAccess) -> None:
        self._access = access
        self._time = asyncio.get_running_loop().time
        self._began = self._time()
        self._long = access.store.patience
        self._brief = min(self._long, random.uniform(*_BRIEF))  # noqa: S311 - spreads, guards nothing
        self._wait = _FIRST_WAIT

    def is_over(self) -> bool:
        """Say whether it was waited for long enough, after what went wrong last."""
        return self._time() - self._began >= (self._brief if self._access.trouble_stays else self._long)

    def seconds_for_a_try(self) -> float:
        """Say how long one try may take: the last must not take the time that the call needs when patience is over."""
        left = self._began + self._long - self._time()
        return min(STORE_DEADLINE, max(_LAST_TRY, left)) if self._long else STORE_DEADLINE

    async def wait(self) -> None:
        """Wait for the next try."""
        await asyncio.sleep(self._wait * random.uniform(0.5, 1.5))  # noqa: S311
        self._wait = min(self._wait * 2, _LONGEST_WAIT)
