"""The private folder: who may look into it, and who removes it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.processes.folder import Folder, read, write


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for folders with a short name, as sockets need it."""
    place = Path(tempfile.mkdtemp())
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield place
    shutil.rmtree(place, ignore_errors=True)


def leave_behind(base: Path) -> Path:
    """Make a folder in a process that is killed."""
    code = "import os; from proxy.processes.folder import Folder; print(Folder.make().path, flush=True); os.abort()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    left = Path(done.stdout.strip())
    assert left.parent == base and left.is_dir()
    return left


def test_nobody_else_may_enter_it(base: Path) -> None:
    folder = Folder.make()
    assert folder.path.parent == base
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_a_report_is_read_whole_or_not_at_all(base: Path) -> None:
    path = Folder.make().report_of(1)
    assert read(path) == {}
    write(path, {"pid": 7})
    assert read(path) == {"pid": 7}
    path.write_bytes(b'{"pid":')
    assert read(path) == {}


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no place in memory here")
def test_memory_comes_before_a_disk_when_the_named_place_is_not_there(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(base / "gone"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    folder = Folder.make()
    assert folder.path.parent == Path("/dev/shm")
    folder.remove()


def test_what_a_killed_supervisor_has_left_is_removed_by_the_next(base: Path) -> None:
    left = leave_behind(base)
    folder = Folder.make()
    assert list(base.iterdir()) == [folder.path]
    assert not left.exists()


def test_what_a_living_supervisor_uses_is_not_removed(base: Path) -> None:
    first, second = Folder.make(), Folder.make()
    assert first.path.is_dir() and second.path.is_dir()


def test_what_is_not_ours_is_not_removed(base: Path) -> None:
    open_to_all = base / "cardcash-proxy-12345678"
    open_to_all.mkdir(mode=0o755)
    (open_to_all / "alive").touch()
    elsewhere = base / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "alive").touch()
    (base / "cardcash-proxy-87654321").symlink_to(elsewhere)
    Folder.make()
    assert open_to_all.is_dir() and (elsewhere / "alive").exists()


def test_only_the_last_who_holds_it_removes_it(base: Path) -> None:
    left = leave_behind(base)
    one, other = Folder(left), Folder(left)
    one.hold()
    other.hold()
    one.remove_if_last()
    assert left.is_dir()
    other.remove_if_last()
    assert not left.exists()
