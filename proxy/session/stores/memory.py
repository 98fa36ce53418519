"""`memory://`: the token lives and dies with this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from proxy.core.token import Token


class MemoryStore:
    """A store for one process."""

    shared = False

    def __init__(self) -> None:
        self._token: Token | None = None
        self._latches: dict[str, str] = {}
        self._refused_secrets = ""
        # Guards session calls: one at a time. Held over the network on purpose, that is what a lease is.
        self._lease = asyncio.Lock()
        # Guards the account of the session: callers' logins are handled one at a time. Held over the login call.
        self._login = asyncio.Lock()

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

    async def load_latches(self, secrets: str) -> Mapping[str, str]:
        """Return what was refused of these secrets."""
        return dict(self._latches) if secrets == self._refused_secrets else {}

    async def save_latches(self, latches: Mapping[str, str], secrets: str) -> None:
        """Remember what was refused, as long as the process lives."""
        self._latches, self._refused_secrets = dict(latches), secrets

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[None]:
        """Wait for the right to make a session call."""
        async with self._lease:
            yield

    @asynccontextmanager
    async def login_turn(self) -> AsyncIterator[None]:
        """Wait for the turn to handle a login."""
        async with self._login:
            yield

    async def close(self) -> None:
        """Forget the token."""
        self._token = None
