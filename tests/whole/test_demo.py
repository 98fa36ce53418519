"""`demo`: its story, and what it says of the ports it cannot have."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from proxy.simulator import Simulator
from tests.whole.processes import TERM, Process, run

ANY = "127.0.0.1:0"


@pytest.mark.skipif(shutil.which("bash") is None or shutil.which("curl") is None, reason="curl is not installed")
async def test_demo_tells_its_story_and_its_curl_lines_work() -> None:
    free = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--simulator-listen", "127.0.0.1:0")
    demo = await Process.start("demo", *free)
    try:
        await demo.says(lambda out: b"Ctrl-C" in out)
        lines = [line.strip() for line in demo.out.decode().splitlines() if line.strip().startswith("curl ")]
        assert len(lines) >= 7
        seen = []
        for line in lines:
            shell = await asyncio.create_subprocess_exec(
                *("bash", "-c", "set -o pipefail; " + line.split("   #")[0].split(" | head")[0]),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, _ = await asyncio.wait_for(shell.communicate(), 10)
            assert shell.returncode == 0, line
            assert b'"error"' not in out, line
            seen.append(out.decode(errors="replace"))
        assert "buyMerchants" in seen[0]
        assert "orderId" in seen[2] + seen[3]
        assert any("session-renewed" in text for text in seen)
        await demo.says(lambda out: b"was placed, once" in out and b"rejected the token" in out)
        demo.signal(TERM)
        assert await demo.ended() == 0
        assert demo.err == b""
    finally:
        await demo.close()


async def test_demo_finds_free_ports_when_its_own_are_taken(simulator: Simulator) -> None:
    taken = f"127.0.0.1:{simulator.port}"
    demo = await Process.start("demo", "--listen", taken, "--admin-listen", "127.0.0.1:0", "--simulator-listen", taken)
    try:
        await demo.says(lambda out: b"Ctrl-C" in out)
        demo.signal(TERM)
        assert await demo.ended() == 0
    finally:
        await demo.close()


@pytest.mark.parametrize("flag", ["--listen", "--admin-listen", "--simulator-listen"])
async def test_demo_says_so_when_it_goes_to_another_port(simulator: Simulator, flag: str) -> None:
    taken = f"127.0.0.1:{simulator.port}"
    places = {"--listen": ANY, "--admin-listen": ANY, "--simulator-listen": ANY, flag: taken}
    demo = await Process.start("demo", *(word for pair in places.items() for word in pair))
    try:
        await demo.says(lambda out: b"Ctrl-C" in out)
        (line,) = (line for line in demo.out.decode().splitlines() if "using a free port" in line)
        assert taken in line and "something else listens there" in line
    finally:
        await demo.close()


@pytest.mark.parametrize("flag", ["--listen", "--simulator-listen"])
async def test_demo_names_the_flag_that_would_let_other_machines_in_and_what_to_write(flag: str) -> None:
    done = await run("demo", flag, "0.0.0.0:0")
    assert await done.ended() == 2
    (line,) = done.err.decode().splitlines()
    assert f"{flag}: " in line and "127.0.0.1:PORT" in line
    assert "CARDCASH_" not in line and "allow" not in line


async def test_demo_names_the_flag_of_an_address_that_is_given_twice() -> None:
    done = await run("demo", "--listen", "127.0.0.1:7", "--admin-listen", "127.0.0.1:7", "--simulator-listen", ANY)
    assert await done.ended() == 2
    (line,) = done.err.decode().splitlines()
    assert "flag --admin-listen" in line and "CARDCASH_" not in line
