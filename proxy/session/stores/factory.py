"""From the text of `session.store` to a store. The settings have parsed it: `memory://` or `file:///path`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from proxy.clock import Clock
from proxy.session.stores import Binding, SharedStore, StoreUnusable
from proxy.session.stores.file import FileStore, check_file
from proxy.session.stores.memory import MemoryStore


def open_store(place: str, *, binding: Callable[[], Binding], clock: Clock, warn: Callable[[str], None]) -> SharedStore:
    """Build the store. Raises `StoreUnusable` when its place cannot be used, or its kind is not one that is known."""
    check_store(place)
    match place.partition("://"):
        case "memory", "://", "":
            return MemoryStore(clock)
        case "file", "://", path:
            return FileStore(Path(path), binding=binding, clock=clock, warn=warn)
    raise _unknown()


def check_store(place: str) -> None:
    """Raise `StoreUnusable` when the place cannot be used; changes nothing there."""
    match place.partition("://"):
        case "memory", "://", "":
            return None
        case "file", "://", path:
            return check_file(Path(path))
    raise _unknown()


def _unknown() -> StoreUnusable:
    # The text is not repeated: it may hold a password.
    return StoreUnusable("session.store: no store of this kind; use memory:// or file:///path.")
