"""Where the Redis of `session.store` is and who we are there: from settings and files, which are read again.

Whatever cannot be used (a URL that is none, a bundle without a certificate, a key that is not the certificate's) leaves
the last good value in use, with one warning.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from pathlib import Path

from proxy.core.store_url import BadStoreUrl, StoreUrl, parse_store_url
from proxy.session.stores.redis.place import Place
from proxy.settings import Settings, files
from proxy.telemetry.logs import log
from proxy.watched_files import SecretsWatch, WatchedFile, warn_of_secret


class StorePlace:
    """The current `Place`; for one event loop. Calling it costs nothing: it is asked at every use of the store."""

    def __init__(self, settings: Settings, url: StoreUrl, secrets: SecretsWatch) -> None:
        """Read the TLS files, blocking. Raises ValueError, one sentence, when they cannot be used."""
        session = settings.session
        self._secrets = secrets
        self._given = url
        self._url: WatchedFile[StoreUrl] | None = None
        if session.store_file is not None:
            warn = partial(warn_of_secret, "session.store")
            self._url = WatchedFile(session.store_file, url, _url_in, most=files.LARGEST_SECRET, warn=warn)
        self._tls = _TlsFiles(session.store_ca_file, session.store_cert_file, session.store_cert_key_file)
        self._context: ssl.SSLContext | None = None
        if url.tls:
            try:
                self._context = self._tls.load()
            except files.Unreadable as error:
                raise ValueError(f"The TLS files of session.store cannot be used: one {error}.") from None
        self._place = self._made()

    def __call__(self) -> Place:
        """Return what holds now."""
        return self._place

    async def look(self) -> None:
        """Read the files again, and take over secrets that have changed."""
        changed = self._url is not None and await self._url.look()
        if changed:
            log.info("secret_changed", setting="session.store")
        if self._url_now.tls and (context := await self._tls.look()) is not None:
            self._context, changed = context, True
            log.info("store_certificates_changed")
        made = self._made()
        before = self._place
        if changed or (made.sentinel_password, made.secrets) != (before.sentinel_password, before.secrets):
            self._place = made

    @property
    def _url_now(self) -> StoreUrl:
        return self._given if self._url is None else self._url.value

    def _made(self) -> Place:
        secret = self._secrets.of_store("secret")
        return Place(
            self._url_now,
            self._context,
            self._secrets.of_store("sentinel_password"),
            () if secret is None else secret.lines(),
        )


class _TlsFiles:
    """Whom we believe to be Redis, and the certificate that it is shown."""

    def __init__(self, *paths: Path | None) -> None:
        self._paths = paths
        self._contents: list[bytes] | None = None
        self._complaint = ""

    def load(self) -> ssl.SSLContext:
        """Make a context of the files, blocking. Raises `Unreadable`."""
        contents = [b"" if path is None else files.read(path, most=files.LARGEST_BUNDLE) for path in self._paths]
        context = self._made(contents)
        self._contents = contents
        return context

    async def look(self) -> ssl.SSLContext | None:
        """Make a new context if a file has changed."""
        try:
            contents = [
                b"" if path is None else await files.read_again(path, most=files.LARGEST_BUNDLE) for path in self._paths
            ]
            if contents == self._contents:
                self._complaint = ""
                return None
            context = await asyncio.to_thread(self._made, contents)
        except files.Unreadable as error:
            if self._complaint != str(error):
                self._complaint = str(error)
                advice = "the last good certificates stay in use"
                log.warning("store_certificates_unreadable", reason=f"one {error}", advice=advice)
            return None
        self._complaint, self._contents = "", contents
        return context

    def _made(self, contents: list[bytes]) -> ssl.SSLContext:
        authorities, cert, key = contents
        context = ssl.create_default_context(cadata=files.bundle(authorities) if authorities else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if cert and key:
            try:
                # The password: a key that has one must not be asked for at a terminal.
                context.load_cert_chain(str(self._paths[1]), str(self._paths[2]), password="")
            except OSError:  # ssl.SSLError is one
                raise files.Unreadable("is no certificate, or not with its own key, in PEM form") from None
        return context


def _url_in(content: bytes) -> StoreUrl:
    text = files.secret(content, files.SecretForm.ANY).reveal()
    try:
        return parse_store_url(text)
    except BadStoreUrl as error:
        problem = str(error)
    # Out of the except block: nothing of the URL is to be found in what is raised.
    raise files.Unreadable(problem)
