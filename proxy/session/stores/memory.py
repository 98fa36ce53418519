"""`memory://`: the token lives and dies with this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.clock import Clock
from proxy.core.token import Token
from proxy.session.stores import FAILURES_LAST, LEASE, Entered, Right, Stored, Turn, turned_away
from proxy.session.stores.entries import Refused, with_refusals


@dataclass(repr=False)
class _Memory:
    """What the participants share."""

    token: Token | None = None
    #: By the secrets that it is about.
    refused: Refused = field(default_factory=dict)
    failures: int = 0
    paused_until: float = float("-inf")
    #: Who has a right, and until when (steady seconds).
    holders: dict[Right, tuple[MemoryStore, float]] = field(default_factory=dict)


class MemoryStore:
    """A store for one process. Nothing is awaited in it, so every operation is atomic."""

    shared = False
    patience = 0.0

    def __init__(self, clock: Clock, memory: _Memory | None = None) -> None:
        self._clock = clock
        self._memory = memory or _Memory()

    def another(self) -> MemoryStore:
        """Return another participant at the same memory, as another process is one elsewhere."""
        return type(self)(self._clock, self._memory)

    async def look(self, secrets: str) -> Stored:
        """Return all there is."""
        return self._stored(secrets)

    async def enter(self, secrets: str, *, known: Token | None, forced: bool = False) -> Entered:
        """Ask to begin a renewal."""
        stored = self._stored(secrets)
        if (turn := turned_away(stored, known=known, forced=forced)) is not None:
            await self.leave(Right.RENEWAL)
            return Entered(turn, stored)
        return Entered(Turn.GRANTED if self._take(Right.RENEWAL) else Turn.BUSY, stored)

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        """Compare and set."""
        stored = self._memory.token
        if (stored and stored.value) != (replaces and replaces.value) and (replaces or self._stored("").token):
            return False
        self._memory.token = token
        return True

    async def failed(self, seconds: float) -> None:
        """Count a failure and begin its pause."""
        memory = self._memory
        memory.failures = self._stored("").failures + 1
        memory.paused_until = self._clock.now().steady + seconds
        await self.leave(Right.RENEWAL)

    async def leave(self, right: Right, *, recovered: bool = False) -> None:
        """Give a right back."""
        if self._holds(right):
            del self._memory.holders[right]
        if recovered:
            await self.end_pause()

    async def extend(self, right: Right) -> bool:
        """Keep a right."""
        return self._holds(right) and self._take(right)

    async def take_login_turn(self) -> bool:
        """Ask for the turn to handle a login."""
        return self._take(Right.LOGIN)

    async def refuse(self, refusals: Mapping[str, str], secrets: str) -> None:
        """Remember what was refused, as long as the process lives."""
        self._memory.refused = with_refusals(self._memory.refused, secrets, refusals)

    async def end_pause(self) -> None:
        """Forget the failures."""
        self._memory.paused_until = float("-inf")

    async def close(self) -> None:
        """Let go of the rights."""
        for right in Right:
            await self.leave(right)

    def _stored(self, secrets: str) -> Stored:
        memory, now = self._memory, self._clock.now()
        token = memory.token
        if token is not None and now.steady - token.born.steady >= token.lifetime:
            token = None
        left = memory.paused_until - now.steady
        return Stored(
            token,
            memory.refused.get(secrets, {}),
            memory.failures if left > -FAILURES_LAST else 0,
            max(0.0, left),
            bool(memory.refused) and secrets not in memory.refused,
        )

    def _holds(self, right: Right) -> bool:
        holder, until = self._memory.holders.get(right, (None, 0.0))
        return holder is self and self._clock.now().steady < until

    def _take(self, right: Right) -> bool:
        """Take a right that nobody else has."""
        now = self._clock.now().steady
        holder, until = self._memory.holders.get(right, (self, 0.0))
        if holder is not self and now < until:
            return False
        self._memory.holders[right] = self, now + LEASE
        return True
