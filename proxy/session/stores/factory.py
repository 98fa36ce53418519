"""From what `session.store` says to a store. The settings have parsed it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.clock import Clock
from proxy.core.store_url import StoreUrl
from proxy.session.stores import Binding, SharedStore, StoreUnusable, StoreWatch
from proxy.session.stores.file import FileStore, check_file
from proxy.session.stores.memory import MemoryStore

if TYPE_CHECKING:
    from proxy.session.stores.redis.place import Place


class _NoWatch:
    def took(self, operation: str, seconds: float) -> None:
        pass

    def reconnected(self) -> None:
        pass


def open_store(
    place: str | Callable[[], Place],
    *,
    binding: Callable[[], Binding],
    clock: Clock,
    warn: Callable[[str], None],
    watch: StoreWatch | None = None,
) -> SharedStore:
    """Build the store: of a text, or on the Redis that `place` tells of at each use.

    Raises `StoreUnusable` when its place cannot be used, or its kind is not one that is known.
    """
    if not isinstance(place, str):
        # Imported here: it brings encryption, 9 MB that nobody else should pay for.
        from proxy.session.stores.redis.store import RedisStore  # noqa: PLC0415

        return RedisStore(place, binding=binding, clock=clock, warn=warn, watch=watch or _NoWatch())
    path = check_store(place)
    return MemoryStore(clock) if path is None else FileStore(path, binding=binding, clock=clock, warn=warn)


def check_store(place: str | StoreUrl) -> Path | None:
    """Raise `StoreUnusable` when the place cannot be used; returns the path of a file. Changes nothing, dials no Redis."""
    if isinstance(place, StoreUrl) or place == "memory://":
        return None
    if place.startswith("file://"):
        path = Path(place.removeprefix("file://"))
        check_file(path)
        return path
    # The text is not repeated: it may hold a password.
    raise StoreUnusable("session.store: no store of this kind; use memory://, file:///path or redis://host.")
