"""One connection to a Redis, in its own protocol (RESP2): a command goes out, its answer comes back.

Written here: redis-py 8.1 brings 200 commands, 5.5 MB and 0.1 s of a start, and of all that a replica uses AUTH, SELECT,
EVALSHA and what Sentinels are asked. A connection is never used again after a doubt, so no answer is taken for another's.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from contextlib import suppress
from typing import Any, Final

from proxy.session.stores.redis.place import Place

Address = tuple[str, int]
Word = str | bytes | int

#: Seconds to connect, and for one answer.
TIMEOUT: Final = 1.0
#: The same with a Sentinel: there are others.
SENTINEL_TIMEOUT: Final = 0.5
#: Bytes of one text, and members of one list: far more than any script answers.
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

    def __init__(self, text: str, *, code: str = "") -> None:
        super().__init__(code)
        # The error that is meant where a script has failed over it: Redis 6 puts that in the middle of its own sentence.
        inner = re.search(r"@user_script: ?[0-9]+: -?([A-Z]{3,24}) ", text)
        said = (inner or re.match(r"([A-Z]{3,24})\b", text) or [""] * 2)[1]
        meant = next((word for part, word in _BY_TEXT.items() if part in text), said) if said in {"", "ERR"} else said
        #: Its first word; ERR and nothing for those that have none of their own.
        self.code = code or meant
        #: Where a cluster points to; the host is empty for the one that was asked.
        self.target: Address | None = None
        if (there := re.fullmatch(r"(?:MOVED|ASK) [0-9]+ (.*):([0-9]{1,5})", text)) is not None:
            self.target = "" if there[1] == "?" else there[1], int(there[2])


class NotRedis(Exception):
    """What answers does not speak the protocol."""


class RedisConnection:
    """One connection, for one task at a time. `abort` or `close` must be called."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float) -> None:
        self._reader = reader
        self._writer = writer
        self._timeout = timeout

    async def ask(self, *words: Word) -> Any:
        """Send a command; returns bytes, a number, None or a list of them.

        Raises `RedisError`, and, closed already, `OSError` (a `TimeoutError` is one) or `NotRedis`.
        """
        try:
            async with asyncio.timeout(self._timeout):
                self._writer.write(_packed(words))
                return await self._answer()
        except RedisError:
            raise  # it has been read to its end
        except EOFError:
            self.abort()
            raise ConnectionResetError from None
        except (ValueError, asyncio.LimitOverrunError):
            self.abort()
            raise NotRedis from None
        except BaseException:
            self.abort()
            raise

    async def _answer(self, *, within: bool = False) -> Any:
        line = await self._reader.readuntil(b"\r\n")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            if within:
                raise NotRedis  # more would follow
            raise RedisError(rest.decode(errors="replace"))
        number = int(rest)
        if kind == b":":
            return number
        if kind == b"$" and number <= _LARGEST:
            return None if number < 0 else (await self._reader.readexactly(number + 2))[:-2]
        if kind == b"*" and number <= _LONGEST and not within:
            return None if number < 0 else [await self._answer(within=True) for _ in range(number)]
        raise NotRedis

    def abort(self) -> None:
        """End it at once."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """End it in order, up to 1 s."""
        self._writer.close()
        with suppress(OSError):
            async with asyncio.timeout(TIMEOUT):
                await self._writer.wait_closed()


async def connect(place: Place, address: Address, *, to_sentinel: bool = False) -> RedisConnection:
    """Connect and log in; nothing is tried again. Raises what `RedisConnection.ask` does."""
    url = place.url
    timeout = SENTINEL_TIMEOUT if to_sentinel else TIMEOUT
    tls = (place.tls or ssl.create_default_context()) if url.tls else None
    async with asyncio.timeout(timeout):
        connection = RedisConnection(*await asyncio.open_connection(*address, ssl=tls), timeout)
    user, password = (None, place.sentinel_password) if to_sentinel else (url.user, url.password)
    try:
        if user is not None or password is not None:
            given = [user.reveal()] if user is not None else []
            try:
                await connection.ask("AUTH", *given, password.reveal() if password is not None else "")
            except RedisError as error:
                # Such as a password for a server that has none, or an older server's words for a wrong one.
                raise RedisError("", code="WRONGPASS" if error.code in {"", "ERR"} else error.code) from None
        if url.db and not to_sentinel:
            await connection.ask("SELECT", url.db)
    except BaseException:
        connection.abort()
        raise
    return connection


def _packed(words: tuple[Word, ...]) -> bytes:
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
