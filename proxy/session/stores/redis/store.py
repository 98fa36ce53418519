"""`redis://`: the session is shared by all replicas that name the same Redis.

Owns what an operation of `SharedStore` means. What it does there is one script (`scripts.py`); when Redis is spared, and
what goes wrong, is the client's affair.
"""

from __future__ import annotations

import asyncio
import random
import secrets as random_secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from proxy.clock import Clock
from proxy.core.token import Moment, Token
from proxy.session.stores import Binding, Entered, Right, Stored, StoreWatch, Turn
from proxy.session.stores.entries import with_refusals
from proxy.session.stores.fingerprints import Fingerprints, fingerprint_of
from proxy.session.stores.redis import scripts
from proxy.session.stores.redis.client import RedisClient, RedisUnavailable, Urgency
from proxy.session.stores.redis.connection import Word
from proxy.session.stores.redis.entry import SealedToken, open_refusals, open_token, seal_refusals
from proxy.session.stores.redis.place import Place
from proxy.session.stores.redis.scripts import FOREIGN, MICRO, RIGHTS, Answer, Reply, Script
from proxy.session.stores.redis.vault import NAME, Vault, Vaults

#: Seconds after which a renewal goes on alone, random between the two: its own call then has 3 s.
_PATIENCE: Final = (5.0, 7.0)
_UNREADABLE: Final = (
    "what is stored in Redis cannot be read and counts as not there: it was changed, or others under the same prefix have "
    "another session.store_secret"
)


class RedisStore:
    """A store for all who name the same Redis; for one event loop.

    `place` and `binding` say what holds at this moment: files and secrets change. `warn(what)` is told of an entry that
    cannot be read, once until one could. Every operation ends within 2 s and raises `RedisUnavailable`
    (a `StoreUnreachable`) when it could not be carried out; at once while Redis is known not to answer.
    """

    shared = True

    def __init__(
        self,
        place: Callable[[], Place],
        *,
        binding: Callable[[], Binding],
        clock: Clock,
        warn: Callable[[str], None],
        watch: StoreWatch,
    ) -> None:
        self._place = place
        self._binding = binding
        self._clock = clock
        self._warn = warn
        self._client = RedisClient(place, watch=watch)
        self.patience = random.uniform(*_PATIENCE)  # noqa: S311 - spreads, guards nothing
        #: Whose the rights are that are given to this one.
        self._me = random_secrets.token_hex(16)
        self._held: set[Right] = set()
        self._vaults = Vaults()
        self._fingerprints = Fingerprints()
        # One comparison for all who ask, and one thread: it is held over a hash or a few.
        self._comparing = asyncio.Lock()
        #: Microseconds by which Redis's clock is ahead of our steady one.
        self._ahead = 0
        #: When the newest was stored that was seen, of each binding. What is older and authentic all the same (a backup, a
        #: master that has lost the last writes, a copy that somebody made) may be of an account that was given up since.
        self._newest: dict[str, int] = {}
        self._last: _Seen | None = None
        self._in_place = _Nothing()
        self._has_warned = False

    @property
    def address(self) -> str:
        """The server in use, by host and port; the URL's while none is."""
        return self._client.address

    @property
    def kind(self) -> str:
        """The scheme of the URL."""
        return self._place().url.kind

    async def look(self, secrets: str) -> Stored:
        """Read all that is shared."""
        return (await self._asked(scripts.LOOK, secrets, Urgency.LOOK))[1]

    async def enter(self, secrets: str, *, known: Token | None, forced: bool = False) -> Entered:
        """Ask to begin a renewal."""
        vault, _ = await self._vault()
        tag = "" if known is None else vault.tag(known.value)
        turn, stored = Turn.BUSY, Stored()
        for _ in range(2):
            # Redis does not know what does not count: the second time it is told.
            wanted = (tag, _flag(forced), self._in_place.tag)
            reply, stored = await self._asked(scripts.ENTER, secrets, Urgency.RENEWAL, self._me, *wanted)
            if reply.verdict != Turn.NEWS.value or stored.token is not None:
                turn = Turn(reply.verdict)
                break
        self._holds(Right.RENEWAL, turn is Turn.GRANTED)
        return Entered(turn, stored)

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        """Compare and set."""
        vault, binding = await self._vault(token.app_id)
        expected: Word = vault.tag(replaces.value) if replaces is not None else ""
        if replaces is None and (Right.RENEWAL in self._held or self._in_place.is_outdated):
            expected = self._in_place.tag
        tag = vault.tag(token.value)

        async def put() -> tuple[str, _Seen]:
            asked = self._clock.now()
            # What Redis's clock says now and said at its birth, as far as we know.
            now, born = (_micro(moment.steady) + self._ahead for moment in (asked, token.born))
            born = min(born, now)
            birth = replace(token.born, wall=born / MICRO)
            sealed = SealedToken(replace(token, born=birth), max(self._newest.get(vault.id, 0) + 1, now))
            blob = sealed.seal(vault)
            arguments = now, expected, tag, born, _micro(token.lifetime), blob
            verdict, then = await self._run(scripts.SAVE, *arguments, vault=vault)
            self._ahead = then - _micro(asked.steady)
            return verdict, _Seen(vault.id, blob[:NAME], sealed, replace(token, app_id=binding.app_id))

        verdict, seen = await put()
        if verdict == "clock":  # now we know better
            verdict, seen = await put()
        if verdict != "saved":
            return False
        self._newest[vault.id] = seen.sealed.stored
        self._in_place, self._last = _Nothing(), seen
        return True

    async def failed(self, seconds: float) -> None:
        """Count a failure, begin its pause, give the right to renew back."""
        self._held.discard(Right.RENEWAL)
        await self._run(scripts.FAILED, self._me, _micro(seconds))

    async def leave(self, right: Right, *, recovered: bool = False) -> None:
        """Give a right back."""
        self._held.discard(right)
        await self._run(scripts.LEAVE, RIGHTS[right], self._me, _flag(recovered))

    async def extend(self, right: Right) -> bool:
        """Keep a right."""
        return self._holds(right, await self._run(scripts.EXTEND, RIGHTS[right], self._me) == 1)

    async def take_login_turn(self) -> bool:
        """Ask for the turn to handle a login."""
        taken = await self._run(scripts.TAKE, RIGHTS[Right.LOGIN], self._me, urgency=Urgency.REQUEST)
        return self._holds(Right.LOGIN, taken == 1)

    async def refuse(self, refusals: Mapping[str, str], secrets: str) -> None:
        """Remember what CardCash refused; of `secrets` only a slow salted hash is stored, and that encrypted."""
        if not refusals:
            await self._run(scripts.REFUSE, b"")
            return
        vault, _ = await self._vault()
        fingerprint = await asyncio.to_thread(fingerprint_of, secrets)
        while True:
            # Whoever goes on alone, or stood still, is refused without the right to renew: another may write meanwhile.
            before = (await self._run(scripts.LOOK, b"", vault=vault)).refused
            refused = open_refusals(before, vault)
            ours = await self._find(refused, secrets)
            sealed = seal_refusals(with_refusals(refused, fingerprint, refusals, instead_of=ours), vault)
            if await self._run(scripts.REFUSE, sealed, before, vault=vault) == 1:
                return

    async def end_pause(self) -> None:
        """Forget the failures."""
        await self._run(scripts.LEAVE, "", "", _flag(True))

    async def probe(self) -> float:
        """Write a key of no meaning; returns Redis's Unix time in seconds."""
        return await self._run(scripts.PROBE, suffix=":probe", urgency=Urgency.LOOK) / MICRO

    async def close(self) -> None:
        """Give the rights back, as far as Redis answers, and close the connections."""
        for right in tuple(self._held):
            with suppress(RedisUnavailable):
                await self.leave(right)
        await self._client.close()

    async def _vault(self, app_id: str = "") -> tuple[Vault, Binding]:
        """Return what encrypts, for the binding of this moment or one with another application id."""
        binding = self._binding()
        if app_id:
            # A token of the application id before the last change is not one of the new id.
            binding = replace(binding, app_id=app_id)
        return await self._vaults.vault(binding, self._place().secrets), binding

    async def _asked(self, script: Script[Reply], secrets: str, urgency: Urgency, *more: Word) -> tuple[Reply, Stored]:
        vault, binding = await self._vault()
        asked = self._clock.now()
        last = self._last if self._last is not None and self._last.id == vault.id else None
        reply = await self._run(script, b"" if last is None else last.name, *more, vault=vault, urgency=urgency)
        self._ahead = reply.now - _micro(asked.steady)
        token = self._read(reply, last, vault, asked=asked, app_id=binding.app_id)
        refused = open_refusals(reply.refused, vault)
        ours = await self._find(refused, secrets)
        return reply, Stored(
            token,
            {} if ours is None else refused[ours],
            reply.failures,
            reply.pause,
            refuses_others=bool(reply.refused) and ours is None,  # also of those with another store_secret: unreadable
            is_foreign=token is None and bool(self._in_place.tag) and not self._in_place.is_outdated,
        )

    def _read(self, reply: Reply, last: _Seen | None, vault: Vault, *, asked: Moment, app_id: str) -> Token | None:
        """Return the token that came with an answer to who knew the last one, if it counts; warn when it cannot be read."""
        self._last, self._in_place = None, _Nothing()
        if reply.tag is None:
            return None
        seen = last if last is not None and not reply.blob and reply.tag != FOREIGN else None
        sealed = open_token(reply.blob, vault) if seen is None else seen.sealed
        # The tag beside it is not authenticated.
        if sealed is None or vault.tag(sealed.content.value).encode() != reply.tag:
            self._in_place = _Nothing(reply.tag)
            if not self._has_warned:
                self._has_warned = True
                self._warn(_UNREADABLE)
            return None
        token = sealed.token(reply.now / MICRO, asked=asked, app_id=app_id)
        if token is None or sealed.stored < self._newest.get(vault.id, 0):
            self._in_place = _Nothing(reply.tag, is_outdated=True)
            return None
        self._has_warned = False
        self._newest[vault.id] = sealed.stored
        self._last = seen or _Seen(vault.id, reply.blob[:NAME], sealed, token)
        return self._last.token

    async def _find(self, fingerprints: Collection[str], secrets: str) -> str | None:
        if not fingerprints:
            return None
        async with self._comparing:
            return await asyncio.to_thread(self._fingerprints.find, fingerprints, secrets)

    async def _run(
        self,
        script: Script[Answer],
        *arguments: Word,
        suffix: str = "",
        vault: Vault | None = None,
        urgency: Urgency = Urgency.RENEWAL,
    ) -> Answer:
        """Run a script on what belongs to the binding of this moment, or to that of the vault."""
        vault = vault or (await self._vault())[0]
        key = f"{self._place().url.prefix}{vault.id}{suffix}"
        return await self._client.run(script, key, arguments, urgency)

    def _holds(self, right: Right, is_ours: bool) -> bool:
        (self._held.add if is_ours else self._held.discard)(right)
        return is_ours


@dataclass(frozen=True, slots=True, repr=False)
class _Seen:
    """A token that was seen, under which binding, and how Redis calls it: it need not be sent again every second."""

    id: str
    name: bytes
    sealed: SealedToken
    token: Token


@dataclass(frozen=True, slots=True)
class _Nothing:
    """What is stored and does not count, by its tag; empty: nothing is.

    Whoever has the right to renew writes over it; whoever has a token, if it is only `is_outdated`.
    """

    tag: bytes = b""
    is_outdated: bool = False


def _flag(is_so: bool) -> str:
    return "1" if is_so else "0"


def _micro(seconds: float) -> int:
    return round(seconds * MICRO)
