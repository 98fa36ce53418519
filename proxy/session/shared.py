"""The store as the keeper uses it: bounded in time, counted, and never a reason for a request to fail.

Owns the compare-and-set against other processes. A store that raises or hangs is a store that is empty: the token in
memory is what counts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Final

from proxy.clock import Clock
from proxy.core.token import Source, Token
from proxy.session.cardcash_calls import Credentials
from proxy.session.held_token import is_over
from proxy.session.ports import Observer
from proxy.session.stores import Store, StoreUnusable
from proxy.tasks import Tasks

#: Seconds for one read or write; the lease may take as long as another process's renewal, so the keeper bounds it.
STORE_DEADLINE: Final = 2.0
#: Seconds that a request waits for a look into the store; after one that failed none waits for a while.
GLANCE_DEADLINE: Final = 0.5
_BLIND_FOR: Final = 5.0
#: Writes of one token: against what was read last, then against what another process wrote meanwhile.
_TRIES: Final = 3


class Shelf:
    """Wraps one store for one keeper. None of its methods raises, but for cancellation."""

    def __init__(self, store: Store, *, clock: Clock, observer: Observer, deadline: float = STORE_DEADLINE) -> None:
        self._store = store
        self._clock = clock
        self._observer = observer
        self._deadline = deadline
        # What the store held when we last looked or wrote; the base of the next compare-and-set.
        self._kept: Token | None = None
        # Guards `_kept` against two writers of this process. Held over one store operation, each with a deadline.
        self._writing = asyncio.Lock()
        # The look for whoever asks before it begins, and when looks are worth while again (steady seconds).
        self._next_glance: asyncio.Task[Token | None] | None = None
        self._glancing = asyncio.Lock()
        self._blind_until = float("-inf")
        self._tasks = Tasks()

    async def load(self) -> Token | None:
        """Return what the store holds; None when it is empty or cannot be read."""
        async with self._writing:
            return await self._read()

    async def glance(self) -> Token | None:
        """Return what the store holds at this moment, for a request that waits for it; None also when it takes too long.

        However many ask, one look at a time is made: all who ask while one runs share the next.
        """
        if self._clock.now().steady < self._blind_until:
            return None
        if self._next_glance is None:
            self._next_glance = self._tasks.spawn(self._glance(), name="session-glance")
        return await asyncio.shield(self._next_glance)

    async def _glance(self) -> Token | None:
        async with self._glancing:
            self._next_glance = None  # who asks from now on may have been told of something that this look does not see
            try:
                async with asyncio.timeout(GLANCE_DEADLINE):
                    return await self.load()
            except TimeoutError:
                self._blind_until = self._clock.now().steady + _BLIND_FOR
                return None

    async def keep(self, token: Token, *, yields: bool) -> Token:
        """Write `token`, and return the one to use.

        That is `token`, unless another process wrote a better one since we last looked and `yields` allows to take it.
        """
        async with self._writing:
            for _ in range(_TRIES):
                try:
                    async with asyncio.timeout(self._deadline):
                        saved = await self._store.save(token, replaces=self._kept)
                except Exception as error:
                    self._observer.store("save", "failed", _why(error))
                    return token
                self._observer.store("save", "ok" if saved else "lost")
                if saved:
                    self._kept = token
                    return token
                theirs = await self._read()
                if yields and theirs is not None and self.outranks(theirs, token):
                    return theirs
        return token

    async def latches(self, credentials: Credentials) -> Mapping[str, str]:
        """Return what CardCash refused of these credentials, before a restart or to another process."""
        try:
            async with asyncio.timeout(self._deadline):
                found = await self._store.load_latches(_secrets(credentials))
        except Exception as error:
            self._observer.store("latch", "failed", _why(error))
            return {}
        self._observer.store("latch", "ok" if found else "empty")
        return found

    async def latch(self, latches: Mapping[str, str], credentials: Credentials) -> None:
        """Remember what CardCash refused of these credentials, for restarts and other processes; empty: forget it."""
        try:
            async with asyncio.timeout(self._deadline):
                await self._store.save_latches(latches, _secrets(credentials))
        except Exception as error:
            self._observer.store("latch", "failed", _why(error))
        else:
            self._observer.store("latch", "ok")

    def holds(self, token: Token) -> bool:
        """Say whether the store held this token when we last looked or wrote."""
        kept = self._kept
        if kept is None:
            return False
        return (kept.value, kept.identity, kept.login_lost) == (token.value, token.identity, token.login_lost)

    def lease(self) -> AbstractAsyncContextManager[None]:
        """Hold the right to make a session call; go on without it when the store cannot give one."""
        return self._held(self._store.lease)

    def login_turn(self) -> AbstractAsyncContextManager[None]:
        """Hold the turn to handle a caller's login; go on without it when the store cannot give one."""
        return self._held(self._store.login_turn)

    @asynccontextmanager
    async def _held(self, right: Callable[[], AbstractAsyncContextManager[None]]) -> AsyncIterator[None]:
        stack = AsyncExitStack()
        try:
            await stack.enter_async_context(right())
        except Exception as error:
            self._observer.store("lease", "failed", _why(error))
        else:
            self._observer.store("lease", "ok")
        try:
            yield
        finally:
            # One that cannot be given back runs out by itself; the token just made must not be lost over it.
            with suppress(Exception):
                await stack.aclose()

    async def close(self) -> None:
        """Let go of the store."""
        await self._tasks.close()
        with suppress(Exception):
            async with asyncio.timeout(self._deadline):
                await self._store.close()

    async def _read(self) -> Token | None:
        try:
            async with asyncio.timeout(self._deadline):
                self._kept = await self._store.load()
        except Exception as error:
            self._observer.store("load", "failed", _why(error))
            return None
        self._observer.store("load", "empty" if self._kept is None else "ok")
        return self._kept

    @property
    def shared(self) -> bool:
        """Say whether other processes use the store too."""
        return self._store.shared

    def outranks(self, theirs: Token, ours: Token | None) -> bool:
        """Say whether another process's token is the better one: a login beats none, then the younger wins."""
        if is_over(theirs, self._clock.now()):
            return False
        if ours is None:
            return True
        if theirs.login_lost and ours.own_login:
            # It is anonymous because that very login was found to be gone.
            return theirs.born.wall > ours.born.wall
        if (theirs.identity is None) != (ours.identity is None):
            return theirs.identity is not None
        return theirs.value != ours.value and theirs.born.wall > ours.born.wall


def _secrets(credentials: Credentials) -> str:
    """Everything a refusal may be about, as one text."""
    return json.dumps([credentials.app_id, credentials.email, credentials.password])


def _why(error: Exception) -> str:
    """A sentence for the log without anything that came from elsewhere: not every library minds what it repeats."""
    if isinstance(error, StoreUnusable):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (isinstance(error, TimeoutError) and str(error)) or f"{type(error).__name__} in the store"


class Saver:
    """Writes the held token in the background: one writer, which always ends with the newest.

    `held` reads what is held; `adopt` is given another process's token when that is the better one.
    """

    def __init__(self, shelf: Shelf, *, held: Callable[[], Token | None], adopt: Callable[[Token], None]) -> None:
        self._shelf = shelf
        self._held = held
        self._adopt = adopt
        self._tasks = Tasks()
        self._writer: asyncio.Task[None] | None = None
        self._saved: Token | None = None

    def check(self) -> None:
        """After a renewal, which writes by itself: write again only if a harvest has got in between since."""
        held = self._held()
        if held is not None and self._shelf.holds(held):
            self._saved = held
        self.save()

    def save(self, *, anew: bool = False) -> None:
        """See to it that the held token gets into the store; `anew`: even if it was written before."""
        if anew:
            self._saved = None
        if self._writer is None and self._held() is not self._saved:
            self._writer = self._tasks.spawn(self._write(), name="session-save")

    async def close(self) -> None:
        """Give the last token a moment: a caller's login cannot be made again after a restart."""
        await self.settled()
        await self._tasks.close()

    async def settled(self) -> None:
        """Wait until what is held was written, or could not be in time."""
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=STORE_DEADLINE)

    async def _write(self) -> None:
        try:
            while (held := self._held()) is not None and held is not self._saved:
                winner = await self._shelf.keep(held, yields=True)
                if self._held() is not held:
                    # Replaced while it was written, perhaps by one that a renewal wrote before this: write once more.
                    self._saved = None
                elif winner is held:
                    self._saved = held
                else:
                    self._saved = replace(winner, source=Source.STORE)
                    self._adopt(self._saved)
        finally:
            self._writer = None
