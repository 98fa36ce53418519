"""A store that failed works again: everything that failed of it is told to, though not all of it is used again."""

from __future__ import annotations

import errno
from collections.abc import Mapping

import pytest

from proxy.core.errors import SessionUnavailable
from proxy.core.token import Moment, Token
from proxy.session.stores import Entered, Right, Stored, StoreUnreachable, StoreUnusable
from proxy.session.stores.memory import MemoryStore
from tests.session.conftest import Build
from tests.session.fakes import FakeClock, House, settle


class Full(StoreUnreachable):
    """Answers, but writes nothing."""

    passes = False
    refuses = True


class Ill(MemoryStore):
    """One that others use too, and that is away (`down`), or full for whoever would write (`full`)."""

    shared = True
    down = False
    #: What one that is away says.
    why: Exception = StoreUnreachable("away")
    full = False
    #: What one that is full says.
    no: Exception = Full("full")

    async def look(self, secrets: str) -> Stored:
        self._ask()
        return await super().look(secrets)

    async def enter(self, secrets: str, *, known: Token | None, forced: bool = False) -> Entered:
        self._write()
        return await super().enter(secrets, known=known, forced=forced)

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        self._write()
        return await super().save(token, replaces=replaces)

    async def failed(self, seconds: float) -> None:
        self._write()
        await super().failed(seconds)

    async def refuse(self, refusals: Mapping[str, str], secrets: str) -> None:
        self._write()
        await super().refuse(refusals, secrets)

    async def take_login_turn(self) -> bool:
        self._write()
        return await super().take_login_turn()

    async def leave(self, right: Right, *, recovered: bool = False) -> None:
        self._ask()  # one that is full still deletes
        await super().leave(right, recovered=recovered)

    def _ask(self) -> None:
        if self.down:
            raise self.why

    def _write(self) -> None:
        self._ask()
        if self.full:
            raise self.no


@pytest.fixture
def store() -> Ill:
    return Ill(FakeClock())


@pytest.fixture
async def house(build: Build, store: Ill) -> House:
    """One that holds a session, which is stored."""
    house = build(store=store)
    await house.keeper.token()
    await settle()
    return house


async def seconds(house: House, count: int = 3) -> None:
    """Look into the store as often as in so many seconds."""
    for _ in range(count):
        await house.keeper.follow()
        await settle()


async def fails_to_renew(house: House) -> None:
    house.outage()
    with pytest.raises(SessionUnavailable):
        await house.keeper.renew(rejected=house.held)
    await settle()


@pytest.mark.parametrize("why", [StoreUnreachable("away"), TimeoutError("locked"), StoreUnusable("mode 0644")])
async def test_of_a_store_that_was_away_all_works_again_as_soon_as_it_is_read(
    house: House, store: Ill, why: Exception
) -> None:
    store.down, store.why = True, why
    await fails_to_renew(house)
    async with house.keeper.login_turn():
        pass
    await seconds(house)
    assert house.seen.failing == {"enter", "lease", "load"}
    store.down = False
    await seconds(house)
    assert house.seen.failing == set()


@pytest.mark.parametrize("no", [Full("full"), OSError(errno.ENOSPC, "No space left on device")])
async def test_of_a_full_store_that_can_be_read_nothing_that_writes_works(
    house: House, store: Ill, no: Exception
) -> None:
    store.full, store.no = True, no
    await house.keeper.renew(rejected=house.held)
    await seconds(house)
    assert house.seen.failing == {"enter", "save"}
    store.full = False
    await seconds(house)
    assert house.seen.failing == set()


@pytest.mark.parametrize("no", [Full("full"), OSError(errno.ENOSPC, "No space left on device")])
async def test_nor_where_nothing_waits_to_be_written(house: House, store: Ill, no: Exception) -> None:
    store.full, store.no = True, no
    await fails_to_renew(house)
    await seconds(house)
    assert house.seen.failing == {"enter", "lease"}
    store.full = False
    house.calls.down = None
    await house.keeper.renew_now()
    await seconds(house)
    assert house.seen.failing == set()


async def test_of_a_store_that_was_full_all_works_when_another_process_has_written(house: House, store: Ill) -> None:
    before = house.held
    store.full = True
    await house.keeper.renew(rejected=before)
    await seconds(house)
    now = house.clock.now()
    theirs = Token("theirs.token.", Moment(now.steady + 1, now.wall + 1), 900, app_id=before.app_id)
    assert await store.another().save(theirs, replaces=before)
    await seconds(house)
    assert house.held.value == "theirs.token."
    assert house.seen.failing == set()


async def test_what_was_away_with_something_to_write_works_when_that_is_written(house: House, store: Ill) -> None:
    store.down = True
    await house.keeper.renew(rejected=house.held)
    await seconds(house)
    assert house.seen.failing == {"enter", "save", "lease", "load"}
    store.down, store.full = False, True
    await seconds(house)
    assert house.seen.failing == {"enter", "save", "lease"}
    store.full = False
    await seconds(house)
    assert house.seen.failing == set()
