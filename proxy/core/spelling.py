"""What is said of a name that is none: the nearest one that is, and whether it may be repeated at all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that was probably meant."""
    return next(iter(difflib.get_close_matches(name, list(known), cutoff=cutoff)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the nearest known name, else an empty text."""
    near = nearest(name, known)
    return f'; did you mean "{near}"?' if near else ""


def repeatable(name: str, known: Iterable[str]) -> bool:
    """Tell whether a name that is none may be repeated: only a slip of the pen, else it may be a secret gone astray.

    No known name has a digit in it, and nearly every secret has.
    """
    alike = nearest(_plain(name), map(_plain, known), cutoff=0.8)
    return bool(alike) and not any(c.isdigit() for c in name)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
