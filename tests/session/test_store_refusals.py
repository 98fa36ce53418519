"""Refusals in the store: they outlive a restart, hold for all who share the store, and end for a reason only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.core.errors import SessionUnavailable
from proxy.session.cardcash_calls import Credentials, SessionOutage, SessionRefused
from proxy.session.stores import Binding, SharedStore, Stored
from proxy.session.stores.file import FileStore
from proxy.session.stores.memory import MemoryStore
from tests.session.conftest import Build
from tests.session.fakes import APP, LOGIN, ME, BrokenStore, FakeClock, House, settle
from tests.session.store_contract import held

OTHER_PASSWORD = replace(LOGIN, password="other")
BINDING = Binding("https://cardcash.example", APP, ME)
NO_LOGIN = SessionRefused("login", "Check the login.")
NO_APP = SessionRefused("app_id", "Check the application id.")


@pytest.fixture(params=["memory", "file"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SharedStore]:
    """The store of all keepers of a test, so of a process and the one after its restart."""
    if request.param == "memory":
        yield MemoryStore(FakeClock())
        return
    # A new thread for each participant: the keeper closes the store it was given.
    yield FileStore(tmp_path / "session.json", binding=lambda: BINDING, clock=FakeClock(), warn=pytest.fail)


@pytest.fixture
async def world(build: Build, store: SharedStore, tmp_path: Path) -> AsyncIterator[World]:
    world = World(build, store, tmp_path / "session.json")
    yield world
    for one in world.stores:
        await one.close()


class World:
    """Houses on one store, each with a handle of its own where the store is a file."""

    def __init__(self, build: Build, store: SharedStore, path: Path) -> None:
        self._build = build
        self._store = store
        self._path = path
        self.clock = FakeClock()
        self.stores: list[SharedStore] = [store]

    def house(self, credentials: Credentials = LOGIN) -> House:
        if isinstance(self._store, MemoryStore):
            store: SharedStore = self._store.another()
        else:
            store = FileStore(self._path, binding=lambda: BINDING, clock=self.clock, warn=pytest.fail)
            self.stores.append(store)
        return self._build(credentials=credentials, store=store, clock=self.clock)

    async def refused(self, refusal: SessionRefused) -> House:
        """A house that was just refused."""
        house = self.house()
        (house.calls.on_login if refusal is NO_LOGIN else house.calls.on_session).append(refusal)
        await house.keeper.start(eager=True)
        await house.keeper.first_renewal_over.wait()
        assert set(house.keeper.refusals) == {refusal.what}
        return house

    async def restarted(self, credentials: Credentials = LOGIN) -> House:
        house = self.house(credentials)
        await house.keeper.start(eager=True)
        await house.keeper.first_renewal_over.wait()
        return house


async def test_a_refused_login_is_not_tried_again_after_a_restart(world: World) -> None:
    await world.refused(NO_LOGIN)
    house = await world.restarted()
    assert dict(house.keeper.refusals) == {"login": "Check the login."}
    assert (await house.keeper.token()).identity is None
    assert house.calls.logins == []


async def test_nor_when_the_session_has_to_be_made_anew(world: World) -> None:
    first = await world.refused(NO_LOGIN)
    world.clock.advance(first.held.lifetime)
    house = await world.restarted()
    assert (await house.keeper.token()).identity is None
    assert (len(house.calls.sessions), house.calls.logins) == (1, [])
    assert house.seen.renewals == [("start", "login_refused")]


async def test_a_refused_application_id_is_not_tried_again_after_a_restart(world: World) -> None:
    await world.refused(NO_APP)
    house = await world.restarted()
    assert dict(house.keeper.refusals) == {"app_id": "Check the application id."}
    with pytest.raises(SessionUnavailable, match="Check the application id"):
        await house.keeper.token()
    assert house.calls.sessions == []


async def test_a_changed_password_is_tried_after_a_restart(world: World) -> None:
    await world.refused(NO_LOGIN)
    house = await world.restarted(OTHER_PASSWORD)
    assert house.keeper.refusals == {}
    assert (await house.keeper.token()).identity == ME
    assert house.calls.logins == [OTHER_PASSWORD]


async def test_the_refused_password_stays_refused_after_another_was_tried(world: World) -> None:
    await world.refused(NO_LOGIN)
    other = await world.restarted(OTHER_PASSWORD)
    world.clock.advance(other.held.lifetime)
    house = await world.restarted()
    assert set(house.keeper.refusals) == {"login"}


async def test_a_password_that_changes_at_run_time_opens_the_latch_in_the_store(world: World) -> None:
    first = await world.refused(NO_LOGIN)
    first.keeper.use_credentials(OTHER_PASSWORD)
    await first.keeper.renew_now()
    await first.keeper.close()
    house = await world.restarted()
    assert house.keeper.refusals == {}


async def test_an_operator_opens_the_latch_in_the_store(world: World) -> None:
    first = await world.refused(NO_LOGIN)
    await first.keeper.renew_now()
    assert (first.held.identity, len(first.calls.logins)) == (ME, 2)
    house = await world.restarted()
    assert house.keeper.refusals == {}
    assert house.held.identity == ME


async def test_an_operator_opens_a_latch_that_was_found_at_the_start(world: World) -> None:
    await world.refused(NO_APP)
    house = await world.restarted()
    await house.keeper.renew_now()
    assert house.keeper.refusals == {}
    assert (await world.restarted()).keeper.refusals == {}


async def test_a_latch_is_told_of_from_the_start_even_when_no_session_is_made_yet(world: World) -> None:
    await world.refused(NO_APP)
    house = world.house()
    await house.keeper.start(eager=False)
    assert set(house.keeper.refusals) == {"app_id"}


async def test_an_operator_opens_a_latch_that_a_renewal_under_way_would_have_found(world: World) -> None:
    first = await world.refused(NO_LOGIN)
    world.clock.advance(first.held.lifetime)
    house = world.house()
    async with held(first.store):
        asking = asyncio.create_task(house.keeper.token())
        await settle()
        renewing = asyncio.create_task(house.keeper.renew_now())
        while (await house.store.look(LOGIN.secrets)).refusals:
            await asyncio.sleep(0)
    await asyncio.gather(asking, renewing)
    assert (house.keeper.refusals, house.held.identity) == ({}, ME)


async def test_what_an_operator_forgot_while_the_store_could_not_be_told_does_not_come_back_from_it(
    build: Build,
) -> None:
    class Flaky(BrokenStore):
        shared = True

    clock = FakeClock()
    store = Flaky(clock)
    house = build(store=store, clock=clock, credentials=LOGIN)
    house.calls.on_login.append(NO_LOGIN)
    await house.keeper.token()
    store.broken = ("latch",)
    assert (await house.keeper.renew_now()).identity == ME
    for _ in range(2):
        await house.keeper.catch_up()
    assert house.keeper.refusals == {}
    store.broken = ()
    await house.keeper.catch_up()
    assert (house.keeper.refusals, (await store.look(LOGIN.secrets)).refusals) == ({}, {})


async def test_what_was_refused_is_known_as_that_while_it_is_tried_again(build: Build) -> None:
    house = build(credentials=LOGIN)
    house.calls.on_login.append(NO_LOGIN)
    await house.keeper.token()
    assert house.keeper.forgotten == {}
    house.calls.meanwhile = lambda: seen.append((dict(house.keeper.refusals), set(house.keeper.forgotten)))
    seen: list[tuple[dict[str, str], set[str]]] = []
    house.calls.on_login.append(SessionOutage("down"))
    with pytest.raises(SessionUnavailable):
        await house.keeper.renew_now()
    assert (seen, set(house.keeper.forgotten)) == ([({}, {"login"})], {"login"})
    await house.keeper.renew_now()
    assert (house.held.identity, house.keeper.forgotten) == (ME, {})


async def test_what_another_process_was_accepted_with_is_proven_here_too(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    world = World(build, FileStore(path, binding=lambda: BINDING, clock=FakeClock(), warn=pytest.fail), path)
    house = await world.refused(NO_LOGIN)
    other = await world.restarted()
    world.clock.advance(1)
    await other.keeper.renew_now()
    await house.keeper.catch_up()
    assert (house.held.identity, house.keeper.refusals, house.keeper.forgotten) == (ME, {}, {})
    for one in world.stores:
        await one.close()


async def test_what_is_refused_again_to_an_operator_is_latched_again(world: World) -> None:
    await world.refused(NO_LOGIN)
    house = await world.restarted()
    house.calls.on_login.append(NO_LOGIN)
    await house.keeper.renew_now()
    assert set(house.keeper.refusals) == {"login"}
    assert set((await world.restarted()).keeper.refusals) == {"login"}


async def test_one_of_many_processes_tries_a_login_that_is_refused(world: World) -> None:
    houses = [world.house() for _ in range(5)]
    for house in houses:
        house.calls.on_login.extend([NO_LOGIN] * 2)
        await house.keeper.start(eager=True)
    tokens = await asyncio.gather(*(house.keeper.token() for house in houses))
    assert sum(len(house.calls.logins) for house in houses) == 1
    assert sum(len(house.calls.sessions) for house in houses) == 1
    assert {token.value for token in tokens} == {"session-of-app-id.1."}
    assert all("login" in house.keeper.refusals for house in houses)


async def test_one_of_many_processes_tries_an_application_id_that_is_refused(world: World) -> None:
    houses = [world.house() for _ in range(5)]
    for house in houses:
        house.calls.on_session.extend([NO_APP] * 2)
        await house.keeper.start(eager=True)
        await house.keeper.first_renewal_over.wait()
    assert sum(len(house.calls.sessions) for house in houses) == 1
    assert all("app_id" in house.keeper.refusals for house in houses)
    # Who was not refused himself tells of no failure of his own.
    assert [house.seen.renewals for house in houses] == [[("start", "refused")], [], [], [], []]
    assert [house.keeper.status()["failures_in_a_row"] for house in houses] == [1] * 5


async def test_an_anonymous_token_of_who_was_refused_does_not_do_for_whoever_can_log_in(world: World) -> None:
    await world.refused(NO_LOGIN)
    house = await world.restarted(OTHER_PASSWORD)
    assert house.held.identity == ME


async def test_a_latch_that_cannot_be_written_holds_in_memory(build: Build) -> None:
    clock = FakeClock()
    house = build(credentials=LOGIN, store=BrokenStore(clock, "latch"), clock=clock)
    house.calls.on_login.append(NO_LOGIN)
    await house.keeper.start(eager=True)
    token = await house.keeper.token()
    await house.keeper.renew(rejected=token)
    assert len(house.calls.logins) == 1
    assert house.seen.stores["latch", "failed"] > 0


async def test_a_refusal_whose_writing_takes_too_long_is_latched_all_the_same(build: Build) -> None:
    class Slow(MemoryStore):
        async def refuse(self, *_: object) -> None:
            await asyncio.Event().wait()

    clock = FakeClock()
    house = build(store=Slow(clock), clock=clock, deadline=0.02)
    house.calls.on_session.append(NO_APP)
    with pytest.raises(SessionUnavailable, match="Check the application id"):
        await house.keeper.token()
    assert set(house.keeper.refusals) == {"app_id"}


async def test_a_latch_that_is_opened_while_it_is_read_stays_open(build: Build) -> None:
    class Slow(MemoryStore):
        go = asyncio.Event()

        async def look(self, secrets: str) -> Stored:
            await self.go.wait()
            return Stored(refusals={"app_id": "read before"})

    clock = FakeClock()
    store = Slow(clock)
    house = build(store=store, clock=clock)
    starting = asyncio.create_task(house.keeper.start(eager=False))
    await settle()
    renewing = asyncio.create_task(house.keeper.renew_now())
    await settle()
    store.go.set()
    await starting
    await renewing
    assert house.keeper.refusals == {}


async def test_two_wrong_passwords_in_a_fleet_are_tried_once_each_whatever_is_renewed_or_restarted(
    world: World,
) -> None:
    first, second = world.house(), world.house(OTHER_PASSWORD)
    for house in (first, second):
        house.calls.on_login.append(NO_LOGIN)
        await house.keeper.start(eager=True)
        await house.keeper.first_renewal_over.wait()
        if "login" not in house.keeper.refusals:
            held = house.keeper.held
            assert held is not None
            with suppress(SessionUnavailable):
                await house.keeper.renew(rejected=held)
    for _ in range(3):
        for house in (first, second):
            held = house.keeper.held
            assert held is not None
            await house.keeper.catch_up()
            await house.keeper.renew(rejected=held)
    for credentials in (LOGIN, OTHER_PASSWORD):
        assert (await world.restarted(credentials)).calls.logins == []
    assert [len(house.calls.logins) for house in (first, second)] == [1, 1]
