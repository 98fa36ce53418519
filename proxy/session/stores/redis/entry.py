"""A token, and what CardCash refused, as they are stored: encrypted, authenticated, and read with suspicion all the same.

Of a token everything is, also when it was born and stored: whoever may write to Redis but has no key can put back what was
there before, and no more. Its times are Redis's, so no machine's clock matters.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from proxy.core.token import Moment, Token
from proxy.session.stores.entries import Refused, aged, read_refused, read_token, refused_content, token_content
from proxy.session.stores.redis.vault import Vault


@dataclass(frozen=True, slots=True, repr=False)
class SealedToken:
    """A token as it is stored, born by Redis's clock; `stored` (its microseconds) grows with each that replaces another."""

    content: Token
    stored: int

    def seal(self, vault: Vault) -> bytes:
        """Encrypt it."""
        return _sealed("token", token_content(self.content) | {"stored": self.stored}, vault)

    def token(self, now: float, *, asked: Moment, app_id: str) -> Token | None:
        """Return the token, its birth in our own clocks; it was `now` (Redis's seconds) when Redis was asked.

        None: it is over. Or it was born in the future, and has an age nobody knows: a clock was set back.
        """
        # By the steady clock too: the wall clock may be set at any time.
        born = Moment(self.content.born.steady, asked.wall - (now - self.content.born.wall))
        return aged(replace(self.content, born=born), asked, app_id=app_id)


def open_token(blob: bytes, vault: Vault) -> SealedToken | None:
    """Read what `SealedToken.seal` has made; None for anything else."""
    content = _opened("token", blob, vault)
    if not isinstance(content, dict) or not isinstance(stored := content.pop("stored", None), int):
        return None
    token = read_token(content)
    return None if token is None else SealedToken(token, stored)


def seal_refusals(refused: Refused, vault: Vault) -> bytes:
    """Encrypt what CardCash refused, by slow salted hashes of the secrets that it is about."""
    return _sealed("refusals", refused_content(refused), vault)


def open_refusals(sealed: bytes, vault: Vault) -> Refused:
    """Read what CardCash refused; nothing when anything about it is unsound."""
    content = _opened("refusals", sealed, vault)
    return (read_refused(content) if isinstance(content, dict) else None) or {}


def _sealed(what: str, content: dict[str, Any], vault: Vault) -> bytes:
    return vault.seal(what, json.dumps(content).encode())


def _opened(what: str, sealed: bytes, vault: Vault) -> object:
    plain = vault.unseal(what, sealed)
    try:
        return None if plain is None else json.loads(plain.decode())
    except (ValueError, RecursionError):
        return None
