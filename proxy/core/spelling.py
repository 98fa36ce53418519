"""What is said of a name that is none: what it is called, and which known one may be meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the nearest known name, else an empty text."""
    return unknown(name, known, "")[1]


def unknown(name: str, known: Iterable[str], otherwise: str, *, prefix: str = "") -> tuple[str, str]:
    """Return what to call a name that is none, and `; did you mean "x"?` (or nothing) for the nearest known one.

    It is called by itself only where it is a slip of the pen, `otherwise` where it may be a secret gone astray: no known
    name has a digit in it, and nearly every secret has. `prefix` stands before all of them, and would make them alike.
    """
    plain = {_plain(one): one for one in known}
    near = difflib.get_close_matches(_plain(name), plain)
    slip = difflib.get_close_matches(_plain(name), near, cutoff=0.8) and not any(c.isdigit() for c in name)
    # A line break in it would make two lines of the message.
    called = prefix + name if slip and name.isprintable() else otherwise
    return called, f'; did you mean "{prefix}{plain[near[0]]}"?' if near else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
