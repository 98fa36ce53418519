"""Secrets from files, read again when their content changes (CONTRACT "Configuration": noticed within 5 s).

The content is compared, not the inode: Kubernetes swaps symbolic links. A file that is missing, empty or half written
keeps the last good value, with a warning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from proxy.settings import Secret, SecretFileError, Settings, read_secret_file
from proxy.telemetry.logs import log

#: Seconds between two looks at the files.
POLL_EVERY: Final = 2.0


class SecretsWatch:
    """Holds the current values of all secrets that may come from files."""

    def __init__(self, settings: Settings) -> None:
        header = settings.callers.require_header
        self._files: dict[str, Path] = {}
        self._values: dict[str, Secret] = {"app_id": settings.app_id}
        if settings.app_id_file is not None:
            self._files["app_id"] = settings.app_id_file
        if settings.login.password is not None:
            self._values["login.password"] = settings.login.password
            if settings.login.password_file is not None:
                self._files["login.password"] = settings.login.password_file
        if header is not None:
            self._values["callers.require_header"] = header.value
            if header.file is not None:
                self._files["callers.require_header"] = header.file
        self._complaints: dict[str, str] = {}

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

    def look(self) -> list[str]:
        """Read all files again; returns the names of the secrets that changed."""
        changed = []
        for name, path in self._files.items():
            try:
                value = read_secret_file(path, visible_ascii=name == "app_id")
            except SecretFileError as error:
                if self._complaints.get(name) != str(error):
                    self._complaints[name] = str(error)
                    log.warning("secret_file_unreadable", setting=name, advice="the last good value stays in use")
                continue
            self._complaints.pop(name, None)
            if value != self._values[name]:
                self._values[name] = value
                changed.append(name)
                log.info("secret_changed", setting=name)
        return changed

    def has_changed(self) -> bool:
        """Look; say whether the application id or the password changed."""
        return bool({"app_id", "login.password"} & set(self.look()))
