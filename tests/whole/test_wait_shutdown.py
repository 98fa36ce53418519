"""`wait` and `shutdown`, and what the command line says of flags it does not know."""

from __future__ import annotations

import json
import socket
import time

import pytest

from proxy.simulator import Simulator
from tests.whole.processes import Process

SECRET = "hunter2-on-the-command-line"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def ended(*arguments: str, **environ: str) -> tuple[int, str, str]:
    process = await Process.start(*arguments, **environ)
    code = await process.ended()
    return code, process.out.decode(), process.err.decode()


async def test_wait_returns_when_the_proxy_is_ready_and_shutdown_stops_it(simulator: Simulator) -> None:
    admin = f"127.0.0.1:{free_port()}"
    # It waits from before there is anything to wait for.
    waiting = await Process.start("wait", "--timeout", "30s", "--admin-listen", admin)
    proxy = await Process.start(
        "serve",
        CARDCASH_APP_ID="demo-app-id",
        CARDCASH_UPSTREAM__ORIGIN=simulator.url,
        CARDCASH_LISTEN="127.0.0.1:0",
        CARDCASH_ADMIN__LISTEN=admin,
    )
    assert await waiting.ended() == 0
    assert waiting.out == b"ready\n"
    assert (await ended("shutdown", "--admin-listen", admin))[:2] == (0, "draining\n")
    assert await proxy.ended() == 0
    events = [json.loads(line)["event"] for line in bytes(proxy.out).splitlines()]
    assert events[-2:] == ["draining", "stopped"]


async def test_wait_gives_up_in_time_and_says_why() -> None:
    code, out, err = await ended("wait", "--timeout", "200ms", "--admin-listen", f"127.0.0.1:{free_port()}")
    assert (code, out) == (1, "")
    assert "no proxy answers" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("given", [1, 4])
async def test_wait_for_a_port_that_takes_connections_and_is_silent_says_so_in_time(given: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        code, out, err = await ended(
            "wait", "--timeout", str(given), "--admin-listen", f"127.0.0.1:{silent.getsockname()[1]}"
        )
        took = time.monotonic() - began
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "nothing came within" in err
    # It looks for 3 s at a time; the start of the process, on a busy machine, is none of it.
    assert given <= took < given + 1.8


async def test_wait_tells_what_stands_against_readiness(simulator: Simulator) -> None:
    simulator.configure(unknown_app_status=400)
    admin = f"127.0.0.1:{free_port()}"
    proxy = await Process.start(
        "serve",
        CARDCASH_APP_ID="nobody-knows-it",
        CARDCASH_UPSTREAM__ORIGIN=simulator.url,
        CARDCASH_LISTEN="127.0.0.1:0",
        CARDCASH_ADMIN__LISTEN=admin,
    )
    await proxy.says(lambda out: b'"refused"' in out)
    code, _, err = await ended("wait", "--timeout", "0", "--admin-listen", admin)
    assert code == 1
    assert "app_id refused" in err and "nobody-knows-it" not in err
    proxy.process.terminate()
    assert await proxy.ended() == 0


async def test_shutdown_of_nothing_is_one_clear_line() -> None:
    code, out, err = await ended("shutdown", "--admin-listen", f"127.0.0.1:{free_port()}")
    assert (code, out, len(err.splitlines())) == (1, "", 1)


async def test_a_secret_given_as_a_flag_is_not_repeated() -> None:
    flags = ("app-id", "login-password", "session-store-secret", "session-store-sentinel-password")
    for words in ([f"--{flag}={SECRET}" for flag in flags], [w for flag in flags for w in (f"--{flag}", SECRET)]):
        code, out, err = await ended("serve", *words)
        assert (code, out) == (2, "")
        assert SECRET not in err
        assert all(f"use --{flag}-file" in err for flag in flags)


async def test_an_unknown_flag_gets_a_did_you_mean() -> None:
    code, _, err = await ended("serve", "--log-levl", "debug")
    assert code == 2
    assert 'did you mean "--log-level"?' in err
