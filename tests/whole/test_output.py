"""Every command with an output that nobody reads, that is full, or that was closed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.simulator import Simulator
from tests.whole.processes import TERM, Process, ProxyProcess, is_ready, run, serving

#: Commands that end by themselves, and their exit code when the output is lost to a full disk.
COMMANDS = {
    "--help": 1,
    "--version": 1,
    "check": 1,
    "check --help": 1,
    "serve --help": 1,
    "health --help": 1,
    "completion bash": 1,
    "session status": 1,
    "session status --json": 1,
    "session renew": 1,
    "health": 0,
    "wait --timeout 5": 0,
}
#: Commands that fail, and their exit code whatever becomes of their output.
FAILING = {
    "health --admin.listen 127.0.0.1:9": 1,
    "doctor --upstream-origin http://127.0.0.1:9": 1,
    "check --nonsense": 2,
    "nonsense": 2,
}
#: With an interpreter that writes all at once, which is one matter for all commands: of those that end well one of a kind
#: (argparse writes, or much, little, what was fetched, or what is flushed), and of those that fail one before it runs.
UNBUFFERED = {"--help", "check", "session status", "health", "wait --timeout 5", "check --nonsense"}
CLI = f"{shlex.quote(sys.executable)} -m proxy"
WAYS = {"nobody reads": "| true", "full": "> /dev/full", "closed": ">&-", "both full": "> /dev/full 2>&1"}


@pytest.fixture
async def proxy(simulator: Simulator) -> AsyncIterator[ProxyProcess]:
    async with serving(simulator.url) as proxy:
        await is_ready(proxy)
        yield proxy


async def shell(line: str, proxy: ProxyProcess, **more: str) -> tuple[int, str]:
    """Run a command line; returns the exit code of what stands before the pipe, and what came on standard error."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("CARDCASH_", "PYTHON"))}
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"),
        env={**environ, "CARDCASH_APP_ID": "app", "CARDCASH_ADMIN__LISTEN": proxy.admin, **more},
        cwd=Path(__file__).parents[2],
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode is not None
    return process.returncode, err.decode()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("way", WAYS)
async def test_the_exit_code_is_the_deserved_one_and_nothing_is_complained_of_twice(
    proxy: ProxyProcess, way: str, unbuffered: str
) -> None:
    for command in UNBUFFERED if unbuffered else COMMANDS | FAILING:
        code, err = await shell(f"{CLI} {command} {WAYS[way]}", proxy, PYTHONUNBUFFERED=unbuffered)
        assert "Exception ignored" not in err and "Traceback" not in err, command
        if command in FAILING:
            assert code == FAILING[command], (command, err)
            continue
        deserved = COMMANDS[command] if "full" in way else 0
        assert code == deserved, (command, err)
        assert len(err.splitlines()) == (deserved if way == "full" else 0), (command, err)
        assert ("the output could not be written: No space left" in err) is bool(err), (command, err)


async def test_shutdown_is_done_even_if_nobody_is_told(proxy: ProxyProcess) -> None:
    code, err = await shell(f"{CLI} shutdown > /dev/full", proxy)
    assert (code, err) == (0, "")
    assert await proxy.ended() == 0


@pytest.mark.parametrize(
    "command", ["demo --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --simulator-listen 127.0.0.1:0"]
)
async def test_a_demo_that_nobody_reads_ends(proxy: ProxyProcess, command: str) -> None:
    code, err = await shell(f"{CLI} {command} | head -1", proxy)
    assert (code, err) == (0, "")
    code, err = await shell(f"{CLI} {command} > /dev/full", proxy)
    assert code == 1
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("way", ["full", "closed", "both full"])
async def test_a_log_that_cannot_be_written_stops_nothing_and_what_is_lost_is_counted(
    simulator: Simulator, way: str, workers: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="s") as folder:
        process = await Process.start(
            "serve",
            through=("bash", "-c", f'exec "$@" {WAYS[way]}', "bash"),
            CARDCASH_APP_ID="demo-app-id",
            CARDCASH_UPSTREAM__ORIGIN=simulator.url,
            CARDCASH_LISTEN=f"unix:{folder}/callers",
            CARDCASH_ADMIN__LISTEN=f"unix:{folder}/admin",
            CARDCASH_WORKERS=workers,
        )
        try:
            await answers(f"{folder}/admin", "/readyz")
            await answers(f"{folder}/callers", "/v3/merchants/buy")
            process.signal(TERM)
            assert await process.ended() == 0
        finally:
            await process.close()
    notes = [json.loads(line) for line in process.err.splitlines()]
    assert {note["event"] for note in notes} == ({"log_lines_dropped"} if way == "full" else set())
    if way == "full":
        assert len(notes) <= (1 if workers == "1" else 3), "a process tells of it twice"
        # started, the renewal, the request, draining, stopped
        assert sum(note["lines"] for note in notes) >= 5


async def answers(socket: str, path: str) -> None:
    """Ask at a socket until that is answered 200."""
    async with asyncio.timeout(40), aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=socket)) as client:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with client.get(f"http://localhost{path}") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.03)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8:strict"])
async def test_what_the_output_has_no_letters_for_is_written_all_the_same(tmp_path: Path, encoding: str) -> None:
    config = tmp_path / os.fsdecode(b"\xff\xc3\xbc.yaml")
    config.write_text("login: {email: ü€@example.com, password: p}\n")
    for words in (["--help"], ["check", "--help"], ["check", "--config", str(config)], ["completion", "zsh"]):
        done = await run(*words, PYTHONIOENCODING=encoding, CARDCASH_APP_ID="x")
        assert (await done.ended(), bytes(done.err)) == (0, b""), words
