"""The private folder of a supervisor: the report of each process, their session file, and the lock of the log.

Removed by the supervisor at its end; by the last worker if the supervisor was killed; by the next supervisor if all were.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

_PREFIX: Final = "cardcash-proxy-"
_MEMORY: Final = "/dev/shm"  # noqa: S108  # what is made there is ours alone, see mkdtemp
#: Seconds between two tries.
_NEXT_TRY: Final = 0.01
_TRIES: Final = 10
#: Bytes that a place must have left: a worker's report is some 170 KB.
_ROOM: Final = 4 * 1024 * 1024


class Folder:
    """A folder that only this user can enter. Whoever uses it holds it with a shared lock, which ends with the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: int | None = None
        self._alive = path / "alive"
        #: Whoever holds this file's lock may write to the log.
        self.log_lock = path / "log.lock"
        #: Where the session is kept when it would be in memory.
        self.session = path / "session"
        #: Where the supervisor writes what it knows of the workers: JSON, rewritten when that has changed.
        self.workers = path / "workers.json"

    @classmethod
    def make(cls) -> Folder:
        """Make it and hold it; clears away what killed supervisors have left. Raises ValueError where there is no place."""
        for base in _bases():
            _sweep(base)
            with suppress(OSError):
                folder = cls(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base)))
                # Locked before it has its name: who sweeps must not take it for abandoned.
                unnamed = folder.path / "alive.new"
                folder._held = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(folder._held, fcntl.LOCK_SH)
                unnamed.rename(folder._alive)
                return folder
        raise ValueError("workers: no folder for what the worker processes share; set TMPDIR to a writable one")

    def report_of(self, worker: int) -> Path:
        """Where a worker writes its report: JSON, rewritten every second and at its end."""
        return self.path / f"worker-{worker}.json"

    def hold(self) -> None:
        """Keep others from taking it for abandoned as long as this process lives."""
        with suppress(OSError):
            self._held = os.open(self._alive, os.O_RDWR | os.O_CLOEXEC)
            fcntl.flock(self._held, fcntl.LOCK_SH)

    def remove(self) -> None:
        """Remove it with all that is in it; a process that is being killed may just be writing there."""
        for _ in range(_TRIES):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                return
            time.sleep(_NEXT_TRY)

    def remove_if_last(self) -> None:
        """Remove it unless another process holds it; the last thing a process does, since it is not held after that."""
        if self._held is not None and _lock(self._held):
            self.remove()


def write(path: Path, what: dict[str, Any]) -> OSError | None:
    """Write what others read: they see all of it, or what stood there before. Returns why it could not be written."""
    new = path.with_suffix(".new")
    try:
        new.write_bytes(orjson.dumps(what))
        new.replace(path)
    except OSError as error:  # full, or removed under a process that is being killed: what stood there is soon too old
        with suppress(OSError):
            os.utime(path)  # it takes no room to be alive
        return error
    return None


def read(path: Path) -> dict[str, Any]:
    """Read what another process has written; {} when there is nothing."""
    try:
        content = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _bases() -> Iterator[Path]:
    """List places: memory where there is some, because the session is a live token; but first what the operator names."""
    places = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")] + [_MEMORY]
    with suppress(OSError):
        places.append(tempfile.gettempdir())
    for place in (Path(one).absolute() for one in places if one):
        with suppress(OSError):
            space = os.statvfs(place)
            has_room = space.f_bavail * space.f_frsize >= _ROOM or not space.f_blocks  # a tmpfs without any limit
            if os.access(place, os.W_OK | os.X_OK) and has_room:
                yield place


def _sweep(base: Path) -> None:
    """Remove folders whose supervisor and workers were all killed."""
    with suppress(OSError):
        for path in base.glob(f"{_PREFIX}????????"):
            with suppress(OSError):
                found = path.lstat()
                if found.st_mode != stat.S_IFDIR | 0o700 or found.st_uid != os.geteuid():
                    continue
                descriptor = os.open(path / "alive", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    if _lock(descriptor):
                        Folder(path).remove()
                finally:
                    os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
