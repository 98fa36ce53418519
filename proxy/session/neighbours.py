"""The other processes that share the store: what they did holds here too.

Owns when another process's token is taken over outside of a renewal. Where nobody shares the store, nothing is done.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from proxy.clock import Clock
from proxy.core.token import Source, Token
from proxy.session.held_token import Holding
from proxy.session.ports import Observer
from proxy.session.refusals import Latches
from proxy.session.shared import Saver, Shelf


class Neighbours:
    """Looks at what others stored, for one keeper; `adopt` is given what is better than the held token."""

    def __init__(
        self,
        shelf: Shelf,
        saver: Saver,
        latched: Latches,
        holding: Holding,
        *,
        clock: Clock,
        observer: Observer,
        adopt: Callable[[Token], None],
        renewing: Callable[[], bool],
    ) -> None:
        self._shelf = shelf
        self._saver = saver
        self._latched = latched
        self._holding = holding
        self._clock = clock
        self._observer = observer
        self._adopt = adopt
        self._renewing = renewing

    async def catch_up(self) -> bool:
        """Take over what they stored: a login, a newer token, an opened latch; False: nobody shares the store."""
        if not self._shelf.shared:
            return False
        await self._saver.settled()
        await self._latched.follow()
        self._take_over(await self._shelf.load())
        return True

    async def glance(self) -> bool:
        """Take over a better token, for a request that waits; False: nobody shares the store. One look is many requests'."""
        if self._shelf.shared:
            self._take_over(await self._shelf.glance())
        return self._shelf.shared

    def login_turn(self) -> AbstractAsyncContextManager[None]:
        """Hold the turn to handle a caller's login, among all who share the store."""
        return self._shelf.login_turn()

    def _take_over(self, shared: Token | None) -> None:
        """Hold their token if it is the better one; during a renewal only a login, which beats an anonymous one anyway."""
        held = self._holding.usable(self._clock.now())
        if not self._latched.fits(shared) or not self._shelf.outranks(shared, held):
            return
        if self._renewing() and (shared.identity is None or held is None or held.identity is not None):
            return
        self._adopt(replace(shared, source=Source.STORE))
        self._saver.check()
        self._observer.renewal("store", "ok", {"source": "store"})
