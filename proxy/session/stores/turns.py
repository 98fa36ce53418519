"""A right that one process at a time holds, by the lock of a file.

Who dies lets go of it at once (flock(2)). Who is stopped does not: so its holder touches the file all the time it has it,
and of those who wait, exactly one passes by a holder that has been silent for `LONGEST_SILENCE`, by putting a new file,
locked, in the place of the old one. That is well below the time after which callers give up.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from proxy.clock import Clock

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds between two looks at a right that another process holds; a session call takes longer than either.
_FIRST_LOOK: Final = 0.01
_LAST_LOOK: Final = 0.05
#: Seconds for one look; a disk that takes longer gives no right.
_LONGEST_LOOK: Final = 2.0
#: Seconds between two touches of a holder, and after which one that has not touched is stopped. A renewal ends after 10.
_BEAT: Final = 0.5
LONGEST_SILENCE: Final = 3.0
#: Openings of a file that is replaced all the time.
_TRIES: Final = 5


class LockFile:
    """A lock file. Not safe for two threads at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> tuple[int, int] | None:
        """Try to lock, at once; None when that is done, else what changes with each holder and each sign of its life."""
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

    def touch(self) -> None:
        """Give a sign of life."""
        if self._descriptor is not None:
            os.utime(self._descriptor)

    def close(self) -> None:
        """Unlock."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _is_in_place(self) -> bool:
        if self._descriptor is None:
            return False
        try:
            there = self._path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._descriptor))


class Turn:
    """One right, for the tasks of this process and for all processes that name the same path.

    Everything that touches the disk runs in `worker`, which has one thread.
    """

    def __init__(self, path: Path, worker: Executor, clock: Clock) -> None:
        self._path = path
        self._worker = worker
        self._clock = clock
        # Guards it within this process; between processes the file does. Held over the network, as the right is.
        self._mine = asyncio.Lock()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Wait for it and hold it. Raises OSError when it is not to be had because the disk fails."""
        async with self._mine:
            lock = LockFile(self._path)
            beats: asyncio.Task[None] | None = None
            try:
                await self._taken(lock)
                beats = asyncio.create_task(self._beat(lock), name="session-store-turn")
                yield
            finally:
                if beats is not None:
                    beats.cancel()
                self._give_back(lock)

    async def _taken(self, lock: LockFile) -> None:
        """Return when it is ours; looks at the holder's signs of life meanwhile."""
        wait = _FIRST_LOOK
        sign: tuple[int, int] | None = None
        since = self._clock.now().steady
        while (found := await self._look(lock.take)) is not None:
            now = self._clock.now().steady
            if found != sign:
                sign, since = found, now
            elif now - since >= LONGEST_SILENCE and await self._look(lock.pass_by):
                return
            await asyncio.sleep(wait)
            wait = min(_LAST_LOOK, wait * 2)

    async def _beat(self, lock: LockFile) -> None:
        while True:
            await asyncio.sleep(_BEAT)
            with suppress(OSError):
                await self._look(lock.touch)

    async def _look(self, what: Callable[[], T]) -> T:
        async with asyncio.timeout(_LONGEST_LOOK):
            return await asyncio.get_running_loop().run_in_executor(self._worker, what)

    def _give_back(self, lock: LockFile) -> None:
        try:
            # Behind whatever the thread still does with it, should we have left in the middle.
            self._worker.submit(lock.close)
        except RuntimeError:  # the store was closed meanwhile
            lock.close()


def _opened(path: Path, flags: int = 0) -> int:
    return os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
