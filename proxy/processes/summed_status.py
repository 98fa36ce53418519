"""The `/status` of several workers as that of one proxy. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Of the session: the highest; the rest is one worker's, since all have the same.
_HIGHEST = ("paused_seconds", "failures_in_a_row")

Status = Mapping[str, Any]


def session(statuses: Sequence[Status], *, newest: int | None = None) -> dict[str, Any]:
    """Merge the session. All workers share one, but for a second after it changed: the one that lives longest is told.

    `newest` is the index of a worker that is known to have the newest.
    """
    sessions = [status.get("session", {}) for status in statuses]
    if not sessions:
        return {"state": "unknown"}
    base = (
        sessions[newest] if newest is not None else max(sessions, key=lambda one: one.get("expires_in_seconds") or 0.0)
    )
    merged = dict(base)
    merged["waiters"] = sum(one.get("waiters", 0) for one in sessions)
    for name in _HIGHEST:
        merged[name] = max(one.get(name, 0) for one in sessions)
    merged["renewing"] = any(one.get("renewing") for one in sessions)
    refused = next((one for one in sessions if one.get("latched")), base)
    merged["latched"], merged["advice"] = refused.get("latched"), refused.get("advice")
    merged["refused"] = sorted({what for one in sessions for what in one.get("refused", ())})
    return merged


def store(statuses: Sequence[Status]) -> dict[str, Any]:
    """Merge the store: what is wrong with it for one worker is told."""
    stores = [status["store"] for status in statuses if "store" in status]
    if not stores:
        return {}
    troubled = next((one for one in stores if not one["up"]), stores[0])
    return {**troubled, **{name: any(one[name] for one in stores) for name in ("pending", "alone")}}


def upstream(statuses: Sequence[Status]) -> dict[str, Any]:
    """Merge the connections."""
    merged: dict[str, Any] = {}
    for status in statuses:
        for name, value in status.get("upstream", {}).items():
            merged[name] = merged[name] + value if name in merged and isinstance(value, int) else value
    return merged
