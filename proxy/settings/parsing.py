"""Owns how the text of one setting becomes its value: numbers, durations, sizes, names, paths.

Every parser takes what a file, an environment variable or a flag gave (text, a bool, a list, a mapping; or the value
itself, when the settings are built in code) and returns the value or raises Bad. A parser does not know which setting
it serves nor where the text came from, and never repeats a text that may hold a credential.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from proxy.core.secret import Secret
from proxy.settings import files
from proxy.settings.secret import SecretForm, has_control_characters

T = TypeVar("T")

#: Above this a duration is a slip of the pen (milliseconds taken for seconds), and timers start to overflow.
LONGEST: Final = 366 * 86400.0
LARGEST: Final = 1 << 40

#: [0-9], for \d is also a digit of any other script; and no underscores, which Python's int() and float() pass over.
_NUMBER = re.compile(r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?) *(?P<unit>[A-Za-z]*)")
_SECONDS: Final = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}
_YES: Final = frozenset({"true", "yes", "on", "1"})
_NO: Final = frozenset({"false", "no", "off", "0"})


class Bad(ValueError):
    """What is wrong with a setting: one or more (place inside it, sentence), such as ("[2]", "…")."""

    def __init__(self, *problems: str | tuple[str, str]) -> None:
        self.problems = [("", p) if isinstance(p, str) else p for p in problems]
        super().__init__("; ".join(f"{place}: {text}" if place else text for place, text in self.problems))


def shown(text: str) -> str:
    """Repeat a value in a message: short, escaped, and not at all when it could hold a password (`user:pw@host`)."""
    if "@" in text:
        return "this value"
    return json.dumps(text if len(text) <= 60 else text[:57] + "...")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the nearest known name, else an empty text."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


def repeatable(name: str, known: Iterable[str]) -> bool:
    """Tell whether a name that is none may be repeated: only a slip of the pen, else it may be a secret gone astray.

    No known name has a digit in it, and nearly every secret has.
    """
    plain = _plain(name)
    alike = difflib.get_close_matches(plain, [_plain(word) for word in known], n=1, cutoff=0.88)
    return bool(alike) and not any(c.isdigit() for c in name)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def as_text(value: object) -> str:
    """Return a scalar as text without blanks around it; numbers count as text (`app_id: 12345`), booleans do not."""
    if isinstance(value, bool):
        raise Bad("YAML takes this word for true or false; put it in quotes")
    if value is None:
        raise Bad("has no value")
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float):
        return str(value)
    raise Bad("must be one text, not a list or a group of settings")


def boolean(value: object) -> bool:
    """Parse true/false, yes/no, on/off, 1/0."""
    if isinstance(value, bool):
        return value
    text = as_text(value).lower()
    if text in _YES or text in _NO:
        return text in _YES
    raise Bad(f"{shown(text)} is neither true nor false")


def _number(value: object, units: dict[str, Any], kind: str, examples: str) -> tuple[float, str]:
    text = as_text(value)
    match = _NUMBER.fullmatch(text)
    unit = match["unit"] if match else ""
    # Units of time are lower-case (5M is no five minutes); those of size are known in any case.
    unit = unit.lower() if kind == "size" else unit
    if match is None or unit not in units:
        raise Bad(f"{shown(text)} is not a {kind}; write {examples}")
    number = float(match["number"])
    if not math.isfinite(number):
        raise Bad(f"{shown(text)} is too large")
    if number < 0:
        raise Bad(f"{shown(text)} is negative")
    return number, unit


def duration(value: object) -> float:
    """Parse seconds, or a number with ms, s, m, h or d, into float seconds (0 or more)."""
    number, unit = _number(value, _SECONDS, "duration", "seconds or 500ms, 30s, 5m, 1h")
    # A division is exact where a multiplication by 0.001 is not: 300ms is 0.3.
    seconds = number / 1000 if unit == "ms" else number * _SECONDS[unit]
    if seconds > LONGEST:
        raise Bad(f"{shown(as_text(value))} is longer than 366d")
    return seconds


def positive_duration(value: object) -> float:
    """Parse a duration above zero."""
    seconds = duration(value)
    if seconds <= 0:
        raise Bad("must be more than 0; write seconds or 500ms, 30s, 5m, 1h")
    return seconds


def size(value: object) -> int:
    """Parse bytes, or a number with kB, MB, GB, KiB, MiB or GiB, into int bytes."""
    examples = "bytes or 512KiB, 10MiB, 1GiB"
    number, unit = _number(value, _BYTES, "size", examples)
    total = number * _BYTES[unit]
    if total > LARGEST:
        raise Bad(f"{shown(as_text(value))} is larger than 1024GiB")
    if total != int(total):
        raise Bad(f"{shown(as_text(value))} is not a whole number of bytes; write {examples}")
    return int(total)


def count(value: object, *, most: int = 1_000_000) -> int:
    """Parse a whole number from 1 to `most`."""
    text = as_text(value)
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise Bad(f"{shown(text)} is not a whole number")
    number = int(text)
    if not 1 <= number <= most:
        raise Bad(f"{shown(text)} is out of range; write a number from 1 to {most}")
    return number


def one_of(*allowed: str) -> Callable[[object], str]:
    """Make a parser of one of a few words, in any case."""

    def parse(value: object) -> str:
        text = as_text(value).lower()
        if text in allowed:
            return text
        words = " or ".join(allowed)
        raise Bad(f"{shown(text)} is not known; write {words}{did_you_mean(text, allowed)}")

    return parse


def optional(parse: Callable[[object], T]) -> Callable[[object], T | None]:
    """Make a parser that takes no value, or an empty text, as None."""

    def parse_optional(value: object) -> T | None:
        return None if value is None or value == "" else parse(value)

    return parse_optional


def optional_list(parse: Callable[[object], T]) -> Callable[[object], T | None]:
    """Make a parser that takes None as None, while an empty text is an empty list."""

    def parse_optional(value: object) -> T | None:
        return None if value is None else parse(value)

    return parse_optional


def items(value: object) -> list[object]:
    """Return a list's elements: a list, JSON that holds a list, or texts with commas between them."""
    if isinstance(value, list | tuple):
        return list(value)
    if not isinstance(value, str):
        return [value]
    # "[::1]:8080" begins like JSON too: only a quote, a bracket or a brace inside makes it JSON.
    if re.match(r"\[\s*[\"\[\]{]", value.strip()):
        found = json_value(value)
        return found if isinstance(found, list) else [found]
    return [part.strip() for part in value.split(",") if part.strip()]


def json_value(text: str) -> object:
    """Parse JSON with numbers kept as text, as all values of settings are."""
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        place = f" at line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise Bad(f"is not valid JSON{place}") from None


def each(parse: Callable[[object], T], values: Iterable[object]) -> tuple[T, ...]:
    """Parse all elements and raise one Bad with the problems of all of them, each with its index."""
    parsed: list[T] = []
    problems: list[tuple[str, str]] = []
    for index, value in enumerate(values):
        try:
            parsed.append(parse(value))
        except Bad as bad:
            problems += [(f"[{index}]{place}", text) for place, text in bad.problems]
    if problems:
        raise Bad(*problems)
    return tuple(parsed)


def file_path(value: object) -> Path:
    """Parse the name of a file; relative names start at the working directory."""
    if isinstance(value, Path):
        return value
    text = as_text(value)
    if not text or "\0" in text:
        raise Bad("must be the name of a file")
    return Path(text)


def ca_file(value: object) -> Path:
    """Parse the name of a PEM bundle and make sure that it can be used."""
    path = file_path(value)
    try:
        files.certificates(path)
    except files.Unreadable as error:
        raise Bad(f"the file {str(path)!r} {error}") from None
    return path


def url_path(value: object) -> str:
    """Parse a path of the upstream: begins with "/", without query; a slash at the end is dropped, "/" is ""."""
    text = as_text(value)
    if text and not text.startswith("/"):
        raise Bad(f"{shown(text)} is not a path; begin it with /")
    if not re.fullmatch(r"[!-~]*", text) or re.search(r"[?#\\]", text) or text.startswith("//"):
        raise Bad(f"{shown(text)} is not a path; write it like /v3, percent-encoded, without a query")
    return text.rstrip("/")


def keepalive_path(value: object) -> str:
    """Parse the path of the keep-alive request, which must not be empty."""
    path = url_path(value)
    if not path:
        raise Bad("must be a path such as /v3/carts")
    return path


def user_agent(value: object) -> str:
    """Parse the value of a User-Agent header: printable ASCII."""
    text = as_text(value)
    if not re.fullmatch(r"[ -~]+", text):
        raise Bad("must be printable ASCII and not empty, since CardCash answers 401 without a User-Agent")
    return text


def email(value: object) -> str:
    """Parse an e-mail address; only what cannot be one at all is refused."""
    text = as_text(value)
    if not text or has_control_characters(text):
        raise Bad("must be an e-mail address")
    return text


def app_id(value: object) -> Secret:
    """Parse the application id: visible ASCII, since it is sent as a header."""
    text = value.reveal() if isinstance(value, Secret) else _secret_text(value).strip()
    return _fitting(text, SecretForm.VISIBLE)


def password(value: object) -> Secret:
    """Parse a password: any characters, blanks at its ends included, but control characters."""
    return _fitting(value.reveal() if isinstance(value, Secret) else _secret_text(value), SecretForm.ANY)


def _fitting(text: str, form: SecretForm) -> Secret:
    problem = form.problem(text)
    if problem:
        raise Bad(problem)
    return Secret(text)


def _secret_text(value: object) -> str:
    return value if isinstance(value, str) else as_text(value)


def store(value: object) -> str:
    """Parse where the session is kept: memory:// or file:///path. Never repeated: it may hold a password."""
    scheme, separator, rest = as_text(value).partition("://")
    kind = STORES.get(scheme.lower()) if separator else None
    if kind is None:
        raise Bad("is not a store; use memory:// or file:///path")
    return f"{scheme.lower()}://{kind(rest)}"


def _memory(rest: str) -> str:
    if rest:
        raise Bad("memory:// takes nothing after it; use memory:// or file:///path")
    return rest


def _file(rest: str) -> str:
    if not rest.startswith("/") or rest.endswith("/") or has_control_characters(rest) or re.search(r"[?#]", rest):
        raise Bad("file:// takes the absolute path of a file; use memory:// or file:///path")
    return rest


def _not_yet(_: str) -> str:
    raise Bad("redis:// is not available in this version; use memory:// or file:///path")


#: The kinds of store, each with what checks the rest of its text. One that is not here is no store.
STORES: Final[Mapping[str, Callable[[str], str]]] = {
    "memory": _memory,
    "file": _file,
    "redis": _not_yet,
    "rediss": _not_yet,
}
