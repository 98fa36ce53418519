"""The sentences and kinds of everything that goes wrong on the way to CardCash.

Owns the wording for callers and the mapping of library errors to ours. Must not know connections.
"""

from __future__ import annotations

import errno
import socket
import ssl

from proxy.core.errors import (
    NOTHING_SENT,
    BadRequest,
    UpstreamInvalid,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamUnreachable,
)

_CHECK = "the request may have been processed, so check before you send it again."


def unreachable(kind: str, why: str, proxy_status: str) -> UpstreamUnreachable:
    """Build the error of a connection that was never made."""
    return UpstreamUnreachable(f"{why}{NOTHING_SENT}", kind=kind, sent=False, proxy_status=proxy_status)


def connecting(error: BaseException, host: str, *, is_proxy: bool = False) -> UpstreamUnreachable:
    """Map what DNS and TCP raise; types of RFC 9209, section 2.3. `is_proxy`: `host` is a proxy on the way."""
    failure = _connecting(error, f"the proxy {host}" if is_proxy else host)
    if is_proxy and failure.kind != "connect_timeout":
        failure.kind = "proxy"
    return failure


def tunnelling(error: BaseException, proxy: str) -> UpstreamUnreachable:
    """Map what goes wrong after the proxy was reached, but for what it answers."""
    if isinstance(error, TimeoutError):
        return unreachable("proxy", f"The proxy {proxy} did not open a tunnel in time", "connection_timeout")
    return connecting(error, proxy, is_proxy=True)


def securing(error: BaseException, host: str) -> UpstreamUnreachable:
    """Map what goes wrong after the host was reached: TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = (error.verify_message or "verification failed").rstrip(".")
        return unreachable("tls", f"The TLS certificate of {host} was not accepted ({reason})", "tls_certificate_error")
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "handshake failed").replace("_", " ").lower()
        return unreachable("tls", f"The TLS handshake with {host} failed ({reason})", "tls_protocol_error")
    if isinstance(error, ssl.CertificateError):
        return unreachable("tls", f"The TLS certificate of {host} was not accepted", "tls_certificate_error")
    if isinstance(error, TimeoutError):
        return unreachable("connect_timeout", f"The TLS handshake with {host} took too long", "connection_timeout")
    if isinstance(error, ConnectionError):
        return unreachable("tls", f"The TLS handshake with {host} was broken off", "tls_protocol_error")
    return connecting(error, host)


def _connecting(error: BaseException, host: str) -> UpstreamUnreachable:
    if isinstance(error, socket.gaierror | UnicodeError):
        return unreachable("dns", f"The name of {host} could not be resolved", "dns_error")
    if isinstance(error, ConnectionRefusedError):
        return unreachable("refused", f"The connection to {host} was refused", "connection_refused")
    if isinstance(error, TimeoutError):
        return unreachable("connect_timeout", f"No connection to {host} could be made in time", "connection_timeout")
    number = getattr(error, "errno", None)
    reason = f" ({errno.errorcode[number]})" if isinstance(number, int) and number in errno.errorcode else ""
    return unreachable("unreachable", f"No connection to {host} could be made{reason}", "destination_unavailable")


def reset(kind: str) -> UpstreamReset:
    """Build the error of a connection that ended after the request was begun."""
    when = {
        "reset_before_head": "CardCash closed the connection before answering",
        "reset_in_head": "CardCash closed the connection in the middle of the answer's headers",
        "reset_in_body": "CardCash closed the connection before the answer was complete",
        "stopped": "The proxy had to stop before CardCash had answered",
    }[kind]
    return UpstreamReset(
        f"{when}; {_CHECK}",
        kind=kind,
        sent=True,
        proxy_status="http_response_incomplete" if kind != "reset_before_head" else None,
    )


def invalid(reason: str) -> UpstreamInvalid:
    """Build the error of an answer that is not HTTP/1.1; `reason` holds no byte of it."""
    return UpstreamInvalid(f"CardCash's answer was not valid HTTP/1.1 ({reason}); {_CHECK}", kind="invalid", sent=True)


def timed_out(kind: str) -> UpstreamTimeout:
    """Build the error of a phase that took too long."""
    what = {
        "send_timeout": "CardCash stopped reading the request",
        "head_timeout": "CardCash did not answer in time",
        "body_timeout": "CardCash stopped in the middle of its answer",
    }[kind]
    return UpstreamTimeout(f"{what}; {_CHECK}", kind=kind, sent=True)


def stalled() -> BadRequest:
    """Build the error of an upload that its caller stopped; no fault of CardCash, which never saw its end."""
    return BadRequest(
        "The request body stopped coming while others waited for a connection to CardCash; the request never got there "
        "whole, send it again."
    )
