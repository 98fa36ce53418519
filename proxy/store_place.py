"""Where the Redis of `session.store` is and who we are there: from settings and files, which are read again.

Whatever cannot be used (a URL that is none, a bundle without a certificate, a key that is not the certificate's) leaves
the last good value in use, with one warning. So does a URL of another kind of store, or of another file: the store is opened
once, at the start.
"""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path
from typing import TypeVar

from proxy.core.store_url import StoreUrl
from proxy.core.values import Bad
from proxy.session.stores.redis.place import Place
from proxy.settings import Settings, files, parsing
from proxy.telemetry.logs import log
from proxy.tls import client_context
from proxy.watched_files import Contents, SecretsWatch, WatchedFiles, secret_file

#: A kind of store: a Redis, or a text that names `memory://` or a file.
Store = TypeVar("Store", bound=str | StoreUrl)


class StorePlace:
    """The current `Place`; for one event loop. Calling it costs nothing: it is asked at every use of the store."""

    def __init__(self, settings: Settings, url: StoreUrl, secrets: SecretsWatch) -> None:
        """Read the TLS files, blocking. Raises ValueError, one sentence, when they cannot be used."""
        session = settings.session
        self._secrets = secrets
        self._given = url
        path = session.store_file
        self._url = None if path is None else store_file(path, url)
        #: Whom we believe to be Redis, and the certificate that it is shown.
        self._tls = WatchedFiles(
            (session.store_ca_file, session.store_cert_file, session.store_cert_key_file),
            partial(_context, session.store_cert_file, session.store_cert_key_file),
            most=files.LARGEST_BUNDLE,
            warn=_warn_of_certificates,
        )
        if url.tls:
            try:
                self._tls.read()
            except files.Unreadable as error:
                raise ValueError(f"The TLS files of session.store cannot be used: one {error}.") from None
        self._place = self._made()

    def __call__(self) -> Place:
        """Return what holds now."""
        return self._place

    async def look(self, *, stood: float = 0.0) -> None:
        """Read the files again, and take over secrets that have changed; `stood` as for `WatchedFiles.look`."""
        changed = self._url is not None and await self._url.look(stood=stood)
        if changed:
            log.info("secret_changed", setting="session.store")
        if self._url_now.tls and await self._tls.look():
            changed = True
            log.info("store_certificates_changed")
        made = self._made()
        before = self._place
        if changed or (made.sentinel_password, made.secrets) != (before.sentinel_password, before.secrets):
            self._place = made

    @property
    def _url_now(self) -> StoreUrl:
        return (None if self._url is None else self._url.value) or self._given

    def _made(self) -> Place:
        secret = self._secrets.of_store("secret")
        return Place(
            self._url_now,
            self._tls.value,
            self._secrets.of_store("sentinel_password"),
            () if secret is None else secret.lines(),
        )


def store_file(path: Path, held: Store) -> WatchedFiles[Store]:
    """Watch `session.store_file`, which held that at the start. What it cannot be followed to is warned of: see above."""
    return secret_file("session.store", path, partial(_store_in, held), held)


def _context(cert_file: Path | None, key_file: Path | None, contents: Contents) -> ssl.SSLContext:
    authorities = contents[0]
    context = client_context(None if authorities is None else files.bundle(authorities))
    if cert_file and key_file:
        files.use_certificate(context, cert_file, key_file)
    return context


def _warn_of_certificates(reason: str) -> None:
    advice = "the last good certificates stay in use"
    log.warning("store_certificates_unreadable", reason=f"one {reason}", advice=advice)


def _store_in(held: Store, content: bytes) -> Store:
    text = files.secret(content, files.SecretForm.ANY).reveal()
    try:
        found = parsing.store(text)
    except Bad as error:
        problem = str(error)
    else:
        if isinstance(found, type(held)) and (isinstance(found, StoreUrl) or found == held):
            return found
        problem = "names another kind of store, or another file; that needs a restart of the proxy"
    # Out of the except block: nothing of the URL is to be found in what is raised.
    raise files.Unreadable(problem)
