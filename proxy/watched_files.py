"""Secrets and certificates from files, read again when their content changes, which is noticed within 5 s.

The content is compared, not the inode: Kubernetes swaps symbolic links. A file that is missing, empty or that could not have
been started with keeps the last good value, with one warning. One that is written in place may be read half written, and
half a password would be a refused login, which counts towards a lock-out: a new secret has to stand for a moment.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Generic, TypeVar

from proxy.core.secret import Secret
from proxy.session.cardcash_calls import Credentials
from proxy.settings import Settings, files, secret_files, secrets
from proxy.telemetry.logs import log
from proxy.upstream import tls_context

T = TypeVar("T")
#: What stands in some files; None where a setting names none.
Contents = Sequence[bytes | None]

#: Seconds between two looks at the files.
POLL_EVERY: Final = 1.5
#: Seconds between two looks that have found the same new secret, until it is taken for complete.
STANDS_AFTER: Final = 1.2


class WatchedFiles(Generic[T]):
    """Files that make one thing together; `value` is what `make` made of their last good contents.

    `warn` is told once, in words that go on after the file, why they cannot be used. `value` may be given: known already.
    """

    def __init__(
        self,
        paths: Sequence[Path | None],
        make: Callable[[Contents], T],
        *,
        warn: Callable[[str], None],
        most: int = files.LARGEST_SECRET,
        value: T | None = None,
    ) -> None:
        self._paths = paths
        self._make = make
        self._most = most
        self._warn = warn
        self._complaint = ""
        self._contents: Contents | None = None
        #: What the last look found, and since when looks have found it, on the monotonic clock.
        self._seen: Contents | None = None
        self._seen_at = 0.0
        #: There are new contents that have not stood for long enough.
        self.is_settling = False
        self.value = value

    def read(self) -> T:
        """Read them the first time, blocking. Raises `files.Unreadable`."""
        self._contents = [files.read(path, most=self._most) if path else None for path in self._paths]
        self.value = value = self._make(self._contents)
        return value

    async def look(self, *, stood: float = 0.0) -> bool:
        """Read them again, with a deadline; say whether there is a new value.

        `stood`: seconds for which looks must have found the same until it is one; what is there may be written still.
        """
        self.is_settling = False
        try:
            contents = [await files.read_again(path, most=self._most) if path else None for path in self._paths]
            now, new = time.monotonic(), contents != self._contents
            if contents != self._seen:
                self._seen, self._seen_at = contents, now
            if new and now - self._seen_at < stood:
                self.is_settling = True
                return False
            value = await asyncio.to_thread(self._make, contents) if new else self.value
        except files.Unreadable as error:
            if self._complaint != str(error):
                self._complaint = str(error)
                self._warn(self._complaint)
            return False
        self._complaint, self._contents = "", contents
        changed, self.value = value != self.value, value
        return changed


class SecretsWatch:
    """Holds the current values of all secrets that may come from files."""

    def __init__(self, settings: Settings) -> None:
        self._email = settings.login.email
        self._given = secrets(settings)
        # Those of the store's own place are followed by `StorePlace`.
        self._files: dict[str, WatchedFiles[Secret]] = {
            name: secret_file(name, path, partial(files.secret, form=form), self._given[name])
            for name, (path, form) in secret_files(settings).items()
            if name in self._given
        }
        self._looking = asyncio.Lock()

    @property
    def app_id(self) -> str:
        """The application id."""
        return self._value("app_id") or ""

    @property
    def password(self) -> str | None:
        """The login's password, None without a login."""
        return self._value("login.password")

    @property
    def credentials(self) -> Credentials:
        """Who we are at CardCash; without a password nobody in particular."""
        return Credentials(self.app_id, self._email if self.password else None, self.password)

    @property
    def required_header(self) -> str:
        """The value callers must send."""
        return self._value("callers.require_header") or ""

    def of_store(self, name: str) -> Secret | None:
        """A secret of the store: `secret` or `sentinel_password`."""
        return self._secret(f"session.store_{name}")

    @property
    def has_files(self) -> bool:
        """Say whether there is anything to look at."""
        return bool(self._files)

    @property
    def is_settling(self) -> bool:
        """Say whether the last look found a new secret that may not be complete."""
        return any(file.is_settling for file in self._files.values())

    def _secret(self, name: str) -> Secret | None:
        return self._files[name].value if name in self._files else self._given[name]

    def _value(self, name: str) -> str | None:
        secret = self._secret(name)
        return None if secret is None else secret.reveal()

    async def look(self, *, stood: float = 0.0) -> list[str]:
        """Read all files again, as `WatchedFiles.look` does; returns the names of the secrets that changed."""
        # One after the other: what the slower of two readers has found would be taken for the newer.
        async with self._looking:
            found = await asyncio.gather(*(file.look(stood=stood) for file in self._files.values()))
        changed = [name for name, is_new in zip(self._files, found, strict=True) if is_new]
        for name in changed:
            log.info("secret_changed", setting=name)
        return changed


class CaWatch(WatchedFiles[ssl.SSLContext]):
    """Whom we believe to be CardCash: the TLS context for new connections; `path` None is the system's bundle."""

    def __init__(self, path: Path | None) -> None:
        """Read the file, blocking. Raises ValueError, one sentence, when it cannot be used."""
        super().__init__([path], _trusting, most=files.LARGEST_BUNDLE, warn=_warn_of_ca)
        try:
            self.context = self.read()
        except files.Unreadable as error:
            raise ValueError(f"The CA file {path} {error}.") from None

    async def look(self, *, stood: float = 0.0) -> bool:
        """Read the file again; say whether there is a new `context`."""
        if changed := await super().look(stood=stood):
            self.context = self.value or self.context
            log.info("ca_changed")
        return changed


def secret_file(name: str, path: Path, make: Callable[[bytes], T], value: T | None) -> WatchedFiles[T]:
    """Watch the file of the setting `name`, whose value is known already."""

    def warn(reason: str) -> None:
        advice = "the last good value stays in use"
        log.warning("secret_file_unreadable", setting=name, reason=f"the file {reason}", advice=advice)

    return WatchedFiles([path], lambda contents: make(contents[0] or b""), warn=warn, value=value)


def _trusting(contents: Contents) -> ssl.SSLContext:
    return tls_context(None if contents[0] is None else files.bundle(contents[0]))


def _warn_of_ca(reason: str) -> None:
    log.warning("ca_file_unreadable", reason=f"the file {reason}", advice="the last good bundle stays in use")
