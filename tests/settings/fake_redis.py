"""Enough of a Redis to see what a proxy sends to one: it grants everything and has nothing."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from proxy.session.stores.redis import scripts
from tests.session.redis.raw import read_command

_NOTHING: Final = b"*5\r\n$%d\r\n%b\r\n$1\r\n0\r\n:0\r\n$1\r\n0\r\n$0\r\n\r\n"
_VERDICTS: Final = {scripts.LOOK.sha: b"look", scripts.ENTER.sha: b"granted"}
_ABOUT_ONE: Final = {
    scripts.SAVE.sha: b"*2\r\n$5\r\nsaved\r\n$1\r\n0\r\n",
    **{
        script.sha: b"$1\r\n1\r\n"
        for script in (scripts.TAKE, scripts.FAILED, scripts.EXTEND, scripts.LEAVE, scripts.REFUSE)
    },
}


class FakeRedis:
    """Remembers every command; `saved` are the encrypted tokens among them."""

    def __init__(self) -> None:
        self.commands: list[list[bytes]] = []

    @property
    def saved(self) -> list[bytes]:
        return [words[-1] for words in self.commands if words[1:2] == [scripts.SAVE.sha.encode()]]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection, until it ends."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                self.commands.append(await read_command(reader))
                writer.write(self._answer(self.commands[-1]))

    def _answer(self, words: list[bytes]) -> bytes:
        if words[0] == b"AUTH":
            return b"+OK\r\n"
        if words[0] == b"SENTINEL":
            return b"$-1\r\n"
        sha = words[1].decode()
        if sha in _ABOUT_ONE:
            return _ABOUT_ONE[sha]
        verdict = _VERDICTS[sha]
        return _NOTHING % (len(verdict), verdict)
