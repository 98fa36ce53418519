"""A right that one process at a time holds, by the lock of a file.

Who dies lets go of it at once (flock(2)). Who is stopped does not: so its holder touches the file all the time it has it,
and of those who ask, exactly one passes by a holder that has been silent for `LEASE`, by putting a new file, locked, in
the place of the old one. That is well below the time after which callers give up.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from proxy.session.stores import LEASE

#: Openings of a file that is replaced all the time.
_TRIES: Final = 5


#: What changes with each holder of a lock file, and with each sign of its life.
Sign = tuple[int, int]


class LockFile:
    """A lock file. Not safe for two threads at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> Sign | None:
        """Try to lock, at once; None when that is done, else the sign of its holder."""
        for _ in range(_TRIES):
            if self._descriptor is None:
                self._descriptor = _opened(self._path)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._is_in_place():
                    found = os.fstat(self._descriptor)
                    return found.st_ino, found.st_mtime_ns
            else:
                if self._is_in_place():
                    os.utime(self._descriptor)
                    return None
            self.close()  # a holder was passed by: the file is another one now
        raise TimeoutError(f"{self._path.name} is replaced all the time")

    def pass_by(self) -> bool:
        """Lock a new file in the place of one whose holder is stopped; False when somebody else does or did."""
        guard = LockFile(self._path.with_name(f"{self._path.name}.pass"))
        try:
            if guard.take() is not None or not self._is_in_place():
                return False
            new = self._path.with_name(f".{self._path.name}.new")
            new.unlink(missing_ok=True)
            descriptor = _opened(new, os.O_EXCL)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                new.replace(self._path)
            except BaseException:
                os.close(descriptor)
                raise
            self.close()
            self._descriptor = descriptor
            return True
        finally:
            guard.close()

    def touch(self) -> bool:
        """Give a sign of life; False: it is not ours, or another file is in its place by now."""
        if self._descriptor is None or not self._is_in_place():
            return False
        os.utime(self._descriptor)
        return True

    def close(self) -> None:
        """Unlock."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _is_in_place(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return self._descriptor is not None and os.path.samestat(there, os.fstat(self._descriptor))


class FileRight:
    """One right of one participant; `file.py` moves it between the event loop and a thread. Times are steady seconds."""

    def __init__(self, path: Path) -> None:
        # Open while the right is ours only.
        self._lock = LockFile(path)
        # What was seen of a holder, and since when it has given no other sign of life.
        self._sign: Sign | None = None
        self._silent_since = 0.0

    # In the event loop

    def silent(self, now: float) -> Sign | None:
        """Return the sign of a holder that has been silent for too long."""
        return self._sign if now - self._silent_since >= LEASE else None

    def seen(self, sign: Sign | None, now: float) -> bool:
        """Take what `take` has seen; says whether the right is ours."""
        if sign != self._sign:
            self._sign, self._silent_since = sign, now
        return sign is None

    # In the thread

    def take(self, silent: Sign | None) -> Sign | None:
        """Take it, keep it, or pass by a holder whose sign is still `silent`; None: it is ours, else its holder's sign."""
        if self.extend():
            return None
        is_ours = False
        try:
            sign = self._lock.take()
            is_ours = sign is None or (sign == silent and self._lock.pass_by())
            return None if is_ours else sign
        finally:
            if not is_ours:
                self._lock.close()

    def extend(self) -> bool:
        """Give a sign of life; False: it is not ours, or no longer."""
        if self._lock.touch():
            return True
        self._lock.close()
        return False

    def leave(self) -> None:
        """Let go of it."""
        self._lock.close()


def _opened(path: Path, flags: int = 0) -> int:
    # To write to: on NFS nobody else may lock it.
    return os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
