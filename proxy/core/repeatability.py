"""Which requests may be sent twice, and which can spend money (core/README.md, "What may be sent twice").

When one is sent twice is decided in `attempts.py`, by these two.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from proxy.core.path_readings import Route

#: Fields by which some servers let a request be another method's, and keys of a query that do the same.
METHOD_OVERRIDES: Final = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})
#: Fields by which some servers let a request be for another path (IIS, Symfony).
TARGET_OVERRIDES: Final = frozenset({b"x-original-url", b"x-rewrite-url"})
_OVERRIDING: Final = re.compile(
    r"(?:\A|[&;?])\s*(?:_method|x-http-method(?:-override)?|x-method-override)\s*(?:=([^&;]*)|(?=[&;])|\Z)",
    re.IGNORECASE,
)


def overriding_methods(query: str) -> tuple[str, ...]:
    """List the methods that a query may make of the request's, in upper case; one may be empty."""
    return tuple(found.strip().upper() for found in _OVERRIDING.findall(unquote(query, "latin-1")))


def may_repeat(method: str, path: str, *, overridden: bool = False) -> bool:
    """Say whether a request may be sent twice although the first may have been processed.

    `path` is the normalised path without its version. The safe list: every GET (HEAD is one without the body, RFC 9110,
    9.3.2), `POST /session`, `POST /carts`; nothing that is `overridden`.
    """
    if overridden:
        return False
    return method in ("GET", "HEAD") or (method == "POST" and path in ("/session", "/carts"))


def buys(method: str, route: Route) -> bool:
    """Say whether a request can spend money: anything but a read that any server may take for an order.

    Whatever has the word in it counts, since a lenient server may see it in `orders.json` or `orders%00`, and so does a
    path that nobody can read to its end. To take too much for an order costs a caller a second try of his own, no more.
    """
    if method in ("GET", "HEAD", "OPTIONS"):
        return False
    return route.unreadable or any("orders" in reading.view for reading in route.readings)
