"""Which Redis is asked: a seed of the URL, the node a cluster points to, or the master that Sentinels name.

All of one binding is under one key, so one node of a cluster serves it, and no map of slots is needed.
"""

from __future__ import annotations

from typing import Any, Final

from proxy.session.stores.redis.connection import Address, NotRedis, RedisError, connect
from proxy.session.stores.redis.place import Place

#: What a Sentinel refuses is another matter than the same word of the Redis behind it: the code that it has as its own.
_OF_SENTINELS: Final = {
    "ERR": "NOSENTINEL",
    "NOAUTH": "SENTINELNOAUTH",
    "WRONGPASS": "SENTINELWRONGPASS",
    "NOPERM": "SENTINELNOPERM",
}


class NoMaster(Exception):
    """No Sentinel that answers knows a master of this name."""


class Servers:
    """Knows the server to ask next, for one `Place`. Not for two tasks at a time, but for reading `current`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._seed = 0
        self._sentinels = list(place.url.hosts)
        self.current: Address | None = None

    @property
    def is_alone(self) -> bool:
        """Say whether there is nobody else to ask at once when a server cannot be connected to."""
        return len(self.place.url.hosts) == 1

    async def find(self) -> Address:
        """Return the server to ask. Raises `NoMaster`, or what the last Sentinel raised."""
        if self.current is None:
            url = self.place.url
            self.current = await self._ask_sentinels(url.master) if url.master else url.hosts[self._seed]
        return self.current

    def lost(self, address: Address) -> None:
        """Give up a server that cannot be reached, or that is no master: look for it anew."""
        if address != self.current:
            return
        hosts = self.place.url.hosts
        if self.place.url.master is not None:
            # Whoever named it may be cut off from the other Sentinels: the next is asked first.
            self._sentinels.append(self._sentinels.pop(0))
        elif address == hosts[self._seed]:
            self._seed = (self._seed + 1) % len(hosts)
        self.current = None

    def moved(self, target: Address) -> None:
        """Go where a node of a cluster points to, until that cannot be reached."""
        self.current = target

    async def _ask_sentinels(self, master: str) -> Address:
        """Ask one Sentinel after the other, the one that knew last first. One that is none any more shows in a write."""
        failed: Exception | None = None
        for sentinel in (*self._sentinels,):
            try:
                found = await self._ask(sentinel, master)
            except (RedisError, NotRedis, OSError) as error:
                failed = error
                continue
            if found is not None:
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)
                return found
            failed = None
        raise failed or NoMaster

    async def _ask(self, sentinel: Address, master: str) -> Address | None:
        try:
            connection = await connect(self.place, sentinel, to_sentinel=True)
            try:
                return _named(await connection.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master))
            finally:
                connection.abort()
        except RedisError as error:
            raise RedisError(_OF_SENTINELS.get(error.code, error.code)) from None


def _named(answer: Any) -> Address | None:
    """Read which master a Sentinel names. Raises `NotRedis`."""
    try:
        return None if answer is None else (answer[0].decode(), int(answer[1]))
    except (ValueError, TypeError, IndexError, AttributeError):
        raise NotRedis from None
