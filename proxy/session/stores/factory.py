"""From what `session.store` says to a store. The settings have parsed it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.clock import Clock
from proxy.core.store_url import StoreUrl, is_redis, parse_store_url
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
    if isinstance(place, str) and is_redis(place):
        place = _fixed(place)
    if not isinstance(place, str):
        # Imported here: it brings encryption, 9 MB that nobody else should pay for.
        from proxy.session.stores.redis.store import RedisStore  # noqa: PLC0415

        return RedisStore(place, binding=binding, clock=clock, warn=warn, watch=watch or _NoWatch())
    check_store(place)
    match place.partition("://"):
        case "memory", "://", "":
            return MemoryStore(clock)
        case "file", "://", path:
            return FileStore(Path(path), binding=binding, clock=clock, warn=warn)
    raise _unknown()


def check_store(place: str | StoreUrl) -> None:
    """Raise `StoreUnusable` when the place cannot be used; changes nothing there. A Redis is not dialled."""
    if isinstance(place, StoreUrl):
        return None
    match place.partition("://"):
        case "memory", "://", "":
            return None
        case "file", "://", path:
            return check_file(Path(path))
    raise _unknown()


def _fixed(text: str) -> Callable[[], Place]:
    from proxy.session.stores.redis.place import Place  # noqa: PLC0415

    place = Place(parse_store_url(text))
    return lambda: place


def _unknown() -> StoreUnusable:
    # The text is not repeated: it may hold a password.
    return StoreUnusable("session.store: no store of this kind; use memory://, file:///path or redis://host.")
