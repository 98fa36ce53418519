"""What the network does to session calls: the kind that is counted, and the sentence for people.

Owns the mapping of aiohttp's errors to the kinds of `upstream_errors_total`, the same as those of ordinary requests.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp

#: Seconds without an answer after which a call that is cut off counts as one that CardCash did not answer; one that is
#: cut off earlier was stopped by us (new secrets, the end of the process).
SILENT: Final = 3.0

#: The first that fits; subclasses before their bases.
_KINDS: Final[tuple[tuple[type[aiohttp.ClientError], str, str], ...]] = (
    (
        aiohttp.ClientConnectorCertificateError,
        "tls",
        "the TLS certificate of the upstream is not valid; check upstream.origin and upstream.ca_file",
    ),
    (
        aiohttp.ClientConnectorSSLError,
        "tls",
        "the TLS handshake with the upstream failed; check upstream.origin",
    ),
    (
        aiohttp.ClientProxyConnectionError,
        "proxy",
        "no connection to the proxy of HTTPS_PROXY could be made; check it, or upstream.trust_env",
    ),
    (
        aiohttp.ClientHttpProxyError,
        "proxy",
        "the proxy of HTTPS_PROXY answered CONNECT with {status}; check its address and credentials",
    ),
    (
        aiohttp.ClientConnectorDNSError,
        "dns",
        "the upstream's name could not be resolved; check DNS and upstream.origin",
    ),
    (aiohttp.ClientConnectorError, "unreachable", "no connection to the upstream could be made"),
    (aiohttp.ConnectionTimeoutError, "connect_timeout", "the upstream did not answer in time"),
    (aiohttp.SocketTimeoutError, "head_timeout", "the upstream did not answer in time"),
    (aiohttp.ServerDisconnectedError, "reset_before_head", "the upstream closed the connection"),
    (aiohttp.ClientOSError, "reset_before_head", "the upstream closed the connection"),
    (aiohttp.ClientPayloadError, "reset_in_body", "the upstream's answer broke off or could not be decoded"),
)


def kind(error: BaseException, *, silent_for: float, in_body: bool = False) -> str | None:
    """Name the kind of a failed try, `silent_for` seconds after it began; None: it is none of the upstream's."""
    if isinstance(error, asyncio.CancelledError):
        return None if silent_for < SILENT else "body_timeout" if in_body else "head_timeout"
    if not isinstance(error, aiohttp.ClientError):
        return None
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError):
        return "proxy" if isinstance(error, aiohttp.ClientProxyConnectionError) else "refused"
    return next((name for known, name, _ in _KINDS if isinstance(error, known)), "invalid")


def describe(error: aiohttp.ClientError) -> str:
    """Tell people; never str(error): parser errors repeat the bytes they choked on."""
    for known, _, sentence in _KINDS:
        if isinstance(error, known):
            return sentence.format(status=getattr(error, "status", ""))
    return f"the upstream's answer was not valid ({type(error).__name__})"
