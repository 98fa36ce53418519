"""What a path may be read as by one server or another, and so what it means: for rules, guards and names in metrics.

Targets are forwarded byte for byte; everything here that decodes or normalises does so only to *judge* a path, never to
send it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from proxy.core.errors import BadRequest
from proxy.core.lenient import CodedTooDeep, decodings, folded
from proxy.core.route_names import OTHER, VERSION, is_account_path, template_of

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


class Reading(NamedTuple):
    """One thing that a path may be read as: normalised, in lower case."""

    view: str
    #: The same without its base path or version: "/orders" for "/v3/orders".
    plain: str


@dataclass(frozen=True, slots=True)
class Route:
    """What one path means."""

    template: str
    #: All that an upstream may read it as, the most decoded last.
    usual: tuple[Reading, ...]
    #: The most decoded of them, without its version; if any reading is below `orders`, that one, because money is at stake.
    path: str
    is_session: bool
    is_login: bool
    #: What only an upstream more lenient than most may read it as: no reason to refuse it, but rules and money count it.
    lenient: tuple[Reading, ...] = ()
    #: Not every reading could be looked at: coded too deep, or with bytes of which every server makes something else.
    unreadable: bool = False

    @property
    def readings(self) -> tuple[Reading, ...]:
        """All readings, the usual ones and the others."""
        return self.usual + self.lenient

    def needs_login(self, method: str) -> bool:
        """Say whether any reading of the path is about somebody's account."""
        if any(is_account_path(reading.plain) for reading in self.readings):
            return True
        # With POST it is a sign-up, else one's own record.
        return method != "POST" and any(reading.plain == "/customers" for reading in self.usual)

    @property
    def key(self) -> str:
        """Name the route for pauses after rejections: the template, or the path's first segment."""
        return self.template if self.template != OTHER else f"{OTHER} {self.path.split('/', 2)[1][:32]}"


def classify(path: str, base_path: str = "/v3") -> Route:
    """Judge an upstream path (no query). Raises `BadRequest` for a long path that can be read in very many ways."""
    views, lenient, unreadable = _views(path)
    base = base_path.casefold()
    usual, others = (tuple(Reading(view, _plain(view, base)) for view in each) for each in (views, lenient))
    paths = [reading.plain for reading in usual]
    is_session, is_login = "/session" in paths, "/customers/login" in paths
    own = "/v3/session" if is_session else "/v3/customers/login" if is_login else None
    return Route(
        template=own or template_of(path),
        usual=usual,
        path=next((each.plain for each in usual + others if "orders" in each.view.split("/")), paths[-1]),
        is_session=is_session,
        is_login=is_login,
        lenient=others,
        unreadable=unreadable or sum(map(len, (*views, *lenient))) > _MOST_MATCHED,
    )


def _plain(view: str, base: str) -> str:
    if base and view.startswith(base + "/"):
        return view.removeprefix(base)
    version = VERSION.match(view)
    return (view[version.end() :] if version else view) or "/"


def _views(path: str) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """List what the path may be read as, the most decoded last; then what only some read; then whether that is not all.

    At every depth of percent-decoding, with a backslash as itself and as a slash, with and without `;parameters`.
    """
    work = _Work()
    found: dict[str, None] = {}
    lenient: dict[str, None] = {}
    unreadable = False
    try:
        for current in decodings(path.encode()):
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
    except CodedTooDeep:
        unreadable = True
    return tuple(found), tuple(view for view in lenient if view not in found)[:_MOST_LENIENT], unreadable


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
        folded,
        lambda reading: re.sub(r"[?#].*", "", reading),
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
