"""Paths: where a caller's target goes upstream, what it is called in metrics, and which rules it falls under.

Targets are forwarded byte for byte; everything here that decodes or normalises does so only to *judge* a path, never to
send it. Knows no sockets and no settings file.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Final
from urllib.parse import unquote_to_bytes

from proxy.core.errors import BadRequest

#: A client path that begins with a version segment is already an upstream path (CONTRACT `upstream.base_path`).
_VERSION: Final = re.compile(r"/v[0-9]+(?:\.[0-9]+)?(?=/|\?|\Z)")
#: The same at the head of a view, which is in lower case and has no query.
_VERSION_OF_VIEW: Final = re.compile(r"/v[0-9]+(?:\.[0-9]+)?(?=/|\Z)")
#: Percent-decoding is repeated until nothing changes; a path coded deeper than this is refused by every deny rule.
_DEEPEST_CODING: Final = 8
#: More lenient readings than this are not looked at; a path that has more is refused by every deny rule too.
_MOST_LENIENT: Final = 32
#: Characters of all readings together, so that no path holds up everybody else; twice what a path of 256 bytes can need.
_MOST_READ: Final = 64 * 1024
#: Characters of all readings that rules are matched with, the longest target once; a path that has more is refused by
#: every deny rule as well.
_MOST_MATCHED: Final = 16 * 1024 + 64
#: Where servers disagree so much that no list of readings is complete: control and invisible characters (some drop them,
#: some end there) and IIS's `%uXXXX`. Bytes that are not UTF-8 (overlong dots and slashes) belong to them.
_UNREADABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]|%u[0-9a-f]{4}")
#: What has lenient readings: segments that begin or end with a space or end with a dot, a decoded ? or #, and characters
#: that fold to others.
_LENIENT: Final = re.compile(r"[. ](?:/|\\|;|\Z)|[/\\] |[?#]|[^\x00-\x7f]")
#: Only short paths are remembered, so that callers cannot fill the memory: 1024 of them with their views are 1-30 MB.
_LONGEST_REMEMBERED: Final = 256

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
#: API.md 5: what answers without a login; everything else below these roots is about somebody's account.
_WITHOUT_LOGIN: Final = frozenset({"/session", "/customers", "/customers/login", "/merchants/buy", "/merchants/sell"})
_ROOTS: Final = frozenset({"session", "customers", "merchants", "carts", "orders", "wallets", "cards", "payments"})


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
    #: The fully decoded view without its version: "/orders" for "/v3/orders"; if any view is below `orders`, that one,
    #: because money is at stake.
    path: str
    is_session: bool
    is_login: bool
    #: `views` without their base path or version, one for one.
    plain: tuple[str, ...]
    #: What an upstream more lenient than most may read it as, with and without base path or version. Only rules judge it.
    lenient: tuple[tuple[str, str], ...] = ()
    #: Not every reading could be looked at: coded too deep, or with bytes of which every server makes something else.
    unfathomed: bool = False

    def needs_login(self, method: str) -> bool:
        """Say whether any reading of the path is about somebody's account."""
        readings = chain(self.plain, (view for _, view in self.lenient))
        if any(view not in _WITHOUT_LOGIN and view.split("/", 2)[1] in _ROOTS for view in readings):
            return True
        return method != "POST" and "/customers" in self.plain  # with POST it is a sign-up, else one's own record

    @property
    def key(self) -> str:
        """Name the route for pauses after rejections: the template, or the path's first segment."""
        return self.template if self.template != OTHER else f"{OTHER} {self.path.split('/', 2)[1][:32]}"


def classify(path: str, base_path: str = "/v3") -> Route:
    """Judge an upstream path (no query). Cached: the same few paths come again and again.

    Raises `BadRequest` for a long path that can be read in very many ways.
    """
    if len(path) > _LONGEST_REMEMBERED:
        return _judged.__wrapped__(path, base_path)
    return _judged(path, base_path)


@lru_cache(maxsize=1024)
def _judged(path: str, base_path: str) -> Route:
    views, lenient, unfathomed = _views(path)
    base = base_path.casefold()
    plain = tuple(_plain(view, base) for view in views)
    others = tuple((view, _plain(view, base)) for view in lenient)
    is_session = "/session" in plain
    is_login = "/customers/login" in plain
    if is_session:
        template = "/v3/session"
    elif is_login:
        template = "/v3/customers/login"
    else:
        template = _template(path)
    return Route(
        template=template,
        views=views,
        path=next((view for view in (*plain, *(p for _, p in others)) if "orders" in view.split("/")), plain[-1]),
        is_session=is_session,
        is_login=is_login,
        plain=plain,
        lenient=others,
        unfathomed=unfathomed or sum(map(len, (*views, *lenient))) > _MOST_MATCHED,
    )


def _plain(view: str, base: str) -> str:
    if base and view.startswith(base + "/"):
        return view.removeprefix(base)
    version = _VERSION_OF_VIEW.match(view)
    return (view[version.end() :] if version else view) or "/"


def _views(path: str) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """List what the path may be read as, the most decoded last; then what only some read; then whether that is not all.

    At every depth of percent-decoding, with a backslash as itself and as a slash, with and without `;parameters`.
    """
    work = _Work()
    found: dict[str, None] = {}
    lenient: dict[str, None] = {}
    unreadable = False
    current = path.encode("utf-8", "surrogateescape")
    for _ in range(_DEEPEST_CODING):
        text = current.decode("utf-8", "replace").casefold()
        unreadable = unreadable or "\ufffd" in text or _UNREADABLE.search(text) is not None
        readings = [text, text.replace("\\", "/")] if "\\" in text else [text]
        if ";" in text:
            readings += [re.sub(r";[^/]*", "", reading) for reading in readings]
        for view in map(_normalised, map(work.on, readings)):
            found.pop(view, None)  # what is read later stands later
            found[view] = None
        if not unreadable and _LENIENT.search(text):
            lenient.update(dict.fromkeys(map(_normalised, _lenient_readings(text, work))))
            unreadable = len(lenient) > _MOST_LENIENT
        if b"%" not in current or (decoded := unquote_to_bytes(current)) == current:
            return tuple(found), _without(lenient, found), unreadable
        current = decoded
    return tuple(found), _without(lenient, found), True


def _without(views: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    return tuple(view for view in views if view not in known)[:_MOST_LENIENT]


class _Work:
    """What reading one path has cost."""

    def __init__(self) -> None:
        self._left = _MOST_READ

    def on(self, reading: str) -> str:
        """Count a reading. Raises `BadRequest` when it was too much."""
        self._left -= len(reading)
        if self._left < 0:
            raise BadRequest("The path of the request is too long for the many ways in which it can be read.")
        return reading


def _lenient_readings(text: str, work: _Work) -> Iterable[str]:
    """Read with compatibility characters folded, cut at a ? or #, and trimmed segments, each alone and all together."""
    readings = {text: None}
    for change in (
        lambda reading: unicodedata.normalize("NFKC", reading).casefold(),
        lambda reading: re.split(r"[?#]", reading, maxsplit=1)[0],
        lambda reading: reading.replace("\\", "/"),
        lambda reading: re.sub(r";[^/]*", "", reading),
        lambda reading: "/".join(map(_trimmed, reading.split("/"))),
    ):
        readings |= dict.fromkeys(map(work.on, map(change, tuple(readings))))
    return readings


def _trimmed(segment: str) -> str:
    """Take spaces and trailing dots away, as file systems do; dots that lead elsewhere stay."""
    segment = segment.strip(" ")
    return segment if segment in (".", "..") else segment.rstrip(" .")


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


class _Glob:
    """A path glob: `*` and `?` within a segment, `**` across segments; a tree (`/x/**`) includes its root.

    Matched in one pass with a set of positions, one bit each: callers choose the path, and a backtracking regular
    expression would let them choose the time as well.
    """

    __slots__ = ("_across", "_done", "_endless", "_literals", "_prefix", "_single", "_stars", "_tree")

    def __init__(self, glob: str) -> None:
        glob = glob.rstrip("/") or "/"
        # "/orders/**" means /orders as well: whoever denies a tree means its root too.
        self._tree = glob.endswith("/**") and glob != "/**"
        glob = glob[:-3] if self._tree else glob
        self._prefix = re.split(r"[*?]", glob, maxsplit=1)[0]
        parts = re.findall(r"\*+|[^*]", glob[len(self._prefix) :], re.DOTALL)
        self._literals: dict[str, int] = {}
        self._single = self._stars = self._across = 0
        for place, part in enumerate(parts):
            bit = 1 << place
            if part == "?":
                self._single |= bit
            elif part.startswith("*"):
                self._stars |= bit
                self._across |= bit if part != "*" else 0
            else:
                self._literals[part] = self._literals.get(part, 0) | bit
        self._done = 1 << len(parts)
        #: At a last `**` whatever follows matches.
        self._endless = self._across & (self._done >> 1)

    def matches(self, path: str) -> bool:
        """Say whether all of `path` matches."""
        if not path.startswith(self._prefix):
            return False
        at = 1 | (1 & self._stars) << 1
        for char in path[len(self._prefix) :]:
            if at & self._endless:
                return True
            if char == "/":
                if self._tree and at & self._done:
                    return True
                forward, stay = at & self._literals.get(char, 0), at & self._across
            else:
                forward, stay = at & (self._literals.get(char, 0) | self._single), at & self._stars
            at = forward << 1 | stay
            at |= (at & self._stars) << 1  # a star may stand for nothing; two never stand together
            if not at:
                return False
        return bool(at & self._done)


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of `rules`. `methods` empty: any. `path` is a glob: `*` within a segment, `**` across segments."""

    allow: bool
    methods: frozenset[str]
    path: str
    _glob: _Glob = field(repr=False, compare=False)
    #: The glob has no version segment, and so matches every version.
    _any_version: bool = field(repr=False)

    @classmethod
    def of(cls, *, allow: bool, methods: Iterable[str], path: str) -> Rule:
        """Compile a rule; a glob without a version segment matches every version."""
        glob = path.casefold() if path not in ("", "*") else "/**"
        glob = glob if glob.startswith(("/", "*")) else "/" + glob
        return cls(allow, frozenset(m.upper() for m in methods), path, _Glob(glob), not re.match(r"/v[0-9]", glob))

    def matches(self, method: str, route: Route) -> bool:
        """Match the way that is safe: a deny if any reading of the path matches, an allow only if all do."""
        if self.methods and method not in self.methods:
            return False
        if route.unfathomed:
            return not self.allow
        usual = zip(route.views, route.plain, strict=True)
        return (all if self.allow else any)(self._matches_view(*view) for view in chain(usual, route.lenient))

    def _matches_view(self, view: str, plain: str) -> bool:
        return self._glob.matches(view) or (self._any_version and self._glob.matches(plain))


def allowed(rules: Sequence[Rule], method: str, route: Route) -> bool:
    """Apply the rules in order; the first match wins, no match allows (CONTRACT `rules`)."""
    for rule in rules:
        if rule.matches(method, route):
            return rule.allow
    return True
