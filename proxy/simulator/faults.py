"""Faults to order: fail, delay, reset or reject the next N calls of a path.

Owns the orders and how they are matched and used up. Carries none of them out: app.py does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

KINDS = ("fail", "delay", "reset", "reject")
WHENS = {
    "fail": ("before", "after"),
    "delay": ("before", "after", "in_body"),
    "reset": ("before_body", "after_body", "in_head", "in_body"),
    "reject": ("before",),
}
_NAMES = {
    "fail": {"path", "method", "times", "skip", "when", "status", "body", "html", "headers"},
    "delay": {"path", "method", "times", "skip", "when", "seconds"},
    "reset": {"path", "method", "times", "skip", "when"},
    "reject": {"path", "method", "times", "skip"},
}


@dataclass(slots=True)
class Fault:
    """One order. `times` < 0: for ever. `when` is relative to the processing of the call."""

    kind: str
    path: str
    method: str = ""
    times: int = 1
    skip: int = 0
    when: str = ""
    status: int = 503
    body: Any = None
    html: bool = False
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    def matches(self, method: str, path: str, template: str) -> bool:
        """Match the path (a glob, without query) or the route template; an empty method is any."""
        if self.method and self.method != method:
            return False
        return self.path in (path, template) or fnmatchcase(path, self.path)


def parse(kind: str, order: Mapping[str, Any]) -> Fault:
    """Read an order as it came in JSON. Raises ValueError naming what is wrong."""
    unknown = set(order) - _NAMES[kind]
    if unknown:
        raise ValueError(f"unknown key: {', '.join(sorted(unknown))}; known: {', '.join(sorted(_NAMES[kind]))}")
    values: dict[str, Any] = {"path": "*", "when": WHENS[kind][0], **order}
    kinds: dict[str, type | tuple[type, ...]] = {
        "path": str,
        "method": str,
        "times": int,
        "skip": int,
        "when": str,
        "status": int,
        "html": bool,
        "seconds": (int, float),
        "headers": dict,
    }
    for name, value in values.items():
        if name in kinds and not isinstance(value, kinds[name]):
            raise ValueError(f"{name}: wrong type")
    if values["when"] not in WHENS[kind]:
        raise ValueError(f"when: must be one of {', '.join(WHENS[kind])}")
    if not 200 <= values.get("status", 503) <= 599:
        raise ValueError("status: must be 200 to 599")
    values["method"] = str(values.get("method", "")).upper()
    return Fault(kind, **values)


class Faults:
    """The orders that are open, oldest first; of each kind one is used for a call."""

    def __init__(self) -> None:
        self._open: list[Fault] = []
        self.used: Counter[str] = Counter()

    def add(self, fault: Fault) -> None:
        """Open an order."""
        self._open.append(fault)

    def clear(self) -> int:
        """Close all orders; return how many were open."""
        count = len(self._open)
        self._open.clear()
        return count

    def open(self) -> list[dict[str, Any]]:
        """List the orders that are still open."""
        return [
            {"kind": f.kind, "path": f.path, "method": f.method, "times": f.times, "when": f.when} for f in self._open
        ]

    def take(self, method: str, path: str, template: str) -> dict[str, Fault]:
        """Return, by kind, the orders for this call, and count them down."""
        if not self._open:
            return {}
        found: dict[str, Fault] = {}
        for fault in list(self._open):
            if fault.kind in found or not fault.matches(method, path, template):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.times == 0:
                self._open.remove(fault)
                continue
            fault.times -= 1
            if fault.times == 0:
                self._open.remove(fault)
            found[fault.kind] = fault
            self.used[fault.kind] += 1
        return found
