"""Connections to one Redis: made with redis-py 8.1, one command at a time each, and never used again after a doubt.

Without redis-py's pool and client: those retry ten times with 5 s time-outs, open a connection for every concurrent
command, and introduce themselves with commands that older servers refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from redis import exceptions
from redis.asyncio.connection import Connection, SSLConnection

from proxy.session.stores.redis.place import Place
from proxy.session.stores.redis.scripts import Script

Address = tuple[str, int]
Argument = str | bytes | int

#: Seconds to connect, and for one answer.
TIMEOUT: Final = 1.0
#: The same with a Sentinel: there are others.
SENTINEL_TIMEOUT: Final = 0.5


class Connections:
    """The connections to one address. `close` must be called."""

    def __init__(self, place: Place, address: Address, connected: Callable[[], None]) -> None:
        self._place = place
        self.address = address
        self._connected = connected
        self._idle: list[Connection] = []
        self._closed = False

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument], *, asking: bool) -> Any:
        """Run a script, by its name if Redis knows it. Raises what redis-py raises, or OSError."""
        tail = (len(keys), *keys, *arguments)
        try:
            return await self._ask(("EVALSHA", script.sha, *tail), asking=asking)
        except exceptions.NoScriptError:
            # SCRIPT LOAD would be one command more, and one right more.
            return await self._ask(("EVAL", script.source, *tail), asking=asking)

    async def _ask(self, command: Sequence[Argument], *, asking: bool) -> Any:
        if self._idle:
            connection = self._idle.pop()
            try:
                return await self._exchange(connection, command, asking=asking)
            except exceptions.ConnectionError as error:
                # It may be closed by a server or a balancer that found it idle for too long; a new one is worth a try.
                if error.status_code is not None:
                    raise
        connection = make_connection(self._place, self.address)
        await connection.connect()  # type: ignore[no-untyped-call]
        self._connected()
        return await self._exchange(connection, command, asking=asking)

    async def _exchange(self, connection: Connection, command: Sequence[Argument], *, asking: bool) -> Any:
        """Send one command and read its answer; redis-py closes the connection when either is cut off."""
        try:
            if asking:
                await connection.send_command("ASKING")
                await connection.read_response(disable_decoding=True)
            await connection.send_command(*command)
            answer = await connection.read_response(disable_decoding=True)
        except exceptions.ResponseError:
            await self._put_back(connection)  # it has been read to its end
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        await self._put_back(connection)
        return answer

    async def _put_back(self, connection: Connection) -> None:
        if self._closed:
            await connection.disconnect(nowait=True)
        else:
            self._idle.append(connection)

    async def close(self, *, orderly: bool = False) -> None:
        """Close all connections, those in use when they are given back; `orderly` waits for their ends, up to 1 s each."""
        self._closed = True
        while self._idle:
            with suppress(exceptions.RedisError, OSError):
                await self._idle.pop().disconnect(nowait=not orderly)


def make_connection(place: Place, address: Address, *, to_sentinel: bool = False) -> Connection:
    """Make a connection that is not connected yet; it never says who its client is, and tries nothing again."""
    url = place.url
    password = place.sentinel_password if to_sentinel else url.password
    options: dict[str, Any] = {
        "host": address[0],
        "port": address[1],
        "db": 0 if to_sentinel else url.db,
        "username": url.user.reveal() if url.user is not None and not to_sentinel else None,
        "password": password.reveal() if password is not None else None,
        "socket_timeout": SENTINEL_TIMEOUT if to_sentinel else TIMEOUT,
        "socket_connect_timeout": SENTINEL_TIMEOUT if to_sentinel else TIMEOUT,
        # The older protocol needs no command to begin with.
        "protocol": 2,
        "driver_info": None,
    }
    if not url.tls:
        return Connection(**options)
    connection = SSLConnection(**options)
    if place.tls is not None:
        connection.ssl_context.context = place.tls
    return connection
