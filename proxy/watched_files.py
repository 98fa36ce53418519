"""Secrets and certificates from files, read again when their content changes, which is noticed within 5 s.

The content is compared, not the inode: Kubernetes swaps symbolic links. A file that is missing, empty or half written, or
that could not have been started with, keeps the last good value, with one warning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Generic, TypeVar

from proxy.session.cardcash_calls import Credentials
from proxy.settings import Secret, Settings, files, secret_files
from proxy.telemetry.logs import log
from proxy.upstream import tls_context

T = TypeVar("T")

#: Seconds between two looks at the files.
POLL_EVERY: Final = 2.0


class WatchedFile(Generic[T]):
    """One file; `value` is what `make` made of its last good content."""

    def __init__(
        self, path: Path, value: T, make: Callable[[bytes], T], *, most: int, warn: Callable[[str], None]
    ) -> None:
        self.value = value
        self._path = path
        self._make = make
        self._most = most
        self._warn = warn
        self._complaint = ""
        self._content: bytes | None = None

    async def look(self) -> bool:
        """Read it again, with a deadline; say whether there is a new value."""
        try:
            content = await files.read_again(self._path, most=self._most)
            value = self.value if content == self._content else self._make(content)
        except files.Unreadable as error:
            if self._complaint != str(error):
                self._complaint = str(error)
                self._warn(f"the file {error}")
            return False
        self._complaint, self._content = "", content
        changed, self.value = value != self.value, value
        return changed


class SecretsWatch:
    """Holds the current values of all secrets that may come from files."""

    def __init__(self, settings: Settings) -> None:
        header = settings.callers.require_header
        self._email = settings.login.email
        self._given: dict[str, Secret | None] = {
            "app_id": settings.app_id,
            "login.password": settings.login.password,
            "callers.require_header": None if header is None else header.value,
            "session.store_secret": settings.session.store_secret,
            "session.store_sentinel_password": settings.session.store_sentinel_password,
        }
        self._files: dict[str, WatchedFile[Secret]] = {}
        for name, (path, form) in secret_files(settings).items():
            if name not in self._given:
                continue  # `StorePlace` follows the store's own
            value = self._given[name]
            assert value is not None, name  # noqa: S101
            self._files[name] = WatchedFile(
                *(path, value, partial(files.secret, form=form)),
                most=files.LARGEST_SECRET,
                warn=partial(warn_of_secret, name),
            )
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

    def _secret(self, name: str) -> Secret | None:
        return self._files[name].value if name in self._files else self._given[name]

    def _value(self, name: str) -> str | None:
        secret = self._secret(name)
        return None if secret is None else secret.reveal()

    async def look(self) -> list[str]:
        """Read all files again, each with a deadline; returns the names of the secrets that changed."""
        # One after the other: what the slower of two readers has found would be taken for the newer.
        async with self._looking:
            found = await asyncio.gather(*(file.look() for file in self._files.values()))
        changed = [name for name, is_new in zip(self._files, found, strict=True) if is_new]
        for name in changed:
            log.info("secret_changed", setting=name)
        return changed

    async def has_changed(self) -> bool:
        """Look; say whether the application id or the password changed."""
        return bool({"app_id", "login.password"} & set(await self.look()))


class CaWatch:
    """Whom we believe to be CardCash: the TLS context for new connections; `path` None is the system's bundle."""

    def __init__(self, path: Path | None) -> None:
        """Read the file, blocking. Raises ValueError, one sentence, when it cannot be used."""
        self._file: WatchedFile[str] | None = None
        if path is not None:
            try:
                bundle = files.bundle(files.read(path, most=files.LARGEST_BUNDLE))
            except files.Unreadable as error:
                raise ValueError(f"The CA file {path} {error}.") from None
            self._file = WatchedFile(*(path, bundle, files.bundle), most=files.LARGEST_BUNDLE, warn=_warn_of_ca)
        self.context = tls_context(None if self._file is None else self._file.value)

    async def look(self) -> bool:
        """Read the file again; say whether there is a new `context`."""
        if self._file is None or not await self._file.look():
            return False
        self.context = tls_context(self._file.value)
        log.info("ca_changed")
        return True


def warn_of_secret(name: str, reason: str) -> None:
    """Tell that a secret's file cannot be used."""
    log.warning("secret_file_unreadable", setting=name, reason=reason, advice="the last good value stays in use")


def _warn_of_ca(reason: str) -> None:
    log.warning("ca_file_unreadable", reason=reason, advice="the last good bundle stays in use")
