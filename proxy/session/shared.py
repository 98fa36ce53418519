"""The store as the keeper uses it: bounded in time, counted, and never a reason for a request to fail.

Owns what was last seen in the store, the compare-and-set against other processes, and the waiting for rights. A store that
does not answer is told apart from an empty one by None; the token in memory is what counts then.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

from proxy.clock import Clock
from proxy.core.token import Token
from proxy.session.held_token import outranks
from proxy.session.ports import Observer
from proxy.session.stores import (
    EXTEND_EVERY,
    Entered,
    Right,
    SharedStore,
    Stored,
    StoreUnreachable,
    StoreUnusable,
    Turn,
)
from proxy.tasks import Tasks

T = TypeVar("T")

#: Seconds for one use of the store.
STORE_DEADLINE: Final = 2.0
#: Seconds that a request waits for a look into the store; after one that failed none waits for a while.
GLANCE_DEADLINE: Final = 0.5
_BLIND_FOR: Final = 5.0
#: Writes of one token: against what was read last, then against what another process wrote meanwhile.
_TRIES: Final = 3
#: Seconds between two tries to get a right that another has, doubling; each is made longer or shorter by half.
_FIRST_WAIT: Final = 0.02
_LONGEST_WAIT: Final = 0.25
#: Seconds that one use of the store may take in any case.
_LAST_TRY: Final = 0.5


class Shared:
    """Wraps one store for one keeper. None of its methods raises, but for cancellation."""

    def __init__(self, store: SharedStore, *, clock: Clock, observer: Observer) -> None:
        self._store = store
        self._clock = clock
        self._observer = observer
        self._tasks = Tasks()
        self._answers = True
        # What the store held when we last looked or wrote, the base of the next compare-and-set; and what of ours it had.
        self._stored: Token | None = None
        self._saved: Token | None = None
        # Guards `_stored` against two of this process. Held over one use of the store, each with a deadline.
        self._using = asyncio.Lock()
        # Guards the turn to handle a login within this process; held over that call, as the turn is.
        self._one_login = asyncio.Lock()
        # The right to renew: held while a renewal runs, and given back behind the backs of those who waited for that.
        self._extending: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[object] | None = None
        #: The store was told of our last failure, so that what it says of the pause holds here too.
        self.knows_failures = True
        # The look for whoever asks before it begins, and when looks are worth while again (steady seconds).
        self._next_glance: asyncio.Task[Stored | None] | None = None
        self._glancing = asyncio.Lock()
        self._blind_until = float("-inf")

    @property
    def is_cut_off(self) -> bool:
        """Say whether others use the store, on other machines, and it did not do its work when it was used last."""
        return self._store.patience > 0 and not self._answers

    @property
    def has_others(self) -> bool:
        """Say whether other processes use the store too."""
        return self._store.shared

    # What it holds

    async def look(self, secrets: str) -> Stored | None:
        """Return what the store holds."""
        async with self._using:
            return await self._look(secrets)

    async def glance(self, secrets: str) -> Stored | None:
        """Return what the store holds at this moment, for a request that waits; None also when it takes too long.

        However many ask, one look at a time is made: all who ask while one runs share the next.
        """
        if self._clock.now().steady < self._blind_until:
            return None
        if self._next_glance is None:
            self._next_glance = self._tasks.spawn(self._glance(secrets), name="session-glance")
        return await asyncio.shield(self._next_glance)

    async def save(self, token: Token, secrets: str, *, yields: bool) -> Token | None:
        """Write `token`, and return the one to use; None: it could not be written.

        That is `token`, unless another process wrote a better one since we last looked and `yields` allows to take it.
        """
        async with self._using:
            for _ in range(_TRIES):
                saved = await self._do("save", self._store.save(token, replaces=self._stored))
                if saved is None:
                    return None
                self._observer.store("save", "ok" if saved else "lost")
                if saved:
                    self._stored = self._saved = token
                    return token
                theirs = await self._look(secrets)
                if theirs is None:
                    return None
                if yields and theirs.token is not None and outranks(theirs.token, token, self._clock.now()):
                    return theirs.token
        return None

    def has(self, token: Token) -> bool:
        """Say whether the store has, or had, this token, and holds any."""
        stored = self._stored
        if stored is not None and _shown(stored) == _shown(token):
            self._saved = token
        return self._saved is token and stored is not None

    def replaced(self, held: Token | None) -> bool:
        """Say whether another process has stored a token as good in the place of this one, which the store had.

        It knew this one, so its own counts, whoever was born first: ages may be wrong by as long as a store hung, and no two
        processes must hold to different tokens over that.
        """
        stored = self._stored
        if held is None or stored is None or self._saved is not held or _shown(stored) == _shown(held):
            return False
        return (stored.identity is None) == (held.identity is None)

    async def refuse(self, refusals: Mapping[str, str], secrets: str) -> bool:
        """Remember what CardCash refused of these secrets, for restarts and other processes; say whether it is."""
        done = await self._do("latch", _done(self._store.refuse(refusals, secrets)))
        if done:
            self._observer.store("latch", "ok" if refusals else "empty")
        return done is not None

    async def end_pause(self) -> None:
        """Let all who share the store renew again."""
        await self._do("lease", self._store.end_pause())

    # Rights

    async def enter(self, secrets: str, *, known: Token | None, needs_login: bool, forced: bool) -> Entered | None:
        """Ask for the right to renew, until there is news, a pause, or it is ours; None: go on alone. Then call `end`."""
        if self._ending is not None:
            await asyncio.wait({self._ending})
        loop = asyncio.get_running_loop()
        patient_until = loop.time() + self._store.patience
        wait = _FIRST_WAIT
        while True:
            entering = self._store.enter(secrets, known=known, needs_login=needs_login, forced=forced)
            # The last try must not take the time that the call needs when patience is over.
            left = max(_LAST_TRY, patient_until - loop.time()) if self._store.patience else STORE_DEADLINE
            entered = await self._do("enter", entering, seconds=min(STORE_DEADLINE, left))
            if entered is not None:
                self._stored = entered.stored.token
                if entered.turn is not Turn.BUSY:
                    self._observer.store("enter", entered.turn.value)
                    break
            elif loop.time() >= patient_until:
                break
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311
            wait = min(wait * 2, _LONGEST_WAIT)
        if entered is not None and entered.turn is Turn.GRANTED:
            self._extending = self._tasks.spawn(self._extend(Right.RENEWAL), name="session-store-extend")
        return entered

    def end(self, *, failed_for: float | None = None, recovered: bool = False) -> None:
        """Give the right to renew back, without waiting; the renewal failed and begins a pause, or all is well again."""
        if self._extending is not None:
            self._extending.cancel()
        before, now = self._ending, self._clock.now().steady
        self.knows_failures = failed_for is None

        async def in_turn() -> None:
            if before is not None:
                await asyncio.wait({before})
            if failed_for is None:
                await self._do("lease", self._store.leave(Right.RENEWAL, recovered=recovered))
            else:
                # The pause has begun already, for those who were told of it.
                passed = self._clock.now().steady - now
                failed = self._store.failed(max(0.0, failed_for - passed))
                self.knows_failures = await self._do("lease", _done(failed)) is not None

        self._ending = self._tasks.spawn(in_turn(), name="session-store-end")

    @asynccontextmanager
    async def login_turn(self) -> AsyncIterator[None]:
        """Hold the turn to handle a caller's login; go on without it when the store cannot give one."""
        async with self._one_login:
            extending: asyncio.Task[None] | None = None
            wait = _FIRST_WAIT
            try:
                while busy := await self._do("lease", self._store.take_login_turn()):
                    await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311
                    wait = min(wait * 2, _LONGEST_WAIT)
                if busy is not None:
                    self._observer.store("lease", "ok")
                    extending = self._tasks.spawn(self._extend(Right.LOGIN), name="session-store-extend")
                yield
            finally:
                if extending is not None:
                    extending.cancel()
                await self._do("lease", self._store.leave(Right.LOGIN))

    async def close(self) -> None:
        """Let go of the store."""
        if self._ending is not None:
            await asyncio.wait({self._ending})
        await self._tasks.close()
        await self._do("lease", self._store.close())

    async def _extend(self, right: Right) -> None:
        while True:
            await asyncio.sleep(EXTEND_EVERY)
            if await self._do("extend", self._store.extend(right)) is False:
                # A second session call is harmless; the compare-and-set of the save decides.
                self._observer.store("extend", "lost")
                return

    async def _glance(self, secrets: str) -> Stored | None:
        async with self._glancing:
            self._next_glance = None  # who asks from now on may have been told of something that this look does not see
            stored = None
            with suppress(TimeoutError):
                async with asyncio.timeout(GLANCE_DEADLINE):
                    stored = await self.look(secrets)
            if stored is None:
                self._blind_until = self._clock.now().steady + _BLIND_FOR
            return stored

    async def _look(self, secrets: str) -> Stored | None:
        stored = await self._do("load", self._store.look(secrets))
        if stored is not None:
            self._observer.store("load", "empty" if stored.token is None else "ok")
            self._stored = stored.token
        return stored

    async def _do(self, operation: str, work: Awaitable[T], *, seconds: float = STORE_DEADLINE) -> T | None:
        try:
            async with asyncio.timeout(seconds):
                done = await work
            self._answers = True
            return done
        except Exception as error:
            self._answers = False
            self._observer.store(operation, "failed", _why(error))
            return None


async def _done(work: Awaitable[None]) -> bool:
    await work
    return True


def _shown(token: Token) -> tuple[str, str | None, bool]:
    return token.value, token.identity, token.login_lost


def _why(error: Exception) -> str:
    """A sentence for the log without anything that came from elsewhere: not every library minds what it repeats."""
    if isinstance(error, StoreUnusable | StoreUnreachable):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (isinstance(error, TimeoutError) and str(error)) or f"{type(error).__name__} in the store"
