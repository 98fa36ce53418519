"""The commands: exit codes, one line per fault, never a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from pathlib import Path

import pytest

from proxy.simulator import Simulator
from tests.cardcash import CardCash
from tests.whole.processes import INT, TERM, Process, fetch, run, serving


@pytest.mark.parametrize("command", ["", "serve", "check", "doctor", "health", "demo", "simulate"])
async def test_every_command_has_help(command: str) -> None:
    done = await run(*command.split(), "--help")
    assert await done.ended() == 0
    assert b"usage: " in done.out
    assert done.err == b""


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["serve", "--nonsense"],
        ["serve", "positional"],
        ["simulate", "--listen", "nowhere"],
        ["simulate", "--token-ttl", "soon"],
        ["simulate", "--token-ttl", "-1"],
        ["demo", "--listen", "127.0.0.1:99999"],
        ["demo", "--listen", "0.0.0.0:0"],
        ["demo", "--listen", "127.0.0.1:7", "--admin-listen", "127.0.0.1:7"],
        ["check", "--config"],
        ["check", "--config", ""],
        ["health", "--config="],
        ["health", "--admin.listen"],
    ],
)
async def test_bad_usage_is_one_line_and_exit_code_2(arguments: list[str]) -> None:
    done = await run(*arguments)
    assert await done.ended() == 2
    assert done.out == b""
    assert len(done.err.decode().splitlines()) == 1
    assert "Traceback" not in done.text


async def test_a_bare_call_prints_the_help_and_is_no_success() -> None:
    done = await run()
    assert await done.ended() == 2
    assert done.out == (await run("--help")).out
    assert done.err == b""


@pytest.mark.parametrize(
    ("words", "meant"), [(["sevre"], "serve"), (["healht"], "health"), (["session", "statsu"], "status")]
)
async def test_a_misspelt_command_gets_a_did_you_mean(words: list[str], meant: str) -> None:
    done = await run(*words)
    assert await done.ended() == 2
    assert f'did you mean "{meant}"?' in done.err.decode()
    assert len(done.err.splitlines()) == 1


async def test_each_misspelt_flag_gets_its_line_with_a_did_you_mean() -> None:
    done = await run("check", "--upstream-orgin", "https://x.example", "--drain-dely", "-1")
    assert await done.ended() == 2
    lines = done.err.decode().splitlines()
    assert len(lines) == 2
    assert '--upstream-orgin is unknown; did you mean "--upstream-origin"?' in lines[0]
    assert '--drain-dely is unknown; did you mean "--drain-delay"?' in lines[1]


@pytest.mark.parametrize("words", [["--config", "proxy.yaml", "check"], ["--config=proxy.yaml", "check"]])
async def test_a_flag_before_the_command_is_told_where_it_belongs(words: list[str]) -> None:
    done = await run(*words)
    assert await done.ended() == 2
    assert b"flags stand after the command" in done.err
    assert len(done.err.splitlines()) == 1


async def test_help_has_one_spelling_for_each_flag() -> None:
    done = await run("serve", "--help")
    flags = re.findall(r"^  (--.+?) ", done.out.decode(), re.MULTILINE)
    assert "--upstream-connect-timeout" in flags
    assert [flag for flag in flags if "," in flag or "." in flag or "_" in flag] == []


@pytest.mark.parametrize("command", ["serve", "check"])
@pytest.mark.parametrize("value", ["http://p:99999", "socks5://p:1", "https://p:1", "http://", "http://p:1/path"])
async def test_a_malformed_proxy_of_the_environment_is_one_line_and_exit_code_2(command: str, value: str) -> None:
    done = await run(
        command, "--listen", "nowhere", "--upstream.trust_env", "true", CARDCASH_APP_ID="x", HTTPS_PROXY=value
    )
    assert await done.ended() == 2
    lines = done.err.decode().splitlines()
    assert [line.split(" ")[1].partition("[")[0] for line in lines] == ["listen", "HTTPS_PROXY"]


@pytest.mark.parametrize("command", ["serve", "check"])
async def test_a_bad_configuration_is_one_line_per_fault_and_exit_code_2(command: str, tmp_path: Path) -> None:
    config = tmp_path / "proxy.yaml"
    config.write_text("limits:\n  request_bodi: 1\nlogin:\n  email: me@example.com\n")
    done = await run(command, "--config", str(config), CARDCASH_LOG__LEVEL="loud", CARDCASH_LISTEN="0.0.0.0:0")
    assert await done.ended() == 2
    lines = done.err.decode().splitlines()
    assert len(lines) >= 5
    for part in ("app_id", "request_body", "login.password", "log.level", "callers.allowed_networks"):
        assert sum(part in line for line in lines) >= 1, part
    assert all(line.startswith("cardcash-proxy: ") for line in lines)
    assert "Traceback" not in done.text
    assert done.out == b""


async def test_a_secret_as_a_flag_is_refused_with_the_other_faults_and_not_repeated() -> None:
    done = await run("check", "--app-id", "zebra", "--login.password=zebra", "--workers", "0")
    assert await done.ended() == 2
    assert "zebra" not in done.text
    assert [line.split()[1] for line in done.err.decode().splitlines()] == ["app_id", "login.password", "workers"]
    assert "--app-id " not in (await run("check", "--help")).out.decode()


@pytest.mark.parametrize("what", ["missing", "a folder", "not YAML", "binary"])
async def test_a_configuration_file_that_cannot_be_read_is_exit_code_2(what: str, tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    if what == "a folder":
        file.mkdir()
    elif what == "not YAML":
        file.write_text("a: [1\nb: }")
    elif what == "binary":
        file.write_bytes(b"\xff\xfe\x00\x01")
    done = await run("check", "--config", str(file), CARDCASH_APP_ID="x")
    assert await done.ended() == 2
    assert len(done.err.splitlines()) == 1
    assert "Traceback" not in done.text


@pytest.mark.parametrize("command", ["check", "health"])
@pytest.mark.parametrize("name", ["x" * 70_000, "https://me:zebra@host/a.yaml", "-----BEGIN PRIVATE KEY-----zebra"])
async def test_what_is_no_file_is_not_repeated_whole(command: str, name: str) -> None:
    for done in (
        await run(command, f"--config={name}", CARDCASH_APP_ID="x"),
        await run("check", CARDCASH_APP_ID="x", CARDCASH_UPSTREAM__CA_FILE=name, CARDCASH_SESSION__STORE_CA_FILE=name),
    ):
        assert await done.ended() == 2
        assert b"zebra" not in done.err
        assert all(len(line) < 400 for line in done.err.splitlines())


@pytest.mark.parametrize("command", ["check", "health"])
async def test_a_configuration_file_is_called_by_who_named_it(command: str) -> None:
    named = {"CARDCASH_APP_ID": "x", "CARDCASH_CONFIG": "/nowhere/a.yaml"}
    assert b"configuration file /nowhere/a.yaml (CARDCASH_CONFIG) cannot be read" in (await run(command, **named)).err
    done = await run(command, "--config", "/nowhere/b.yaml", **named)
    assert b"configuration file /nowhere/b.yaml (--config) cannot be read" in done.err


async def test_check_prints_the_effective_settings_without_secrets(tmp_path: Path) -> None:
    config = tmp_path / "proxy.yaml"
    config.write_text("listen: 127.0.0.1:9999\nlimits:\n  in_flight: 7\n")
    done = await run(
        "check",
        "--config",
        str(config),
        "--limits.in_flight",
        "8",
        CARDCASH_APP_ID="secret-zebra",
        CARDCASH_LOGIN__EMAIL="me@example.com",
        CARDCASH_LOGIN__PASSWORD="secret-zebra",
        CARDCASH_CALLERS__REQUIRE_HEADER="X-Key: secret-zebra",
    )
    assert await done.ended() == 0, done.text
    assert "zebra" not in done.text
    assert "127.0.0.1:9999" in done.text
    assert re.search(r"in_flight: *8", done.text)


async def test_health_is_0_when_the_proxy_lives_and_1_when_none_answers(cardcash: CardCash) -> None:
    async with serving(cardcash.url) as proxy:
        done = await run("health", "--admin.listen", proxy.admin)
        assert await done.ended() == 0, done.text
        alone = await run("health", CARDCASH_ADMIN__LISTEN=proxy.admin)
        assert await alone.ended() == 0, alone.text
        admin = proxy.admin
    done = await run("health", "--admin.listen", admin)
    assert await done.ended() == 1
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", '"SSH-2.0-OpenSSH_9.2"'),
        (b"", "it says nothing"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>", "it answered 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "it answered 200"),
    ],
)
async def test_health_of_what_is_no_admin_port_says_what_answered(answer: bytes, said: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        address = "{}:{}".format(*server.sockets[0].getsockname())
        done = await run("health", "--admin-listen", address)
        assert await done.ended() == 1
        assert done.out == b""
        assert said in done.err.decode() and len(done.err.splitlines()) == 1


async def test_health_says_what_is_dead() -> None:
    body = b'{"status":"not alive: keeper","not_alive":["keeper"]}'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        done = await run("health", "--admin-listen", "{}:{}".format(*server.sockets[0].getsockname()))
        assert await done.ended() == 1
        assert done.out == b"not alive: keeper\n"


@pytest.mark.parametrize("words", ["health", "wait --timeout 0", "shutdown", "session status"])
async def test_what_asks_the_running_proxy_loads_neither_settings_nor_an_event_loop(words: str) -> None:
    program = (
        "import sys\n"
        "from proxy.cli import main\n"
        "main(sys.argv[1:])\n"
        "found = {name.partition('.')[2] or name for name in sys.modules} & {'settings', 'aiohttp', 'asyncio', 'yaml'}\n"
        "print(sorted(found))\n"
    )
    done = await Process.run_program(program, *words.split(), CARDCASH_ADMIN__LISTEN="127.0.0.1:9")
    assert await done.ended() == 0
    assert done.out == b"[]\n"


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_no_color_is_respected_on_a_terminal(variables: dict[str, str], coloured: bool) -> None:
    program = (
        "import os\n"
        "master, terminal = os.openpty()\n"
        "from proxy.telemetry import logs\n"
        "logs.configure('info', 'console', fd=terminal)\n"
        "logs.log.info('an_event')\n"
        "os.write(1, os.read(master, 1000))\n"
    )
    done = await Process.run_program(program, **variables)
    assert await done.ended() == 0
    assert b"an_event" in done.out
    assert (b"\x1b[" in done.out) is coloured


async def test_the_version_is_told() -> None:
    done = await run("--version")
    assert await done.ended() == 0
    assert re.fullmatch(r"cardcash-proxy \d+\.\d+\.\d+.*\n", done.out.decode())


async def test_simulate_starts_answers_and_ends_with_0() -> None:
    process = await Process.start("simulate", "--listen", "127.0.0.1:0", "--app-id", "mine", "--token-ttl", "60")
    try:
        await process.says(lambda out: b"controls at" in out)
        found = re.search(r"http://127\.0\.0\.1:\d+", process.out.decode())
        assert found is not None
        status, text = await fetch("POST", f"{found[0]}/v3/session", headers={"x-cc-app": "mine"})
        assert status == 200
        assert json.loads(text)["expiresInSeconds"] in (59, 60)
        process.signal(TERM)
        assert await process.ended() == 0
        assert process.err == b""
    finally:
        await process.close()


async def test_simulate_on_a_taken_address_is_one_line_and_exit_code_1(simulator: Simulator) -> None:
    done = await run("simulate", "--listen", f"127.0.0.1:{simulator.port}")
    assert await done.ended() == 1
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("number", [TERM, INT])
async def test_a_signal_while_serve_reads_its_settings_ends_it_with_one_line(tmp_path: Path, number: int) -> None:
    (tmp_path / "id").write_text("an-id")
    # A disk that does not answer, for what is in the file; the start waits some seconds for it.
    program = (
        "import os, sys, threading\n"
        "real = os.open\n"
        "def opened(name, *more, **others):\n"
        "    if str(name).endswith('/id'):\n"
        "        os.write(1, b'reading\\n')\n"
        "        threading.Event().wait()\n"
        "    return real(name, *more, **others)\n"
        "os.open = opened\n"
        "from proxy.cli import main\n"
        "sys.exit(main(['serve', '--app-id-file', sys.argv[1]]))\n"
    )
    process = await Process.run_program(program, str(tmp_path / "id"))
    try:
        await process.says(lambda out: b"reading" in out)
        process.signal(number)
        assert await process.ended() == 0
        reading, line = process.text.splitlines()
        assert (reading, json.loads(line)["event"]) == ("reading", "stopped")
    finally:
        await process.close()


@pytest.mark.parametrize("number", [TERM, INT])
async def test_a_signal_as_soon_as_simulate_listens_ends_it_quietly(number: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await Process.start("simulate", "--listen", f"127.0.0.1:{port}")
    try:
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(ConnectionError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
        process.signal(number)
        assert await process.ended() == 0
        assert process.err == b""
        writer.close()
    finally:
        await process.close()
