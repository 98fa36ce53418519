"""A token, and what CardCash refused, as the bytes that are encrypted. Read with suspicion, though they are authentic."""

from __future__ import annotations

import json
from typing import Final

from proxy.core.token import Moment, Token
from proxy.session.stores.entries import Refused, StoredToken, read_refused, refused_content

#: Bytes; the longest token that is taken from CardCash is 8 KiB.
_LARGEST: Final = 64 * 1024


def pack_token(token: Token) -> bytes:
    """Write all of a token but its age, which is counted by Redis's clock beside it."""
    content = StoredToken.of(token).content()
    del content["born"]
    return json.dumps(content, separators=(",", ":")).encode()


def unpack_token(raw: bytes, *, age: float, asked: Moment, app_id: str) -> Token | None:
    """Read a token that was `age` seconds old when Redis was asked; None when anything about it is unsound.

    Its birth is put into our own clocks, so it does not matter how another machine's are set.
    """
    content = _json(raw)
    if not isinstance(content, dict):
        return None
    stored = StoredToken.read({**content, "born": asked.wall - age})
    # By the steady clock too: the wall clock may be set at any time.
    return None if stored is None else stored.at(asked, app_id=app_id)


def pack_refusals(refused: Refused) -> bytes:
    """Write what CardCash refused, by slow salted hashes of the secrets that it is about."""
    return json.dumps(refused_content(refused), separators=(",", ":")).encode()


def unpack_refusals(raw: bytes) -> Refused:
    """Read what CardCash refused; nothing when anything about it is unsound."""
    content = _json(raw)
    return (read_refused(content) if isinstance(content, dict) else None) or {}


def _json(raw: bytes) -> object:
    try:
        return json.loads(raw.decode()) if len(raw) <= _LARGEST else None
    except (ValueError, RecursionError):
        return None
