"""Secrets from files, read again when their content changes, which is noticed within 5 s.

The content is compared, not the inode: Kubernetes swaps symbolic links. A file that is missing, empty or half written, or
that could not have been started with, keeps the last good value, with a warning.
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.settings import Secret, SecretFileError, Settings, read_secret_file_again, secret_files
from proxy.telemetry.logs import log

#: Seconds between two looks at the files.
POLL_EVERY: Final = 2.0


class SecretsWatch:
    """Holds the current values of all secrets that may come from files."""

    def __init__(self, settings: Settings) -> None:
        header = settings.callers.require_header
        self._files = secret_files(settings)
        self._values: dict[str, Secret] = {"app_id": settings.app_id}
        if settings.login.password is not None:
            self._values["login.password"] = settings.login.password
        if header is not None:
            self._values["callers.require_header"] = header.value
        self._complaints: dict[str, str] = {}
        self._looking = asyncio.Lock()

    @property
    def app_id(self) -> str:
        """The application id."""
        return self._values["app_id"].reveal()

    @property
    def password(self) -> str | None:
        """The login's password, None without a login."""
        secret = self._values.get("login.password")
        return None if secret is None else secret.reveal()

    @property
    def required_header(self) -> str:
        """The value callers must send."""
        return self._values["callers.require_header"].reveal()

    @property
    def has_files(self) -> bool:
        """Say whether there is anything to look at."""
        return bool(self._files)

    async def look(self) -> list[str]:
        """Read all files again, each with a deadline; returns the names of the secrets that changed."""
        # One after the other: what the slower of two readers has found would be taken for the newer.
        async with self._looking:
            changed = await asyncio.gather(*(self._read(name) for name in self._files))
        return [name for name, is_new in zip(self._files, changed, strict=True) if is_new]

    async def _read(self, name: str) -> bool:
        try:
            value = await read_secret_file_again(*self._files[name])
        except SecretFileError as error:
            if self._complaints.get(name) != str(error):
                self._complaints[name] = str(error)
                log.warning(
                    "secret_file_unreadable", setting=name, reason=str(error), advice="the last good value stays in use"
                )
            return False
        self._complaints.pop(name, None)
        if value == self._values[name]:
            return False
        self._values[name] = value
        log.info("secret_changed", setting=name)
        return True

    async def has_changed(self) -> bool:
        """Look; say whether the application id or the password changed."""
        return bool({"app_id", "login.password"} & set(await self.look()))
