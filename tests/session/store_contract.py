"""The one contract of all stores. A kind of store passes it by subclassing `StoreContract` with a `make` of its own.

`make()` returns a new handle on the *same* place each time, as a second process would have; a kind that lives in one
process (`memory://`) returns the same object. Import the class as a whole module (`from tests.session import
store_contract`), so that pytest does not collect it by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.core.token import Moment, Source, Token
from proxy.session.stores import Binding, Store
from tests.session.fakes import APP, FakeClock, settle

Make = Callable[[], Store]


class StoreContract:
    """Rules for any store; `clock` is the one the store must use."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def make(self, clock: FakeClock) -> Make:
        raise NotImplementedError

    @staticmethod
    def token(clock: FakeClock, value: str = "one.token.", **more: object) -> Token:
        return Token(value, clock.now(), 600, **more)  # type: ignore[arg-type]

    async def test_a_new_store_is_empty(self, make: Make) -> None:
        assert await make().load() is None

    async def test_what_was_saved_is_loaded_by_whoever_shares_the_place(self, make: Make, clock: FakeClock) -> None:
        assert await make().save(self.token(clock), replaces=None)
        loaded = await make().load()
        assert loaded is not None
        assert loaded.value == "one.token."

    async def test_everything_a_token_knows_survives(self, make: Make, clock: FakeClock) -> None:
        marks = {"customerId": [None, 5], "roles": [["guest"], ["partner"]]}
        token = self.token(
            clock,
            source=Source.LOGIN,
            identity="é@example.com",
            own_login=True,
            app_id=APP,
            marks=marks,
            login_lost=True,
        )
        await make().save(token, replaces=None)
        loaded = await make().load()
        assert loaded is not None
        assert (loaded.identity, loaded.own_login, loaded.lifetime) == ("é@example.com", True, 600)
        assert (loaded.app_id, loaded.marks, loaded.login_lost) == (APP, marks, True)
        assert loaded.born.wall == pytest.approx(token.born.wall, abs=0.001)
        assert loaded.born.steady == pytest.approx(token.born.steady, abs=0.001)

    async def test_a_token_grows_older_in_the_store(self, make: Make, clock: FakeClock) -> None:
        token = self.token(clock)
        await make().save(token, replaces=None)
        clock.advance(100)
        loaded = await make().load()
        assert loaded is not None
        assert loaded.expires_at == pytest.approx(token.expires_at, abs=0.001)

    async def test_a_wall_clock_set_back_does_not_lengthen_a_life(self, make: Make, clock: FakeClock) -> None:
        await make().save(self.token(clock), replaces=None)
        clock.wall -= 86_400
        loaded = await make().load()
        assert loaded is None or loaded.expires_at - clock.steady <= 600

    async def test_a_save_that_replaces_what_is_kept_succeeds(self, make: Make, clock: FakeClock) -> None:
        first = self.token(clock)
        await make().save(first, replaces=None)
        assert await make().save(self.token(clock, "two.token."), replaces=first)

    async def test_what_is_kept_counts_by_value(self, make: Make, clock: FakeClock) -> None:
        await make().save(self.token(clock), replaces=None)
        other = Token("one.token.", Moment(0, 0), 1)
        assert await make().save(self.token(clock, "two.token."), replaces=other)

    async def test_a_save_that_lost_changes_nothing(self, make: Make, clock: FakeClock) -> None:
        first, second = self.token(clock), self.token(clock, "two.token.")
        await make().save(first, replaces=None)
        await make().save(second, replaces=first)
        assert not await make().save(self.token(clock, "three.token."), replaces=first)
        assert not await make().save(self.token(clock, "three.token."), replaces=None)
        loaded = await make().load()
        assert loaded is not None
        assert loaded.value == "two.token."

    async def test_a_save_onto_nothing_that_expects_something_is_lost(self, make: Make, clock: FakeClock) -> None:
        assert not await make().save(self.token(clock), replaces=self.token(clock, "gone.token."))
        assert await make().load() is None

    async def test_of_concurrent_saves_on_one_base_one_wins(self, make: Make, clock: FakeClock) -> None:
        base = self.token(clock)
        await make().save(base, replaces=None)
        names = [f"{number}.token." for number in range(20)]
        saved = await asyncio.gather(*(make().save(self.token(clock, name), replaces=base) for name in names))
        assert saved.count(True) == 1
        loaded = await make().load()
        assert loaded is not None
        assert loaded.value == names[saved.index(True)]

    async def test_one_at_a_time_holds_the_lease(self, make: Make) -> None:
        inside, most, turns = 0, 0, 0

        async def work() -> None:
            nonlocal inside, most, turns
            async with make().lease():
                inside += 1
                most = max(most, inside)
                await settle()
                inside -= 1
                turns += 1

        await asyncio.gather(*(work() for _ in range(5)))
        assert (most, turns) == (1, 5)

    async def test_a_lease_is_given_back_when_its_work_fails(self, make: Make) -> None:
        with pytest.raises(ZeroDivisionError):
            async with make().lease():
                raise ZeroDivisionError
        async with asyncio.timeout(5), make().lease():
            pass

    async def test_who_waits_for_the_lease_may_leave(self, make: Make) -> None:
        async def wait() -> None:
            async with make().lease():
                raise AssertionError("the lease was held")

        async with make().lease():
            waiting = asyncio.create_task(wait())
            await settle()
            waiting.cancel()
            await asyncio.wait({waiting})
        async with asyncio.timeout(5), make().lease():
            pass
        assert waiting.cancelled()

    async def test_one_at_a_time_has_the_turn_to_log_in(self, make: Make) -> None:
        inside, most, turns = 0, 0, 0

        async def work() -> None:
            nonlocal inside, most, turns
            async with make().login_turn():
                inside += 1
                most = max(most, inside)
                await settle()
                inside -= 1
                turns += 1

        await asyncio.gather(*(work() for _ in range(3)))
        assert (most, turns) == (1, 3)

    async def test_the_turn_to_log_in_and_the_lease_do_not_wait_for_each_other(self, make: Make) -> None:
        async with asyncio.timeout(5), make().login_turn(), make().lease():
            pass
        async with asyncio.timeout(5), make().lease(), make().login_turn():
            pass

    async def test_load_and_save_need_no_lease(self, make: Make, clock: FakeClock) -> None:
        async with make().lease():
            assert await make().save(self.token(clock), replaces=None)
            assert await make().load() is not None

    async def test_a_new_store_has_no_latches(self, make: Make) -> None:
        assert await make().load_latches("secrets") == {}

    async def test_latches_are_found_by_whoever_has_the_refused_secrets(self, make: Make) -> None:
        await make().save_latches({"login": "Check it."}, "secrets")
        assert await make().load_latches("secrets") == {"login": "Check it."}

    async def test_latches_do_not_hold_for_other_secrets(self, make: Make) -> None:
        await make().save_latches({"login": "Check it."}, "secrets")
        assert await make().load_latches("other secrets") == {}
        assert await make().load_latches("secrets") == {"login": "Check it."}

    async def test_latches_are_replaced_as_a_whole(self, make: Make) -> None:
        await make().save_latches({"login": "Check it."}, "secrets")
        await make().save_latches({"app_id": "And that."}, "other secrets")
        assert await make().load_latches("secrets") == {}
        assert await make().load_latches("other secrets") == {"app_id": "And that."}

    async def test_no_latches_at_all_can_be_saved(self, make: Make) -> None:
        await make().save_latches({}, "secrets")
        await make().save_latches({"login": "Check it."}, "secrets")
        await make().save_latches({}, "secrets")
        assert await make().load_latches("secrets") == {}

    async def test_token_and_latches_leave_each_other_alone(self, make: Make, clock: FakeClock) -> None:
        await make().save_latches({"login": "Check it."}, "secrets")
        token = self.token(clock)
        assert await make().save(token, replaces=None)
        await make().save_latches({"login": "Again."}, "secrets")
        assert await make().load() is not None
        assert await make().load_latches("secrets") == {"login": "Again."}

    async def test_no_token_shows_in_the_repr_of_a_store(self, make: Make, clock: FakeClock) -> None:
        store = make()
        await store.save(self.token(clock), replaces=None)
        assert "one.token." not in repr(store)

    async def test_closing_twice_is_harmless(self, make: Make) -> None:
        store = make()
        await store.close()
        await store.close()


MINE = Binding("https://cardcash.example", APP, "Me@example.com")
OTHERS = [
    replace(MINE, origin="https://other.example"),
    replace(MINE, app_id="other"),
    replace(MINE, email="other@example.com"),
    replace(MINE, email=None),
    replace(MINE, email="\u212ae@example.com"),
]
#: A process that holds a right until it is ended; the store is the one that the setting names.
HOLDER = f"""
import asyncio, sys
from proxy.clock import SystemClock
from proxy.session.stores import Binding
from proxy.session.stores.factory import open_store
binding = Binding({MINE.origin!r}, {MINE.app_id!r}, {MINE.email!r})
store = open_store(sys.argv[1], binding=lambda: binding, clock=SystemClock(), warn=sys.exit)
async def main():
    async with getattr(store, sys.argv[2])():
        print("held", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
RIGHTS = pytest.mark.parametrize("right", ["lease", "login_turn"])


@contextlib.asynccontextmanager
async def holder(place: str, right: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process, which holds the right."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, place, right, cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class SharedStoreContract(StoreContract):
    """Rules for the kinds that processes share; `place` is the setting, `make_for` a handle of whoever has a binding."""

    @pytest.fixture
    def place(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def make_for(self) -> Callable[[Binding], Store]:
        raise NotImplementedError

    @pytest.fixture
    def make(self, make_for: Callable[[Binding], Store]) -> Make:
        return lambda: make_for(MINE)

    def test_it_says_that_others_use_it(self, make: Make) -> None:
        assert make().shared

    @pytest.mark.parametrize("other", OTHERS)
    async def test_anothers_token_is_neither_found_nor_destroyed(
        self, make_for: Callable[[Binding], Store], clock: FakeClock, other: Binding
    ) -> None:
        mine, theirs = make_for(MINE), make_for(other)
        assert await mine.save(self.token(clock), replaces=None)
        assert await theirs.load() is None
        assert await theirs.save(self.token(clock, "their.token."), replaces=None)
        found = [await store.load() for store in (mine, theirs)]
        assert [token and token.value for token in found] == ["one.token.", "their.token."]

    @pytest.mark.parametrize("other", OTHERS)
    async def test_anothers_latch_is_neither_found_nor_opened(
        self, make_for: Callable[[Binding], Store], other: Binding
    ) -> None:
        mine, theirs = make_for(MINE), make_for(other)
        await mine.save_latches({"login": "x"}, "secrets")
        assert await theirs.load_latches("secrets") == {}
        await theirs.save_latches({}, "secrets")
        assert await mine.load_latches("secrets") == {"login": "x"}

    async def test_the_case_of_ascii_letters_makes_no_other_binding(
        self, make_for: Callable[[Binding], Store], clock: FakeClock
    ) -> None:
        assert await make_for(MINE).save(self.token(clock), replaces=None)
        assert await make_for(replace(MINE, email="mE@EXAMPLE.com")).load() is not None

    @RIGHTS
    async def test_a_holder_that_dies_frees_its_right_at_once(self, make: Make, place: str, right: str) -> None:
        async with holder(place, right) as process:
            store = make()
            waiting = asyncio.create_task(getattr(store, right)().__aenter__())
            for _ in range(5):
                await store.load()
            assert not waiting.done()
            process.send_signal(signal.SIGKILL)
            async with asyncio.timeout(5):
                await waiting
