"""Whom we believe to be a server, CardCash or a Redis: one rule for both."""

from __future__ import annotations

import ssl


def client_context(authorities: str | None = None) -> ssl.SSLContext:
    """Build a context for connections to servers: TLS 1.2 or newer, verified, names by subjectAltName only.

    `authorities`: PEM certificates that are trusted instead of the system's. Loading them takes milliseconds, so a context
    is for many connections.
    """
    context = ssl.create_default_context(cadata=authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # RFC 9110, section 4.3.4, and RFC 6125: the common name is no longer a name.
    context.hostname_checks_common_name = False
    return context
