"""Owns how settings are shown to people: as YAML without secrets, with where each comes from, and as help of flags."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Final

from proxy.core.rules import Rule
from proxy.core.secret import REDACTED, Secret
from proxy.core.store_url import StoreUrl
from proxy.core.values import ListenAddress, duration, size
from proxy.settings.model import KIB, Leaf, Settings, leaves
from proxy.settings.parsing import RequiredHeader, positive_duration

#: Column of the notes where the lines are short enough.
_NOTES_AT: Final = 44


def describe(settings: Settings, where: Mapping[str, str] | None = None) -> str:
    """Return the effective settings as YAML: every key, defaults included, every secret as "********".

    `where`: a note beside each says where it comes from.
    """
    import yaml  # noqa: PLC0415 - only `check` needs it

    lines: list[str] = []
    group = ""
    for path, leaf in leaves().items():
        above, _, name = path.rpartition(".")
        if above and above != group:
            lines.append(f"{above}:")
        group = above
        shown = {name: readable(leaf.value_in(settings), leaf.parse)}
        first, *rest = yaml.safe_dump(shown, allow_unicode=True, default_flow_style=False, width=1000).splitlines()
        indent = "  " if above else ""
        note = "" if where is None else f"  # {where[path]}"
        lines.append(f"{indent + first:<{_NOTES_AT if note else 0}}{note}")
        lines += [indent + line for line in rest]
    return "\n".join(lines) + "\n"


def readable(value: object, parse: Callable[[object], object] | None = None) -> object:
    """Return a setting's value as YAML can hold it: 5m for 300.0, 10MiB for 10485760, ******** for a secret."""
    match value:
        case None | bool():
            return value
        case Secret():
            return REDACTED
        case RequiredHeader():
            return f"{value.name}: {REDACTED if value.file is None else f'file:{value.file}'}"
        case Rule():
            methods: dict[str, object] = {"methods": sorted(value.methods)} if value.methods else {}
            return {"allow" if value.allow else "deny": value.path, **methods}
        case StoreUrl():
            return str(value).replace("://", f"://{REDACTED}@", 1 if value.user or value.password else 0)
        case Path() | ListenAddress():
            return str(value)
        case tuple():
            return [readable(item) for item in value]
        case int() | float() if parse in (duration, positive_duration):
            return readable_duration(value)
        case int() if parse is size:
            return readable_size(value)
        case int():
            return value
        case _:
            return without_credentials(str(value))


def readable_duration(seconds: float) -> str:
    """Return the shortest exact text of a duration, one that parses to the same number."""
    if not seconds:
        return "0s"
    thousandths = f"{seconds * 1000:g}ms"
    exact = thousandths if duration(thousandths) == seconds else f"{seconds!r}s"
    return _in_units(seconds, (("h", 3600), ("m", 60), ("s", 1))) or exact


def readable_size(size: int) -> str:
    """Return the shortest exact text of a size."""
    return _in_units(size, (("GiB", KIB**3), ("MiB", KIB**2), ("KiB", KIB))) or str(size)


def _in_units(number: float, units: Iterable[tuple[str, int]]) -> str | None:
    return next((f"{int(number // of)}{unit}" for unit, of in units if number and number % of == 0), None)


def without_credentials(text: str) -> str:
    """Return a text with the user part of a URL replaced: redis://:password@host/0."""
    return re.sub(r"(://)[^/?#]*@", rf"\1{REDACTED}@", text)


def help_of(leaf: Leaf) -> str:
    """Return the help text of a setting's flag."""
    return leaf.meaning + (f" (default: {default})" if (default := default_of(leaf)) else "")


def default_of(leaf: Leaf) -> str:
    """Return the default of a setting as people write it; empty where there is none, or it depends on others."""
    if "default:" in leaf.meaning or leaf.default in (None, MISSING):  # the meaning says how
        return ""
    shown: Any = readable(leaf.default, leaf.parse)
    if isinstance(shown, list):
        return ", ".join(map(str, shown))
    return str(shown).lower() if isinstance(shown, bool) else str(shown)
