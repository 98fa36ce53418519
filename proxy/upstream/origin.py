"""The TLS context used to reach an origin: what we demand of a certificate. Must not know connections, settings or HTTP."""

from __future__ import annotations

import ssl

from proxy.core.values import Origin

__all__ = ["Origin", "tls_context"]


def tls_context(authorities: str | None) -> ssl.SSLContext:
    """Build the context for the upstream: TLS 1.2 or newer, verified, names by subjectAltName only.

    `authorities`: PEM certificates that are trusted instead of the system's. Loading them takes milliseconds, so a context
    is for many connections.
    """
    context = ssl.create_default_context(cadata=authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # RFC 9110, section 4.3.4, and RFC 6125: the common name is no longer a name.
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["http/1.1"])
    return context
