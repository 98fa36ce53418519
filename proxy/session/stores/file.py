"""`file:///path`: the token survives restarts and is shared by the processes of one host.

One JSON file, mode 0600, replaced atomically. Two lock files beside it: `.lock` for compare-and-set, held for one read and
one write; `.lease` for the right to make a session call, held over that call. Both are flock(2): a process that dies lets
go of them.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeGuard

from proxy.clock import Clock
from proxy.core.token import Moment, Source, Token
from proxy.session.stores import StoreUnusable

#: Seconds between two looks at a lease that another process holds; a session call takes longer than either.
_FIRST_LOOK: Final = 0.01
_LAST_LOOK: Final = 0.1
_LARGEST: Final = 64 * 1024


class FileStore:
    """A store for all processes of one host that name the same path.

    `binding` is what the token belongs to (origin, application id, login e-mail); another binding's entry is not seen.
    `warn(what)` is told of a file that is corrupt; it is then treated as empty.
    """

    def __init__(self, path: Path, *, binding: str, clock: Clock, warn: Callable[[str], None]) -> None:
        self._path = path
        self._binding = hashlib.sha256(binding.encode()).hexdigest()
        self._clock = clock
        self._warn = warn
        # Guards the lease within this process; between processes flock does.
        self._mine = asyncio.Lock()

    def check(self) -> None:
        """Make sure the file can be used; raises `StoreUnusable` with a sentence for the operator."""
        folder = self._path.parent
        if not folder.is_dir():
            raise StoreUnusable(f"session.store: the folder {folder} does not exist; make it, owned by this user.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreUnusable(f"session.store: this user may not write to {folder}.")
        with suppress(FileNotFoundError):
            self._check_mode(self._path.lstat())

    async def load(self) -> Token | None:
        """Return the token of this binding, with its life counted from its absolute expiry."""
        return self._token(await asyncio.to_thread(self._read))

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        """Compare and set under the lock; what is kept there by value decides."""
        return await asyncio.to_thread(self._compare_and_set, token, None if replaces is None else replaces.value)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[None]:
        """Wait for the right to make a session call, among all processes."""
        async with self._mine:
            descriptor = self._open_lock(".lease")
            try:
                wait = _FIRST_LOOK
                while not _try_lock(descriptor):
                    await asyncio.sleep(wait)
                    wait = min(_LAST_LOOK, wait * 2)
                yield
            finally:
                os.close(descriptor)

    async def load_latches(self, fingerprint: str) -> Mapping[str, str]:
        """Return what CardCash refused, as long as the secrets are still those of `fingerprint`."""
        entry = await asyncio.to_thread(self._read)
        latches = entry.get("latches")
        if not isinstance(latches, dict) or not _same_fingerprint(entry.get("fingerprint"), fingerprint):
            return {}
        return {str(what): str(sentence) for what, sentence in latches.items()}

    async def save_latches(self, latches: Mapping[str, str], fingerprint: str) -> None:
        """Remember what CardCash refused; `fingerprint` is secret and kept as a salted hash."""
        await asyncio.to_thread(self._write_latches, dict(latches), fingerprint)

    async def close(self) -> None:
        """Nothing is held between calls."""

    # In a worker thread from here on

    def _compare_and_set(self, token: Token, replaces: str | None) -> bool:
        with self._locked():
            entry = self._read()
            kept = self._token(entry)
            # What has expired is as good as nothing kept.
            if kept is not None and kept.value != replaces:
                return False
            entry["token"] = {
                "value": token.value,
                "born": token.born.wall,
                "lifetime": token.lifetime,
                "identity": token.identity,
                "own_login": token.own_login,
            }
            self._write(entry)
            return True

    def _write_latches(self, latches: dict[str, str], fingerprint: str) -> None:
        with self._locked():
            entry = self._read()
            entry["latches"] = latches
            entry["fingerprint"] = _hashed(fingerprint, os.urandom(16)) if latches else None
            self._write(entry)

    def _read(self) -> dict[str, Any]:
        """Return the entry of this binding, empty when there is none or it cannot be read."""
        fresh = {"version": 1, "binding": self._binding}
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return fresh
        with os.fdopen(descriptor, "rb") as file:
            self._check_mode(os.fstat(file.fileno()))
            raw = file.read(_LARGEST)
        try:
            entry = json.loads(raw)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("binding"), str):
            self._warn("the file of session.store is corrupt and treated as empty")
            return fresh
        return entry if entry["binding"] == self._binding else fresh

    def _token(self, entry: Mapping[str, Any]) -> Token | None:
        kept = entry.get("token")
        if not isinstance(kept, dict):
            return None
        value, born, lifetime, identity = (kept.get(key) for key in ("value", "born", "lifetime", "identity"))
        if not (isinstance(value, str) and value.isascii() and _number(born) and _number(lifetime)):
            return None
        if identity is not None and not isinstance(identity, str):
            return None
        now = self._clock.now()
        # The other process's steady clock means nothing here: its age by the wall clock does.
        age = now.wall - float(born)
        if age >= lifetime or age < -86400:
            return None
        own = bool(kept.get("own_login"))
        return Token(value, Moment(now.steady - age, float(born)), float(lifetime), Source.STORE, identity, own)

    def _write(self, entry: Mapping[str, Any]) -> None:
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(entry).encode())
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(name).unlink()
            raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = self._open_lock(".lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _open_lock(self, suffix: str) -> int:
        path = self._path.with_name(self._path.name + suffix)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def _check_mode(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise StoreUnusable(f"session.store: {self._path} is not a plain file; name another path.")
        if found.st_uid != os.geteuid():
            raise StoreUnusable(f"session.store: {self._path} belongs to another user; remove it or name another path.")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise StoreUnusable(
                f"session.store: {self._path} can be read by others (mode {stat.S_IMODE(found.st_mode):04o}); "
                "it holds a live token: remove it, or chmod 600 if you trust what is in it."
            )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _hashed(fingerprint: str, salt: bytes) -> str:
    # The fingerprint has the password in it: slow and salted, so that the file is no help in guessing it.
    digest = hashlib.scrypt(fingerprint.encode(), salt=salt, n=2**14, r=8, p=1)
    return f"{salt.hex()}:{digest.hex()}"


def _same_fingerprint(kept: object, fingerprint: str) -> bool:
    if not isinstance(kept, str):
        return False
    salt, _, _ = kept.partition(":")
    try:
        return _hashed(fingerprint, bytes.fromhex(salt)) == kept
    except ValueError:
        return False
