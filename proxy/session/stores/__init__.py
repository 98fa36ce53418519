"""Where the token is kept between renewals: one small Protocol, one module per kind of store.

A store holds at most one token. Every kind passes the one contract suite in `tests/session/store_contract.py`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from proxy.core.token import Token


class StoreUnusable(Exception):
    """The place named by `session.store` cannot be used safely; the sentence says what to do."""


class Store(Protocol):
    """The place of the shared token. Safe for concurrent use by tasks; shared kinds also by processes."""

    async def load(self) -> Token | None:
        """Return the token that is kept, or None. A store that cannot be read is empty."""
        ...

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        """Keep `token` if what is kept is still `replaces` (by value; None: nothing kept); say whether it was."""
        ...

    def lease(self) -> AbstractAsyncContextManager[None]:
        """Hold the right to make a session call: one holder at a time among all who share the store."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...
