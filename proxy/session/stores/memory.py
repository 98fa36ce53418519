"""`memory://`: the token lives and dies with this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.core.token import Token


class MemoryStore:
    """A store for one process."""

    def __init__(self) -> None:
        self._token: Token | None = None
        # Guards session calls: one at a time. Held over the network on purpose, that is what a lease is.
        self._lease = asyncio.Lock()

    async def load(self) -> Token | None:
        """Return the token that is kept."""
        return self._token

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        """Compare and set; nothing awaits between the two."""
        kept = self._token
        if (kept.value if kept else None) != (replaces.value if replaces else None):
            return False
        self._token = token
        return True

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[None]:
        """Wait for the right to make a session call."""
        async with self._lease:
            yield

    async def close(self) -> None:
        """Forget the token."""
        self._token = None
