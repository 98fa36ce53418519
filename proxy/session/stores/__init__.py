"""Where the token is kept between renewals: one small Protocol, one module per kind of store.

A store holds at most one token for each `Binding`, and what CardCash refused of it. Every kind passes the one contract
suite in `tests/session/store_contract.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from proxy.core.login_request import account_key
from proxy.core.token import Token


class StoreUnusable(Exception):
    """The place named by `session.store` cannot be used safely; the sentence says what to do."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a kept token belongs to: whoever differs in one of these never finds it. Never printed."""

    origin: str
    app_id: str = field(repr=False)
    email: str | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """A name for it that shows none of it; e-mails compare as accounts do."""
        parts = [self.origin, self.app_id, account_key(self.email or "").hex()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Store(Protocol):
    """The place of the shared token. Safe for concurrent use by tasks; shared kinds also by processes."""

    #: Other processes may use it at the same time.
    shared: bool

    async def load(self) -> Token | None:
        """Return the token that is kept, or None."""
        ...

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        """Keep `token` if what is kept is still `replaces` (by value; None: nothing kept); say whether it was."""
        ...

    async def load_latches(self, secrets: str) -> Mapping[str, str]:
        """Return what CardCash refused (its name, and a sentence for people) of exactly these `secrets`."""
        ...

    async def save_latches(self, latches: Mapping[str, str], secrets: str) -> None:
        """Remember what CardCash refused of `secrets`, instead of what was remembered; empty: forget it."""
        ...

    def lease(self) -> AbstractAsyncContextManager[None]:
        """Hold the right to make a session call: one holder at a time among all who share the store."""
        ...

    def login_turn(self) -> AbstractAsyncContextManager[None]:
        """Hold the turn to handle a caller's login: one holder at a time, as with the lease, and apart from it."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...
