"""Whom we believe to be CardCash: `upstream.ca_file`, read again when its content changes.

The content is compared, not the inode. A file that is missing, half written or holds no certificate leaves the last good
bundle in use, with a warning.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from proxy.settings import files
from proxy.telemetry.logs import log
from proxy.upstream import tls_context


class CaWatch:
    """Holds the TLS context for new connections; `path` None is the system's bundle, which is not followed."""

    def __init__(self, path: Path | None) -> None:
        """Read the file, blocking. Raises ValueError, one sentence, when it cannot be used."""
        self._path = path
        self._content = b""
        self._complaint = ""
        try:
            if path is not None:
                self._content = files.read(path, most=files.LARGEST_BUNDLE)
            self.context = self._made()
        except files.Unreadable as error:
            raise ValueError(f"The CA file {path} {error}.") from None

    async def look(self) -> bool:
        """Read the file again; say whether there is a new `context`."""
        if self._path is None:
            return False
        before = self._content
        try:
            self._content = await files.read_again(self._path, most=files.LARGEST_BUNDLE)
            if self._content == before:
                self._complaint = ""
                return False
            self.context = self._made()
        except files.Unreadable as error:
            self._content = before
            if self._complaint != str(error):
                self._complaint = str(error)
                log.warning("ca_file_unreadable", reason=str(error), advice="the last good bundle stays in use")
            return False
        self._complaint = ""
        log.info("ca_changed")
        return True

    def _made(self) -> ssl.SSLContext:
        return tls_context(None if self._path is None else files.bundle(self._content))
