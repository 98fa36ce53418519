"""What processes share that renew one session: one Protocol, `SharedStore`, and one module for each kind of store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol, runtime_checkable

from proxy.core.login_request import account_key
from proxy.core.token import Token


class StoreUnreachable(Exception):
    """The store does not answer, or not as it should, for now; the sentence holds nothing secret."""

    #: It may do so in a few seconds.
    passes = True
    #: It answers and can be read, but writes nothing.
    refuses = False


class StoreUnusable(Exception):
    """The place named by `session.store` cannot be used safely; the sentence says what to do."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a stored token belongs to: whoever differs in one of these never finds it. Never printed."""

    origin: str
    app_id: str = field(repr=False)
    email: str | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """A name for it that shows none of it; e-mails compare as accounts do."""
        parts = [self.origin, self.app_id, account_key(self.email or "").hex()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Right(Enum):
    """What one holder at a time has among all who share a store; the two do not wait for each other."""

    #: To make a session call.
    RENEWAL = "lease"
    #: To handle a caller's login.
    LOGIN = "login"


class Turn(Enum):
    """How an attempt to begin a renewal ended."""

    #: The right is ours, until `failed` or `leave`; it is to be extended meanwhile.
    GRANTED = "granted"
    #: Another process has renewed: its token is in `Entered.stored`, and there is nothing to do. The right is not ours.
    NEWS = "news"
    #: Renewals fail, and a pause lasts (`stored.paused_for`). The right is not ours.
    PAUSED = "paused"
    #: Somebody else has the right. Ask again soon.
    BUSY = "busy"


@dataclass(frozen=True, slots=True, repr=False)
class Stored:
    """All that a store holds for one binding, at one moment."""

    #: None: there is none, it has expired, or it cannot be read. Its `born` counts by the reader's own clocks.
    token: Token | None = None
    #: What CardCash refused ("app_id", "login") of exactly the secrets that were named, each with a sentence for people.
    refusals: Mapping[str, str] = field(default_factory=dict)
    #: Renewals that failed in a row, and how many seconds no other may begin.
    failures: int = 0
    paused_for: float = 0.0
    #: All that is remembered as refused is of other secrets, which somebody who shares the store has, or cannot be read.
    refuses_others: bool = False
    #: There is something in the token's place that cannot be read.
    is_foreign: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Entered:
    """What `SharedStore.enter` brought, and what it saw."""

    turn: Turn
    stored: Stored


#: Seconds after which a right that was not extended is anybody's (a kind of store may take longer, but less than half of
#: a renewal's deadline), and between two extensions.
LEASE: Final = 3.0
EXTEND_EVERY: Final = 1.0
#: Seconds for which failures are remembered after their pause, at least.
FAILURES_LAST: Final = 60.0


def turned_away(stored: Stored, *, known: Token | None, forced: bool) -> Turn | None:
    """Say why a renewal need not or may not begin, whoever has the right: the first rules of `SharedStore.enter`."""
    if forced:
        return None
    token = stored.token
    if token is not None and (known is None or token.value != known.value):
        return Turn.NEWS
    return Turn.PAUSED if stored.paused_for > 0 else None


class SharedStore(Protocol):
    """What the processes share that renew one session: its token, what was refused, the pause after failures, two rights.

    One object is one participant: a right belongs to the object that took it, so each process has an object of its own.
    Everything belongs to the `Binding` at the moment of the call; other bindings' things are neither seen nor touched.

    Every operation is atomic among all participants, never waits for another one, and may be called by several tasks at
    once. Cancelled, it has either been done or not. It raises `OSError` (a `TimeoutError` is one), `StoreUnreachable` or
    `StoreUnusable` when the store does not do its work; nothing is known then of what was done. That is never said in
    another way: an empty store is one that was read. Whatever is in the store and cannot be trusted counts as not there.

    Every kind passes the one contract suite in `tests/session/store_contract.py`.
    """

    #: Other processes may use it at the same time.
    shared: bool
    #: Seconds for which a renewal asks a store that does not answer again, before it goes on alone.
    patience: float

    async def look(self, secrets: str) -> Stored:
        """Read all there is; `refusals` are those of these `secrets`. Changes nothing."""
        ...

    async def enter(self, secrets: str, *, known: Token | None, forced: bool = False) -> Entered:
        """Ask to begin a renewal: the first that applies of news, paused, granted and busy; see `Turn`.

        News is a token that is not `known` (by value) and has not expired; whom it does not help asks again and knows it.
        `forced` (an operator asks): neither news nor a pause counts. Whoever has the right is granted it again.
        What is granted saw everything that earlier holders have saved, refused and failed at.
        """
        ...

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        """Store `token` if what is stored is still `replaces` (by value; None: nothing, or what has expired).

        False: it was lost to another save; look who won. Needs no right. A token whose `app_id` is not the binding's is
        stored for whoever has that application id.
        """
        ...

    async def failed(self, seconds: float) -> None:
        """A renewal failed: count it, let no other begin for so many seconds, and give the right to renew back.

        Counts whether or not the right is still ours (`leave`).
        """
        ...

    async def leave(self, right: Right, *, recovered: bool = False) -> None:
        """Give the right back; nothing happens to one that is another's by now. `recovered`: forget the failures."""
        ...

    async def extend(self, right: Right) -> bool:
        """Keep the right for another `LEASE` seconds; False: it is lost for certain, and not taken again by this."""
        ...

    async def take_login_turn(self) -> bool:
        """Ask for the right to handle a caller's login; False: somebody else has it, ask again soon."""
        ...

    async def refuse(self, refusals: Mapping[str, str], secrets: str) -> None:
        """Remember what CardCash refused of `secrets`, beside what it refused of the last few others'; empty: forget all.

        Stored for as long as anything is, across restarts; in another process's memory no secret can be found out of it.
        """
        ...

    async def end_pause(self) -> None:
        """Forget the failures and their pause: an operator asks, or the secrets are others."""
        ...

    async def close(self) -> None:
        """Let go of rights, files and connections; twice is once. Nothing else is called afterwards."""
        ...


class StoreWatch(Protocol):
    """Who is told how a store on a network does; must not raise and must not wait."""

    def took(self, operation: str, seconds: float) -> None:
        """An operation was tried, well or not, for so many seconds."""
        ...

    def reconnected(self) -> None:
        """A connection was made that is not the first."""
        ...


@runtime_checkable
class OnNetwork(Protocol):
    """What a store on a network tells of itself; never user or password."""

    #: The scheme of its URL, and host and port of the server in use, or of those of the URL while none is.
    kind: str
    address: str
