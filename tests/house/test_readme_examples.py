"""What the pages show is what happens: its examples are run, and print what it says they print."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from proxy.settings import load_settings
from tests.house.conftest import Playground
from tests.house.pages import ROOT, Block, blocks, table, ticked

# One simulator and one proxy for all of them.

CONSOLE = [block for block in blocks() if block.language == "console" and block.not_run is None]


def _id(block: Block) -> str:
    return f"{block.page}-line-{block.line}"


def _steps(block: Block) -> list[tuple[str, str]]:
    """Split a console block into commands and what each prints."""
    steps: list[tuple[str, str]] = []
    for line in block.content.splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], ""))
        else:
            command, printed = steps[-1]
            steps[-1] = (command, f"{printed}{line}\n")
    return steps


def _is_like(printed: str, expected: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("…"))
    return re.fullmatch(pattern, printed.strip().replace("\r", ""), re.DOTALL) is not None


def _run(command: list[str], playground: Playground, content: str | None = None) -> str:
    done = subprocess.run(
        command,
        input=None if content is None else content.encode(),
        stdin=subprocess.DEVNULL if content is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=playground.environment(),
        timeout=30,
        check=False,
    )
    return done.stdout.decode("utf-8", "replace")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("block", CONSOLE, ids=_id)
def test_console_examples_print_what_is_shown(block: Block, playground: Playground) -> None:
    for command, expected in _steps(block):
        printed = _run(["bash", "-c", playground.adapted(command)], playground)
        assert _is_like(printed, expected.replace("…\n", "…")), f"$ {command}\n{printed}"


def test_there_are_console_examples() -> None:
    assert len(CONSOLE) >= 5
    assert all(_steps(block) for block in CONSOLE)


def test_examples_that_are_not_run_say_why() -> None:
    kinds = {block.language for block in blocks()}
    assert kinds == {"console", "python", "js", "yaml", "ini", "text"}  # text: nothing to run
    assert [block.line for block in blocks() if block.not_run is not None and len(block.not_run) < 10] == []


def _code(language: str) -> list[Block]:
    return [block for block in blocks() if block.language == language and block.not_run is None]


def _promised(block: Block) -> str:
    return "\n".join(re.findall(r"^(?:#|//) prints: (.*)$", block.content, re.MULTILINE))


@pytest.mark.parametrize("block", _code("python"), ids=_id)
def test_python_examples_print_what_they_say(block: Block, playground: Playground) -> None:
    printed = _run([sys.executable, "-"], playground, playground.adapted(block.content))
    assert _promised(block)
    assert printed.strip() == _promised(block)


def _node() -> int:
    if shutil.which("node") is None:
        return 0
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout
    return int((re.match(r"v(\d+)", version) or ["", "0"])[1])


@pytest.mark.skipif(_node() < 18, reason="Node 18 or newer is not installed")
@pytest.mark.parametrize("block", _code("js"), ids=_id)
def test_node_examples_print_what_they_say(block: Block, playground: Playground) -> None:
    printed = _run(["node", "--input-type=module", "-"], playground, playground.adapted(block.content))
    assert _promised(block)
    assert printed.strip() == _promised(block)


def _with_files_of(text: str, folder: Path) -> str:
    """Put the files that a configuration names into `folder`."""
    for name in re.findall(r"(?:/run/secrets|%d|/var/lib)/[\w/.-]+", text):
        file = folder / Path(name).name
        if not name.startswith("/var/lib"):
            file.write_text("a-secret\n")
        text = text.replace(name, str(file))
    return text


@pytest.mark.parametrize("block", _code("yaml"), ids=_id)
def test_configuration_files_are_valid(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(_with_files_of(block.content, tmp_path))
    settings = load_settings(config=file, environ={})
    assert settings.app_id is not None
    assert settings.login.configured


def _get(playground: Playground, path: str, **headers: str) -> None:
    request = urllib.request.Request(f"http://{playground.proxy}{path}", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.addheaders = []
    try:
        opener.open(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        error.close()


def _leave(playground: Playground, path: str) -> None:
    """Leave in the middle of a long answer; again, if that one had not begun or was all out."""
    host, port = playground.proxy.split(":")
    end = time.monotonic() + 10
    while not any(line.get("caller_gone") for line in playground.lines()):
        assert time.monotonic() < end, "nobody noticed"
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.connect((host, int(port)))
            for _ in range(20):  # more than the buffers between us take
                caller.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            for _ in range(100):
                assert caller.recv(4096)


def test_request_lines_have_the_fields_of_the_table_and_no_others(playground: Playground) -> None:
    _get(playground, "/orders/buy?store_specific=true")
    revoke = urllib.request.Request(f"http://{playground.simulator}/_simulator/revoke", data=b"{}")
    urllib.request.urlopen(revoke, timeout=10).close()
    _get(playground, "/carts")
    _leave(playground, "/merchants/buy")
    _get(playground, "/carts", Host="evil.example", **{"X-Request-ID": "the-last-one"})
    end = time.monotonic() + 10
    # The file may be read in the middle of a write.
    while not ('"request_id":"the-last-one"' in (text := playground.log.read_text("utf-8")) and text.endswith("\n")):
        assert time.monotonic() < end, "the line never came"
        time.sleep(0.02)
    written = {key for line in playground.lines() if line["event"] == "request" for key in line}
    documented = {name for row in table("field of `request`") for name in ticked(row[0])}
    assert written - {"timestamp", "level", "event"} == documented


def test_every_line_of_the_log_is_one_json_object_with_the_common_fields(playground: Playground) -> None:
    lines = [json.loads(line) for line in Path(playground.log).read_text(encoding="utf-8").splitlines()]
    assert lines
    assert [line for line in lines if not {"timestamp", "level", "event"} <= set(line)] == []
