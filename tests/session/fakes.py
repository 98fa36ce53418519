"""Fakes with counters: a clock that stands still, CardCash as a script, an observer and a store that can fail."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from proxy.core.token import Moment, Source, Token
from proxy.session.cardcash_calls import Credentials, SessionCalls, SessionOutage
from proxy.session.keeper import Policy, SessionKeeper
from proxy.session.stores import Entered, Right, SharedStore, Stored
from proxy.session.stores.memory import MemoryStore
from proxy.telemetry.labels import HARVESTS, RENEWALS, STORE_OPERATIONS

ME = "partner@example.com"
APP = "app-id"
LOGIN = Credentials(APP, ME, "password")
ANONYMOUS = Credentials(APP)

#: Fields of the line `session_renewal`.
FIELDS = {"lifetime", "source", "sentence", "pause", "rejected"}
#: What a scripted call does: return a token's value, raise, or (None) the ordinary thing.
Step = str | Exception | None


class FakeClock:
    """Stands still until it is moved; the two clocks may be moved apart."""

    def __init__(self) -> None:
        self.steady = 1_000.0
        self.wall = 1_800_000_000.0
        #: Tokens made under this clock, so that no two of one world are equal.
        self.made = 0

    def now(self) -> Moment:
        return Moment(self.steady, self.wall)

    def advance(self, seconds: float) -> None:
        self.steady += seconds
        self.wall += seconds


class FakeCalls(SessionCalls):
    """CardCash as the keeper sees it. `gate` holds every session call back until it is opened."""

    def __init__(self, clock: FakeClock, credentials: Credentials = ANONYMOUS) -> None:
        self.credentials = credentials
        self.clock = clock
        self.lifetime = 1200.0
        self.gate = asyncio.Event()
        self.gate.set()
        #: Times at which POST /session was sent, every try counted; and the tries that each call was allowed.
        self.sessions: list[float] = []
        self.tries: list[int] = []
        #: As often as a login was sent.
        self.logins: list[Credentials] = []
        self.keep_alives = 0
        self.busy = 0
        self.most_busy = 0
        self.on_session: deque[Step] = deque()
        self.on_login: deque[Step] = deque()
        self.on_keep_alive: deque[Step] = deque()
        #: An outage: every session call fails so, all tries.
        self.down: Exception | None = None
        #: Called while a session or keep-alive call is under way.
        self.meanwhile: Callable[[], Any] = lambda: None

    async def session(self, *, tries: int, until: float = math.inf) -> Token:
        credentials = self.credentials
        born = self.clock.now()
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        self.tries.append(tries)
        try:
            self.sessions += [born.steady] * (tries if self.down else 1)
            await self.gate.wait()
            self.meanwhile()
            if self.down:
                raise self.down
            value = self._next(self.on_session, f"session-of-{credentials.app_id}")
            return Token(value, born, self.lifetime, Source.SESSION, app_id=credentials.app_id)
        finally:
            self.busy -= 1

    async def login(self, session: Token, *, tries: int, until: float = math.inf) -> Token:
        credentials = self.credentials
        fails = bool(self.on_login) and isinstance(self.on_login[0], SessionOutage)
        self.logins += [credentials] * (tries if fails else 1)
        value = self._next(self.on_login, "login")
        return replace(session, value=value, born=self.clock.now(), source=Source.LOGIN, identity=credentials.email)

    async def keep_alive(self, token: Token, path: str) -> Token | None:
        self.keep_alives += 1
        self.meanwhile()
        if not self.on_keep_alive or self.on_keep_alive[0] is None:
            if self.on_keep_alive:
                self.on_keep_alive.popleft()
            return None
        value = self._next(self.on_keep_alive, "")
        return replace(token, value=value, born=self.clock.now(), lifetime=self.lifetime, source=Source.HARVEST)

    def _next(self, script: deque[Step], name: str) -> str:
        step = script.popleft() if script else None
        if isinstance(step, Exception):
            raise step
        self.clock.made += 1
        return step or f"{name}.{self.clock.made}."


class Recorder:
    """An observer that remembers, also what has no series among the metrics, or is no field of a log line."""

    def __init__(self) -> None:
        self.renewals: list[tuple[str, str]] = []
        self.harvests: Counter[str] = Counter()
        self.took: list[float] = []
        self.losses = 0
        self.failed_calls: list[str] = []
        self.stores: Counter[tuple[str, str]] = Counter()
        #: What was told of a store that failed, and of what of it still does.
        self.whys: list[str] = []
        self.failing: set[str] = set()
        self.unknown: list[object] = []

    def renewal(self, reason: str, result: str, fields: Mapping[str, object]) -> None:
        self.renewals.append((reason, result))
        self._check((reason, result) in RENEWALS, reason, result)
        self._check(dict(fields).keys() <= FIELDS, fields)
        self._check(isinstance(fields.get("sentence", ""), str), fields)
        self._check(fields.get("source") in {None, *(source.value for source in Source)}, fields)
        self._check(
            "sentence" in fields or result not in {"failed", "refused", "login_refused"} or "rejected" in fields, fields
        )

    def renewal_took(self, seconds: float) -> None:
        self.took.append(seconds)
        self._check(isinstance(seconds, float) and 0 <= seconds < 60, seconds)

    def harvest(self, result: str) -> None:
        self.harvests[result] += 1
        self._check(result in HARVESTS, result)

    def call_failed(self, kind: str) -> None:
        self.failed_calls.append(kind)

    def identity_lost(self) -> None:
        self.losses += 1

    def store(self, operation: str, result: str, why: str = "") -> None:
        self.stores[operation, result] += 1
        self.whys += [why] * (result == "failed")
        (self.failing.add if result == "failed" else self.failing.discard)(operation)
        self._check((operation, result) in STORE_OPERATIONS, operation, result)

    def store_works(self) -> None:
        self.failing.clear()

    def _check(self, is_known: bool, *what: object) -> None:
        if not is_known:
            self.unknown.append(what)


class BrokenStore(MemoryStore):
    """Raises at whatever is in `broken`."""

    def __init__(self, clock: FakeClock, *broken: str) -> None:
        super().__init__(clock)
        self.broken = broken

    async def look(self, secrets: str) -> Stored:
        self._check("load")
        return await super().look(secrets)

    async def enter(self, secrets: str, *, known: Token | None, forced: bool = False) -> Entered:
        self._check("enter")
        return await super().enter(secrets, known=known, forced=forced)

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        self._check("save")
        return await super().save(token, replaces=replaces)

    async def refuse(self, refusals: Mapping[str, str], secrets: str) -> None:
        self._check("latch")
        await super().refuse(refusals, secrets)

    async def failed(self, seconds: float) -> None:
        self._check("lease")
        await super().failed(seconds)

    async def leave(self, right: Right, *, recovered: bool = False) -> None:
        self._check("lease")
        await super().leave(right, recovered=recovered)

    async def end_pause(self) -> None:
        self._check("lease")
        await super().end_pause()

    async def close(self) -> None:
        self._check("close")

    def _check(self, operation: str) -> None:
        if operation in self.broken:
            raise OSError(operation)


class House:
    """One keeper with everything around it."""

    def __init__(
        self,
        *,
        credentials: Credentials = ANONYMOUS,
        store: SharedStore | None = None,
        clock: FakeClock | None = None,
        deadline: float = 10.0,
        idle_after: float = 3600.0,
    ) -> None:
        self.clock = clock or FakeClock()
        self.calls = FakeCalls(self.clock, credentials)
        self.seen = Recorder()
        self.store: SharedStore = store or MemoryStore(self.clock)
        self.keeper = SessionKeeper(
            self.calls,
            store=self.store,
            clock=self.clock,
            observer=self.seen,
            policy=Policy(renew_ahead=300, idle_after=idle_after, deadline=deadline),
        )

    def outage(self, retry_after: float | None = None) -> None:
        self.calls.down = SessionOutage("down", retry_after=retry_after)

    @property
    def held(self) -> Token:
        assert self.keeper.held is not None
        return self.keeper.held

    def tick(self) -> None:
        """Let a second go by in which the keeper looks at what is due."""
        self.keeper.look()

    def to_the_window(self) -> None:
        """Go to the half of the renewal window in which the background renewal acts."""
        renews_in = self.keeper.status()["renews_in_seconds"]
        assert renews_in is not None
        self.clock.advance(renews_in + 1)


async def settle() -> None:
    """Let everything that can run now run; nothing here waits for time."""
    for _ in range(25):
        await asyncio.sleep(0)
