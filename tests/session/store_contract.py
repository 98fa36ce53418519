"""The one contract of all stores. A kind of store passes it by subclassing `StoreContract` with a `make` of its own.

`make()` returns a new participant at the *same* place each time, as a second process would be one. Import the class
as a whole module (`from tests.session import store_contract`), so that pytest does not collect it by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.core.token import Moment, Source, Token
from proxy.session.stores import FAILURES_LAST, LEASE, Binding, Entered, Right, SharedStore, Turn
from tests.session.fakes import APP, FakeClock, settle

Make = Callable[[], SharedStore]
RIGHTS = pytest.mark.parametrize("right", Right)


async def load(store: SharedStore) -> Token | None:
    return (await store.look("secrets")).token


async def refusals(store: SharedStore, secrets: str = "secrets") -> Mapping[str, str]:
    return (await store.look(secrets)).refusals


async def enter(store: SharedStore, known: Token | None = None, *, forced: bool = False) -> Entered:
    return await store.enter("secrets", known=known, forced=forced)


async def take(store: SharedStore, right: Right) -> bool:
    """Ask for a right once; say whether it is ours."""
    if right is Right.LOGIN:
        return await store.take_login_turn()
    return (await enter(store, forced=True)).turn is Turn.GRANTED


@contextlib.asynccontextmanager
async def held(store: SharedStore, right: Right = Right.RENEWAL) -> AsyncIterator[None]:
    """Ask for a right until it is ours, and hold it."""
    while not await take(store, right):
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        await store.leave(right)


class StoreContract:
    """Rules for any store; `clock` is the one the store must use."""

    #: Seconds for which this kind gives a right.
    lease = LEASE

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
        assert await load(make()) is None

    async def test_what_was_saved_is_loaded_by_whoever_shares_the_place(self, make: Make, clock: FakeClock) -> None:
        assert await make().save(self.token(clock), replaces=None)
        loaded = await load(make())
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
        loaded = await load(make())
        assert loaded is not None
        assert (loaded.identity, loaded.own_login, loaded.lifetime) == ("é@example.com", True, 600)
        assert (loaded.app_id, loaded.marks, loaded.login_lost) == (APP, marks, True)
        assert loaded.born.wall == pytest.approx(token.born.wall, abs=0.001)
        assert loaded.born.steady == pytest.approx(token.born.steady, abs=0.001)

    async def test_a_token_grows_older_in_the_store(self, make: Make, clock: FakeClock) -> None:
        token = self.token(clock)
        await make().save(token, replaces=None)
        clock.advance(100)
        loaded = await load(make())
        assert loaded is not None
        assert loaded.expires_at == pytest.approx(token.expires_at, abs=0.001)

    async def test_a_wall_clock_set_back_does_not_lengthen_a_life(self, make: Make, clock: FakeClock) -> None:
        await make().save(self.token(clock), replaces=None)
        clock.wall -= 86_400
        loaded = await load(make())
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
        loaded = await load(make())
        assert loaded is not None
        assert loaded.value == "two.token."

    async def test_a_save_onto_nothing_that_expects_something_is_lost(self, make: Make, clock: FakeClock) -> None:
        assert not await make().save(self.token(clock), replaces=self.token(clock, "gone.token."))
        assert await load(make()) is None

    async def test_of_concurrent_saves_on_one_base_one_wins(self, make: Make, clock: FakeClock) -> None:
        base = self.token(clock)
        await make().save(base, replaces=None)
        names = [f"{number}.token." for number in range(20)]
        saved = await asyncio.gather(*(make().save(self.token(clock, name), replaces=base) for name in names))
        assert saved.count(True) == 1
        loaded = await load(make())
        assert loaded is not None
        assert loaded.value == names[saved.index(True)]

    # Rights

    @RIGHTS
    async def test_one_at_a_time_has_a_right(self, make: Make, right: Right) -> None:
        first, second = make(), make()
        assert await take(first, right)
        assert not await take(second, right)
        await first.leave(right)
        assert await take(second, right)
        assert not await take(first, right)

    @RIGHTS
    async def test_of_many_who_ask_at_once_one_has_the_right(self, make: Make, right: Right) -> None:
        stores = [make() for _ in range(10)]
        for _ in range(3):
            taken = await asyncio.gather(*(take(store, right) for store in stores))
            assert taken.count(True) == 1
            await stores[taken.index(True)].leave(right)

    @RIGHTS
    async def test_who_has_a_right_is_granted_it_again(self, make: Make, right: Right) -> None:
        store = make()
        assert [await take(store, right) for _ in range(2)] == [True, True]
        await store.leave(right)
        assert await take(make(), right)

    @RIGHTS
    async def test_giving_back_what_one_does_not_have_frees_nothing(self, make: Make, right: Right) -> None:
        first, second = make(), make()
        assert await take(first, right)
        await second.leave(right)
        assert not await take(second, right)

    @RIGHTS
    async def test_closing_gives_the_rights_back(self, make: Make, right: Right) -> None:
        store = make()
        assert await take(store, right)
        await store.close()
        async with asyncio.timeout(30), held(make(), right):
            pass

    @RIGHTS
    async def test_a_right_that_is_not_extended_is_anybodys_after_its_time(
        self, make: Make, clock: FakeClock, right: Right
    ) -> None:
        first, second = make(), make()
        assert await take(first, right)
        assert not await take(second, right)
        clock.advance(self.lease - 0.5)
        assert not await take(second, right)
        clock.advance(0.5)
        assert await take(second, right)
        assert not await first.extend(right)
        assert await second.extend(right)
        assert not await take(first, right)

    @RIGHTS
    async def test_a_right_that_is_extended_stays_ours(self, make: Make, clock: FakeClock, right: Right) -> None:
        first, second = make(), make()
        assert await take(first, right)
        for _ in range(5):
            assert not await take(second, right)
            clock.advance(self.lease / 2)
            assert await first.extend(right)
        assert not await take(second, right)

    @RIGHTS
    async def test_what_is_not_ours_is_not_extended(self, make: Make, right: Right) -> None:
        first, second = make(), make()
        assert not await first.extend(right)
        assert await take(second, right)
        assert not await first.extend(right)
        await second.leave(right)
        assert not await second.extend(right)

    @RIGHTS
    async def test_one_who_lost_his_right_takes_nothing_from_who_has_it(
        self, make: Make, clock: FakeClock, right: Right
    ) -> None:
        first, second, third = make(), make(), make()
        assert await take(first, right)
        assert not await take(second, right)
        clock.advance(self.lease)
        assert await take(second, right)
        await first.leave(right)
        assert not await take(third, right)

    async def test_the_two_rights_do_not_wait_for_each_other(self, make: Make) -> None:
        async with asyncio.timeout(30), held(make(), Right.LOGIN), held(make(), Right.RENEWAL):
            pass
        async with asyncio.timeout(30), held(make(), Right.RENEWAL), held(make(), Right.LOGIN):
            pass

    async def test_looking_and_saving_need_no_right(self, make: Make, clock: FakeClock) -> None:
        async with held(make()):
            assert await make().save(self.token(clock), replaces=None)
            assert await load(make()) is not None

    async def test_the_holder_saves_onto_what_it_knows(self, make: Make, clock: FakeClock) -> None:
        base, store = self.token(clock), make()
        await make().save(base, replaces=None)
        assert (await enter(store, base)).turn is Turn.GRANTED
        assert await store.save(self.token(clock, "two.token."), replaces=base)

    # News

    async def test_whoever_asks_to_renew_is_told_of_a_token_that_is_not_his(self, make: Make, clock: FakeClock) -> None:
        mine, theirs = self.token(clock), self.token(clock, "two.token.")
        await make().save(theirs, replaces=None)
        for known in (None, mine):
            entered = await enter(make(), known)
            assert entered.turn is Turn.NEWS
            assert entered.stored.token is not None
            assert entered.stored.token.value == "two.token."
        assert (await enter(make(), theirs)).turn is Turn.GRANTED

    async def test_whoever_asks_to_renew_is_told_what_was_refused_of_his_secrets(self, make: Make) -> None:
        await make().refuse({"login": "Check it."}, "secrets")
        stored = (await enter(make())).stored
        assert (stored.refusals, stored.refuses_others) == ({"login": "Check it."}, False)

    async def test_news_comes_before_the_right_and_without_it(self, make: Make, clock: FakeClock) -> None:
        async with held(make()):
            await make().save(self.token(clock), replaces=None)
            store = make()
            assert (await enter(store)).turn is Turn.NEWS
        assert await take(make(), Right.LOGIN)
        assert (await enter(make(), self.token(clock))).turn is Turn.GRANTED

    async def test_whoever_gets_news_or_a_pause_has_the_right_no_longer(self, make: Make, clock: FakeClock) -> None:
        token, store, other = self.token(clock), make(), make()
        await other.save(token, replaces=None)
        assert (await enter(store, token)).turn is Turn.GRANTED
        assert (await enter(store)).turn is Turn.NEWS
        assert (await enter(other, token)).turn is Turn.GRANTED
        await other.leave(Right.RENEWAL)
        assert (await enter(store, token)).turn is Turn.GRANTED
        await other.failed(5)
        assert (await enter(store, token)).turn is Turn.PAUSED
        assert (await enter(other, forced=True)).turn is Turn.GRANTED

    async def test_an_expired_token_is_no_news(self, make: Make, clock: FakeClock) -> None:
        await make().save(self.token(clock), replaces=None)
        clock.advance(600)
        assert (await enter(make())).turn is Turn.GRANTED

    async def test_an_operator_gets_neither_news_nor_a_pause_but_waits_for_the_right(
        self, make: Make, clock: FakeClock
    ) -> None:
        await make().save(self.token(clock), replaces=None)
        await make().failed(5)
        store = make()
        assert (await enter(store, forced=True)).turn is Turn.GRANTED
        assert (await enter(make(), forced=True)).turn is Turn.BUSY

    async def test_whoever_is_granted_the_right_has_seen_what_its_last_holder_saved(
        self, make: Make, clock: FakeClock
    ) -> None:
        calls = 0

        async def renew() -> None:
            nonlocal calls
            store = make()
            while (entered := await enter(store)).turn is Turn.BUSY:
                await asyncio.sleep(0)
            if entered.turn is Turn.GRANTED:
                calls += 1
                await settle()
                assert await store.save(self.token(clock), replaces=None)
                await store.leave(Right.RENEWAL, recovered=True)

        await asyncio.gather(*(renew() for _ in range(20)))
        assert calls == 1

    # The pause

    async def test_a_failure_pauses_the_renewals_of_all_and_gives_the_right_back(
        self, make: Make, clock: FakeClock
    ) -> None:
        store = make()
        assert await take(store, Right.RENEWAL)
        await store.failed(4)
        clock.advance(1)
        entered = await enter(make())
        assert (entered.turn, entered.stored.failures) == (Turn.PAUSED, 1)
        assert entered.stored.paused_for == pytest.approx(3, abs=0.01)
        clock.advance(3)
        entered = await enter(make())
        assert (entered.turn, entered.stored.failures, entered.stored.paused_for) == (Turn.GRANTED, 1, 0)

    async def test_whoever_fails_gives_the_right_back(self, make: Make) -> None:
        store = make()
        assert await take(store, Right.RENEWAL)
        await store.failed(5)
        assert await take(make(), Right.RENEWAL)

    async def test_a_failure_counts_though_no_pause_follows(self, make: Make) -> None:
        await make().failed(0)
        stored = await make().look("secrets")
        assert (stored.failures, stored.paused_for) == (1, 0)

    async def test_failures_in_a_row_are_counted(self, make: Make, clock: FakeClock) -> None:
        for failures in (1, 2, 3):
            await make().failed(2)
            assert (await make().look("secrets")).failures == failures
            clock.advance(2)

    async def test_a_recovery_ends_the_pause_of_all(self, make: Make, clock: FakeClock) -> None:
        store = make()
        await store.failed(5)
        await store.leave(Right.RENEWAL, recovered=True)
        stored = await make().look("secrets")
        assert (stored.failures, stored.paused_for) == (0, 0)

    async def test_giving_the_right_back_without_a_recovery_ends_no_pause(self, make: Make) -> None:
        store = make()
        await store.failed(5)
        await store.leave(Right.RENEWAL)
        assert (await make().look("secrets")).failures == 1

    async def test_an_operator_ends_the_pause_of_all(self, make: Make) -> None:
        await make().failed(5)
        await make().end_pause()
        assert (await enter(make())).turn is Turn.GRANTED
        assert (await make().look("secrets")).failures == 0

    async def test_failures_of_long_ago_are_forgotten(self, make: Make, clock: FakeClock) -> None:
        await make().failed(5)
        clock.advance(FAILURES_LAST)
        assert (await make().look("secrets")).failures == 1
        clock.advance(86_400)
        assert (await make().look("secrets")).failures == 0

    async def test_a_wall_clock_that_is_set_makes_no_pause_longer(self, make: Make, clock: FakeClock) -> None:
        await make().failed(5)
        clock.wall -= 86_400
        assert (await make().look("secrets")).paused_for <= 5

    # Refusals

    async def test_a_new_store_has_no_refusals(self, make: Make) -> None:
        assert await refusals(make(), "secrets") == {}

    async def test_refusals_are_found_by_whoever_has_the_refused_secrets(self, make: Make) -> None:
        await make().refuse({"login": "Check it."}, "secrets")
        assert await refusals(make(), "secrets") == {"login": "Check it."}

    async def test_refusals_do_not_hold_for_other_secrets(self, make: Make) -> None:
        await make().refuse({"login": "Check it."}, "secrets")
        assert await refusals(make(), "other secrets") == {}
        assert await refusals(make(), "secrets") == {"login": "Check it."}

    async def test_of_two_who_are_refused_at_once_both_are_remembered(self, make: Make) -> None:
        both = ("secrets", "other secrets")
        await asyncio.gather(*(make().refuse({"login": f"Check {secrets}."}, secrets) for secrets in both))
        assert [await refusals(make(), secrets) for secrets in both] == [
            {"login": "Check secrets."},
            {"login": "Check other secrets."},
        ]

    async def test_whose_secrets_are_others_is_told_that_somebody_is_refused(self, make: Make) -> None:
        await make().refuse({"login": "Check it."}, "secrets")
        assert [(await make().look(secrets)).refuses_others for secrets in ("secrets", "other secrets")] == [
            False,
            True,
        ]
        await make().refuse({}, "secrets")
        assert not (await make().look("other secrets")).refuses_others

    async def test_refusals_of_several_secrets_are_remembered_beside_each_other(self, make: Make) -> None:
        await make().refuse({"login": "Check it."}, "secrets")
        await make().refuse({"app_id": "And that."}, "other secrets")
        assert await refusals(make(), "secrets") == {"login": "Check it."}
        assert await refusals(make(), "other secrets") == {"app_id": "And that."}
        await make().refuse({}, "secrets")
        assert [await refusals(make(), secrets) for secrets in ("secrets", "other secrets")] == [{}, {}]

    async def test_refusals_of_the_same_secrets_are_replaced_as_a_whole(self, make: Make) -> None:
        await make().refuse({"login": "Check it."}, "secrets")
        await make().refuse({"app_id": "And that."}, "secrets")
        assert await refusals(make(), "secrets") == {"app_id": "And that."}

    async def test_of_many_secrets_the_refusals_of_the_last_few_are_remembered(self, make: Make) -> None:
        for number in range(5):
            await make().refuse({"login": f"{number}"}, f"secrets {number}")
        assert await refusals(make(), "secrets 0") == {}
        assert (await make().look("secrets 0")).refuses_others
        for number in range(1, 5):
            assert await refusals(make(), f"secrets {number}") == {"login": f"{number}"}

    async def test_no_refusals_at_all_can_be_saved(self, make: Make) -> None:
        await make().refuse({}, "secrets")
        await make().refuse({"login": "Check it."}, "secrets")
        await make().refuse({}, "secrets")
        assert await refusals(make(), "secrets") == {}

    async def test_token_refusals_and_pause_leave_each_other_alone(self, make: Make, clock: FakeClock) -> None:
        await make().refuse({"login": "Check it."}, "secrets")
        token = self.token(clock)
        assert await make().save(token, replaces=None)
        await make().failed(5)
        await make().refuse({"login": "Again."}, "secrets")
        assert (await make().look("secrets")).failures == 1
        assert await load(make()) is not None
        assert await refusals(make(), "secrets") == {"login": "Again."}

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
from proxy.session.stores import EXTEND_EVERY, Binding, Right
from proxy.core.store_url import is_redis, parse_store_url
from proxy.session.stores.factory import open_store
from proxy.session.stores.redis.place import Place
from tests.session import store_contract
place = Place(parse_store_url(sys.argv[1])) if is_redis(sys.argv[1]) else None
binding = Binding({MINE.origin!r}, {MINE.app_id!r}, {MINE.email!r})
store = open_store((lambda: place) if place else sys.argv[1], binding=lambda: binding, clock=SystemClock(), warn=sys.exit)
async def main():
    async with store_contract.held(store, Right(sys.argv[2])):
        print("held", flush=True)
        for _ in range(60):
            await asyncio.sleep(EXTEND_EVERY)
            await store.extend(Right(sys.argv[2]))
asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def holder(place: str, right: Right) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process, which holds the right."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, place, right.value, cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE
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
    def make_for(self) -> Callable[[Binding], SharedStore]:
        raise NotImplementedError

    @pytest.fixture
    def make(self, make_for: Callable[[Binding], SharedStore]) -> Make:
        return lambda: make_for(MINE)

    def test_it_says_that_others_use_it(self, make: Make) -> None:
        assert make().shared

    @pytest.mark.parametrize("other", OTHERS)
    async def test_anothers_token_is_neither_found_nor_destroyed(
        self, make_for: Callable[[Binding], SharedStore], clock: FakeClock, other: Binding
    ) -> None:
        mine, theirs = make_for(MINE), make_for(other)
        assert await mine.save(self.token(clock), replaces=None)
        assert await load(theirs) is None
        assert await theirs.save(self.token(clock, "their.token."), replaces=None)
        found = [await load(store) for store in (mine, theirs)]
        assert [token and token.value for token in found] == ["one.token.", "their.token."]

    @pytest.mark.parametrize("other", OTHERS)
    async def test_anothers_refusal_is_neither_found_nor_opened(
        self, make_for: Callable[[Binding], SharedStore], other: Binding
    ) -> None:
        mine, theirs = make_for(MINE), make_for(other)
        await mine.refuse({"login": "x"}, "secrets")
        assert await refusals(theirs) == {}
        await theirs.refuse({}, "secrets")
        assert await refusals(mine) == {"login": "x"}

    async def test_the_case_of_ascii_letters_makes_no_other_binding(
        self, make_for: Callable[[Binding], SharedStore], clock: FakeClock
    ) -> None:
        assert await make_for(MINE).save(self.token(clock), replaces=None)
        assert await load(make_for(replace(MINE, email="mE@EXAMPLE.com"))) is not None

    @pytest.mark.parametrize("other", OTHERS)
    async def test_anothers_pause_is_neither_kept_nor_ended(
        self, make_for: Callable[[Binding], SharedStore], other: Binding
    ) -> None:
        await make_for(MINE).failed(5)
        assert (await make_for(other).look("secrets")).failures == 0
        await make_for(other).end_pause()
        assert (await make_for(MINE).look("secrets")).failures == 1

    @RIGHTS
    async def test_a_holder_that_dies_frees_its_right_at_once(self, make: Make, place: str, right: Right) -> None:
        async with holder(place, right) as process:
            store = make()
            assert not await take(store, right)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            async with asyncio.timeout(self.lease + 2), held(store, right):
                pass
