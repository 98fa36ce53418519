"""Shell completion, in the shells themselves."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.commands import COMMANDS
from tests.whole.processes import run

#: What was typed, and what it is completed to.
CASES = {
    "hea": ["health"],
    "se": ["serve", "session"],
    "session st": ["status"],
    "session ": ["renew", "status"],
    "completion ": ["bash", "fish", "zsh"],
    "wait --tim": ["--timeout"],
    "serve --upstream-or": ["--upstream-origin"],
    "doctor --no-l": ["--no-login"],
    "check --config prox": ["proxy.yaml"],
}


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell} (Debian's package of that name)")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    (folder / "proxy.yaml").touch()
    return folder


async def written(folder: Path, shell: str) -> Path:
    path = folder / f"completion.{shell}"
    if not path.exists():
        done = await run("completion", shell)
        assert done.process.returncode == 0, done.text
        path.write_bytes(done.out)
    return path


def output(folder: Path, *command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=20, check=False)
    assert done.stderr == ""
    return sorted(line.partition("\t")[0].strip() for line in done.stdout.splitlines() if line)


@pytest.mark.parametrize("typed", CASES)
async def test_bash_completes(scripts: Path, typed: str) -> None:
    needs("bash")
    path = await written(scripts, "bash")
    words = ["cardcash-proxy", *typed.split(" ")]
    # `complete` is used as it stands; compgen needs no terminal.
    program = (
        'source "$1"; shift; complete -p cardcash-proxy >/dev/null || exit 1; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        '_cardcash_proxy; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert output(scripts, "bash", "-c", program, "bash", str(path), *words) == CASES[typed]


@pytest.mark.parametrize("typed", CASES)
async def test_fish_completes(scripts: Path, typed: str) -> None:
    needs("fish")
    path = await written(scripts, "fish")
    program = f"source {path}; complete -C 'cardcash-proxy {typed}'"
    assert output(scripts, "fish", "--no-config", "-c", program) == CASES[typed]


class Zsh:
    """An interactive zsh on a terminal: its completion works nowhere else."""

    def __init__(self, folder: Path, script: Path) -> None:
        environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
        # Not pty.fork: the tests have threads.
        self.terminal, end = pty.openpty()
        self._process = subprocess.Popen(
            ["zsh", "-f", "-i"], stdin=end, stdout=end, stderr=end, cwd=folder, env=environ, start_new_session=True
        )
        os.close(end)
        setup = (
            "unsetopt zle_bracketed_paste; PS1=; autoload -Uz compinit; compinit -u -D; "
            f"source {script}; shown() {{ print -r -- \"<<$BUFFER>>\"; BUFFER= }}; zle -N shown; bindkey '^O' shown; "
            "print rea''dy"
        )
        self._write(setup + "\n")
        self._until("ready\r?\n")

    def _write(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def _until(self, pattern: str) -> re.Match[str]:
        said, end = "", time.monotonic() + 20
        while (found := re.search(pattern, said)) is None:
            assert time.monotonic() < end, said
            if select.select([self.terminal], [], [], 0.1)[0]:
                said += os.read(self.terminal, 65536).decode(errors="replace")
        return found

    def completed(self, typed: str) -> str:
        """Type it and a tab; returns what stands in the line then."""
        self._write(f"cardcash-proxy {typed}\t\x0f")
        return self._until("<<cardcash-proxy (.*)>>")[1]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self.terminal)


@pytest.fixture
def zsh(scripts: Path) -> Iterator[list[Zsh]]:
    started: list[Zsh] = []
    yield started
    for one in started:
        one.close()


async def test_zsh_completes(scripts: Path, zsh: list[Zsh]) -> None:
    needs("zsh")
    zsh.append(Zsh(scripts, await written(scripts, "zsh")))
    # Where there is more than one, it lists them and goes on with what they have in common.
    alone = {typed: found[0] for typed, found in CASES.items() if len(found) == 1}
    completed = {typed: zsh[0].completed(typed).split(" ") for typed in alone}
    assert {typed: next(filter(None, reversed(words))) for typed, words in completed.items()} == alone


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_every_command_is_completed_and_no_flag_that_would_take_a_secret(scripts: Path, shell: str) -> None:
    text = (await written(scripts, shell)).read_text()
    assert all(re.search(rf"\b{name}\b", text) for name in COMMANDS)
    assert "login-password-file" in text
    assert not re.search(r"login-password(?!-file)|session-store-secret(?!-file)", text)


async def test_another_shell_is_one_clear_line() -> None:
    done = await run("completion", "bahs")
    assert (done.process.returncode, bytes(done.out)) == (2, b"")
    assert 'did you mean "bash"?' in done.text and done.text.count("\n") == 1
