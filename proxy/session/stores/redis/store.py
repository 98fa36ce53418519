"""`redis://`: the session is shared by all replicas that name the same Redis.

Owns what an operation of `SharedStore` means. What it does there is one script (`scripts.py`); when Redis is spared, and
what goes wrong, is the client's affair.
"""

from __future__ import annotations

import random
import secrets as random_secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from proxy.clock import Clock
from proxy.core.token import Moment, Token
from proxy.session.stores import Binding, Entered, Right, Stored, StoreWatch, Turn, turned_away
from proxy.session.stores.entries import with_refusals
from proxy.session.stores.redis import scripts
from proxy.session.stores.redis.client import RedisClient, RedisUnavailable, Urgency
from proxy.session.stores.redis.entry import pack_refusals, pack_token
from proxy.session.stores.redis.fingerprints import Fingerprints
from proxy.session.stores.redis.place import Place
from proxy.session.stores.redis.reading import MICRO, ScriptReply, read_number, read_reply, refused_in, token_in
from proxy.session.stores.redis.scripts import Script
from proxy.session.stores.redis.vault import Vault, Vaults
from proxy.session.stores.redis.wire import Word

#: Seconds for which a right is given. Longer than a failover of Sentinels or of a cluster takes (4 s with what we
#: recommend): when the next master answers, whoever renews still has the right. Shorter than the 10 s of whoever waits.
LEASE: Final = 5.0
#: Seconds after which a renewal goes on alone, random between the two: its own call then has 3 s.
_PATIENCE: Final = (5.0, 7.0)
#: Refusals outlive a restart, and are forgotten with a proxy that is gone (milliseconds); failures likewise (seconds).
_REFUSED_FOR: Final = 30 * 86_400_000
_FAILURES_FOR: Final = 600.0
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
        now: Callable[[], float] | None = None,
    ) -> None:
        self._place = place
        self._binding = binding
        self._clock = clock
        self._warn = warn
        self._client = RedisClient(place, watch=watch)
        #: Seconds that count in place of Redis's time, for tests.
        self._now = now
        self.patience = random.uniform(*_PATIENCE)  # noqa: S311 - spreads, guards nothing
        #: Whose the rights are that are given to this one.
        self._me = random_secrets.token_hex(16)
        self._held: set[Right] = set()
        self._vaults = Vaults()
        self._fingerprints = Fingerprints()
        #: What was seen last, under which binding, and how Redis calls it: it need not be sent again every second.
        self._last: tuple[str, str, Token] | None = None
        #: The tag of what is stored and cannot be read: whoever has the right to renew writes over it.
        self._unreadable = b""
        self._has_warned = False

    @property
    def is_up(self) -> bool:
        """Say whether the last operation reached Redis."""
        return bool(self._client.up)

    @property
    def address(self) -> str:
        """The server in use, without user and password; the URL's hosts while none is."""
        return self._client.address

    @property
    def kind(self) -> str:
        """The scheme of the URL."""
        return self._place().url.kind

    @property
    def trouble(self) -> str | None:
        """What is wrong with Redis now, in a sentence."""
        return None if self._client.trouble is None else self._client.trouble.sentence

    async def look(self, secrets: str) -> Stored:
        """Read all that is shared."""
        return (await self._asked(scripts.LOOK, secrets, Urgency.LOOK))[1]

    async def enter(self, secrets: str, *, known: Token | None, needs_login: bool, forced: bool = False) -> Entered:
        """Ask to begin a renewal."""
        vault, _ = await self._vault()
        tag = "" if known is None else vault.tag(known.value)

        async def ask() -> tuple[ScriptReply, Stored]:
            wanted = (_flag(needs_login), _flag(forced), self._unreadable)
            return await self._asked(scripts.ENTER, secrets, Urgency.RENEWAL, self._me, _micro(LEASE), tag, *wanted)

        answer, stored = await ask()
        turn = Turn(answer.verdict)
        if turn is Turn.NEWS and stored.token is None:
            # Redis does not know what cannot be read: now it is told.
            answer, stored = await ask()
            turn = Turn(answer.verdict)
            if turn is Turn.NEWS and stored.token is None:
                turn = Turn.BUSY
        self._holds(Right.RENEWAL, turn is Turn.GRANTED)
        if (
            turn is not Turn.NEWS
            and turned_away(stored, known=known, needs_login=needs_login, forced=forced) is Turn.NEWS
        ):
            # Redis cannot read what was refused: to whom no login helps, an anonymous token is news as well.
            turn = Turn.NEWS
            await self.leave(Right.RENEWAL)
        return Entered(turn, stored, answer.leased if turn is Turn.BUSY else 0.0)

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        """Compare and set."""
        vault, binding = await self._vault(token.app_id)
        expected: Word = vault.tag(replaces.value) if replaces is not None else ""
        if replaces is None and Right.RENEWAL in self._held:
            expected = self._unreadable
        sealed = vault.seal("token", pack_token(token))
        age = max(0.0, self._clock.now().steady - token.born.steady)
        arguments = (
            *(expected, vault.tag(token.value), _flag(token.identity is not None)),
            *(_micro(age), _micro(token.lifetime), sealed),
        )
        urgency = Urgency.RENEWAL if Right.RENEWAL in self._held else Urgency.LOOK
        answer = read_reply(await self._run(scripts.SAVE, *arguments, vault=vault, urgency=urgency))
        if answer.verdict != "saved":
            return False
        self._unreadable = b""
        if binding == self._binding():
            self._last = (vault.id, _name(vault, token), replace(token, app_id=binding.app_id))
        return True

    async def failed(self, seconds: float) -> None:
        """Count a failure, begin its pause, give the right to renew back."""
        self._held.discard(Right.RENEWAL)
        await self._run(scripts.FAILED, self._me, _micro(seconds), _micro(_FAILURES_FOR))

    async def leave(self, right: Right, *, recovered: bool = False) -> None:
        """Give a right back."""
        self._held.discard(right)
        await self._run(scripts.LEAVE, self._me, on=_KEYS[right] + "p" * recovered)

    async def extend(self, right: Right) -> bool:
        """Keep a right."""
        extended = await self._run(scripts.EXTEND, self._me, _micro(LEASE), on=_KEYS[right])
        return self._holds(right, read_number(extended) == 1)

    async def take_login_turn(self) -> float:
        """Ask for the turn to handle a login."""
        taken = await self._run(scripts.TAKE, self._me, _micro(LEASE), on="t", urgency=Urgency.REQUEST)
        seconds = read_number(taken) / MICRO
        self._holds(Right.LOGIN, seconds == 0)
        return seconds

    async def refuse(self, refusals: Mapping[str, str], secrets: str) -> None:
        """Remember what CardCash refused; of `secrets` only a slow salted hash is stored, and that encrypted."""
        vault, _ = await self._vault()
        if not refusals:
            await self._run(scripts.REFUSE, b"", _REFUSED_FOR, "", vault=vault)
            return
        fingerprint = await self._fingerprints.of(secrets)
        written = False
        while not written:
            # Whoever goes on alone, or stood still, is refused without the right to renew: another may write meanwhile.
            before = read_reply(await self._run(scripts.LOOK, "", vault=vault))
            refused = refused_in(before, vault)
            refused.pop(await self._fingerprints.find(refused, secrets) or "", None)
            sealed = vault.seal("refusals", pack_refusals(with_refusals(refused, fingerprint, refusals)))
            written = (
                read_number(await self._run(scripts.REFUSE, sealed, _REFUSED_FOR, before.refusals, vault=vault)) == 1
            )

    async def end_pause(self) -> None:
        """Forget the failures."""
        await self._run(scripts.END, on="p")

    async def probe(self) -> float:
        """Write a key of no meaning; returns Redis's Unix time in seconds."""
        return read_number(await self._run(scripts.PROBE, on="d", urgency=Urgency.LOOK)) / MICRO

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

    async def _asked(self, script: Script, secrets: str, urgency: Urgency, *more: Word) -> tuple[ScriptReply, Stored]:
        vault, binding = await self._vault()
        last = self._last if self._last is not None and self._last[0] == vault.id else None
        asked = self._clock.now()
        seen = "" if last is None else last[1]
        answer = read_reply(await self._run(script, seen, *more, vault=vault, urgency=urgency))
        token = last[2] if last is not None and answer.is_known else self._read(answer, vault, asked, binding)
        refused = refused_in(answer, vault)
        ours = await self._fingerprints.find(refused, secrets)
        return answer, Stored(
            token,
            refused[ours] if ours is not None else {},
            answer.failures,
            answer.pause,
            refuses_others=bool(refused) and ours is None,
            is_foreign=answer.tag is not None and token is None,
        )

    def _read(self, answer: ScriptReply, vault: Vault, asked: Moment, binding: Binding) -> Token | None:
        """Return the token that came with an answer, and warn when it cannot be read."""
        self._last, self._unreadable = None, b""
        if answer.tag is not None:
            token = token_in(answer, vault, asked=asked, app_id=binding.app_id)
            if token is not None:
                self._has_warned = False
                self._last = (vault.id, _name(vault, token), token)
                return token
            self._unreadable = answer.tag.encode("ascii", "surrogateescape")
            self._tell(_UNREADABLE)
        return None

    async def _run(
        self,
        script: Script,
        *arguments: Word,
        on: str = "slpx",
        vault: Vault | None = None,
        urgency: Urgency = Urgency.RENEWAL,
    ) -> Any:
        """Run a script on the keys of these names, by default those whose scripts answer all there is."""
        vault = vault or (await self._vault())[0]
        keys = [f"{self._place().url.prefix}{{{vault.id}}}:{name}" for name in on]
        now = "" if self._now is None else _micro(self._now())
        return await self._client.run(script, keys, (now, *arguments), urgency)

    def _holds(self, right: Right, is_ours: bool) -> bool:
        (self._held.add if is_ours else self._held.discard)(right)
        return is_ours

    def _tell(self, what: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn(what)


_KEYS: Final = {Right.RENEWAL: "l", Right.LOGIN: "t"}


def _name(vault: Vault, token: Token) -> str:
    """Return how a script calls a token that is the same in all that matters: its tag, and whether it is logged in."""
    return vault.tag(token.value) + _flag(token.identity is not None)


def _flag(is_so: bool) -> str:
    return "1" if is_so else "0"


def _micro(seconds: float) -> int:
    return round(seconds * MICRO)
