"""Owns the variables HTTPS_PROXY, HTTP_PROXY and NO_PROXY, which count when `upstream.trust_env` is set."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from proxy.core.values import Bad, Origin


@dataclass(frozen=True, slots=True)
class ProxyVariables:
    """The proxy that the environment asks to go through; `authorization` is the value of Proxy-Authorization."""

    host: str
    port: int
    authorization: bytes | None = field(default=None, repr=False)


def proxy_variables(origin: str, environ: Mapping[str, str]) -> ProxyVariables | None:
    """Return the proxy for `origin` (as `upstream.origin` is parsed), None for a direct connection.

    Lower-case names win; HTTP_PROXY in capitals is not read under CGI, where a caller can set it (httpoxy, CVE-2016-5385).
    Raises `Bad`, a sentence that names the variable and never repeats its value.
    """
    target = Origin.parse(origin)
    name = f"{target.scheme}_proxy"
    if name not in environ and not (target.scheme == "http" and "REQUEST_METHOD" in environ):
        name = name.upper()
    value = environ.get(name)
    if not value or _bypassed(target, environ.get("no_proxy", environ.get("NO_PROXY", ""))):
        return None
    scheme, separator, rest = value.partition("://")
    credentials, _, place = (rest if separator else value).rpartition("@")
    try:
        # Without an http:// it is one all the same; a proxy that is itself spoken to under TLS is not supported.
        found = Origin.parse(f"{scheme if separator else 'http'}://{place.strip()}")
    except Bad:
        found = None
    if found is None or found.scheme != "http" or set("/?#") & set(credentials):
        raise Bad(
            f"{name} (environment) must look like http://[user:password@]host:port, since upstream.trust_env is set; "
            "correct it, or set upstream.trust_env to false"
        )
    authorization = None
    if credentials:
        user, _, password = credentials.partition(":")
        pair = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
        authorization = b"Basic " + base64.b64encode(pair)
    return ProxyVariables(found.host, found.port, authorization)


def _bypassed(target: Origin, no_proxy: str) -> bool:
    """NO_PROXY as curl, Go and requests read it: names with all below them, `host:port`, addresses, networks."""
    host, port = target.host, target.port
    for entry in no_proxy.replace(",", " ").lower().split():
        if entry in {"*", target.authority}:
            return True
        name, colon, entry_port = entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
        name = name.removeprefix("*").strip(".").strip("[]")
        if colon and entry_port != str(port):
            continue
        if name and (host == name or host.endswith("." + name)):
            return True
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
    return False
