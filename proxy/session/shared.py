"""What is in the store, as the keeper uses it: looks, the compare-and-set against other processes, what was refused.

Owns what was seen there last, which is the base of the next save and tells what another process has put there since. The
token in memory is what counts while the store does not answer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from proxy.clock import Clock
from proxy.core.token import Token
from proxy.session.held_token import shown
from proxy.session.ports import Observer
from proxy.session.rights import Rights
from proxy.session.store_access import StoreAccess
from proxy.session.stores import Entered, SharedStore, Stored
from proxy.tasks import Tasks

#: Seconds that a request waits for a look into the store; after one that failed none waits for a while.
GLANCE_DEADLINE: Final = 0.5
_BLIND_FOR: Final = 5.0
#: Writes of one token: against what was read last, then against what another process wrote meanwhile.
_TRIES: Final = 3
#: Seconds after which a look was a slow one: the next comes after twice as long, up to the longest.
_SLOW: Final = 0.1
_LOOK_EVERY: Final = 1.0
_LONGEST_INTERVAL: Final = 10.0


class Shared:
    """What all who share one store know. None of its methods raises, but for cancellation."""

    def __init__(self, store: SharedStore, *, clock: Clock, observer: Observer) -> None:
        self._store = store
        self._clock = clock
        self._observer = observer
        self.access = StoreAccess(store, observer)
        self.rights = Rights(self.access, clock)
        self._tasks = Tasks()
        # What the store held when we last looked or wrote, and what of ours it had.
        self._stored: Token | None = None
        self._saved: Token | None = None
        # What the token that is held now replaces there, or has replaced.
        self._replaced: Token | None = None
        # Guards these against two of this process. Held over one use of the store, each with a deadline.
        self._using = asyncio.Lock()
        # The look for whoever asks before it begins, and when looks are worth while again (steady seconds).
        self._next_glance: asyncio.Task[Stored | None] | None = None
        self._glancing = asyncio.Lock()
        self._blind_until = float("-inf")
        # Looks of the background: when the next is due (of the loop's time), and after how many seconds they come.
        self._look_at = float("-inf")
        self._look_every = _LOOK_EVERY

    @property
    def has_others(self) -> bool:
        """Say whether other processes use the store too."""
        return self._store.shared

    def look_is_due(self) -> bool:
        """Say whether a store that took its time is to be looked at again; asked every second."""
        return asyncio.get_running_loop().time() >= self._look_at

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

    async def enter(self, secrets: str, *, known: Token | None, needs_login: bool, forced: bool) -> Entered | None:
        """Ask for the right to renew, see `Rights.enter`, and learn what is there."""
        entered = await self.rights.enter(secrets, known=known, needs_login=needs_login, forced=forced)
        if entered is not None:
            self._stored = entered.stored.token
        return entered

    async def save(self, token: Token, secrets: str, *, yields_to: Callable[[Token], bool]) -> Token | None:
        """Write `token`, and return the one to use; None: it could not be written.

        That is `token`, unless another process has stored one since we last looked that `yields_to` accepts in its place.
        """
        async with self._using:
            for _ in range(_TRIES):
                saved = await self.access.do("save", self._store.save(token, replaces=self._stored))
                if saved is None:
                    return None
                self._observer.store("save", "ok" if saved else "lost")
                if saved:
                    self._replaced = self._stored
                    self._stored = self._saved = token
                    return token
                theirs = await self._look(secrets)
                if theirs is None:
                    return None
                if theirs.token is not None and yields_to(theirs.token):
                    return theirs.token
        return None

    def has(self, token: Token) -> bool:
        """Say whether the store has, or had, this token, and holds any."""
        stored = self._stored
        if stored is not None and shown(stored) == shown(token):
            self._saved = token
        # What it has replaced may come back: a new master has lost the last writes.
        return self._saved is token and stored is not None and self.is_new(stored)

    def adopted(self, token: Token) -> None:
        """Note that this token is held from now on."""
        if self._stored is None or shown(self._stored) != shown(token):
            self._replaced = self._stored

    def is_new(self, stored: Token) -> bool:
        """Say whether another process has put this one into the store, in the place of ours or of what ours replaces."""
        return self._replaced is None or shown(stored) != shown(self._replaced)

    async def refuse(self, refusals: Mapping[str, str], secrets: str) -> bool:
        """Remember what CardCash refused of these secrets, for restarts and other processes; say whether it is."""
        done = await self.access.done("latch", self._store.refuse(refusals, secrets))
        if done:
            self._observer.store("latch", "ok" if refusals else "empty")
        return done

    async def end_pause(self) -> None:
        """Let all who share the store renew again."""
        await self.access.done("lease", self._store.end_pause())

    async def close(self) -> None:
        """Let go of the store."""
        await self.rights.close()
        await self._tasks.close()
        await self.access.done("lease", self._store.close())

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
        time = asyncio.get_running_loop().time
        began = time()
        stored = await self.access.do("load", self._store.look(secrets))
        if stored is not None:
            self._observer.store("load", "ok" if stored.token else "foreign" if stored.is_foreign else "empty")
            self._stored = stored.token
        # One that failed is spared by the store itself, for 2.5 s at most: 3 s after it is back all shall have one token.
        is_slow = stored is not None and self.access.is_distant and time() - began > _SLOW
        self._look_every = min(self._look_every * 2, _LONGEST_INTERVAL) if is_slow else _LOOK_EVERY
        self._look_at = time() + (self._look_every - _LOOK_EVERY) * random.uniform(0.8, 1.2)  # noqa: S311 - spreads
        return stored
