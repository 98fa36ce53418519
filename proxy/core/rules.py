"""`rules`: which methods and paths are let through. Globs over everything that a path may be read as."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from proxy.core.path_readings import Reading, Route

_FORMAT: Final = re.compile(r"\.[a-z][a-z0-9]*\Z")


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
        # Without its slash a glob would match nothing, and what a deny should have denied would pass.
        path = "/**" if path in ("", "*") else path if path.startswith(("/", "*")) else f"/{path}"
        glob = path.casefold()
        return cls(allow, frozenset(m.upper() for m in methods), path, _Glob(glob), not re.match(r"/v[0-9]", glob))

    def matches(self, method: str, route: Route) -> bool:
        """Match the way that is safe: a deny if any reading of the path matches, an allow only if all do.

        For a deny `/orders.json` may be `/orders` as well, as some servers read it.
        """
        if self.methods and method not in self.methods:
            return False
        if route.unreadable:
            return not self.allow
        if self.allow:
            return all(map(self._matches_reading, route.readings))
        formats = (_without_format(reading) for reading in route.readings if "." in reading.view)
        return any(map(self._matches_reading, chain(route.readings, formats)))

    def _matches_reading(self, reading: Reading) -> bool:
        return self._glob.matches(reading.view) or (self._any_version and self._glob.matches(reading.plain))


def _without_format(reading: Reading) -> Reading:
    return Reading(*(_FORMAT.sub("", each) for each in reading))


def allowed(rules: Sequence[Rule], method: str, route: Route) -> bool:
    """Apply the rules in order; the first match wins, no match allows."""
    return next((rule.allow for rule in rules if rule.matches(method, route)), True)
