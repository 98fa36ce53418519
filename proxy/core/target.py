"""Request targets and hosts, judged byte for byte (RFC 9112, 3.2; RFC 3986, 3.2.2). Nothing here changes a target."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

from proxy.core.errors import BadRequest
from proxy.core.route_names import VERSION

#: The IANA method registry (RFC 9110, 16.1.1 and later), less CONNECT and PRI, which are no requests of an application.
METHODS: Final = frozenset(
    ("ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "DELETE", "GET", "HEAD", "LABEL", "LINK",
     "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "OPTIONS",
     "ORDERPATCH", "PATCH", "POST", "PROPFIND", "PROPPATCH", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "TRACE",
     "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",)
)  # fmt: skip
_ABSOLUTE: Final = re.compile(r"https?://([^/?#]*)(.*)\Z", re.IGNORECASE | re.DOTALL)
_VISIBLE: Final = re.compile(r"[!-~]+\Z")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?\Z")
#: A key that looks like a name, without a long number; anything else could be a value in the wrong place.
_KEY: Final = re.compile(r"(?!.*[0-9]{6})[A-Za-z_][A-Za-z0-9_.\[\]-]{0,39}\Z")
_MOST_KEYS: Final = 16


class Target(NamedTuple):
    """What a request line asks for: an origin-form target (or `*`), and the authority of an absolute-form one."""

    text: str
    authority: str | None = None


def parse_target(method: str, target: str) -> Target:
    """Accept origin-form, absolute-form and `OPTIONS *`; raise `BadRequest` for everything else."""
    if not _VISIBLE.match(target) or "#" in target:
        raise BadRequest("The request target has a fragment or a character that may not stand there.")
    if target.startswith("/"):
        return Target(target)
    if target == "*":
        if method != "OPTIONS":
            raise BadRequest("The request target * is for OPTIONS only.")
        return Target(target)
    found = _ABSOLUTE.match(target)
    if found is None or "@" in found[1] or not found[1]:
        raise BadRequest("The request target is neither a path nor a plain http URL.")
    rest = found[2]
    if method == "OPTIONS" and not rest:
        return Target("*", found[1])  # RFC 9112, 3.2.4
    return Target(rest if rest.startswith("/") else "/" + rest, found[1])


def upstream_target(target: str, base_path: str) -> str:
    """Put `base_path` before an origin-form target without a version segment; nothing else changes.

    `base_path` has no trailing slash. `*` (of `OPTIONS *`) stays what it is.
    """
    if target == "*" or VERSION.match(target.partition("?")[0]):
        return target
    return base_path + target


def host_in(authority: str) -> str:
    """Return the host of `host[:port]` in lower case, brackets gone; raise `BadRequest` when it is not valid."""
    found = _HOST.match(authority)
    host = _canonical(found[1].lower()) if found and int(found[2] or 0) <= 65535 else None
    if host is None:
        raise BadRequest("The Host of the request is not valid.")
    return host


def _canonical(host: str) -> str | None:
    if not host.startswith("["):
        host = host.removesuffix(".")
        return host if all(host.split(".")) else None
    try:
        return str(ipaddress.IPv6Address(host[1:-1]))
    except ValueError:
        return None


def query_keys(query: str) -> tuple[str, ...]:
    """List the keys of a query; what does not look like a name becomes "?"."""
    keys = (part.partition("=")[0] if "=" in part else "?" for part in query.split("&")[:_MOST_KEYS])
    return tuple(key if _KEY.match(key) else "?" for key in keys)
