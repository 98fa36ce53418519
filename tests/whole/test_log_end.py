"""What was logged before the end is written at the end, however slowly it is read."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import pytest

from tests.server.harness import RawUpstream
from tests.whole.processes import TERM

REQUESTS = 1200


async def started(upstream: RawUpstream, workers: str) -> tuple[asyncio.subprocess.Process, int, bytes]:
    """Run `serve` with a pipe as its output; returns what reads it, and all that was read until it has started."""
    reader, writer = os.pipe()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CARDCASH_")}
    environ |= {
        "CARDCASH_APP_ID": "app",
        "CARDCASH_UPSTREAM__ORIGIN": upstream.url,
        "CARDCASH_LISTEN": "127.0.0.1:0",
        "CARDCASH_ADMIN__LISTEN": "127.0.0.1:0",
        "CARDCASH_WORKERS": workers,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve"),
        env=environ,
        cwd=Path(__file__).parents[2],
        stdout=writer,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writer)
    out = b""
    while b'"event":"started"' not in out or not out.endswith(b"\n"):
        out += await asyncio.to_thread(os.read, reader, 65536)
    return process, reader, out


async def ask_often(address: str, times: int) -> None:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for _ in range(times):
        writer.write(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n{}")
    writer.close()


def read_slowly(reader: int, out: bytes, *, per_second: int) -> bytes:
    while piece := os.read(reader, 4096):
        out += piece
        time.sleep(len(piece) / per_second)
    os.close(reader)
    return out


async def logged(upstream: RawUpstream, *, workers: str, per_second: int) -> list[dict[str, object]]:
    """Ask 1,200 times, then end the proxy at once; returns all lines that a slow reader gets."""
    process, reader, out = await started(upstream, workers)
    (line,) = [json.loads(line) for line in out.splitlines() if b'"event":"started"' in line]
    reading = asyncio.create_task(asyncio.to_thread(read_slowly, reader, out, per_second=per_second))
    await asyncio.gather(*(ask_often(line["listen"][0], REQUESTS // 20) for _ in range(20)))
    process.send_signal(TERM)
    async with asyncio.timeout(30):
        assert await process.wait() == 0
        return [json.loads(each) for each in (await reading).splitlines()]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_slow_reader_gets_every_line(upstream: RawUpstream, workers: str) -> None:
    lines = await logged(upstream, workers=workers, per_second=170_000)
    assert [line["event"] for line in lines].count("request") == REQUESTS
    assert not [line for line in lines if line["event"] == "log_lines_dropped"]
    assert lines[-1]["event"] == "stopped"


async def test_a_reader_that_is_too_slow_is_told_how_many_lines_are_missing(upstream: RawUpstream) -> None:
    lines = await logged(upstream, workers="1", per_second=20_000)
    events = [line["event"] for line in lines]
    gaps = [int(str(line["lines"])) for line in lines if line["event"] == "log_lines_dropped"]
    assert events[-1] == "log_lines_dropped"
    # Beside requests: started, the renewal, draining, stopped.
    assert len(events) - len(gaps) + sum(gaps) == REQUESTS + 4


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_what_nobody_reads_is_told_on_the_other_output(upstream: RawUpstream, workers: str) -> None:
    process, reader, out = await started(upstream, workers)
    (line,) = [json.loads(line) for line in out.splitlines() if b'"event":"started"' in line]
    await asyncio.gather(*(ask_often(line["listen"][0], REQUESTS // 20) for _ in range(20)))
    process.send_signal(TERM)
    async with asyncio.timeout(30):
        _, told = await process.communicate()
    assert process.returncode == 0
    gaps = [json.loads(each) for each in told.splitlines()]
    assert {gap["event"] for gap in gaps} == {"log_lines_dropped"}
    # Seen whole, or nearly: a line may have been written in part.
    read = out + await asyncio.to_thread(read_all, reader)
    lines = REQUESTS + 4 if workers == "1" else REQUESTS
    assert read.count(b"\n") + sum(gap["lines"] for gap in gaps) >= lines


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_lines_whose_reader_has_gone_are_counted_on_the_other_output(upstream: RawUpstream, workers: str) -> None:
    process, reader, out = await started(upstream, workers)
    (line,) = [json.loads(line) for line in out.splitlines() if b'"event":"started"' in line]
    os.close(reader)
    await asyncio.gather(*(ask_often(line["listen"][0], REQUESTS // 20) for _ in range(20)))
    process.send_signal(TERM)
    async with asyncio.timeout(30):
        _, told = await process.communicate()
    assert process.returncode == 0
    gaps = [json.loads(each) for each in told.splitlines()]
    assert {gap["event"] for gap in gaps} == {"log_lines_dropped"}
    # Beside requests draining and stopped at least; what was logged just before the reader left is lost or not.
    assert REQUESTS + 2 <= sum(gap["lines"] for gap in gaps) <= REQUESTS + 10


def read_all(reader: int) -> bytes:
    out = b""
    while piece := os.read(reader, 65536):
        out += piece
    os.close(reader)
    return out
