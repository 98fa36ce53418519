"""What `doctor` says of a TLS certificate: of one that was accepted, and of one that was not. Pure."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final

#: Days before its end from which a certificate is told of.
FEW_DAYS: Final = 14
_DAY: Final = 86400.0
#: What OpenSSL calls the reasons (`X509_V_ERR_…`) that have another remedy than a CA to trust.
_NOT_YET, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64


def describe(tls: ssl.SSLObject, now: float) -> tuple[str, str]:
    """Tell version, names, chain and days left (`now`: Unix seconds); and what to do about them, "": nothing."""
    chain = list(_chain(tls))
    names = [value for kind, value in chain[0].get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    issuers = [_name(one.get("issuer")) for one in chain]
    # The last one is its own issuer.
    by = " ← ".join(dict.fromkeys(issuers))
    days, first = min((_days(one, now), _name(one.get("subject"))) for one in chain)
    detail = f"{tls.version()}, certificate for {', '.join(names[:3])} by {by}, {days:.0f} days left"
    if days >= FEW_DAYS:
        return detail, ""
    return detail, f"whoever runs that server has to renew the certificate of {first} soon"


def advice(error: BaseException | None) -> str:
    """Say what to do about a handshake that failed of this."""
    code = getattr(error, "verify_code", None)
    if code in (_EXPIRED, _NOT_YET):
        return "look at this machine's clock; if it is right, whoever runs that server has to renew its certificate"
    if code in (_OTHER_NAME, _OTHER_ADDRESS):
        return "check upstream.origin: the server there shows the certificate of another name"
    if code is None:
        return "check upstream.origin: what answers at this port may not speak TLS 1.2 or newer"
    return "behind a proxy that looks into TLS, name its CA in upstream.ca_file; else check upstream.origin"


def _chain(tls: ssl.SSLObject) -> Iterator[Mapping[str, Any]]:
    """Give the verified chain, the server's own first. Python has it in public from 3.13 on, and as DER without a reader."""
    verified = getattr(getattr(tls, "_sslobj", None), "get_verified_chain", None)
    if verified is None:
        yield tls.getpeercert() or {}
        return
    for certificate in verified():
        yield certificate.get_info()


def _days(certificate: Mapping[str, Any], now: float) -> float:
    end = certificate.get("notAfter")
    return (ssl.cert_time_to_seconds(end) - now) / _DAY if end else 0.0


def _name(parts: Any) -> str:
    """Name a subject or issuer: what is common, else whose it is."""
    values = {key: value for part in parts or () for key, value in part}
    return str(values.get("commonName") or values.get("organizationName") or "?")
