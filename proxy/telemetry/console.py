"""Log lines for people at a terminal: time of day, level, what happened, and of a request what matters first. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

_LEVELS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "1;31"}
_FAINT: Final = "2"
#: What is written as it stands: nothing that could be taken for the next field, or moves the cursor.
_PLAIN: Final = re.compile(r"[!#-&(-<>-~]+")
#: Of an event, these come first and without their names.
_FIRST: Final = {
    "request": ("method", "route", "status", "duration_ms"),
    "session_renewal": ("reason", "result"),
}


def line(event: Mapping[str, Any], *, colours: bool) -> str:
    """Write the line of an event, without its end; `timestamp` is ISO text and is shown as local time of day."""
    rest = dict(event)
    level, name = str(rest.pop("level", "info")), str(rest.pop("event", ""))
    words = [_paint(_time_of_day(rest.pop("timestamp", "")), _FAINT, colours=colours)]
    words.append(_paint(f"{level:7}", _LEVELS.get(level, "0"), colours=colours))
    if name != "request":
        words.append(_paint(_shown(name), "1", colours=colours))
    for key in _FIRST.get(name, ()):
        if key in rest:
            value = rest.pop(key)
            code = _status_colour(value) if key == "status" else "0"
            words.append(_paint(f"{value:g} ms" if key == "duration_ms" else _shown(value), code, colours=colours))
    # What is long stands last.
    for key in sorted(rest, key=lambda key: (key in ("sentence", "advice"), key == "request_id")):
        if rest[key] is not None:
            words.append(_paint(f"{_shown(key)}=", _FAINT, colours=colours) + _shown(rest[key]))
    return " ".join(words)


def _time_of_day(timestamp: object) -> str:
    try:
        return datetime.fromisoformat(str(timestamp)).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except ValueError:
        return "--:--:--.---"


def _status_colour(status: object) -> str:
    return {"2": "32", "3": "36", "4": "33", "5": "1;31"}.get(str(status)[:1], "0")


def _shown(value: object) -> str:
    """Write a value so that no other field can be read out of it."""
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if _PLAIN.fullmatch(text) else repr(text)


def _paint(text: str, code: str, *, colours: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colours and code != "0" else text
