"""Paths: where a caller's target goes upstream, what it is called in metrics, and which rules it falls under.

Targets are forwarded byte for byte; everything here that decodes or normalises does so only to *judge* a path, never to
send it. Knows no sockets and no settings file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

#: A client path that begins with a version segment is already an upstream path (CONTRACT `upstream.base_path`).
_VERSION: Final = re.compile(r"/v\d+(?:\.\d+)?(?=/|\?|$)")
_VERSION_ANY_CASE: Final = re.compile(r"/v\d+(?:\.\d+)?(?=/|$)", re.IGNORECASE)
#: Percent-decoding is repeated until nothing changes; a path coded deeper than this is refused by every deny rule.
_DEEPEST_CODING: Final = 8

#: API.md 5. Templates are the `route` label of metrics and logs, so that no id, coupon or card ever becomes one.
KNOWN_ROUTES: Final = (
    "/v3/session",
    "/v3/customers",
    "/v3/customers/login",
    "/v3/customers/payment-options",
    "/v3/customers/payment-options/:id",
    "/v3/customers/drawdown-account",
    "/v3/customers/drawdown-account/transactions",
    "/v3/merchants/buy",
    "/v3/merchants/buy/bulk",
    "/v3/merchants/sell",
    "/v3/merchants/:id/inventory/bulk",
    "/v3/carts",
    "/v3/carts/:cartId",
    "/v3/carts/:cartId/cards",
    "/v3.1/carts/:cartId/cards",
    "/v3/carts/:cartId/cards/:cardId",
    "/v3/carts/:cartId/coupons/:code",
    "/v3/orders",
    "/v3/orders/buy",
    "/v3/orders/sell",
    "/v3/orders/:orderId",
    "/v3/orders/status/:orderId",
    "/v3/wallets",
    "/v3/wallets/:cardId",
    "/v3/wallets/:cardId/secure-data",
    "/v3/cards/sell",
    "/v3/payments/sell",
    "/v3/payments/sell/:id",
)
OTHER: Final = "other"


def upstream_target(target: str, base_path: str) -> str:
    """Put `base_path` before an origin-form target without a version segment; nothing else changes.

    `base_path` has no trailing slash. `*` (of `OPTIONS *`) stays what it is.
    """
    if target == "*" or _VERSION.match(target):
        return target
    return base_path + target


@dataclass(frozen=True, slots=True)
class Route:
    """What one path means. `views` are all the paths an upstream may read it as, normalised and in lower case."""

    template: str
    views: tuple[str, ...]
    #: The fully decoded view without its version: "/orders" for "/v3/orders".
    path: str
    is_session: bool
    is_login: bool

    @property
    def key(self) -> str:
        """Name the route for pauses after rejections: the template, or the path with its ids replaced."""
        return self.template if self.template != OTHER else _without_ids(self.path)


@lru_cache(maxsize=4096)
def classify(path: str, base_path: str = "/v3") -> Route:
    """Judge an upstream path (no query). Cached: the same few paths come again and again."""
    views = _views(path)
    base = base_path.casefold()
    plain = tuple(
        (view.removeprefix(base) if view.startswith(base + "/") else _VERSION_ANY_CASE.sub("", view, count=1)) or "/"
        for view in views
    )
    is_session = "/session" in plain
    is_login = "/customers/login" in plain
    if is_session:
        template = "/v3/session"
    elif is_login:
        template = "/v3/customers/login"
    else:
        template = _template(path)
    return Route(template=template, views=views, path=plain[-1], is_session=is_session, is_login=is_login)


def _views(path: str) -> tuple[str, ...]:
    """List what the path may be read as: at every depth of percent-decoding, with and without `;parameters`."""
    found: dict[str, None] = {}
    current = path.encode("utf-8", "surrogateescape")
    for _ in range(_DEEPEST_CODING):
        text = current.decode("utf-8", "replace").replace("\\", "/").casefold()
        found[_normalised(text)] = None
        if ";" in text:
            found[_normalised(re.sub(r";[^/]*", "", text))] = None
        if b"%" not in current or (decoded := unquote_to_bytes(current)) == current:
            break
        current = decoded
    return tuple(found)


def _normalised(path: str) -> str:
    """Resolve dots and empty segments (RFC 3986, 5.2.4); no trailing slash."""
    out: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if out:
                out.pop()
        elif segment not in ("", "."):
            out.append(segment)
    return "/" + "/".join(out)


_ID: Final = re.compile(
    r"(?<=/)(?:[0-9]+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[^/]{33,})(?=/|$)"
)


def _without_ids(path: str) -> str:
    return _ID.sub(":id", path)[:256]


class _Node:
    """One segment of the known routes."""

    __slots__ = ("children", "template", "wildcard")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.wildcard: _Node | None = None
        self.template: str | None = None


def _tree(routes: Iterable[str]) -> _Node:
    root = _Node()
    for route in routes:
        node = root
        for segment in route.split("/")[1:]:
            if segment.startswith(":"):
                node.wildcard = node.wildcard or _Node()
                node = node.wildcard
            else:
                node = node.children.setdefault(segment, _Node())
        node.template = route
    return root


_ROOT: Final = _tree(KNOWN_ROUTES)


def _template(path: str) -> str:
    def walk(node: _Node, segments: Sequence[str]) -> str | None:
        if not segments:
            return node.template
        head, rest = segments[0], segments[1:]
        literal = node.children.get(head)
        if literal is not None and (found := walk(literal, rest)) is not None:
            return found
        return walk(node.wildcard, rest) if node.wildcard is not None and head else None

    segments = path.split("/")[1:]
    if len(segments) > 8:
        return OTHER
    return walk(_ROOT, segments) or OTHER


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of `rules`. `methods` empty: any. `path` is a glob: `*` within a segment, `**` across segments."""

    allow: bool
    methods: frozenset[str]
    path: str
    _versioned: re.Pattern[str]
    _plain: re.Pattern[str] | None

    @classmethod
    def of(cls, *, allow: bool, methods: Iterable[str], path: str) -> Rule:
        """Compile a rule; a glob without a version segment matches every version."""
        glob = path.casefold() if path not in ("", "*") else "/**"
        glob = glob if glob.startswith(("/", "*")) else "/" + glob
        pattern = _compile(glob)
        versioned = bool(re.match(r"/v\d", glob))
        return cls(allow, frozenset(m.upper() for m in methods), path, pattern, None if versioned else pattern)

    def matches(self, method: str, route: Route) -> bool:
        """Match the way that is safe: a deny if any reading of the path matches, an allow only if all do."""
        if self.methods and method not in self.methods:
            return False
        return (all if self.allow else any)(map(self._matches_view, route.views))

    def _matches_view(self, view: str) -> bool:
        if self._versioned.fullmatch(view):
            return True
        if self._plain is None:
            return False
        return self._plain.fullmatch(_VERSION_ANY_CASE.sub("", view, count=1) or "/") is not None


def _compile(glob: str) -> re.Pattern[str]:
    glob = glob.rstrip("/") or "/"
    out = ""
    # "/orders/**" means /orders as well: whoever denies a tree means its root too.
    tail = ""
    if glob.endswith("/**") and glob != "/**":
        glob, tail = glob[:-3], "(?:/.*)?"
    for part in re.split(r"(\*\*|\*|\?)", glob):
        out += {"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part) or re.escape(part)
    return re.compile(out + tail, re.DOTALL)


def allowed(rules: Sequence[Rule], method: str, route: Route) -> bool:
    """Apply the rules in order; the first match wins, no match allows (CONTRACT `rules`)."""
    for rule in rules:
        if rule.matches(method, route):
            return rule.allow
    return True
