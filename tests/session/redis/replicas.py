"""Replicas that share a Redis: stores as the proxy builds them, with what they told."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from proxy.core.secret import Secret
from proxy.core.store_url import parse_store_url
from proxy.core.token import Token
from proxy.session.stores import Binding, Turn
from proxy.session.stores.redis.client import RedisUnavailable
from proxy.session.stores.redis.place import Place
from proxy.session.stores.redis.scripts import Script
from proxy.session.stores.redis.store import RedisStore
from tests.session.fakes import APP, FakeClock

MINE = Binding("https://cardcash.example", APP, "Me@example.com")
SECRETS = "application id, e-mail and password"
#: Seconds in which another master can be written to: 2.5 to 4 here, longer on a machine that does other things too.
SOON = 12.0


class Watched:
    """Hears of everything a store tells."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.operations: Counter[str] = Counter()
        self.slowest = 0.0
        self.reconnects = 0

    def took(self, operation: str, seconds: float) -> None:
        self.operations[operation] += 1
        self.slowest = max(self.slowest, seconds)

    def reconnected(self) -> None:
        self.reconnects += 1


class RedisClock:
    """The clock of the Redis of a test, as the product's scripts see it."""

    def __init__(self) -> None:
        #: Seconds by which it is set forward.
        self.ahead = 0
        #: A clock that it shows instead.
        self.shows: FakeClock | None = None

    @property
    def time(self) -> str:
        """What stands in a script in place of a question for the time."""
        if self.shows is not None:
            seconds, micro = divmod(round(self.shows.steady * 1_000_000), 1_000_000)
            return f"{{{seconds}, {micro}}}"
        return f"(function(t) return {{t[1] + {self.ahead}, t[2]}} end)(redis.call('TIME'))"


class TimedScript:
    """One of the product's scripts, on a Redis with such a clock."""

    def __init__(self, script: Script[Any], clock: RedisClock) -> None:
        self._script = script
        self._clock = clock
        self.name = script.name
        self.read = script.read

    @property
    def source(self) -> str:
        assert self._script.source.count("redis.call('TIME')") == 1
        return self._script.source.replace("redis.call('TIME')", self._clock.time)

    @property
    def sha(self) -> str:
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Replica:
    """One process of a fleet, with a clock that stands still; Redis's own goes on."""

    def __init__(self, place: Place, *, clock: FakeClock | None = None, binding: Binding = MINE) -> None:
        self.place = place
        self.binding = binding
        self.clock = clock or FakeClock()
        self.seen = Watched()
        self.store = RedisStore(
            lambda: self.place,
            binding=lambda: self.binding,
            clock=self.clock,
            warn=self.seen.warnings.append,
            watch=self.seen,
        )

    def token(self, value: str = "one.token.", **more: Any) -> Token:
        return Token(value, self.clock.now(), 600, **more)

    async def save(self, value: str = "one.token.", *, replaces: Token | None = None, **more: Any) -> bool:
        return await self.store.save(self.token(value, **more), replaces=replaces)

    async def found(self) -> Token:
        """What this one sees; there must be something."""
        token = (await self.store.look(SECRETS)).token
        assert token is not None
        return token

    async def stored(self) -> str | None:
        """The value of what this one sees."""
        token = (await self.store.look(SECRETS)).token
        return None if token is None else token.value

    async def enters(self, known: Token | None = None, *, forced: bool = False) -> Turn:
        return (await self.store.enter(SECRETS, known=known, forced=forced)).turn


def place_of(url: str, *store_secrets: str, tls: ssl.SSLContext | None = None) -> Place:
    return Place(parse_store_url(url), tls, secrets=tuple(map(Secret, store_secrets)))


def as_somebody(place: Place, user: str, password: str) -> Place:
    return replace(place, url=replace(place.url, user=Secret(user), password=Secret(password)))


async def again(do: Callable[[], Awaitable[object]], within: float = SOON) -> float:
    """Try, as a renewal does, until it works; returns the seconds that took."""
    began = time.monotonic()
    async with asyncio.timeout(within + 3):
        while True:
            try:
                await do()
            except RedisUnavailable:
                await asyncio.sleep(0.05)
            else:
                return time.monotonic() - began
