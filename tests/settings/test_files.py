"""A file that is named in the settings never holds anything up, whatever it is or becomes."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.settings import files, load_settings
from proxy.watched_files import SecretsWatch
from tests.cardcash import CardCash
from tests.server.harness import APP_ID, until
from tests.whole.processes import TERM, Process, fetch, run, serving

#: Every setting that names a file, and what else is needed beside it.
NAMES = [
    "CARDCASH_APP_ID_FILE",
    "CARDCASH_LOGIN__PASSWORD_FILE",
    "CARDCASH_CALLERS__REQUIRE_HEADER",
    "CARDCASH_UPSTREAM__CA_FILE",
    "CARDCASH_CONFIG",
]


def _naming(name: str, path: str) -> dict[str, str]:
    environ = {name: f"X-Key: file:{path}" if name.endswith("HEADER") else path}
    if name != "CARDCASH_APP_ID_FILE":
        environ["CARDCASH_APP_ID"] = "an-id"
    if name == "CARDCASH_LOGIN__PASSWORD_FILE":
        environ["CARDCASH_LOGIN__EMAIL"] = "a@b.c"
    return environ


@pytest.mark.parametrize("name", NAMES)
async def test_check_of_a_fifo_ends_at_once_with_a_sentence(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = await run("check", **_naming(name, str(tmp_path / "pipe")))
    assert done.process.returncode == 2
    assert "cannot be read: it is no regular file" in done.text
    assert done.text.count("\n") == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("file", ["/dev/zero", "/dev/null", "/"])
def test_what_is_no_regular_file_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, file: str) -> None:
    with pytest.raises(Exception, match=r"cannot be read: it is (no regular file|a directory)"):
        load_settings(environ=_naming(name, file))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_without_an_end_is_refused_by_its_size(tmp_path: Path, name: str) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Exception, match="is larger than"):
        load_settings(environ=_naming(name, str(tmp_path / "huge")))


async def test_health_does_not_wait_for_a_configuration_that_is_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = await run("health", "--config", str(tmp_path / "pipe"))
    assert done.process.returncode == 2
    assert "cannot be read" in done.text


async def test_a_proxy_whose_secret_becomes_a_fifo_goes_on_and_can_be_stopped(
    tmp_path: Path, cardcash: CardCash
) -> None:
    secret = tmp_path / "app-id"
    secret.write_text(APP_ID)
    async with serving(cardcash.url, APP_ID="", APP_ID_FILE=str(secret)) as proxy:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "pipe").rename(secret)
        await proxy.says(lambda out: b"secret_file_unreadable" in out)
        assert (await fetch("GET", f"{proxy.url}/carts"))[0] == 200
        proxy.signal(TERM)
        assert await proxy.ended() == 0


# A disk that hangs


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, path: Path) -> Iterator[list[str]]:
    """Let whoever opens `path` wait as for a server that is gone; yields the names of the threads that wait."""
    waiting: list[str] = []
    answered, real = threading.Event(), os.open

    def opened(name: Any, *more: Any, **others: Any) -> int:
        if name == path:
            waiting.append(threading.current_thread().name)
            answered.wait()
        return real(name, *more, **others)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", opened)
        try:
            yield waiting
        finally:
            answered.set()


def test_a_disk_that_hangs_at_the_start_is_a_sentence_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "AT_START", 0.05)
    (tmp_path / "id").write_text("an-id")
    with (
        hanging(monkeypatch, tmp_path / "id"),
        pytest.raises(Exception, match=r"its disk did not answer within 0\.05 s"),
    ):
        load_settings(environ={"CARDCASH_APP_ID_FILE": str(tmp_path / "id")})


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(files, "AGAIN", 0.05)
    (tmp_path / "id").write_text("first-id")
    return tmp_path / "id"


async def test_while_a_disk_hangs_the_loop_goes_on_and_the_last_good_value_stays(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = SecretsWatch(load_settings(environ={"CARDCASH_APP_ID_FILE": str(secret)}))
    with hanging(monkeypatch, secret) as waiting, capture_logs() as lines:
        began, turns = time.monotonic(), 0
        looking = asyncio.ensure_future(watch.look())
        while not looking.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 10 and time.monotonic() - began < 20
        assert await looking == []
        assert watch.app_id == "first-id"
        assert [line["event"] for line in lines] == ["secret_file_unreadable"]
        await watch.look()
        await watch.look()
        assert len(waiting) == 1, "each look left another thread behind"


async def test_a_disk_that_answers_again_is_read_again(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = SecretsWatch(load_settings(environ={"CARDCASH_APP_ID_FILE": str(secret)}))
    with hanging(monkeypatch, secret):
        await watch.look()
    secret.write_text("second-id")
    changed: list[str] = []

    async def look() -> None:
        while not changed:
            changed.extend(await watch.look())

    await asyncio.wait_for(look(), 5)
    assert (changed, watch.app_id) == (["app_id"], "second-id")


async def test_a_second_secret_is_noticed_while_the_disk_of_the_first_hangs(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = secret.with_name("password")
    password.write_text("first")
    environ = {
        "CARDCASH_APP_ID_FILE": str(secret),
        "CARDCASH_LOGIN__EMAIL": "a@b.c",
        "CARDCASH_LOGIN__PASSWORD_FILE": str(password),
    }
    watch = SecretsWatch(load_settings(environ=environ))
    with hanging(monkeypatch, secret):
        password.write_text("second")
        assert await watch.look() == ["login.password"]


async def test_a_secret_that_is_being_written_is_taken_once_it_has_stood_for_a_while(secret: Path) -> None:
    watch = SecretsWatch(load_settings(environ={"CARDCASH_APP_ID_FILE": str(secret)}))
    await watch.look()
    for half in ("second", "second-", "second-id"):
        secret.write_text(half)
        assert await watch.look(stood=60) == await watch.look(stood=60) == []
        assert watch.app_id == "first-id"
    began = time.monotonic()
    secret.write_text("third-id")
    while not (changed := await watch.look(stood=0.3)):
        await asyncio.sleep(0.01)
    assert (changed, watch.app_id) == (["app_id"], "third-id")
    assert time.monotonic() - began >= 0.3


async def test_a_secret_that_comes_back_has_to_stand_anew(secret: Path) -> None:
    watch = SecretsWatch(load_settings(environ={"CARDCASH_APP_ID_FILE": str(secret)}))
    await watch.look()
    for text in ("sec", "first-id", "sec", "second-id"):
        secret.write_text(text)
        assert await watch.look(stood=60) == []
    assert await watch.look() == ["app_id"], "at once, when it is asked for"
    assert watch.app_id == "second-id"


async def test_an_ended_look_leaves_no_thread_behind(secret: Path) -> None:
    watch = SecretsWatch(load_settings(environ={"CARDCASH_APP_ID_FILE": str(secret)}))
    for _ in range(5):
        await watch.look()
    await until(lambda: not any(thread.name == "file-reader" for thread in threading.enumerate()))


async def test_a_command_is_not_held_up_at_its_end_by_a_disk_that_hangs(tmp_path: Path) -> None:
    """The thread that hangs is left behind."""
    (tmp_path / "id").write_text("an-id")
    program = (
        "import os, sys, threading\n"
        "from proxy import cli; from proxy.settings import files\n"
        "files.AT_START, real = 0.05, os.open\n"
        "def opened(name, *more, **others):\n"
        "    if str(name).endswith('/id'): threading.Event().wait()\n"
        "    return real(name, *more, **others)\n"
        "os.open = opened\n"
        "sys.exit(cli.main(['check']))\n"
    )
    done = await Process.run_program(program, CARDCASH_APP_ID_FILE=str(tmp_path / "id"))
    assert await done.ended(seconds=10) == 2
    assert "did not answer" in done.text
