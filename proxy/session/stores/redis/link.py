"""The connections to one Redis that are kept open: one command at a time on each, two at most (see `client.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from proxy.session.stores.redis.place import Place
from proxy.session.stores.redis.scripts import Script
from proxy.session.stores.redis.wire import Address, RedisConnection, RedisError, Word, connect


class Connections:
    """The connections to one address. `close` must be called."""

    def __init__(self, place: Place, address: Address, connected: Callable[[], None]) -> None:
        self._place = place
        self.address = address
        self._connected = connected
        self._idle: list[RedisConnection] = []
        self._closed = False

    async def run(self, script: Script[Any], key: str, arguments: Sequence[Word], *, asking: bool = False) -> Any:
        """Run a script, by its name if Redis knows it; `asking`: though its slot is only just being moved there.

        Raises `RedisError`, `OSError` or `NotRedis`.
        """
        tail = (1, key, *arguments)
        try:
            return await self._ask(("EVALSHA", script.sha, *tail), asking=asking)
        except RedisError as error:
            if error.code != "NOSCRIPT":
                raise
        # SCRIPT LOAD would be one command more, and one right more.
        return await self._ask(("EVAL", script.source, *tail), asking=asking)

    async def _ask(self, command: Sequence[Word], *, asking: bool) -> Any:
        if self._idle:
            try:
                return await self._exchange(self._idle.pop(), command, asking=asking)
            except OSError as error:
                if isinstance(error, TimeoutError):
                    raise
                # A server or a balancer may have found it idle for too long; a new one is worth a try.
        connection = await connect(self._place, self.address)
        self._connected()
        return await self._exchange(connection, command, asking=asking)

    async def _exchange(self, connection: RedisConnection, command: Sequence[Word], *, asking: bool) -> Any:
        try:
            if asking:
                await connection.ask("ASKING")
            answer = await connection.ask(*command)
        except RedisError:
            self._put_back(connection)
            raise
        self._put_back(connection)
        return answer

    def _put_back(self, connection: RedisConnection) -> None:
        if self._closed:
            connection.abort()
        else:
            self._idle.append(connection)

    async def close(self, *, orderly: bool = False) -> None:
        """Close all connections, those in use when they are given back; `orderly` waits for their ends, up to 1 s each."""
        self._closed = True
        while self._idle:
            connection = self._idle.pop()
            if orderly:
                await connection.close()
            else:
                connection.abort()
