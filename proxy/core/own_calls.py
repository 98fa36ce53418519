"""The two calls that the proxy answers or handles itself: `POST /session` and `POST /customers/login`.

Forwarded as it came, either would change whose session all callers share. So whatever a server may *read* as one of their
paths is taken for one, whatever its method, and only the plain spelling with POST is served: the rest is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from proxy.core.errors import BadRequest
from proxy.core.lenient import folded, visible
from proxy.core.path_readings import Route
from proxy.core.route_names import VERSION

_OWN: Final = ("/session", "/customers/login")
#: Versions where they are only read: `/V3/session` has the base path's before it.
_VERSIONS: Final = re.compile(r"(?:/v[0-9]+(?=/))*")
#: The first name in a segment: what a server may still see in `session.json`, `session%20` or `.session`.
_NAME: Final = re.compile(r"[a-z0-9_-]+")
#: IIS reads `%uXXXX` as a character.
_CODED: Final = re.compile(r"%u([0-9a-f]{4})")
#: Characters of a segment that are looked at, and segments of a path: callers choose them, and must not choose the time.
_LONGEST: Final = 256
_MOST_SEGMENTS: Final = 8


def check_own_call(method: str, path: str, route: Route, base_path: str) -> None:
    """Refuse what may be read as one of the two calls but is not plainly it. `path` is the upstream's, without a query.

    Raises `BadRequest`. Any version is plain (`/v3`, `/v3.1`), and so is the base path or none at all.
    """
    if not any(_is_own(name, base_path) for reading in route.readings for name in _names(reading.view)):
        return
    if path.removeprefix(base_path) not in _OWN and VERSION.sub("", path, count=1) not in _OWN:
        raise BadRequest("This path may be read as the session or the login call; spell it plainly.")
    if method != "POST":
        raise BadRequest("The session and the login call are made with POST.")


def _is_own(path: str, base_path: str) -> bool:
    base = _joined(base_path.casefold().split("/")[1:])
    return any(_VERSIONS.sub("", path.removeprefix(before), count=1) in _OWN for before in ("", base))


def _names(view: str) -> Iterator[str]:
    """Read a path by the names its segments begin with: cut at the first odd character, and with odd ones dropped."""
    segments = [segment[:_LONGEST] for segment in view.split("/")[1:]]
    if len(segments) > _MOST_SEGMENTS:
        return
    yield _joined(segments)
    if segments[-1].startswith("."):
        yield _joined(segments[:-1])  # `/session/.json`: a format for some
    if not view.isascii() or not view.isprintable() or "%u" in view:
        alike = [folded(_CODED.sub(lambda coded: chr(int(coded[1], 16)), segment)) for segment in segments]
        yield _joined(alike)
        yield _joined(list(map(visible, alike)))


def _joined(segments: list[str]) -> str:
    names = [found[0] if (found := _NAME.search(segment)) else "" for segment in segments]
    return "/" + "/".join(names).rstrip("/")
