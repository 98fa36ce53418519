"""From the text of `session.store` to a store. The settings have parsed it: `memory://` or `file:///path`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from proxy.clock import Clock
from proxy.session.stores import Binding, Store
from proxy.session.stores.file import FileStore, check_file
from proxy.session.stores.memory import MemoryStore


def open_store(place: str, *, binding: Callable[[], Binding], clock: Clock, warn: Callable[[str], None]) -> Store:
    """Build the store. Raises `StoreUnusable` when its place cannot be used."""
    check_store(place)
    path = _path(place)
    return MemoryStore() if path is None else FileStore(path, binding=binding, clock=clock, warn=warn)


def check_store(place: str) -> None:
    """Raise `StoreUnusable` when the place cannot be used; changes nothing there."""
    path = _path(place)
    if path is not None:
        check_file(path)


def _path(place: str) -> Path | None:
    scheme, _, rest = place.partition("://")
    return Path(rest) if scheme == "file" else None
