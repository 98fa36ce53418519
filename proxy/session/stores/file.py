"""`file:///path`: the token survives restarts and is shared by the processes of one host.

One JSON file, mode 0600, replaced atomically; its content is `entries.py`'s affair. Lock files beside it: `.lock` for
compare-and-set, held for one read and one write; `.lease` for the right to make a session call and `.login` for the turn
to handle a caller's login, both held over that call and passed by when their holder is stopped (`turns.py`).

Everything that touches the disk runs in one worker thread of the store's own: a disk that hangs holds up neither the event
loop nor the threads that resolve names.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from proxy.clock import Clock
from proxy.core.token import Token
from proxy.session.stores import Binding, StoreUnusable
from proxy.session.stores.entries import LARGEST, Entries, Entry, KeptToken, parse, render
from proxy.session.stores.turns import LockFile, Turn

P = ParamSpec("P")
T = TypeVar("T")

#: The files beside the one with the entries.
_BESIDE: Final = (".lock", ".lease", ".login")
#: Seconds to wait for another process's read and write, and between two looks.
_PATIENCE: Final = 1.5
_NEXT_TRY: Final = 0.002


class FileStore:
    """A store for all processes of one host that name the same path.

    `binding` says what tokens belong to at this moment (secrets rotate); other bindings' entries are neither seen nor
    touched. `warn(what)` is told, in the event loop, of a file that is corrupt; what is unsound in it counts as not there.
    """

    shared = True

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
        self._lease = Turn(self._beside(".lease"), self._worker, clock)
        self._login = Turn(self._beside(".login"), self._worker, clock)
        #: The last fingerprint that was compared, with what, and the verdict: scrypt is slow on purpose.
        self._compared = ("", "", False)

    async def load(self) -> Token | None:
        """Return the token of this binding, its life counted from its absolute expiry."""
        binding = self._binding()
        entry = (await self._entries()).get(binding.key)
        if entry is None or entry.token is None:
            return None
        return entry.token.at(self._clock.now(), app_id=binding.app_id)

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        """Compare and set under the lock; what is kept there by value decides, and what has expired is not there."""
        binding = self._binding()
        if token.app_id:
            # A token of the application id before the last change is not one of the new id.
            binding = replace(binding, app_id=token.app_id)
        expected = None if replaces is None else replaces.value
        wall = self._clock.now().wall

        def change(entries: Entries) -> bool:
            kept = entries.get(binding.key, Entry()).token
            if kept is None or kept.value != expected:
                is_there = kept is not None and kept.is_alive(wall)
                if is_there or expected is not None:
                    return False
            entry = entries.setdefault(binding.key, Entry())
            entry.token, entry.written = KeptToken.of(token), wall
            return True

        return await self._change(change, wall)

    async def load_latches(self, secrets: str) -> Mapping[str, str]:
        """Return what CardCash refused, as long as the secrets are still the refused ones."""
        entry = (await self._entries()).get(self._binding().key)
        if entry is None or not entry.latches or not await self._run(self._is_about, entry.fingerprint, secrets):
            return {}
        return entry.latches

    async def save_latches(self, latches: Mapping[str, str], secrets: str) -> None:
        """Remember what CardCash refused; of `secrets`, which hold the password, only a slow salted hash is kept."""
        key, wall = self._binding().key, self._clock.now().wall
        entry = (await self._entries()).get(key, Entry())
        if not latches and not entry.latches:
            return
        fingerprint = await self._run(_hashed, secrets, os.urandom(16)) if latches else ""

        def change(entries: Entries) -> bool:
            entry = entries.setdefault(key, Entry())
            entry.latches, entry.fingerprint, entry.written = dict(latches), fingerprint, wall
            return True

        await self._change(change, wall)

    def lease(self) -> AbstractAsyncContextManager[None]:
        """Wait for the right to make a session call, among all processes. Raises OSError when the disk fails."""
        return self._lease.held()

    def login_turn(self) -> AbstractAsyncContextManager[None]:
        """Wait for the turn to handle a caller's login, among all processes. Raises OSError when the disk fails."""
        return self._login.held()

    async def close(self) -> None:
        """Let the thread end after what it still has to do."""
        self._worker.shutdown(wait=False)

    async def _run(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, lambda: work(*arguments, **named))

    async def _entries(self) -> Entries:
        entries, is_sound = await self._run(self._read)
        self._tell(is_sound)
        return entries

    async def _change(self, change: Callable[[Entries], bool], wall: float) -> bool:
        changed, was_sound = await self._run(self._read_and_write, change, wall)
        self._tell(was_sound)
        return changed

    def _tell(self, is_sound: bool) -> None:
        """Warn once, until the file was sound again."""
        if self._is_sound and not is_sound:
            self._warn("the file of session.store is corrupt; what cannot be read of it counts as not there")
        self._is_sound = is_sound

    # In the worker thread from here on

    def _read(self) -> tuple[Entries, bool]:
        """Return the entries, and whether the file is sound; none when there is no file."""
        try:
            # O_NONBLOCK: a named pipe must not hold us up.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return {}, True
        with os.fdopen(descriptor, "rb") as file:
            _check_private(self._path, os.fstat(descriptor))
            return parse(file.read(LARGEST + 1))

    def _read_and_write(self, change: Callable[[Entries], bool], wall: float) -> tuple[bool, bool]:
        with self._locked():
            entries, was_sound = self._read()
            changed = change(entries)
            if changed:
                self._write(render(entries, wall))
            return changed, was_sound

    def _write(self, content: bytes) -> None:
        """Replace the file: whoever reads sees the old one or the new one, and after a crash too."""
        # A name of its own would leave tokens lying about after each crash; this one is guarded by the lock.
        new = self._path.with_name(f".{self._path.name}.new")
        with suppress(FileNotFoundError):
            new.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
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

    def _is_about(self, fingerprint: str, secrets: str) -> bool:
        if self._compared[:2] != (fingerprint, secrets):
            self._compared = (fingerprint, secrets, _is_hash_of(fingerprint, secrets))
        return self._compared[2]

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
            f"session.store: {path} is open to other users (mode {mode:04o}), and it is for a live token: "
            "remove it, or chmod 600 it if you trust what is in it."
        )


def _hashed(secrets: str, salt: bytes) -> str:
    # It has the password in it: slow and salted, so that the file is no help in guessing it. About 50 ms and 16 MiB.
    return f"{salt.hex()}:{hashlib.scrypt(secrets.encode(), salt=salt, n=2**14, r=8, p=1).hex()}"


def _is_hash_of(fingerprint: str, secrets: str) -> bool:
    try:
        salt = bytes.fromhex(fingerprint.partition(":")[0])
    except ValueError:
        return False
    return hmac.compare_digest(_hashed(secrets, salt).encode(), fingerprint.encode())
