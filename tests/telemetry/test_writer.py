"""The writer of the log: whole lines, in turns, and never waiting."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.telemetry.writer import LogWriter


class Pipe:
    """A pipe that is read when told to."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)

    async def read(self, size: int = 0) -> bytes:
        """Read what comes next; with `size` that much."""
        got = await asyncio.to_thread(os.read, self.reader, 1 << 20)
        while len(got) < size:
            got += await asyncio.to_thread(os.read, self.reader, 1 << 20)
        return got

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def told(fd: int, *lines: bytes, lock: Path | None = None) -> LogWriter:
    writer = LogWriter(fd)
    if lock is not None:
        writer.share(lock)
    for line in lines:
        assert writer.write(line) == len(line)
    return writer


def waited_for(lock: Path) -> bool:
    """Whether somebody waits for the lock, as Linux tells it."""
    waiting = [line for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
    return any(f":{lock.stat().st_ino} " in line for line in waiting)


async def test_what_was_written_is_read(pipe: Pipe) -> None:
    await told(pipe.writer, b"one\n", b"two\n").finish()
    assert await pipe.read() == b"one\ntwo\n"


async def test_a_write_ends_with_a_line(pipe: Pipe) -> None:
    lines = [bytes([65 + n]) * 1499 + b"\n" for n in range(4)]
    writer = told(pipe.writer, *lines)
    assert [await pipe.read(), await pipe.read()] == [lines[0] + lines[1], lines[2] + lines[3]]
    await writer.finish()


async def test_a_line_longer_than_a_pipe_takes_at_once_arrives_whole(pipe: Pipe) -> None:
    line = b"x" * 9999 + b"\n"
    told(pipe.writer, line, b"next\n")
    assert await pipe.read(10_005) == line + b"next\n"


async def test_nobody_else_writes_in_the_middle_of_a_line(pipe: Pipe, tmp_path: Path) -> None:
    lines = {bytes([65 + n]) * 5999 + b"\n" for n in range(8)}
    for line in lines:
        told(pipe.writer, line, lock=tmp_path / "lock")
    assert set((await pipe.read(48_000)).splitlines(keepends=True)) == lines


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="sees who waits where Linux lists locks")
async def test_between_lines_others_have_their_turn(pipe: Pipe, tmp_path: Path) -> None:
    os.write(pipe.writer, b"full" * 1024)
    told(pipe.writer, *[b"1" * 2999 + b"\n"] * 100, lock=tmp_path / "lock")
    told(pipe.writer, b"other\n", lock=tmp_path / "lock")
    while not waited_for(tmp_path / "lock"):
        await asyncio.sleep(0.001)
    lines = (await pipe.read(304_102))[4096:].splitlines()
    assert sorted(set(lines)) == [b"1" * 2999, b"other"]
    assert b"other" in lines[:90]


async def test_a_full_pipe_holds_nobody_up_however_many_write(pipe: Pipe, tmp_path: Path) -> None:
    for _ in range(3):
        told(pipe.writer, *[b"y" * 999 + b"\n"] * 20, lock=tmp_path / "lock")
    assert (await pipe.read(60_000)).count(b"\n") == 60


async def test_a_reader_that_took_nothing_is_told_how_many_lines_it_did_not_get(pipe: Pipe) -> None:
    told(pipe.writer, *[b"z" * 9999 + b"\n"] * 200)
    got = b""
    while b"log_lines_dropped" not in got or not got.endswith(b"\n"):
        got += await pipe.read()
    whole = got.count(b"z" * 9999 + b"\n")
    (note,) = [json.loads(line) for line in got.splitlines() if b"dropped" in line]
    assert whole + note["lines"] == 200


async def test_at_the_end_the_turn_is_waited_for(pipe: Pipe, tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    ending = asyncio.create_task(told(pipe.writer, b"last\n", lock=tmp_path / "lock").finish())
    await asyncio.sleep(0.05)
    assert not ending.done()
    os.close(lock)
    await ending
    assert await pipe.read() == b"last\n"


async def test_at_the_end_a_reader_is_told_how_many_lines_it_did_not_get(pipe: Pipe) -> None:
    ending = asyncio.create_task(told(pipe.writer, *[b"z" * 3999 + b"\n"] * 9).finish(0.1))
    await asyncio.sleep(0.2)
    got = b""
    while b"log_lines_dropped" not in got:
        got += await pipe.read()
    await ending
    (*whole, last) = got.splitlines()
    assert whole
    assert set(whole) == {b"z" * 3999}
    assert json.loads(last)["lines"] == 9 - len(whole)


async def test_at_the_end_a_line_that_was_begun_is_ended(pipe: Pipe) -> None:
    ending = asyncio.create_task(told(pipe.writer, b"z" * 5999 + b"\n", *[b"z" * 3999 + b"\n"] * 3).finish(0.1))
    await asyncio.sleep(0.2)
    got = b""
    while b"log_lines_dropped" not in got:
        got += await pipe.read()
    await ending
    (first, last) = got.splitlines()
    assert (first, json.loads(last)["lines"]) == (b"z" * 5999, 3)


async def test_a_descriptor_that_somebody_made_non_blocking_gets_everything(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    told(pipe.writer, *[b"y" * 2999 + b"\n"] * 20)
    assert (await pipe.read(60_000)).count(b"\n") == 20


def without_reader() -> int:
    reader, fd = os.pipe()
    os.close(reader)
    return fd


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


LOST = pytest.mark.parametrize("lost", [without_reader, full_disk])


@LOST
async def test_what_cannot_be_written_is_not_waited_for_and_told_once_on_the_other_output(
    lost: Callable[[], int], capfd: pytest.CaptureFixture[str]
) -> None:
    fd = lost()
    # A tenth of the patience with a reader that is slow.
    await asyncio.wait_for(told(fd, *[b"x" * 999 + b"\n"] * 50).finish(30.0), 3.0)
    os.close(fd)
    (note,) = capfd.readouterr().err.splitlines()
    assert json.loads(note).items() >= {"event": "log_lines_dropped", "level": "warning", "lines": 50}.items()


@LOST
async def test_where_the_other_output_is_lost_too_nobody_is_told(lost: Callable[[], int]) -> None:
    fd, kept = lost(), os.dup(2)
    os.dup2(fd, 2)
    try:
        await asyncio.wait_for(told(fd, b"x\n").finish(30.0), 3.0)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(fd)


async def test_who_is_told_everything_is_told_nothing_on_the_other_output(
    pipe: Pipe, capfd: pytest.CaptureFixture[str]
) -> None:
    await told(pipe.writer, b"one\n").finish()
    assert (await pipe.read(), capfd.readouterr().err) == (b"one\n", "")


async def test_lines_that_a_full_disk_did_not_take_are_told_of_there_as_soon_as_it_has_room(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write, tried, has_room = os.write, threading.Event(), False

    def on_a_disk(fd: int, data: bytes) -> int:
        if fd != pipe.writer or has_room:
            return write(fd, data)
        tried.set()
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("os.write", on_a_disk)
    writer = told(pipe.writer, b"lost\n", b"lost\n")
    assert await asyncio.to_thread(tried.wait, 10)
    has_room = True
    writer.write(b"next\n")
    await writer.finish()
    # The thread may have had two turns for the first two lines.
    got = (await pipe.read()).splitlines()
    notes = [json.loads(line) for line in got if line[:1] == b"{"]
    assert {note["event"] for note in notes} == {"log_lines_dropped"}
    assert len(got) - len(notes) + sum(note["lines"] for note in notes) == 3
    assert got.count(b"next") == 1
    assert capfd.readouterr().err == ""


#: Request lines up to the bound, whose reader has stopped; prints the MB that they take.
STOPPED_READER = """
import os

from bench.measure import memory_mb
from proxy.telemetry import logs

writer = logs.configure("info", "json", fd=os.pipe()[1])
line = {"event": "request", "level": "info", "timestamp": "2026-01-02T03:04:05Z", "query": ["a" * 200]}
logs.request_log.write(dict(line))
before = memory_mb([os.getpid()])
for _ in range(3500):
    logs.request_log.write(dict(line))
print(memory_mb([os.getpid()]) - before, flush=True)
os._exit(0)
"""


def test_lines_that_wait_for_their_reader_take_little_more_memory_than_they_have_bytes() -> None:
    done = subprocess.run([sys.executable, "-c", STOPPED_READER], capture_output=True, check=True, text=True)
    assert float(done.stdout) < 3
