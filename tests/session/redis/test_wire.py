"""The protocol itself, byte by byte: what servers may answer, and what is none of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from proxy.session.stores.redis.connection import NotRedis, RedisConnection, RedisError, connect
from proxy.session.stores.redis.diagnosis import failure_of
from tests.session.fakes import settle
from tests.session.redis.conftest import Build
from tests.session.redis.raw import read_command
from tests.session.redis.replicas import place_of
from tests.session.redis.servers import Server


class Raw:
    """A server that reads one command after the other and answers each with what stands next, a piece at a time."""

    def __init__(self, answers: Sequence[Sequence[bytes]]) -> None:
        self._answers = list(answers)
        self.asked: list[list[bytes]] = []
        self.port = 0
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            for pieces in self._answers:
                self.asked.append(await read_command(reader))
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self.ended.set()


@contextlib.asynccontextmanager
async def raw(*answers: Sequence[bytes]) -> AsyncIterator[Raw]:
    server = Raw(answers)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    yield server
    await server.ended.wait()
    listener.close()


async def asked(server: Raw, *words: str | bytes | int, credentials: str = "") -> Any:
    connection = await connect(place_of(f"redis://{credentials}127.0.0.1:{server.port}"), ("127.0.0.1", server.port))
    try:
        return await connection.ask(*(words or ("PING",)))
    finally:
        connection.abort()


class Transport(asyncio.Transport):
    """Takes what is written; says whether it was ended."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_over = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.is_over

    def abort(self) -> None:
        self.is_over = True


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        (b"+OK\r\n", b"OK"),
        (b":-12\r\n", -12),
        (b"$-1\r\n", None),
        (b"*-1\r\n", None),
        (b"$0\r\n\r\n", b""),
        (b"$4\r\n\r\n\xff\x00\r\n", b"\r\n\xff\x00"),
        (b"*0\r\n", []),
        (b"*3\r\n$1\r\na\r\n:1\r\n$-1\r\n", [b"a", 1, None]),
    ],
)
async def test_an_answer_is_read_in_whatever_pieces_it_comes(answer: bytes, meant: object) -> None:
    async with raw([answer]) as server:
        assert await asked(server) == meant
    connection, transport = RedisConnection(20), Transport()
    connection.connection_made(transport)
    for cut in range(1, len(answer)):
        asking = asyncio.create_task(connection.ask("PING"))
        await settle()
        for piece in (answer[:cut], answer[cut:]):
            assert not asking.done()
            connection.data_received(piece)
        assert await asking == meant
    assert not transport.is_over


async def test_an_error_is_read_whatever_its_bytes() -> None:
    async with raw([b"-OOM \xff\xfe\r\n"]) as server:
        with pytest.raises(RedisError) as caught:
            await asked(server)
    assert caught.value.code == "OOM"


def test_a_connection_that_was_given_up_before_it_was_made_is_ended_when_it_is() -> None:
    connection, transport = RedisConnection(1), Transport()
    connection.abort()
    connection.connection_made(transport)
    assert transport.is_over


async def test_connections_that_end_while_nobody_waits_are_no_news(
    replica: Build, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    one = replica(server)
    await one.save()
    server.command("CLIENT", "KILL", "TYPE", "normal")
    assert await one.stored() == "one.token."
    assert caplog.records == []


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28\r\n",
        b"$x\r\n",
        b":\r\n",
        b"$99999999999\r\n",
        b"*1000000\r\n",
        b"*1\r\n*1\r\n:1\r\n",
        b"*2\r\n-ERR in the middle\r\n:1\r\n",
        b"%1\r\n+a\r\n+b\r\n",
        b"x" * 100_000,
    ],
)
async def test_what_is_no_answer_is_not_waited_for(answer: bytes) -> None:
    async with raw([answer]) as server:
        with pytest.raises(NotRedis) as caught:
            await asked(server)
    assert "no Redis" in failure_of(caught.value).sentence


@pytest.mark.parametrize("answer", [b"", b"$5\r\nab", b"*2\r\n:1\r\n", b"+O"])
async def test_an_answer_that_breaks_off_is_a_connection_that_was_closed(answer: bytes) -> None:
    async with raw([answer]) as server:
        with pytest.raises(ConnectionError):
            await asked(server)


async def test_a_command_is_sent_as_it_is_whatever_its_bytes() -> None:
    async with raw([b"+OK\r\n"]) as server:
        await asked(server, "SET", b"\r\n\x00\xff", "é", 12, "")
        assert server.asked == [[b"SET", b"\r\n\x00\xff", "é".encode(), b"12", b""]]


@pytest.mark.parametrize(
    ("credentials", "sent"),
    [
        ("", []),
        (":word@", [[b"AUTH", b"word"]]),
        ("me:w%40rd@", [[b"AUTH", b"me", b"w@rd"]]),
        ("me@", [[b"AUTH", b"me", b""]]),
    ],
)
async def test_it_logs_in_as_the_url_says_and_sends_nothing_else(credentials: str, sent: list[list[bytes]]) -> None:
    async with raw(*[[b"+OK\r\n"]] * 2) as server:
        await asked(server, credentials=credentials)
        assert server.asked == [*sent, [b"PING"]]


@pytest.mark.parametrize(
    "answer",
    [
        b"-ERR invalid password\r\n",  # Redis 5
        b"-invalid\r\n",
        b"-ERR Client sent AUTH, but no password is set\r\n",
        b"-ERR AUTH <password> called without any password configured for the default user.\r\n",
        b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    ],
)
async def test_a_refused_login_is_one_in_whatever_words(answer: bytes) -> None:
    async with raw([answer]) as server:
        with pytest.raises(RedisError) as caught:
            await asked(server, credentials=":word@")
    assert "refuses the user or password" in failure_of(caught.value).sentence


async def test_a_server_that_is_not_ready_for_a_login_is_not_taken_for_one_that_refuses_it() -> None:
    async with raw([b"-LOADING Redis is loading the dataset in memory\r\n"]) as server:
        with pytest.raises(RedisError) as caught:
            await asked(server, credentials=":word@")
    assert "loading" in failure_of(caught.value).sentence


async def test_an_answer_that_does_not_come_is_waited_for_a_second() -> None:
    async with raw([], [b"+OK\r\n"]) as server:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TimeoutError):
            await asked(server)
        assert 0.9 < loop.time() - began < 1.9


@pytest.mark.parametrize("more", [b"+OK\r\n", b"-ERR\r\n", b"$", b"\r\n"])
async def test_two_answers_to_one_command_are_none(more: bytes) -> None:
    async with raw([b"+OK\r\n" + more]) as server:
        with pytest.raises(NotRedis):
            await asked(server)


async def test_what_comes_unasked_ends_a_connection_and_is_no_answer_to_what_is_asked_next(
    replica: Build, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    go, gone, served = asyncio.Event(), asyncio.Event(), set[asyncio.StreamWriter]()

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry commands to Redis, and answer the first that it knows twice, the second time a moment later."""
        back, out = await asyncio.open_connection("127.0.0.1", server.port)
        has_lied = bool(served)
        served.add(writer)
        with contextlib.suppress(OSError):
            while content := await reader.read(65536):
                out.write(content)
                writer.write(answer := await back.read(65536))
                if answer.startswith(b"*") and not has_lied:
                    has_lied = True
                    await go.wait()
                    writer.write(answer)
        gone.set()
        writer.close()
        out.close()

    listener = await asyncio.start_server(lie, "127.0.0.1", 0)
    one = replica(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    assert await one.stored() is None
    await replica(server).save()
    go.set()
    async with asyncio.timeout(20):
        await gone.wait()
    assert await one.stored() == "one.token."
    assert (one.seen.reconnects, caplog.records) == (1, [])
    await one.store.close()
    listener.close()
