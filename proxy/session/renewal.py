"""One renewal: what it is for, and who waits for it. When one begins and what its token is worth is the keeper's affair."""

from __future__ import annotations

import asyncio
import math
from typing import Final

from proxy.core.token import Token
from proxy.session.cardcash_calls import Credentials
from proxy.session.obstacles import Failure

#: The reason of a renewal that an operator asked for: what another process stored will not do.
OPERATOR: Final = "operator"


class Renewal:
    """One renewal under way, or several in a row for the same who wait.

    They have futures of their own, fanned out at the end: thousands cost a future each, and none of them can cancel it.
    """

    def __init__(self, reason: str, base: Token | None, credentials: Credentials, *, rejected: bool) -> None:
        self.waiters: set[asyncio.Future[Token | Failure]] = set()
        self.begin(reason, base, credentials, rejected=rejected)

    def begin(self, reason: str, base: Token | None, credentials: Credentials, *, rejected: bool) -> None:
        """Begin, or begin anew for those who wait.

        `base` is the token held now; `rejected` says that CardCash rejected that one.
        """
        self.reason = reason
        self.base = base
        self.rejected = rejected
        #: Those it is made with; when they are no longer ours, whatever it brings is dropped.
        self.credentials = credentials
        #: What CardCash refused in it.
        self.refused: dict[str, str] = {}
        #: Its deadline, while it runs.
        self.scope: asyncio.Timeout | None = None
        self.began = asyncio.get_running_loop().time()

    @property
    def until(self) -> float:
        """When its deadline is, of the loop's time."""
        return (self.scope and self.scope.when()) or math.inf

    @property
    def is_forced(self) -> bool:
        """Say whether another process's token will not do."""
        return self.reason == OPERATOR

    async def outcome(self) -> Token | Failure:
        """Wait for the end; a cancelled waiter leaves the rest alone."""
        waiter: asyncio.Future[Token | Failure] = asyncio.get_running_loop().create_future()
        self.waiters.add(waiter)
        try:
            return await waiter
        finally:
            self.waiters.discard(waiter)

    def tell(self, outcome: Token | Failure) -> None:
        """Tell all who wait."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(outcome)

    def stop(self) -> None:
        """Give up what it does now: its credentials are others'."""
        if self.scope is not None and not self.scope.expired():
            self.scope.reschedule(asyncio.get_running_loop().time())
