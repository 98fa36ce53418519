"""`file:///path`: the token survives restarts and is shared by the processes of one host.

One JSON file, mode 0600, replaced atomically; its content is `entries.py`'s affair. Lock files beside it: `.lock` for
compare-and-set, held for one read and one write, and one for each right (`file_right.py`), held as long as that is.

Everything that touches the disk runs in one worker thread of the store's own: a disk that hangs holds up neither the event
loop nor the threads that resolve names.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

from proxy.clock import Clock
from proxy.core.token import Moment, Token
from proxy.session.stores import Binding, Entered, Right, Stored, StoreUnusable, Turn, turned_away
from proxy.session.stores.entries import (
    LARGEST,
    Entries,
    Entry,
    StoredPause,
    aged,
    is_alive,
    parse,
    render,
    with_refusals,
)
from proxy.session.stores.file_right import FileRight, LockFile, Sign
from proxy.session.stores.fingerprints import Fingerprints, fingerprint_of

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

#: The files beside the one with the entries.
_BESIDE: Final = (".lock", *(f".{right.value}" for right in Right))
#: Seconds to wait for another process's read and write, and between two looks.
_PATIENCE: Final = 1.5
_NEXT_TRY: Final = 0.002


class FileStore:
    """A store for all processes of one host that name the same path.

    `binding` says what tokens belong to at this moment (secrets rotate); other bindings' entries are neither seen nor
    touched. `warn(what)` is told, in the event loop, of a file that is corrupt; what is unsound in it counts as not there.
    """

    shared = True
    patience = 0.0

    def __init__(
        self, path: Path, *, binding: Callable[[], Binding], clock: Clock, warn: Callable[[str], None]
    ) -> None:
        self._path = path
        self._binding = binding
        self._clock = clock
        self._warn = warn
        self._is_sound = True
        # One thread: its queue is the lock that guards files and descriptors against each other within this process.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="session-store")
        self._rights = {right: FileRight(self._beside(f".{right.value}")) for right in Right}
        self._fingerprints = Fingerprints()

    async def look(self, secrets: str) -> Stored:
        """Return all there is for this binding; a token's life is counted from its absolute expiry."""
        return await self._run(self._looked, secrets, self._binding(), self._clock.now())

    async def enter(self, secrets: str, *, known: Token | None, forced: bool = False) -> Entered:
        """Ask to begin a renewal."""
        binding, now = self._binding(), self._clock.now()
        right = self._rights[Right.RENEWAL]
        silent = right.silent(now.steady)

        def enter() -> tuple[tuple[Stored, Turn | None, Sign | None], bool]:
            # First the right: what its last holder has left in the file is then seen.
            sign = right.take(silent)
            stored, is_sound = self._looked(secrets, binding, now)
            turn = turned_away(stored, known=known, forced=forced)
            if turn is not None:
                right.leave()
            return (stored, turn, sign), is_sound

        stored, turn, sign = await self._run(enter)
        is_ours = right.seen(sign, self._clock.now().steady)
        return Entered(turn or (Turn.GRANTED if is_ours else Turn.BUSY), stored)

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        """Compare and set under the lock; what is stored there by value decides, and what has expired is not there."""
        binding = self._binding()
        if token.app_id:
            # A token of the application id before the last change is not one of the new id.
            binding = dataclasses.replace(binding, app_id=token.app_id)
        expected = None if replaces is None else replaces.value
        wall = self._clock.now().wall

        def change(entry: Entry) -> bool:
            stored = entry.token
            if (stored and stored.value) != expected and (expected is not None or (stored and is_alive(stored, wall))):
                return False
            entry.token = token
            return True

        return await self._change(binding, change)

    async def failed(self, seconds: float) -> None:
        """Count a failure and begin its pause."""
        wall = self._clock.now().wall

        def change(entry: Entry) -> bool:
            entry.pause = StoredPause(entry.pause.failures_at(wall) + 1, wall, seconds)
            return True

        try:
            await self._change(self._binding(), change)
        finally:
            await self.leave(Right.RENEWAL)

    async def leave(self, right: Right, *, recovered: bool = False) -> None:
        """Give a right back."""
        try:
            if recovered:
                await self.end_pause()
        finally:
            await self._in_thread(self._rights[right].leave)

    async def extend(self, right: Right) -> bool:
        """Give a sign of life."""
        return await self._in_thread(self._rights[right].extend)

    async def take_login_turn(self) -> bool:
        """Ask for the turn to handle a caller's login."""
        right = self._rights[Right.LOGIN]
        sign = await self._in_thread(right.take, right.silent(self._clock.now().steady))
        return right.seen(sign, self._clock.now().steady)

    async def refuse(self, refusals: Mapping[str, str], secrets: str) -> None:
        """Remember what CardCash refused; of `secrets`, which hold the password, only a slow salted hash is stored."""

        binding = self._binding()
        fingerprint = await self._in_thread(fingerprint_of, secrets) if refusals else ""

        def change(entry: Entry) -> bool:
            had = entry.refused
            ours = self._fingerprints.find(had, secrets) if refusals else None
            entry.refused = with_refusals(had, fingerprint, refusals, instead_of=ours)
            return bool(had or refusals)

        await self._change(binding, change)

    async def end_pause(self) -> None:
        """Forget the failures."""

        def change(entry: Entry) -> bool:
            had, entry.pause = entry.pause, StoredPause()
            return had.failures > 0

        await self._change(self._binding(), change)

    async def close(self) -> None:
        """Give all rights back, and let the thread end after what it still has to do."""
        with suppress(RuntimeError):  # it was closed before
            for right in self._rights.values():
                self._worker.submit(right.leave)
        self._worker.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[*Ts], T], *arguments: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)

    async def _run(self, work: Callable[[*Ts], tuple[T, bool]], *arguments: *Ts) -> T:
        """Do some work on the file; warn of one that is unsound, once, until it was sound again."""
        result, is_sound = await self._in_thread(work, *arguments)
        if self._is_sound and not is_sound:
            self._warn("the file of session.store is corrupt; what cannot be read of it counts as not there")
        self._is_sound = is_sound
        return result

    async def _change(self, binding: Binding, change: Callable[[Entry], bool]) -> bool:
        """Change the entry of a binding under the lock, if `change` says that it did; returns what it says."""
        return await self._run(self._read_and_write, binding.key, change, self._clock.now().wall)

    # In the worker thread from here on

    def _read(self) -> tuple[Entries, bool]:
        """Return the entries, and whether the file is sound; none when there is no file."""
        try:
            # O_NONBLOCK: a named pipe must not hold us up.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return {}, True
        with os.fdopen(descriptor, "rb") as file:
            _check_private(self._path, os.fstat(descriptor))
            return parse(file.read(LARGEST + 1))

    def _looked(self, secrets: str, binding: Binding, now: Moment) -> tuple[Stored, bool]:
        entries, is_sound = self._read()
        entry = entries.get(binding.key, Entry())
        ours = self._fingerprints.find(entry.refused, secrets)
        stored = Stored(
            None if entry.token is None else aged(entry.token, now, app_id=binding.app_id),
            {} if ours is None else entry.refused[ours],
            entry.pause.failures_at(now.wall),
            entry.pause.left(now.wall),
            bool(entry.refused) and ours is None,
        )
        return stored, is_sound

    def _read_and_write(self, key: str, change: Callable[[Entry], bool], wall: float) -> tuple[bool, bool]:
        with self._locked():
            entries, was_sound = self._read()
            entry = entries.setdefault(key, Entry())
            if changed := change(entry):
                entry.written = wall
                self._write(render(entries, wall))
            return changed, was_sound

    def _write(self, content: bytes) -> None:
        """Replace the file: whoever reads sees the old one or the new one, and after a crash too."""
        # A name of its own would leave tokens lying about after each crash; this one is guarded by the lock.
        new = self._path.with_name(f".{self._path.name}.new")
        with suppress(FileNotFoundError):
            new.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except BaseException:
            with suppress(OSError):
                new.unlink()
            raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = LockFile(self._beside(".lock"))
        try:
            end = time.monotonic() + _PATIENCE
            while lock.take() is not None:
                if time.monotonic() > end:
                    raise TimeoutError("another process holds the lock of the file; is it stopped?")
                time.sleep(_NEXT_TRY)
            yield
        finally:
            lock.close()

    def _beside(self, suffix: str) -> Path:
        return self._path.with_name(self._path.name + suffix)


def check_file(path: Path) -> None:
    """Make sure the file can be used; raises `StoreUnusable` with a sentence for the operator. Changes nothing."""
    folder = path.parent
    try:
        if not folder.is_dir():
            raise StoreUnusable(f"session.store: the folder {folder} does not exist; make it, for this user alone.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreUnusable(f"session.store: this user may not write to {folder}; name another path.")
        for name in (path, *(path.with_name(path.name + suffix) for suffix in _BESIDE)):
            with suppress(FileNotFoundError):
                _check_private(name, name.lstat())
    except OSError as error:
        raise StoreUnusable(f"session.store: {path} cannot be used: {error.strerror}; name another path.") from None


def _check_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise StoreUnusable(f"session.store: {path} is not a plain file; name another path.")
    if found.st_uid != os.geteuid():
        raise StoreUnusable(f"session.store: {path} belongs to another user; remove it, or name another path.")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise StoreUnusable(
            f"session.store: {path} is open to other users (mode {mode:04o}), and it is for a live token; "
            "remove it, or chmod 600 it if you trust what is in it."
        )
