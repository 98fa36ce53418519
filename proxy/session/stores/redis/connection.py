"""Connections to a Redis, in its own protocol (RESP2): a command goes out, its answer comes back.

Written here: redis-py 8.1 brings 200 commands, 5.5 MB and 0.1 s of a start, and of all that a replica uses AUTH, SELECT,
EVALSHA and what Sentinels are asked. A connection is never used again after a doubt (no answer in time, more than one,
something that nobody asked for), so no answer is taken for another's. Only a second answer that comes while the next one is
waited for cannot be told from that; connections are idle for most of each second.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from proxy.session.stores.redis.place import Place
from proxy.session.stores.redis.scripts import Script
from proxy.tls import client_context

Address = tuple[str, int]
Word = str | bytes | int

#: Seconds to connect, and for one answer.
TIMEOUT: Final = 1.0
#: The same with a Sentinel: there are others.
SENTINEL_TIMEOUT: Final = 0.5
#: Bytes of one line, bytes of one text, and members of one list: far more than any script answers.
_LONGEST_LINE: Final = 64 * 1024
_LARGEST: Final = 1024 * 1024
_LONGEST: Final = 64
#: Errors that have no word of their own in front, by what they say, with the word that they should have.
_BY_TEXT: Final = {
    "The user executing the script can't": "NOPERM",  # Redis 6.2 and 7.0
    "ACL failure in script": "NOPERM",  # Redis 7.2 to 8.2, Valkey 7.2 and 8.0
    "max number of clients": "MAXCLIENTS",
    "Protocol error: unauthenticated": "NOAUTH",  # who is not known may say 10 words
    "DB index": "NODB",
    "SELECT is not allowed": "NODB",
}


class RedisError(Exception):
    """Redis answered with an error. Its text may repeat a user or a key, so it is not shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        # The error that is meant where a script has failed over it: Redis 6 puts that in the middle of its own sentence.
        inner = re.search(r"@user_script: ?[0-9]+: -?([A-Z]{3,24}) ", text)
        word = inner or re.match(r"([A-Z]{3,24})\b", text)
        #: Its first word, or the one that it should have; ERR and nothing for those that have none of their own.
        self.code = next((meant for part, meant in _BY_TEXT.items() if part in text), word[1] if word else "")
        #: Where a cluster points to; the host is empty for the one that was asked.
        self.target: Address | None = None
        if (there := re.fullmatch(r"(?:MOVED|ASK) [0-9]+ (.*):([0-9]{1,5})", text)) is not None:
            self.target = "" if there[1] == "?" else there[1], int(there[2])


class NotRedis(Exception):
    """What answers does not speak the protocol, or says more than it was asked."""


class RedisConnection(asyncio.Protocol):
    """One connection, for one task at a time. `abort` must be called."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[Any] | None = None
        self._is_over = False

    async def ask(self, *words: Word) -> Any:
        """Send a command; returns bytes, a number, None or a list of them.

        Raises `RedisError`, and, closed already, `OSError` (a `TimeoutError` is one) or `NotRedis`.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError
        self._answer = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._timeout):
                self._transport.write(_packed(words))
                return await self._answer
        except RedisError:
            raise  # it has been read to its end
        except BaseException:
            self.abort()
            raise
        finally:
            self._answer = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it, unless it was given up meanwhile: uvloop says this all the same."""
        self._transport = cast("asyncio.Transport", transport)
        if self._is_over:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read an answer as soon as all of it is there."""
        if self._answer is None or self._answer.done():
            self.abort()  # nobody has asked
            return
        self._received += data
        answer: Any = None
        try:
            answer, end = _parsed(self._received)
        except EOFError:
            return
        except (ValueError, NotRedis):
            end = 0
        if end != len(self._received):
            answer = NotRedis()
        self._received.clear()
        if isinstance(answer, Exception):
            self._answer.set_exception(answer)
        else:
            self._answer.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits for an answer."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError())

    def abort(self) -> None:
        """End it at once."""
        self._is_over = True
        if self._transport is not None:
            self._transport.abort()


def _parsed(received: bytearray, at: int = 0, *, within: bool = False) -> tuple[Any, int]:
    """Return the answer that begins there, an error too, and its end. Raises `EOFError` when more of it must come."""
    end = received.find(b"\r\n", at)
    if end < 0:
        if len(received) - at > _LONGEST_LINE:
            raise NotRedis
        raise EOFError
    kind, rest, at = bytes(received[at : at + 1]), bytes(received[at + 1 : end]), end + 2
    if kind == b"+":
        return rest, at
    if kind == b"-" and not within:
        return RedisError(rest.decode(errors="replace")), at
    number = int(rest)
    if kind == b":":
        return number, at
    if number < 0 and kind in (b"$", b"*"):
        return None, at
    if kind == b"$" and number <= _LARGEST:
        if len(received) < at + number + 2:
            raise EOFError
        return bytes(received[at : at + number]), at + number + 2
    if kind == b"*" and number <= _LONGEST and not within:
        members = []
        for _ in range(number):
            member, at = _parsed(received, at, within=True)
            members.append(member)
        return members, at
    raise NotRedis


def _packed(words: tuple[Word, ...]) -> bytes:
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


async def connect(place: Place, address: Address, *, to_sentinel: bool = False) -> RedisConnection:
    """Connect and log in; nothing is tried again. Raises what `RedisConnection.ask` does."""
    url = place.url
    timeout = SENTINEL_TIMEOUT if to_sentinel else TIMEOUT
    tls = (place.tls or client_context()) if url.tls else None
    connection = RedisConnection(timeout)
    user, password = (None, place.sentinel_password) if to_sentinel else (url.user, url.password)
    try:
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().create_connection(lambda: connection, *address, ssl=tls)
        if user is not None or password is not None:
            given = [user.reveal()] if user is not None else []
            try:
                await connection.ask("AUTH", *given, password.reveal() if password is not None else "")
            except RedisError as error:
                # Such as a password for a server that has none, or an older server's words for a wrong one.
                raise RedisError("WRONGPASS" if error.code in {"", "ERR"} else error.code) from None
        if url.db and not to_sentinel:
            await connection.ask("SELECT", url.db)
    except BaseException:
        connection.abort()
        raise
    return connection


class Connections:
    """Open connections to one server at a time, one command at a time on each. `close` must be called."""

    def __init__(self, connected: Callable[[], None]) -> None:
        self._connected = connected
        self._to: tuple[Place, Address] | None = None
        self._idle: list[RedisConnection] = []

    async def run(
        self,
        to: tuple[Place, Address],
        script: Script[Any],
        key: str,
        arguments: Sequence[Word],
        *,
        asking: bool = False,
    ) -> Any:
        """Run a script there, by its name if Redis knows it; `asking`: though its slot is only just being moved there.

        Raises `RedisError`, `OSError` or `NotRedis`.
        """
        tail = (1, key, *arguments)
        try:
            return await self._ask(to, ("EVALSHA", script.sha, *tail), asking=asking)
        except RedisError as error:
            if error.code != "NOSCRIPT":
                raise
        # SCRIPT LOAD would be one command more, and one right more.
        return await self._ask(to, ("EVAL", script.source, *tail), asking=asking)

    async def _ask(self, to: tuple[Place, Address], command: Sequence[Word], *, asking: bool) -> Any:
        if to != self._to:
            self.close()
            self._to = to
        if self._idle:
            try:
                return await self._exchange(to, self._idle.pop(), command, asking=asking)
            except OSError as error:
                if isinstance(error, TimeoutError):
                    raise
                # A server or a balancer may have found it idle for too long; a new one is worth a try.
        connection = await connect(*to)
        self._connected()
        return await self._exchange(to, connection, command, asking=asking)

    async def _exchange(
        self, to: tuple[Place, Address], connection: RedisConnection, command: Sequence[Word], *, asking: bool
    ) -> Any:
        try:
            if asking:
                await connection.ask("ASKING")
            return await connection.ask(*command)
        finally:
            if to == self._to:  # one that broke is found out when it is asked next
                self._idle.append(connection)
            else:
                connection.abort()

    def close(self) -> None:
        """Close all connections, those in use when they have been answered."""
        self._to = None
        while self._idle:
            self._idle.pop().abort()
