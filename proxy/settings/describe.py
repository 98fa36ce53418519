"""Owns how settings are shown to people: as YAML without secrets, and as the list of flags."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from proxy.core.secret import REDACTED, Secret
from proxy.settings.catalogue import FlagInfo, Leaf, leaves
from proxy.settings.guards import RequiredHeader, Rule
from proxy.settings.model import KIB, Kind, Settings
from proxy.settings.parsing import duration


def describe(settings: Settings) -> str:
    """Return the effective settings as YAML: every key, defaults included, every secret as "********"."""
    import yaml  # noqa: PLC0415 - only `check` needs it

    root: dict[str, Any] = {}
    for path, leaf in leaves().items():
        value: Any = settings
        target = root
        *parents, name = path.split(".")
        for parent in parents:
            value = getattr(value, parent)
            target = target.setdefault(parent, {})
        target[name] = readable(getattr(value, name), leaf.kinds)
    return yaml.safe_dump(root, sort_keys=False, allow_unicode=True, default_flow_style=False, width=1000)


def readable(value: object, kinds: frozenset[Kind] = frozenset()) -> object:
    """Return a setting's value as YAML can hold it: 5m for 300.0, 10MiB for 10485760, ******** for a secret."""
    match value:
        case None | bool():
            return value
        case Secret():
            return REDACTED
        case RequiredHeader():
            return f"{value.name}: {REDACTED if value.file is None else f'file:{value.file}'}"
        case Rule():
            methods: dict[str, object] = {"methods": list(value.methods)} if value.methods else {}
            return {value.action: value.path, **methods}
        case Path():
            return str(value)
        case tuple():
            return [readable(item) for item in value]
        case int() | float() if Kind.DURATION in kinds:
            return readable_duration(float(value))
        case int() if Kind.SIZE in kinds:
            return readable_size(value)
        case int():
            return value
        case _:
            return without_credentials(str(value))


def readable_duration(seconds: float) -> str:
    """Return the shortest exact text of a duration, one that parses to the same number."""
    for unit, length in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds and seconds % length == 0:
            return f"{int(seconds // length)}{unit}"
    text = f"{seconds * 1000:g}ms"
    return text if seconds and duration(text) == seconds else f"{seconds:g}s" if not seconds else f"{seconds!r}s"


def readable_size(size: int) -> str:
    """Return the shortest exact text of a size."""
    for unit, length in (("GiB", KIB**3), ("MiB", KIB**2), ("KiB", KIB)):
        if size and size % length == 0:
            return f"{size // length}{unit}"
    return str(size)


def without_credentials(text: str) -> str:
    """Return a text with the user part of a URL replaced: redis://:password@host/0."""
    return re.sub(r"(://)[^/?#]*@", rf"\1{REDACTED}@", text)


def setting_flags() -> list[FlagInfo]:
    """Return all settings in order, with the help text of their flags."""
    return [FlagInfo(path, leaf.description + _default(leaf), leaf.secret) for path, leaf in leaves().items()]


def _default(leaf: Leaf) -> str:
    value = leaf.default
    if "default:" in leaf.description:  # it depends on other settings, and the description says how
        return ""
    shown = readable(value, leaf.kinds) if isinstance(value, bool | int | float | str | tuple) else None
    if isinstance(shown, bool):
        shown = str(shown).lower()
    if isinstance(shown, list):
        shown = ", ".join(map(str, shown))
    return f" (default: {shown})" if shown not in {None, ""} else ""
