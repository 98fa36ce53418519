"""The writer of the log: whole lines, in turns, and never waiting."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.telemetry.logs import NonBlockingWriter


class Pipe:
    """A pipe that is read when told to."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)

    def read(self) -> bytes:
        return os.read(self.reader, 1 << 20)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def kept(fd: int, *lines: bytes) -> NonBlockingWriter:
    """Make a writer with lines that it has not written yet."""
    writer = NonBlockingWriter(fd)
    writer._lines.extend(lines)
    writer._bytes = sum(map(len, lines))
    return writer


def test_a_write_ends_with_a_line(pipe: Pipe) -> None:
    lines = [bytes([65 + n]) * 1499 + b"\n" for n in range(4)]
    writer = kept(pipe.writer, *lines)
    got = []
    while writer._lines:
        writer.drain()
        got.append(pipe.read())
    assert got == [lines[0] + lines[1], lines[2] + lines[3]]


def test_a_line_longer_than_a_pipe_takes_at_once_arrives_whole(pipe: Pipe) -> None:
    line = b"x" * 9999 + b"\n"
    writer = kept(pipe.writer, line, b"next\n")
    got = b""
    while writer._lines:
        writer.drain()
        got += pipe.read()
    assert got == line + b"next\n"


def test_nobody_else_writes_in_the_middle_of_a_line(pipe: Pipe, tmp_path: Path) -> None:
    long = b"x" * 5999 + b"\n"
    one, other = kept(pipe.writer, long), kept(pipe.writer, b"other\n")
    for writer in (one, other):
        writer.share(tmp_path / "lock")
    one.drain()
    other.drain()
    got = pipe.read()
    other.drain()  # there is room, but it is not its turn
    one.drain()
    got += pipe.read()
    other.drain()
    assert got + pipe.read() == long + b"other\n"


def test_between_lines_others_have_their_turn(pipe: Pipe, tmp_path: Path) -> None:
    one, other = kept(pipe.writer, b"1" * 2999 + b"\n", b"1" * 2999 + b"\n"), kept(pipe.writer, b"other\n")
    for writer in (one, other):
        writer.share(tmp_path / "lock")
    one.drain()
    pipe.read()
    other.drain()
    assert pipe.read() == b"other\n"


def test_a_full_pipe_holds_nobody_up_however_many_write(pipe: Pipe, tmp_path: Path) -> None:
    writers = [kept(pipe.writer, *[b"y" * 999 + b"\n"] * 20) for _ in range(3)]
    for writer in writers:
        writer.share(tmp_path / "lock")
    for _ in range(10):
        for writer in writers:
            writer.drain()
    got = b""
    while any(writer._lines for writer in writers):
        got += pipe.read()
        for writer in writers:
            writer.drain()
    assert got.count(b"\n") + pipe.read().count(b"\n") == 60


async def test_at_the_end_the_turn_is_waited_for(pipe: Pipe, tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    writer = kept(pipe.writer, b"last\n")
    writer.share(tmp_path / "lock")
    ending = asyncio.create_task(writer.finish())
    await asyncio.sleep(0.01)
    assert not ending.done()
    os.close(lock)
    await ending
    assert pipe.read() == b"last\n"


async def test_at_the_end_a_reader_is_told_how_many_lines_it_did_not_get(pipe: Pipe) -> None:
    writer = kept(pipe.writer, *[b"z" * 3999 + b"\n"] * 9)
    ending = asyncio.create_task(writer.finish(0.01))
    await asyncio.sleep(0.05)
    got = pipe.read()
    await ending
    (*whole, last) = (got + pipe.read()).splitlines()
    assert whole == [b"z" * 3999]
    assert json.loads(last)["event"] == "log_lines_dropped"
    assert json.loads(last)["lines"] == 8


async def test_at_the_end_a_line_that_was_begun_is_ended(pipe: Pipe) -> None:
    writer = kept(pipe.writer, b"z" * 5999 + b"\n", *[b"z" * 3999 + b"\n"] * 3)
    ending = asyncio.create_task(writer.finish(0.01))
    await asyncio.sleep(0.05)
    got = pipe.read()
    await ending
    (first, last) = (got + pipe.read()).splitlines()
    assert (first, json.loads(last)["lines"]) == (b"z" * 5999, 3)
