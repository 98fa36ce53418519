"""From what a script answers to what is shared. Nothing that comes from Redis is believed before it is authenticated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from proxy.core.token import Moment, Token
from proxy.session.stores.entries import Refused
from proxy.session.stores.redis.client import RedisUnavailable
from proxy.session.stores.redis.entry import unpack_refusals, unpack_token
from proxy.session.stores.redis.failures import UNKNOWN_ANSWER
from proxy.session.stores.redis.vault import Vault

MICRO: Final = 1_000_000
#: Seconds that a stored pause lasts at most, whoever wrote it, and whatever the clock of a new master says: no pause after
#: failed session calls is longer.
_LONGEST_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class ScriptReply:
    """What a script of `scripts.py` answers, as numbers and texts."""

    verdict: str
    #: Session calls that failed in a row, and seconds until one may be made again.
    failures: int
    pause: float
    #: Seconds for which somebody has the right to renew.
    leased: float
    #: Refusals as they are stored; empty: none.
    refusals: bytes = field(repr=False)
    #: Of the token that is stored; None: nothing is. `?` for what no script of ours can have written.
    tag: str | None = None
    age: float = 0.0
    life: float = 0.0
    #: Empty for whoever said that it knows the tag.
    blob: bytes = field(default=b"", repr=False)

    @property
    def is_known(self) -> bool:
        """Say whether what is stored is what the asker has seen last."""
        return self.tag is not None and self.life > 0 and not self.blob


def read_reply(raw: Any) -> ScriptReply:
    """Read it. Raises `RedisUnavailable` when it is not what a script of ours answers."""
    try:
        verdict, failures, pause, lease, refusals, *entry = raw
        tag, age, life, blob = entry or (None, 0, 0, b"")
        return ScriptReply(
            verdict=_text(verdict).decode("ascii"),
            failures=int(failures),
            pause=min(int(pause) / MICRO, _LONGEST_PAUSE),
            leased=int(lease) / MICRO,
            refusals=_text(refusals),
            tag=None if tag is None else _text(tag).decode("ascii", "surrogateescape"),  # asked for again byte by byte
            age=int(age) / MICRO,
            life=int(life) / MICRO,
            blob=_text(blob),
        )
    except (ValueError, TypeError):
        raise RedisUnavailable(UNKNOWN_ANSWER) from None


def read_number(raw: Any) -> int:
    """Read what a script answers that is about one key. Raises `RedisUnavailable`."""
    try:
        return int(raw)
    except (ValueError, TypeError):
        raise RedisUnavailable(UNKNOWN_ANSWER) from None


def _text(raw: object) -> bytes:
    if not isinstance(raw, bytes):
        raise TypeError  # bytes(number) would be as many zeros
    return raw


def token_in(answer: ScriptReply, vault: Vault, *, asked: Moment, app_id: str) -> Token | None:
    """Return the token in an answer to a question `asked` at a moment; None: it cannot be read, or is another's."""
    plain = vault.unseal("token", answer.blob)
    if plain is None:
        return None
    token = unpack_token(plain, age=answer.age, asked=asked, app_id=app_id)
    # The tag and the life beside it are not authenticated.
    if token is None or vault.tag(token.value) != answer.tag or token.lifetime < answer.life:
        return None
    return token


def refused_in(answer: ScriptReply, vault: Vault) -> Refused:
    """Return what CardCash refused, by the fingerprints of the secrets that it is about."""
    plain = vault.unseal("refusals", answer.refusals) if answer.refusals else None
    return {} if plain is None else unpack_refusals(plain)
