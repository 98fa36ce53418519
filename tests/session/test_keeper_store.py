"""The keeper and its store: shared when it works, never missed when it does not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.core.dialect import Candidate
from proxy.core.errors import Draining, SessionUnavailable
from proxy.core.token import Moment, Source, Token
from proxy.session.cardcash_calls import SessionRefused
from proxy.session.shared import GLANCE_DEADLINE
from proxy.session.stores import Entered, Stored, StoreUnreachable, StoreUnusable, Turn
from proxy.session.stores.memory import MemoryStore
from tests.session.conftest import Build
from tests.session.fakes import LOGIN, ME, BrokenStore, FakeClock, House, settle


class SlowStore(MemoryStore):
    """Holds back each save until it is let go."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.go = asyncio.Event()

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        await self.go.wait()
        return await super().save(token, replaces=replaces)


class SecondStore(MemoryStore):
    """Another process logs in right before the first save."""

    theirs: Token | None = None

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        if self.theirs is None:
            self.theirs = replace(token, value="theirs.", identity=ME)
            assert await super().save(self.theirs, replaces=replaces)
        return await super().save(token, replaces=replaces)


class UnhurriedStore(MemoryStore):
    """Lets others run while it is read, as a file does."""

    async def look(self, secrets: str) -> Stored:
        await asyncio.sleep(0)
        return await super().look(secrets)

    async def enter(self, secrets: str, *, known: Token | None, forced: bool = False) -> Entered:
        await asyncio.sleep(0)
        return await super().enter(secrets, known=known, forced=forced)


class OthersStore(MemoryStore):
    """Says that others use it; counts looks, and can hold them back."""

    shared = True
    looks = 0
    hangs = False

    async def look(self, secrets: str) -> Stored:
        self.looks += 1
        await asyncio.sleep(0)
        while self.hangs:
            await asyncio.sleep(1)
        return await super().look(secrets)


def another(house: House) -> MemoryStore:
    """Another process at the house's store."""
    assert isinstance(house.store, MemoryStore)
    return house.store.another()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def kept(house: House) -> str | None:
    token = (await house.store.look("")).token
    return None if token is None else token.value


@pytest.mark.parametrize("operation", ["load", "save", "enter", "lease", "close"])
async def test_a_store_that_raises_loses_no_token_and_breaks_no_request(
    build: Build, clock: FakeClock, operation: str
) -> None:
    house = build(store=BrokenStore(clock, operation), clock=clock)
    await house.keeper.start(eager=True)
    first = await house.keeper.token()
    assert await house.keeper.renew(rejected=first) is house.held
    harvested = house.keeper.offer(Candidate("new.token.", 900), sent_with=house.held)
    await settle()
    assert await house.keeper.token() is harvested
    assert await house.keeper.renew_now() is house.held
    await house.keeper.close()
    if operation != "close":
        assert house.seen.stores[operation, "failed"] > 0


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (StoreUnreachable("Redis did not answer in time"), "Redis did not answer in time"),
        (StoreUnusable("session.store: name another path."), "session.store: name another path."),
        (OSError(28, "No space left on device", "/hush"), "No space left on device"),
        (TimeoutError("another process holds the lock"), "another process holds the lock"),
        (TimeoutError(), "TimeoutError in the store"),
        (OSError("hush"), "OSError in the store"),
        (ValueError("hush"), "ValueError in the store"),
    ],
)
async def test_what_is_told_of_a_store_that_fails_holds_nothing_that_came_from_elsewhere(
    build: Build, error: Exception, why: str
) -> None:
    class Failing(MemoryStore):
        async def look(self, secrets: str) -> Stored:
            raise error

    house = build(store=Failing(FakeClock()))
    await house.keeper.start(eager=False)
    assert house.seen.whys == [why]


async def test_a_store_that_hangs_does_not_take_the_token_that_was_made(build: Build) -> None:
    clock = FakeClock()
    house = build(store=SlowStore(clock), clock=clock, deadline=0.02)
    assert (await house.keeper.token()).value == "session-of-app-id.1."


async def test_what_the_store_holds_is_taken_over_at_the_start(build: Build) -> None:
    first = build(credentials=LOGIN)
    token = await first.keeper.token()
    second = build(store=another(first), clock=first.clock)
    await second.keeper.start(eager=True)
    assert (second.held.value, second.held.source, second.held.identity) == (token.value, Source.STORE, ME)
    assert second.keeper.first_renewal_over.is_set()
    assert second.calls.sessions == []


async def test_a_caller_that_comes_while_the_store_is_read_at_the_start_costs_no_session(build: Build) -> None:
    clock = FakeClock()
    first = build(store=UnhurriedStore(clock), clock=clock)
    token = await first.keeper.token()
    second = build(store=another(first), clock=first.clock)
    _, got = await asyncio.gather(second.keeper.start(eager=True), second.keeper.token())
    assert (got.value, second.held.value) == (token.value, token.value)
    assert second.calls.sessions == []
    assert second.keeper.first_renewal_over.is_set()


async def test_it_is_counted_whether_a_look_has_found_a_token(build: Build) -> None:
    first = build()
    await first.keeper.start(eager=False)
    await first.keeper.token()
    second = build(store=another(first), clock=first.clock)
    await second.keeper.start(eager=False)
    assert (first.seen.stores["load", "empty"], first.seen.stores["load", "ok"]) == (1, 0)
    assert (second.seen.stores["load", "empty"], second.seen.stores["load", "ok"]) == (0, 1)


async def test_what_a_look_has_found_and_cannot_read_is_counted_as_such(build: Build) -> None:
    class Unreadable(MemoryStore):
        async def look(self, secrets: str) -> Stored:
            return Stored(is_foreign=True)

    house = build(store=Unreadable(FakeClock()))
    await house.keeper.start(eager=False)
    assert house.seen.stores == {("load", "foreign"): 1}


async def test_an_expired_token_in_the_store_is_not_taken(build: Build) -> None:
    first = build()
    token = await first.keeper.token()
    first.clock.advance(token.lifetime)
    second = build(store=another(first), clock=first.clock)
    await second.keeper.start(eager=False)
    assert second.keeper.held is None
    await second.keeper.token()
    assert await kept(second) == second.held.value


async def test_keepers_on_one_store_make_one_session_of_a_rejected_token(build: Build) -> None:
    clock = FakeClock()
    store = MemoryStore(clock)
    houses = [build(store=store.another(), clock=clock) for _ in range(5)]
    for house in houses:
        await house.keeper.token()
    assert sum(len(house.calls.sessions) for house in houses) == 1
    clock.advance(10)
    await asyncio.gather(*(house.keeper.renew(rejected=house.held) for house in houses))
    assert len({house.held.value for house in houses}) == 1
    assert sum(len(house.calls.sessions) for house in houses) == 2


async def test_a_session_that_another_keeper_made_is_no_renewal_here(build: Build) -> None:
    first = build()
    second = build(store=another(first), clock=first.clock)
    await asyncio.gather(first.keeper.token(), second.keeper.token())
    maker, taker = (first, second) if first.calls.sessions else (second, first)
    assert taker.calls.sessions == []
    assert (maker.seen.renewals, taker.seen.renewals) == ([("first", "ok")], [("store", "ok")])
    assert (maker.keeper.status()["renewals"], taker.keeper.status()["renewals"]) == (1, 0)


async def test_a_login_that_was_refused_is_told_though_another_keepers_session_is_taken_then(build: Build) -> None:
    clock = FakeClock()
    house = build(credentials=LOGIN, clock=clock, store=SecondStore(clock))
    house.calls.on_login.append(SessionRefused("login", "Check it."))
    assert (await house.keeper.token()).value == "theirs."
    assert house.seen.renewals == [("first", "login_refused")]


async def test_an_operator_does_not_get_another_keepers_token(build: Build) -> None:
    first = build()
    second = build(store=another(first), clock=first.clock)
    await first.keeper.token()
    await second.keeper.token()
    first.clock.advance(10)
    await first.keeper.renew_now()
    await second.keeper.renew_now()
    assert second.held.source is Source.SESSION


async def test_harvests_that_race_with_slow_saves_leave_the_newest_in_the_store(build: Build) -> None:
    clock = FakeClock()
    store = SlowStore(clock)
    house = build(store=store, clock=clock)
    first = asyncio.create_task(house.keeper.token())
    await settle()
    store.go.set()
    token: Token | None = await first
    store.go.clear()
    for number in range(5):
        assert token is not None
        token = house.keeper.offer(Candidate(f"token.{number}.", 900), sent_with=token)
        await settle()
    store.go.set()
    await settle()
    assert await kept(house) == "token.4."


async def test_a_harvest_during_a_renewals_save_does_not_stay_in_the_store(build: Build) -> None:
    clock = FakeClock()
    store = SlowStore(clock)
    house = build(store=store, clock=clock)
    store.go.set()
    sent = await house.keeper.token()
    store.go.clear()
    renewal = asyncio.create_task(house.keeper.renew(rejected=sent))
    await settle()
    house.keeper.offer(Candidate("harvested.token.", 900), sent_with=sent)
    await settle()
    store.go.set()
    renewed = await renewal
    await settle()
    assert house.held is renewed
    assert await kept(house) == renewed.value


async def test_a_login_that_raced_with_a_renewal_ends_up_in_the_store(build: Build) -> None:
    house = build()
    sent = await house.keeper.token()
    house.calls.gate.clear()
    renewal = asyncio.create_task(house.keeper.renew(rejected=sent))
    await settle()
    house.keeper.offer(Candidate("callers.login.", 900), sent_with=sent, login_as="a@example.com")
    await settle()
    house.calls.gate.set()
    await renewal
    await settle()
    assert await kept(house) == "callers.login."


async def test_a_younger_token_of_another_process_wins_over_a_harvest(build: Build) -> None:
    house = build()
    sent = await house.keeper.token()
    now = house.clock.now()
    theirs = Token("theirs.token.", Moment(now.steady + 1, now.wall + 1), 900)
    assert await house.store.save(theirs, replaces=sent)
    house.keeper.offer(Candidate("ours.token.", 900), sent_with=sent)
    await settle()
    assert house.held.value == "theirs.token."
    assert await kept(house) == "theirs.token."


async def test_a_login_wins_over_a_younger_anonymous_token_of_another_process(build: Build) -> None:
    house = build()
    sent = await house.keeper.token()
    now = house.clock.now()
    assert await house.store.save(Token("theirs.token.", Moment(now.steady, now.wall + 9), 900), replaces=sent)
    house.keeper.offer(Candidate("callers.login.", 900), sent_with=sent, login_as="a@example.com")
    await settle()
    assert house.held.value == await kept(house) == "callers.login."


async def test_the_last_token_is_written_before_the_keeper_is_gone(build: Build) -> None:
    class Spy(MemoryStore):
        last: Token | None = None

        async def save(self, token: Token, *, replaces: Token | None) -> bool:
            await settle()
            self.last = token
            return await super().save(token, replaces=replaces)

    clock = FakeClock()
    store = Spy(clock)
    house = build(store=store, clock=clock)
    token = house.keeper.offer(Candidate("last.token.", 900), sent_with=await house.keeper.token())
    await house.keeper.close()
    assert store.last is token


async def test_a_token_of_the_store_counts_by_value_not_by_object(build: Build) -> None:
    first = build()
    token = await first.keeper.token()
    copy = MemoryStore(first.clock)
    await copy.save(replace(token), replaces=None)
    house = build(store=copy, clock=first.clock)
    await house.keeper.start(eager=False)
    assert await house.keeper.renew(rejected=house.held) is house.held
    assert house.held.value != token.value
    assert len(house.calls.sessions) == 1


async def test_an_older_token_in_the_store_does_not_replace_a_rejected_one(build: Build) -> None:
    house = build()
    now = house.clock.now()
    sent = await house.keeper.token()
    await house.store.save(Token("older.token.", Moment(now.steady - 9, now.wall - 9), 900), replaces=sent)
    assert (await house.keeper.renew(rejected=sent)).source is Source.SESSION


async def test_what_another_process_has_stored_meanwhile_wins_over_a_harvest_though_it_is_older(build: Build) -> None:
    house = build()
    now = house.clock.now()
    sent = await house.keeper.token()
    await house.store.save(Token("older.token.", Moment(now.steady - 9, now.wall - 9), 900), replaces=sent)
    house.keeper.offer(Candidate("ours.token.", 900), sent_with=sent)
    await settle()
    assert house.held.value == await kept(house) == "older.token."


async def test_but_an_expired_one_does_not(build: Build) -> None:
    house = build()
    now = house.clock.now()
    sent = await house.keeper.token()
    await house.store.save(Token("older.token.", Moment(now.steady - 96, now.wall - 96), 100), replaces=sent)
    house.keeper.offer(Candidate("ours.token.", 900), sent_with=sent)
    await settle()
    assert house.held.value == await kept(house) == "ours.token."


@pytest.mark.parametrize("by_operator", [False, True])
async def test_a_login_elsewhere_beats_an_anonymous_renewal_unless_an_operator_asked(
    build: Build, by_operator: bool
) -> None:
    house = build()
    theirs = Token("theirs.login.", house.clock.now(), 900, identity="a@example.com", own_login=True)
    house.calls.gate.clear()
    renewal = asyncio.create_task(house.keeper.renew_now() if by_operator else house.keeper.token())
    await settle()
    assert await another(house).save(theirs, replaces=None)
    house.calls.gate.set()
    token = await renewal
    assert (token.value == "theirs.login.") is not by_operator
    assert house.seen.renewals == [("operator", "ok") if by_operator else ("store", "ok")]
    assert (house.seen.stores["save", "ok"], house.seen.stores["save", "lost"]) == (int(by_operator), 1)


async def test_a_proxy_that_stops_in_the_middle_of_a_renewal_lets_the_others_renew_at_once(build: Build) -> None:
    house = build()
    house.calls.gate.clear()
    asking = asyncio.create_task(house.keeper.token())
    while not house.calls.sessions:
        await asyncio.sleep(0)
    other = another(house)
    assert (await other.enter("", known=None)).turn is Turn.BUSY
    await house.keeper.close()
    with pytest.raises(Draining):
        await asking
    assert (await other.enter("", known=None)).turn is Turn.GRANTED


async def test_a_renewal_that_ends_when_nobody_can_wait_any_longer_gives_its_right_back(build: Build) -> None:
    house = build()
    house.calls.gate.clear()
    asking = asyncio.create_task(house.keeper.token())
    while not house.calls.sessions:
        await asyncio.sleep(0)
    house.keeper.refuse()
    with pytest.raises(Draining):
        await asking
    house.calls.gate.set()
    await settle()
    assert (await another(house).enter("", known=None, forced=True)).turn is Turn.GRANTED


# Requests about an account, while anonymous


async def test_however_many_requests_ask_whether_others_have_logged_in_two_looks_answer_them(build: Build) -> None:
    clock = FakeClock()
    store = OthersStore(clock)
    house = build(store=store, clock=clock)
    await house.keeper.token()
    looks = store.looks
    tokens = await asyncio.gather(*(house.keeper.token(account=True) for _ in range(100)))
    assert set(tokens) == {house.held}
    assert store.looks - looks <= 2


async def test_each_request_that_asks_after_the_last_look_gets_a_look_of_its_own(build: Build) -> None:
    clock = FakeClock()
    store = OthersStore(clock)
    house = build(store=store, clock=clock)
    await house.keeper.token()
    looks = store.looks
    for _ in range(3):
        await house.keeper.token(account=True)
    assert store.looks - looks == 3


async def test_a_login_that_is_stored_while_a_look_is_made_is_seen_by_who_asks_after_it(build: Build) -> None:
    clock = FakeClock()
    store = OthersStore(clock)
    one, other = build(store=store, clock=clock), build(store=store.another(), clock=clock)
    await one.keeper.start(eager=True)
    await settle()
    await other.keeper.start(eager=True)
    early = asyncio.create_task(other.keeper.token(account=True))
    await asyncio.sleep(0)
    one.keeper.offer(Candidate("callers.login.", 900), sent_with=one.held, login_as=ME)
    await one.keeper.catch_up()
    assert (await other.keeper.token(account=True)).identity == ME
    await early


async def test_a_request_whose_token_expires_while_it_looks_into_the_store_waits_for_the_next(build: Build) -> None:
    class Late(OthersStore):
        seconds = 0.0

        async def look(self, secrets: str) -> Stored:
            time.advance(self.seconds)
            return await super().look(secrets)

    time = FakeClock()
    store = Late(time)
    house = build(store=store, clock=time)
    token = await house.keeper.token()
    store.seconds = token.lifetime
    renewed = await house.keeper.token(account=True)
    assert (renewed is house.held, len(house.calls.sessions)) == (True, 2)


async def test_only_anonymous_requests_about_an_account_look_into_a_shared_store(build: Build) -> None:
    clock = FakeClock()
    store = OthersStore(clock)
    house = build(store=store, clock=clock)
    token = await house.keeper.token()
    looks = store.looks
    await house.keeper.token()
    assert (house.keeper.token_at_once(), house.keeper.token_at_once(account=True)) == (token, None)
    house.keeper.offer(Candidate("callers.login.", 900), sent_with=token, login_as=ME)
    await house.keeper.token(account=True)
    assert store.looks == looks
    alone = build()
    assert await alone.keeper.token(account=True) is alone.held
    assert alone.keeper.token_at_once(account=True) is alone.held


async def test_a_store_that_hangs_holds_requests_up_once_and_shortly(build: Build) -> None:
    clock = FakeClock()
    store = OthersStore(clock)
    house = build(store=store, clock=clock)
    token = await house.keeper.token()
    store.hangs = True
    async with asyncio.timeout(GLANCE_DEADLINE * 4):
        assert await house.keeper.token(account=True) is token
    async with asyncio.timeout(GLANCE_DEADLINE / 2):
        for _ in range(100):
            assert await house.keeper.token(account=True) is token


async def test_a_login_in_the_store_is_taken_over_even_during_a_renewal(build: Build) -> None:
    clock = FakeClock()
    store = OthersStore(clock)
    one, other = build(store=store, clock=clock), build(store=store.another(), clock=clock)
    await one.keeper.start(eager=True)
    await settle()
    await other.keeper.start(eager=True)
    other.calls.gate.clear()
    renewal = asyncio.create_task(other.keeper.renew_now())
    await settle()
    login = one.keeper.offer(Candidate("callers.login.", 900), sent_with=one.held, login_as=ME)
    assert login is not None
    await one.keeper.catch_up()
    assert (await other.keeper.token(account=True)).value == login.value
    other.calls.gate.set()
    assert (await renewal).value == other.held.value == login.value


# What others are told of, and when the store works again


async def test_one_process_probes_in_an_outage_for_all(build: Build, clock: FakeClock) -> None:
    store = MemoryStore(clock)
    houses = [build(store=store.another(), clock=clock) for _ in range(5)]
    for house in houses:
        house.outage()
    began = clock.steady
    while clock.steady < began + 60:
        await asyncio.gather(*(house.keeper.token() for house in houses), return_exceptions=True)
        await settle()
        clock.advance(0.1)
    assert 5 <= sum(len(house.calls.sessions) for house in houses) <= 12


async def test_who_finds_the_pause_of_another_process_waits_for_its_end_and_has_not_failed(
    build: Build, clock: FakeClock
) -> None:
    store = MemoryStore(clock)
    failing, other = (build(store=store.another(), clock=clock) for _ in range(2))
    failing.outage()
    for _ in range(3):
        with pytest.raises(SessionUnavailable):
            await failing.keeper.token()
        await settle()
        clock.advance(failing.keeper.status()["paused_seconds"])
    with pytest.raises(SessionUnavailable):
        await failing.keeper.token()
    await settle()
    clock.advance(1)
    with pytest.raises(SessionUnavailable, match="the last tries failed") as caught:
        await other.keeper.token()
    assert caught.value.retry_after == 7
    assert (other.keeper.status()["failures_in_a_row"], other.keeper.status()["paused_seconds"]) == (4, 7)
    assert (other.calls.sessions, other.seen.renewals) == ([], [])


async def test_an_operator_at_one_process_ends_the_pause_of_all(build: Build, clock: FakeClock) -> None:
    store = OthersStore(clock)
    one, other = build(store=store, clock=clock), build(store=store.another(), clock=clock)
    for house in (one, other):
        house.outage(retry_after=30)
        with pytest.raises(SessionUnavailable):
            await house.keeper.token()
        await settle()
        house.calls.down = None
    await one.keeper.renew_now()
    await settle()
    await other.keeper.catch_up()
    assert (await other.keeper.token()).value == one.held.value
    assert other.keeper.status()["failures_in_a_row"] == 0


async def test_a_pause_that_cannot_be_stored_is_kept_all_the_same(build: Build, clock: FakeClock) -> None:
    class ReadOnly(BrokenStore):
        shared = True

    house = build(store=ReadOnly(clock, "enter", "save", "lease"), clock=clock)
    house.outage()
    began = clock.steady
    while clock.steady < began + 60:
        await asyncio.gather(house.keeper.token(), return_exceptions=True)
        await house.keeper.catch_up()
        clock.advance(1)
    assert 5 <= len(house.calls.sessions) <= 12


async def test_what_could_not_be_saved_is_saved_when_the_store_works_again(build: Build, clock: FakeClock) -> None:
    class Flaky(BrokenStore):
        shared = True

    store = Flaky(clock, "save")
    house = build(store=store, clock=clock)
    token = await house.keeper.token()
    await house.keeper.catch_up()
    await settle()
    assert await kept(house) is None
    store.broken = ()
    await house.keeper.catch_up()
    await settle()
    assert await kept(house) == token.value


def trouble_of(house: House) -> str | None:
    return house.keeper.store_trouble


async def test_what_is_wrong_with_the_store_is_told_while_it_is(build: Build, clock: FakeClock) -> None:
    class Flaky(BrokenStore):
        shared = True

    store = Flaky(clock)
    house = build(store=store, clock=clock)
    await house.keeper.token()
    assert trouble_of(house) is None
    store.broken = ("load",)
    await house.keeper.catch_up()
    assert trouble_of(house) == "OSError in the store"
    store.broken = ()
    await house.keeper.catch_up()
    assert trouble_of(house) is None


@pytest.mark.parametrize("operation", ["save", "latch"])
async def test_what_cannot_be_written_is_told_though_the_store_can_be_read(
    build: Build, clock: FakeClock, operation: str
) -> None:
    class Flaky(BrokenStore):
        shared = True

    store = Flaky(clock, operation)
    house = build(store=store, clock=clock, credentials=LOGIN)
    house.calls.on_login.append(SessionRefused("login", "Check it."))
    token = await house.keeper.token()
    for _ in range(3):
        await house.keeper.catch_up()
        assert trouble_of(house) == "OSError in the store"
    store.broken = ()
    await house.keeper.catch_up()
    await settle()
    assert trouble_of(house) is None
    # Nor is what another process has written in its place.
    store.broken = ("save",)
    house.keeper.offer(Candidate("refreshed.", 900), sent_with=token)
    await settle()
    assert trouble_of(house) is not None
    clock.advance(1)
    assert await MemoryStore.save(store, Token("theirs.", clock.now(), 900), replaces=token)
    await house.keeper.catch_up()
    assert (house.held.value, trouble_of(house)) == ("theirs.", None)


async def test_a_store_that_has_lost_the_token_is_given_it_again(build: Build, clock: FakeClock) -> None:
    class Forgetful(OthersStore):
        empty = False

        async def look(self, secrets: str) -> Stored:
            return Stored() if self.empty else await super().look(secrets)

        async def save(self, token: Token, *, replaces: Token | None) -> bool:
            if self.empty and replaces is None:
                self.empty = False
                return True
            return await super().save(token, replaces=replaces)

    store = Forgetful(clock)
    house = build(store=store, clock=clock)
    await house.keeper.token()
    store.empty = True
    await house.keeper.catch_up()
    await settle()
    assert not store.empty


async def test_a_refusal_that_could_not_be_stored_is_when_the_store_works_again(build: Build, clock: FakeClock) -> None:
    class Flaky(BrokenStore):
        shared = True

    store = Flaky(clock, "latch")
    house = build(credentials=LOGIN, store=store, clock=clock)
    house.calls.on_login.append(SessionRefused("login", "Check the login."))
    await house.keeper.token()
    await house.keeper.catch_up()
    assert "login" in house.keeper.refusals
    store.broken = ()
    await house.keeper.catch_up()
    assert (await store.look(LOGIN.secrets)).refusals == {"login": "Check the login."}


class Distant(BrokenStore):
    """On other machines, and out of reach while something is `broken`."""

    shared = True
    patience = 0.05

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock, "load", "enter", "save", "lease", "latch")
        self.asked = 0

    async def enter(self, secrets: str, *, known: Token | None, forced: bool = False) -> Entered:
        self.asked += 1
        return await super().enter(secrets, known=known, forced=forced)


async def test_a_store_that_is_out_of_reach_is_asked_again_for_a_while_before_the_proxy_goes_on_alone(
    build: Build,
) -> None:
    store = Distant(FakeClock())
    house = build(store=store)
    assert (await house.keeper.token()).value
    assert store.asked > 1
    assert (len(house.calls.sessions), house.keeper.alone) == (1, True)


async def test_a_store_that_comes_back_meanwhile_is_waited_for(build: Build) -> None:
    clock = FakeClock()
    store = Distant(clock)
    house = build(store=store)
    asking = asyncio.create_task(house.keeper.token())
    while not store.asked:
        await asyncio.sleep(0)
    store.broken = ()
    await store.save(Token("theirs.", clock.now(), 600), replaces=None)
    assert (await asking).value == "theirs."
    assert house.calls.sessions == []


async def test_alone_nobody_insists_in_an_outage_of_cardcash(build: Build) -> None:
    house = build(store=Distant(FakeClock()))
    house.outage()
    with pytest.raises(SessionUnavailable):
        await house.keeper.token()
    assert len(house.calls.sessions) == 1


@pytest.mark.parametrize("alone", [True, False])
async def test_only_what_was_made_alone_is_stored_behind_the_backs_of_those_who_wait(build: Build, alone: bool) -> None:
    class Blind(Distant):
        async def save(self, token: Token, *, replaces: Token | None) -> bool:
            waiting.append(house.keeper.waiters)
            return await super().save(token, replaces=replaces)

    waiting: list[int] = []
    clock = FakeClock()
    store = Blind(clock)
    house = build(store=store, clock=clock)
    if not alone:
        store.broken = ()
    await house.keeper.token()
    await settle()
    assert waiting == [0 if alone else 1]


async def test_what_was_made_alone_is_stored_when_the_store_is_back(build: Build) -> None:
    store = Distant(FakeClock())
    house = build(store=store)
    token = await house.keeper.token()
    await house.keeper.catch_up()
    assert house.keeper.pending
    store.broken = ()
    await house.keeper.catch_up()
    await settle()
    assert (house.keeper.pending, (await store.look("")).token) == (False, token)


async def test_what_another_process_stored_in_its_place_counts_though_it_seems_to_be_older(build: Build) -> None:
    store = Distant(FakeClock())
    store.broken = ()
    house = build(store=store)
    token = await house.keeper.token()
    await store.save(Token("older.", Moment(token.born.steady - 5, token.born.wall - 5), 600), replaces=token)
    await house.keeper.catch_up()
    assert house.held.value == "older."


async def test_but_no_anonymous_one_in_the_place_of_a_login(build: Build) -> None:
    store = Distant(FakeClock())
    store.broken = ()
    house = build(store=store, credentials=LOGIN)
    token = await house.keeper.token()
    await store.save(Token("older.", Moment(token.born.steady - 5, token.born.wall - 5), 600), replaces=token)
    await house.keeper.catch_up()
    assert house.held is token
