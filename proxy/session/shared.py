"""The held token and the store, in step: what others have stored is taken over, what is held is saved.

Owns what was seen in the store last, which is the base of the next save and tells what another process has put there since.
Whoever is first in the store has won. The held token is what counts while the store does not answer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from proxy.clock import Clock
from proxy.core.token import Source, Token
from proxy.session.cardcash_calls import Credentials, SessionCalls
from proxy.session.held_token import HeldToken, shown
from proxy.session.obstacles import Obstacles
from proxy.session.ports import Observer
from proxy.session.rights import Rights
from proxy.session.store_access import STORE_DEADLINE, StoreAccess
from proxy.session.stores import Entered, SharedStore, Stored
from proxy.tasks import Tasks

#: Seconds by which a token that traffic brought is saved later, at most.
_SPREAD: Final = 1.0
#: Seconds that a request waits for a look into the store; after one that failed none waits for a while.
GLANCE_DEADLINE: Final = 0.5
_BLIND_FOR: Final = 5.0
#: Writes of one token: against what was read last, then against what another process wrote meanwhile.
_TRIES: Final = 3
#: Seconds after which a look was a slow one: the next comes after twice as long, up to the longest.
_SLOW: Final = 0.1
_LOOK_EVERY: Final = 1.0
_LONGEST_INTERVAL: Final = 10.0
#: Seconds after which all who share the store have heard what is in it, unless it is slow.
ALL_HAVE_LOOKED: Final = 2 * _LOOK_EVERY


class Shared:
    """What all who share one store know, beside the keeper's state. Nothing here raises, but for cancellation."""

    def __init__(
        self,
        store: SharedStore,
        held: HeldToken,
        obstacles: Obstacles,
        calls: SessionCalls,
        *,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._store = store
        self._held = held
        self._obstacles = obstacles
        self._calls = calls
        self._clock = clock
        self._observer = observer
        self.access = StoreAccess(store, observer)
        self.rights = Rights(self.access, clock)
        self._tasks = Tasks()
        #: A renewal is under way: it learns by itself what stands against it when it is its turn.
        self.renewing = False
        # What the store held when we last looked or wrote, and what of ours it had.
        self._stored: Token | None = None
        self._saved: Token | None = None
        # What the token that is held now replaces there, or has replaced.
        self._replaced: Token | None = None
        # Guards these against two of this process. Held over one use of the store, each with a deadline.
        self._using = asyncio.Lock()
        # The one that writes, and what ends its wait before it does.
        self._writing: asyncio.Task[None] | None = None
        self._write_now = asyncio.Event()
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

    @property
    def holds_foreign(self) -> bool:
        """Say whether the held token is another application id's."""
        return self._held.token is not None and not self._calls.credentials.made(self._held.token)

    # What is held

    def adopt(self, token: Token, *, logged_in: bool = False, later: bool = False) -> None:
        """Hold this one from now on, and save it; `logged_in`: a caller has just done so here.

        `later`: it came by traffic, and many replicas may have got one each at this moment. Saved after a random time, by
        whoever finds then that no other is in the store, that costs a save and a look of each of the others.
        """
        if self._held.adopt(token, self._clock.now(), logged_in=logged_in):
            self._observer.identity_lost()
        token = self._held.token or token
        if self._stored is not None and shown(self._stored) == shown(token):
            self._saved = token
        else:
            self._replaced = self._stored
        self._obstacles.adopted(token)
        # A caller's login cannot be made again: who is told that the one before is gone must find it.
        self.save(later=later and self.access.is_distant and not token.own_login)

    def take(self, theirs: Token) -> None:
        """Hold another process's token from now on."""
        self.adopt(replace(theirs, source=Source.STORE))
        self._observer.renewal("store", "ok", {"source": "store"})

    def save(self, *, later: bool = False) -> None:
        """See to it that the held token gets into the store: one writer, which always ends with the newest."""
        if not later:
            self._write_now.set()
        if (self._writing is None or self._writing.done()) and self.unsaved() is not None:
            if later:
                self._write_now.clear()
            self._writing = self._tasks.spawn(self._write(later=later), name="session-save")

    async def saved(self) -> None:
        """Wait until what is held was written, or could not be in time."""
        if self._writing is not None:
            self._write_now.set()
            await asyncio.wait({self._writing}, timeout=STORE_DEADLINE)

    def unsaved(self) -> Token | None:
        """Return what is held and is to be saved."""
        held = self._held.usable(self._clock.now())
        # One of another application id is in the store for whoever has that one, and is to be replaced here.
        return None if held is None or self.has(held) or self.holds_foreign else held

    @property
    def pending(self) -> bool:
        """Say whether something is still to be stored."""
        return self.unsaved() is not None or self._obstacles.refusals_unsaved

    def has(self, token: Token) -> bool:
        """Say whether the store has, or had, this token, and holds any."""
        stored = self._stored
        if stored is not None and shown(stored) == shown(token):
            self._saved = token
            return True  # also if what it has replaced looks the same: CardCash may give one token twice
        # What it has replaced may come back: a new master has lost the last writes.
        if self._saved is not token or stored is None or not self._is_new(stored):
            return False
        # Who renewed without an account may not have seen that somebody logged in meanwhile.
        return token.identity is None or stored.identity is not None or stored.login_lost

    # What is there

    async def look(self) -> bool:
        """Take over what others stored; False: the store did not say."""
        before = self._obstacles.refusals
        async with self._using:
            stored = await self._look()
        self._take_over(stored, before)
        return stored is not None

    async def catch_up(self) -> bool:
        """Take over what others stored, and store what could not be; False: the store did not say."""
        await self.saved()
        if self._obstacles.refusals_unsaved:
            self._obstacles.refusals_unsaved = not await self.refuse(self._obstacles.refusals)
        has_answered = await self.look()
        self.save()
        return has_answered

    def look_is_due(self) -> bool:
        """Say whether a store that took its time is to be looked at again; asked every second."""
        return asyncio.get_running_loop().time() >= self._look_at

    async def glance(self) -> None:
        """Take over what the store holds at this moment, for a request that waits, but not for long.

        However many ask, one look at a time is made: all who ask while one runs share the next.
        """
        if self._clock.now().steady < self._blind_until:
            return
        if self._next_glance is None:
            self._next_glance = self._tasks.spawn(self._glance(), name="session-glance")
        before = self._obstacles.refusals
        self._take_over(await asyncio.shield(self._next_glance), before)

    def learn(self, stored: Stored, before: Mapping[str, str]) -> None:
        """Learn what stands against a renewal; `before` are the refusals when the store was asked."""
        self._obstacles.learn(stored, before, self._clock.now().steady, knows_failures=self.rights.knows_failures)

    # What renewals do with it

    async def enter(self, *, known: Token | None, forced: bool) -> Entered | None:
        """Ask for the right to renew, see `Rights.enter`, and learn what is there."""
        before = self._obstacles.refusals
        entered = await self.rights.enter(self._calls.credentials.secrets, known=known, forced=forced)
        if entered is not None:
            self._saw(entered.stored.token)
            if not forced:
                self.learn(entered.stored, before)
        return entered

    async def put(self, token: Token, *, yields: bool = True) -> Token | None:
        """Write `token`, and return the one to use; None: it could not be written.

        That is `token`, unless it `yields` and another process has stored one since we last looked that will do instead.
        """
        if self.has(token):
            return token
        async with self._using:
            for _ in range(_TRIES):
                saved = await self.access.do("save", self._store.save(token, replaces=self._stored))
                if saved is None:
                    return None
                self._observer.store("save", "ok" if saved else "lost")
                if saved:
                    self._replaced = self._stored
                    self._stored = self._saved = token
                    self.access.has_written()
                    return token
                theirs = await self._look()
                if theirs is None:
                    return None
                if yields and theirs.token is not None and self._gives_way(token, theirs.token, is_new=True):
                    return replace(theirs.token, source=Source.STORE)
        return None

    async def refuse(self, refusals: Mapping[str, str], credentials: Credentials | None = None) -> bool:
        """Remember what CardCash refused of these or our secrets, for restarts and other processes; say whether it is."""
        secrets = (credentials or self._calls.credentials).secrets
        done = await self.access.done("latch", self._store.refuse(refusals, secrets))
        if done:
            self._observer.store("latch", "ok" if refusals else "empty")
            if refusals:
                self.access.has_written()
        return done

    async def end_pause(self) -> None:
        """Let all who share the store renew again."""
        await self.access.done("lease", self._store.end_pause())

    async def close(self) -> None:
        """Give the last token a moment, and let go of the store."""
        await self.saved()
        await self.rights.close()
        await self._tasks.close()
        await self.access.done("lease", self._store.close())

    async def _glance(self) -> Stored | None:
        async with self._glancing:
            self._next_glance = None  # who asks from now on may have been told of something that this look does not see
            stored = None
            with suppress(TimeoutError):
                async with asyncio.timeout(GLANCE_DEADLINE), self._using:
                    stored = await self._look()
            if stored is None:
                self._blind_until = self._clock.now().steady + _BLIND_FOR
            return stored

    async def _look(self) -> Stored | None:
        time = asyncio.get_running_loop().time
        began = time()
        stored = await self.access.do("load", self._store.look(self._calls.credentials.secrets))
        if stored is not None:
            self._observer.store("load", "ok" if stored.token else "foreign" if stored.is_foreign else "empty")
            self._saw(stored.token)
            if not self.pending:
                self.access.works()
        # One that failed is spared by the store itself, for 1.5 s at most: 3 s after it is back all shall have one token.
        is_slow = stored is not None and self.access.is_distant and time() - began > _SLOW
        self._look_every = min(self._look_every * 2, _LONGEST_INTERVAL) if is_slow else _LOOK_EVERY
        self._look_at = time() + (self._look_every - _LOOK_EVERY) * random.uniform(0.8, 1.2)  # noqa: S311 - spreads
        return stored

    def _saw(self, token: Token | None) -> None:
        """Note what the store holds now."""
        if token is not None and (self._stored is None or shown(token) != shown(self._stored)):
            self.access.has_written()
        self._stored = token

    def _take_over(self, stored: Stored | None, before: Mapping[str, str]) -> None:
        """Learn, and hold their token if it is better; during a renewal only a login in place of an anonymous one."""
        if stored is None:
            return
        theirs, held = stored.token, self._held.usable(self._clock.now())
        if not self.renewing:
            self.learn(stored, before)
        elif held is None or held.identity is not None or theirs is None or theirs.identity is None:
            return
        if theirs is not None and self._gives_way(held, theirs, is_new=self._is_new(theirs)):
            self.take(theirs)

    def _gives_way(self, ours: Token | None, theirs: Token, *, is_new: bool) -> bool:
        return self._obstacles.will_do(theirs, self._calls.credentials) and self._held.yields_to(
            theirs, ours, self._clock.now(), is_new=is_new, was_shared=ours is self._saved
        )

    def _is_new(self, stored: Token) -> bool:
        """Say whether another process has put this one into the store, in the place of ours or of what ours replaces."""
        return self._replaced is None or shown(stored) != shown(self._replaced)

    async def _write(self, *, later: bool) -> None:
        if later:
            with suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(0, _SPREAD)):  # noqa: S311 - spreads, guards nothing
                    await self._write_now.wait()
            await self.look()
        while (held := self.unsaved()) is not None:
            winner = await self.put(held)
            if winner is None:
                return  # it stays unsaved until the next look
            if winner is not held and self._held.token is held:
                self.take(winner)
