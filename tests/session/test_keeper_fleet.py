"""Many replicas, one session: what a keeper does when the store is slow, full, or gone in the middle."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from proxy.core.dialect import Candidate
from proxy.core.errors import SessionUnavailable
from proxy.core.token import Moment, Token
from proxy.session.cardcash_calls import Credentials, SessionRefused
from proxy.session.shared import ALL_HAVE_LOOKED
from proxy.session.stores import LEASE, Binding, Entered, Right, SharedStore, Stored, StoreUnreachable, Turn
from proxy.session.stores.file import FileStore
from proxy.session.stores.memory import MemoryStore
from tests.session.conftest import Build
from tests.session.fakes import ANONYMOUS, APP, LOGIN, ME, BrokenStore, FakeClock, House, settle

YOU = "you@example.com"


class Network:
    """What the replicas' stores have in common: whether they can be reached."""

    def __init__(self) -> None:
        self.error: Exception | None = None


class Distant(MemoryStore):
    """On another machine: out of reach, or refused, as its network says; counts what it is used for."""

    shared = True
    patience = 0.2

    def __init__(self, clock: FakeClock, memory: Any = None) -> None:
        super().__init__(clock, memory)
        self.network = Network()
        self.used: Counter[str] = Counter()
        #: Seconds for which a look takes.
        self.slow = 0.0

    def another(self) -> Distant:
        other = super().another()
        assert isinstance(other, Distant)
        other.network = self.network
        return other

    def _ask(self, operation: str) -> None:
        self.used[operation] += 1
        if self.network.error is not None:
            raise self.network.error

    async def look(self, secrets: str) -> Stored:
        self._ask("look")
        await asyncio.sleep(self.slow)
        return await super().look(secrets)

    async def enter(self, secrets: str, *, known: Token | None, forced: bool = False) -> Entered:
        self._ask("enter")
        return await super().enter(secrets, known=known, forced=forced)

    async def save(self, token: Token, *, replaces: Token | None) -> bool:
        self._ask("save")
        return await super().save(token, replaces=replaces)

    async def leave(self, right: Right, *, recovered: bool = False) -> None:
        self._ask("leave")
        await super().leave(right, recovered=recovered)

    async def extend(self, right: Right) -> bool:
        self._ask("extend")
        return await super().extend(right)

    async def take_login_turn(self) -> bool:
        self._ask("take")
        return await super().take_login_turn()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Fleet:
    """Replicas that hold one token; `network` is between them and their store."""

    def __init__(self, build: Build, clock: FakeClock) -> None:
        self.base = Distant(clock)
        self.network = self.base.network
        self._build = build
        self._clock = clock
        self.houses: list[House] = []

    def add(self, credentials: Credentials = ANONYMOUS) -> House:
        house = self._build(store=self.base.another(), clock=self._clock, credentials=credentials)
        self.houses.append(house)
        return house

    def cut_off(self) -> None:
        self.network.error = StoreUnreachable("Redis did not answer in time")

    def mend(self) -> None:
        self.network.error = None

    async def all_look(self) -> None:
        for house in self.houses:
            await house.keeper.catch_up()
            await settle()

    def used(self, operation: str) -> int:
        return sum(house.store.used[operation] for house in self.houses)  # type: ignore[attr-defined]

    async def stored(self) -> Token | None:
        return (await MemoryStore.look(self.base, "")).token


@pytest.fixture
def fleet(build: Build, clock: FakeClock) -> Fleet:
    return Fleet(build, clock)


async def log_in(house: House, email: str, token: str) -> None:
    """A caller's login that CardCash accepts, as the server handles it."""
    async with house.keeper.login_turn() as held:
        if held.identity is None:
            house.keeper.offer(Candidate(token, 900), sent_with=held, login_as=email)


# Callers' logins


async def test_while_the_store_cannot_be_asked_nobody_logs_in_by_luck(fleet: Fleet) -> None:
    one, other = fleet.add(), fleet.add()
    await one.keeper.token()
    await other.keeper.token()
    fleet.cut_off()
    began = time.monotonic()
    for failed in await asyncio.gather(log_in(one, ME, "mine."), log_in(other, YOU, "yours."), return_exceptions=True):
        assert isinstance(failed, SessionUnavailable)
        assert "store cannot be asked" in str(failed)
        assert failed.retry_after == 5
    assert time.monotonic() - began > Distant.patience
    fleet.mend()
    await log_in(one, ME, "mine.")
    assert one.held.identity == ME


async def test_callers_who_wait_in_line_to_log_in_wait_no_longer_than_one(fleet: Fleet) -> None:
    house = fleet.add()
    await house.keeper.token()
    fleet.cut_off()
    began = time.monotonic()
    await asyncio.gather(*(log_in(house, ME, "mine.") for _ in range(20)), return_exceptions=True)
    assert time.monotonic() - began < Distant.patience * 4


async def test_a_store_that_hangs_costs_a_login_no_more_than_one_that_refuses(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = fleet.add()
    await house.keeper.token()
    began = time.monotonic()
    async with house.keeper.login_turn():
        assert time.monotonic() - began < Distant.patience / 2

    async def hang(_: Distant) -> float:
        await asyncio.sleep(60)
        return 0.0

    monkeypatch.setattr(Distant, "take_login_turn", hang)
    began = time.monotonic()
    with pytest.raises(SessionUnavailable):
        await log_in(house, ME, "mine.")
    assert time.monotonic() - began < 1.5


async def test_a_replica_that_carries_an_account_handles_logins_without_the_store(fleet: Fleet) -> None:
    house = fleet.add()
    await house.keeper.token()
    await log_in(house, ME, "mine.")
    fleet.cut_off()
    async with house.keeper.login_turn() as held:
        assert held.identity == ME


async def test_a_store_that_comes_back_in_time_hands_out_the_turn(fleet: Fleet) -> None:
    house = fleet.add()
    await house.keeper.token()
    fleet.cut_off()
    waiting = asyncio.create_task(log_in(house, ME, "mine."))
    while not house.store.used["take"]:  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    fleet.mend()
    await waiting
    assert house.held.identity == ME


async def test_whoever_loses_his_account_to_another_says_so_and_does_not_move_silently(fleet: Fleet) -> None:
    one, other = fleet.add(), fleet.add()
    for house, email, value in ((one, ME, "mine."), (other, YOU, "yours.")):
        token = await house.keeper.token()
        fleet.cut_off()  # lost in the middle, after the turn
        house.keeper.offer(Candidate(value, 900), sent_with=token, login_as=email)
        await settle()
        fleet.mend()
        if house is one:
            fleet.cut_off()
    await fleet.all_look()
    await fleet.all_look()
    winner = one.held.identity
    assert one.held.value == other.held.value
    loser = other if winner == ME else one
    assert (loser.seen.losses, loser.keeper.identity_lost) == (1, True)
    assert (one if loser is other else other).seen.losses == 0
    # Traffic does not make it good, a login does.
    loser.keeper.offer(Candidate("refreshed.", 900), sent_with=loser.held)
    assert loser.keeper.identity_lost
    loser.keeper.offer(Candidate("again.", 900), sent_with=loser.held, login_as=winner)
    assert not loser.keeper.identity_lost


async def test_a_login_that_comes_too_late_for_another_account_is_told_as_lost(fleet: Fleet) -> None:
    house = fleet.add()
    token = await house.keeper.token()
    await fleet.base.save(Token("yours.", house.clock.now(), 900, identity=YOU, own_login=True), replaces=token)
    await house.keeper.catch_up()
    assert house.held.identity == YOU
    house.keeper.offer(Candidate("mine.", 900), sent_with=token, login_as=ME)
    assert (house.held.identity, house.keeper.identity_lost, house.seen.losses) == (YOU, True, 1)


async def test_after_a_login_was_lost_another_elsewhere_holds_for_all(fleet: Fleet, clock: FakeClock) -> None:
    one, other = fleet.add(), fleet.add()
    await one.keeper.token()
    await other.keeper.token()
    await log_in(one, ME, "mine.")
    await other.keeper.catch_up()
    clock.advance(1)
    await one.keeper.renew(rejected=one.held)
    await other.keeper.catch_up()
    assert other.keeper.identity_lost
    began = time.monotonic()
    await log_in(one, YOU, "yours.")
    assert time.monotonic() - began > ALL_HAVE_LOOKED - 0.1  # others may go on with the one that is gone until then
    await other.keeper.catch_up()
    assert (other.held.identity, other.keeper.identity_lost) == (YOU, False)


# A caller's login whose token CardCash refreshes in an answer, and revokes the one before


async def logged_in(fleet: Fleet, replicas: int = 2, credentials: Credentials = ANONYMOUS) -> list[House]:
    """Replicas that hold one account's token: a caller's own login, unless one is configured."""
    houses = [fleet.add(credentials) for _ in range(replicas)]
    await houses[0].keeper.token()
    if not credentials.logs_in:
        await log_in(houses[0], ME, "mine.")
        await settle()
    for house in houses[1:]:
        await house.keeper.start(eager=False)
    assert len({house.held.value for house in houses}) == 1
    return houses


def refresh(house: House, value: str = "refreshed.") -> None:
    """An answer brings a newer token."""
    house.keeper.offer(Candidate(value, 900), sent_with=house.held)


async def test_what_refreshes_a_callers_login_is_stored_at_once(fleet: Fleet) -> None:
    one, other = await logged_in(fleet)
    refresh(one)
    await settle()
    await other.keeper.catch_up()
    assert other.held.value == "refreshed."


async def test_a_login_that_nobody_else_has_seen_outlives_the_loss_of_the_one_before(
    fleet: Fleet, clock: FakeClock
) -> None:
    one, other = await logged_in(fleet)
    fleet.cut_off()
    refresh(one)
    await settle()
    fleet.mend()
    clock.advance(1)
    await other.keeper.renew(rejected=other.held)
    assert other.keeper.identity_lost
    await fleet.all_look()
    await fleet.all_look()
    for house in (one, other):
        assert (house.held.value, house.held.identity, house.keeper.identity_lost) == ("refreshed.", ME, False)
    assert one.seen.losses == 0


async def test_a_login_that_others_have_seen_is_lost_for_all_with_the_first_that_finds_it_gone(
    fleet: Fleet, clock: FakeClock
) -> None:
    one, other = await logged_in(fleet)
    refresh(one)
    await settle()
    await other.keeper.catch_up()
    clock.advance(1)
    await other.keeper.renew(rejected=other.held)
    await fleet.all_look()
    for house in (one, other):
        assert (house.held.identity, house.keeper.identity_lost) == (None, True)


@pytest.mark.parametrize("credentials", [ANONYMOUS, LOGIN])
async def test_whoever_is_told_that_an_account_is_gone_waits_for_news_of_it_before_he_makes_a_session(
    fleet: Fleet, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, credentials: Credentials
) -> None:
    monkeypatch.setattr("proxy.session.renewals.NEWS_TAKES", (60.0, 60.0))
    one, other = await logged_in(fleet, credentials=credentials)
    if credentials.logs_in:
        one.to_the_window()
    renewing = asyncio.create_task(other.keeper.renew(rejected=other.held))
    while not other.seen.stores["enter", "granted"]:
        await asyncio.sleep(0)
    clock.advance(1)
    refresh(one)
    await one.keeper.close()
    assert (await renewing).value == "refreshed."
    assert (other.calls.sessions, other.seen.losses) == ([], 0)


@pytest.mark.parametrize("who", ["nobody is logged in", "the proxy logs in, and its session was to last", "expired"])
async def test_whoever_loses_nothing_or_can_hope_for_no_news_makes_a_session_at_once(
    fleet: Fleet, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    monkeypatch.setattr("proxy.session.renewals.NEWS_TAKES", (60.0, 60.0))
    if who == "nobody is logged in":
        house = fleet.add()
        await house.keeper.token()
        house.to_the_window()
    else:
        (house,) = await logged_in(fleet, 1, LOGIN if who.startswith("the proxy") else ANONYMOUS)
    made = len(house.calls.sessions)
    async with asyncio.timeout(20):
        if who == "expired":
            clock.advance(house.held.lifetime)
            await house.keeper.token()
        else:
            await house.keeper.renew(rejected=house.held)
    assert len(house.calls.sessions) == made + 1


# Whoever has the right to renew


async def test_a_holder_that_was_stopped_does_not_log_in_once_another_has(fleet: Fleet, clock: FakeClock) -> None:
    one = fleet.add(LOGIN)
    one.calls.gate.clear()
    renewing = asyncio.create_task(one.keeper.token())
    while not one.calls.sessions:
        await asyncio.sleep(0)
    clock.advance(LEASE)  # it was stopped, as by SIGSTOP
    other = fleet.add(LOGIN)
    theirs = await other.keeper.token()
    await settle()
    one.calls.gate.set()
    assert (await renewing).value == theirs.value
    assert (len(one.calls.logins), len(other.calls.logins)) == (0, 1)


async def test_a_holder_that_was_stopped_waits_for_who_has_the_right_now(fleet: Fleet, clock: FakeClock) -> None:
    one = fleet.add(LOGIN)
    one.calls.gate.clear()
    renewing = asyncio.create_task(one.keeper.token())
    while not one.calls.sessions:
        await asyncio.sleep(0)
    clock.advance(LEASE)
    other = fleet.add(LOGIN)
    other.calls.gate.clear()
    theirs = asyncio.create_task(other.keeper.token())
    while not other.calls.sessions:
        await asyncio.sleep(0)
    one.calls.gate.set()
    await settle()
    other.calls.gate.set()
    assert (await renewing).value == (await theirs).value
    assert len(one.calls.logins) + len(other.calls.logins) == 1


async def test_a_holder_that_was_stopped_logs_in_when_nobody_else_has_the_right(fleet: Fleet, clock: FakeClock) -> None:
    house = fleet.add(LOGIN)
    house.calls.meanwhile = lambda: clock.advance(LEASE)
    assert (await house.keeper.token()).identity == ME


# What waiting does not mend


Store = TypeVar("Store", bound=FileStore)


class Full(StoreUnreachable):
    """It answers, and says no."""

    passes = False


async def test_what_does_not_pass_by_waiting_is_not_waited_for_as_long(
    build: Build, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(build, clock)
    monkeypatch.setattr(Distant, "patience", 6.0)
    houses = [fleet.add() for _ in range(20)]
    fleet.network.error = Full("Redis is out of memory")
    began = time.monotonic()
    taken: list[float] = []

    async def renew(house: House) -> None:
        await house.keeper.token()
        taken.append(time.monotonic() - began)

    await asyncio.gather(*(renew(house) for house in houses))
    assert min(taken) > 0.3
    assert max(taken) < 3
    # None of them at once: spread over more than half a second.
    assert max(taken) - min(taken) > 0.5


async def test_a_store_that_is_no_longer_full_still_gives_the_right_to_one(build: Build, clock: FakeClock) -> None:
    fleet = Fleet(build, clock)
    houses = [fleet.add() for _ in range(10)]
    fleet.network.error = Full("Redis is out of memory")
    renewing = [asyncio.create_task(house.keeper.token()) for house in houses]
    await asyncio.sleep(0.05)
    fleet.mend()
    assert len({token.value for token in await asyncio.gather(*renewing)}) == 1
    assert sum(len(house.calls.sessions) for house in houses) == 1


# Siblings


async def test_fifty_replicas_that_each_harvest_one_store_one(fleet: Fleet) -> None:
    houses = [fleet.add() for _ in range(50)]
    tokens = [await house.keeper.token() for house in houses]
    assert len({token.value for token in tokens}) == 1
    saves = fleet.used("save")
    for number, (house, token) in enumerate(zip(houses, tokens, strict=True)):
        house.keeper.offer(Candidate(f"harvest.{number}.", 900), sent_with=token)
    async with asyncio.timeout(10):
        while len({house.held.value for house in houses}) > 1 or any(house.keeper.pending for house in houses):
            await asyncio.sleep(0.01)
    assert fleet.used("save") - saves <= 5
    assert all(
        house.seen.renewals[-1] == ("store", "ok") for house in houses if house.keeper.status()["source"] == "store"
    )


async def test_a_save_that_lost_to_a_sibling_takes_it_and_writes_no_more(fleet: Fleet, clock: FakeClock) -> None:
    one, other = fleet.add(), fleet.add()
    token = await one.keeper.token()
    await other.keeper.token()
    await fleet.base.save(Token("theirs.", Moment(clock.steady - 5, clock.wall - 5), 900), replaces=token)
    saves = fleet.used("save")
    one.keeper.offer(Candidate("ours.", 900), sent_with=token, login_as=None)
    await one.keeper.close()
    assert one.held.value == "theirs."
    assert fleet.used("save") == saves


async def test_what_cardcash_has_rejected_here_is_no_sibling(fleet: Fleet) -> None:
    house = fleet.add()
    dead = await house.keeper.token()
    renewed = await house.keeper.renew(rejected=dead)
    await settle()
    # A master that had lost the last write.
    await fleet.base.save(replace(dead), replaces=renewed)
    await house.keeper.catch_up()
    await settle()
    assert house.held is renewed
    stored = await fleet.stored()
    assert stored is not None
    assert stored.value == renewed.value


@pytest.mark.parametrize("credentials", [ANONYMOUS, LOGIN])
async def test_what_another_stored_over_ours_is_left_there_though_cardcash_rejected_it_here(
    fleet: Fleet, clock: FakeClock, credentials: Credentials
) -> None:
    one, other = fleet.add(credentials), fleet.add(credentials)
    dead = await one.keeper.token()
    for _ in range(2):
        clock.advance(1)
        await one.keeper.renew(rejected=one.held)
        await settle()
    await other.keeper.start(eager=False)
    assert other.held.value == one.held.value
    await fleet.base.save(dead, replaces=one.held)
    saves = fleet.used("save")
    await one.keeper.catch_up()
    await settle()
    stored = await fleet.stored()
    assert stored is not None
    assert (stored.value, fleet.used("save")) == (dead.value, saves)
    assert one.held.value != dead.value


async def test_a_callers_login_is_stored_at_once_though_a_harvest_waits(fleet: Fleet) -> None:
    house = fleet.add()
    token = house.keeper.offer(Candidate("harvest.", 900), sent_with=await house.keeper.token())
    assert token is not None
    await settle()
    house.keeper.offer(Candidate("mine.", 900), sent_with=token, login_as=ME)
    await settle()
    stored = await fleet.stored()
    assert stored is not None
    assert stored.value == "mine."


async def test_a_harvest_that_waits_is_stored_before_the_end(fleet: Fleet) -> None:
    house = fleet.add()
    house.keeper.offer(Candidate("harvest.", 900), sent_with=await house.keeper.token())
    began = time.monotonic()
    await house.keeper.close()
    stored = await fleet.stored()
    assert stored is not None
    assert stored.value == "harvest."
    assert time.monotonic() - began < 0.3


# While the store is down


async def test_while_the_store_is_down_replicas_renew_all_over_the_window(fleet: Fleet, clock: FakeClock) -> None:
    houses = [fleet.add() for _ in range(30)]
    for house in houses:
        await house.keeper.token()
    held = houses[0].held
    began = clock.steady
    fleet.cut_off()
    for house in houses:
        await house.keeper.catch_up()
    renewed: dict[House, float] = {}
    while clock.steady < began + held.lifetime - 10:
        clock.advance(5)
        for house in houses:
            await house.keeper.token()
            if house.keeper.status()["renewing"]:
                renewed.setdefault(house, clock.steady)
    assert len(renewed) == 30
    window = [at - began for at in renewed.values()]
    half_of_the_window = held.lifetime - 300 / 2
    assert min(window) >= half_of_the_window - 5
    assert max(window) <= held.lifetime - 30
    assert max(window) - min(window) > 60


async def test_a_store_that_is_slow_is_looked_at_less_often_and_again_when_it_is_not(fleet: Fleet) -> None:
    house = fleet.add()
    await house.keeper.token()
    store = house.store
    assert isinstance(store, Distant)
    loop = asyncio.get_running_loop()
    ahead = 0.0
    real = loop.time
    try:
        loop.time = lambda: real() + ahead  # type: ignore[method-assign]

        async def looks_in(seconds: int) -> int:
            nonlocal ahead
            before = store.used["look"]
            for _ in range(seconds):
                ahead += 1
                await house.keeper.follow()
            return store.used["look"] - before

        assert await looks_in(5) == 5
        store.slow = 0.11
        assert await looks_in(60) in range(6, 14)
        store.slow = 0.0
        await looks_in(12)
        assert await looks_in(5) == 5
    finally:
        loop.time = real  # type: ignore[method-assign]


# Changed secrets


async def test_whoever_notices_a_changed_secret_last_takes_what_the_first_has_made(
    build: Build, clock: FakeClock, tmp_path: Path
) -> None:
    class Watched(FileStore):
        """Lets another process store its token between this one's save and its next look."""

        meanwhile: Token | None = None

        async def save(self, token: Token, *, replaces: Token | None) -> bool:
            saved = await super().save(token, replaces=replaces)
            if self.meanwhile is not None:
                theirs, self.meanwhile = self.meanwhile, None
                assert await first.save(theirs, replaces=None)
            return saved

    def store(kind: type[Store], app_id: str = "") -> Store:
        return kind(
            tmp_path / "session",
            binding=lambda: Binding("https://x.example", app_id or last.calls.credentials.app_id),
            clock=clock,
            warn=pytest.fail,
        )

    last: House = build(clock=clock)
    watched = store(Watched)
    last = build(store=watched, clock=clock)
    await last.keeper.start(eager=False)
    await last.keeper.token()
    await last.keeper.catch_up()
    first = store(FileStore, "new-app")
    while (await first.enter("", known=None)).turn is not Turn.GRANTED:
        await asyncio.sleep(0.01)
    clock.advance(1)
    watched.meanwhile = Token("made.by.first", clock.now(), 900, app_id="new-app")
    last.keeper.use_credentials(Credentials("new-app"))
    await last.keeper.catch_up()
    while watched.meanwhile is not None and last.keeper.pending:
        await asyncio.sleep(0.01)
    if watched.meanwhile is not None:
        assert await first.save(watched.meanwhile, replaces=None)
    await first.leave(Right.RENEWAL)
    async with asyncio.timeout(10):
        while last.keeper.status()["renewing"]:
            await asyncio.sleep(0.01)
    assert last.held.value == "made.by.first"
    assert len(last.calls.sessions) == 1
    assert last.seen.renewals[-1] == ("store", "ok")
    await first.close()


async def test_a_login_that_a_look_brings_during_a_renewal_is_what_the_renewal_was_for(
    fleet: Fleet, clock: FakeClock
) -> None:
    house = fleet.add(LOGIN)
    first: SharedStore = fleet.base.another()
    anonymous = Token("anonymous.", clock.now(), 900)
    await first.save(anonymous, replaces=None)
    await first.refuse({"login": "Check it."}, '["app-id", "partner@example.com", "password"]')
    await house.keeper.start(eager=False)
    assert house.held.identity is None
    await first.enter("", known=anonymous)
    clock.advance(1)
    house.keeper.use_credentials(Credentials(APP, ME, "changed"))
    await settle()
    await first.save(Token("theirs.", clock.now(), 900, identity=ME), replaces=anonymous)
    await house.keeper.catch_up()
    await first.leave(Right.RENEWAL)
    async with asyncio.timeout(10):
        while house.keeper.status()["renewing"]:
            await asyncio.sleep(0.01)
    assert (house.held.value, len(house.calls.sessions), len(house.calls.logins)) == ("theirs.", 0, 0)
    assert (house.keeper.status()["failures_in_a_row"], house.seen.renewals[-1]) == (0, ("credentials", "superseded"))


async def test_while_an_operators_renewal_makes_a_session_no_other_replica_does_whatever_is_stored(
    fleet: Fleet, clock: FakeClock
) -> None:
    house = fleet.add()
    held = await house.keeper.token()
    clock.advance(1)
    await fleet.base.save(Token("theirs.", clock.now(), 900), replaces=held)
    house.calls.gate.clear()
    operator = asyncio.create_task(house.keeper.renew_now())
    while len(house.calls.sessions) < 2:
        await asyncio.sleep(0)
    other = await fleet.base.another().enter("", known=None, forced=True)
    assert other.turn is Turn.BUSY
    house.calls.gate.set()
    assert (await operator).value not in {held.value, "theirs."}


async def test_an_operator_who_asks_while_a_renewal_makes_its_session_costs_one_login(fleet: Fleet) -> None:
    house = fleet.add(LOGIN)
    house.calls.on_login.append(SessionRefused("login", "Check it."))
    token = await house.keeper.token()
    house.calls.gate.clear()
    renewal = asyncio.create_task(house.keeper.renew(rejected=token))
    while len(house.calls.sessions) < 2:
        await asyncio.sleep(0)
    operator = asyncio.create_task(house.keeper.renew_now())
    await settle()
    house.calls.gate.set()
    await renewal
    assert (await operator).identity == ME
    assert len(house.calls.logins) == 2


async def test_the_right_to_renew_lasts_as_long_as_a_renewal_that_lives(
    fleet: Fleet, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.session.rights.EXTEND_EVERY", 0.01)
    one, other = fleet.add(LOGIN), fleet.add(LOGIN)
    one.calls.gate.clear()
    first = asyncio.create_task(one.keeper.token())
    while not one.calls.sessions:
        await asyncio.sleep(0)
    second = asyncio.create_task(other.keeper.token())
    for _ in range(4):
        extended = one.store.used["extend"]  # type: ignore[attr-defined]
        clock.advance(LEASE * 0.8)
        while one.store.used["extend"] < extended + 2:  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
    asked = one.store.used["extend"]  # type: ignore[attr-defined]
    one.calls.gate.set()
    assert (await first).value == (await second).value
    assert (other.calls.sessions, len(one.calls.logins)) == ([], 1)
    # What is ours for sure is not asked for before the login, and no longer extended after it.
    await asyncio.sleep(0.05)
    assert one.store.used["extend"] <= asked + 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("why", ["its holder stood still", "the store forgot it"])
async def test_a_right_that_is_lost_is_told_and_asked_for_no_more(
    fleet: Fleet, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr("proxy.session.rights.EXTEND_EVERY", 0.01)
    one = fleet.add(LOGIN)
    one.calls.gate.clear()
    renewing = asyncio.create_task(one.keeper.token())
    while not one.calls.sessions:
        await asyncio.sleep(0)
    if why == "the store forgot it":
        await one.store.leave(Right.RENEWAL)
    else:
        clock.advance(LEASE)
    other = fleet.base.another()
    assert (await other.enter("", known=None)).turn is Turn.GRANTED
    while not one.seen.stores["extend", "lost"]:
        await asyncio.sleep(0.01)
    theirs = Token("theirs.", clock.now(), 900, identity=ME)
    await other.save(theirs, replaces=None)
    one.calls.gate.set()
    assert (await renewing).value == "theirs."
    assert (one.seen.stores["extend", "lost"], one.calls.logins) == (1, [])


@pytest.mark.parametrize("cut_off", [False, True])
async def test_a_holder_that_stops_after_its_right_was_extended_or_could_not_be_does_not_log_in_once_another_has(
    fleet: Fleet, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, cut_off: bool
) -> None:
    monkeypatch.setattr("proxy.session.rights.EXTEND_EVERY", 0.01)
    one = fleet.add(LOGIN)
    one.calls.gate.clear()
    renewing = asyncio.create_task(one.keeper.token())
    while not one.calls.sessions:
        await asyncio.sleep(0)

    async def extend_once_more() -> None:
        extended = one.store.used["extend"]  # type: ignore[attr-defined]
        while one.store.used["extend"] == extended:  # type: ignore[attr-defined]
            await asyncio.sleep(0.001)

    await extend_once_more()
    if cut_off:
        fleet.cut_off()
        clock.advance(LEASE)
        await extend_once_more()
    monkeypatch.setattr("proxy.session.rights.EXTEND_EVERY", 60)
    await extend_once_more()
    fleet.mend()
    clock.advance(0 if cut_off else LEASE)
    other = fleet.base.another()
    assert (await other.enter("", known=None)).turn is Turn.GRANTED
    await other.save(Token("theirs.", clock.now(), 900, identity=ME), replaces=None)
    one.calls.gate.set()
    assert ((await renewing).value, one.calls.logins) == ("theirs.", [])


async def test_a_replica_whose_store_cannot_be_asked_logs_its_session_in_alone(fleet: Fleet) -> None:
    house = fleet.add(LOGIN)
    await house.keeper.token()
    fleet.cut_off()
    assert (await house.keeper.renew(rejected=house.held)).identity == ME
    assert (len(house.calls.sessions), len(house.calls.logins), house.seen.renewals[-1]) == (2, 2, ("rejected", "ok"))


async def test_a_holder_whose_store_goes_away_in_the_middle_goes_on(
    fleet: Fleet, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.session.rights.EXTEND_EVERY", 0.01)
    house = fleet.add(LOGIN)
    house.calls.gate.clear()
    renewing = asyncio.create_task(house.keeper.token())
    while not house.calls.sessions:
        await asyncio.sleep(0)
    fleet.cut_off()
    while house.seen.stores["extend", "failed"] < 2:
        await asyncio.sleep(0.01)
    clock.advance(LEASE)
    house.calls.gate.set()
    assert (await renewing).identity == ME
    assert len(house.calls.logins) == 1


async def test_a_look_during_the_first_renewal_leaves_it_alone(fleet: Fleet) -> None:
    house = fleet.add(LOGIN)
    house.calls.gate.clear()
    renewing = asyncio.create_task(house.keeper.token())
    while not house.calls.sessions:
        await asyncio.sleep(0)
    await fleet.base.save(Token("theirs.", house.clock.now(), 900, identity=ME), replaces=None)
    await house.keeper.catch_up()
    assert house.keeper.status()["state"] == "none"
    house.calls.gate.set()
    assert (await renewing).identity == ME


async def test_a_login_that_an_anonymous_renewal_has_written_over_is_stored_again(
    fleet: Fleet, clock: FakeClock
) -> None:
    one, other = fleet.add(), fleet.add()
    first = await one.keeper.token()
    clock.advance(first.lifetime)
    other.calls.gate.clear()
    renewing = asyncio.create_task(other.keeper.token())
    while not other.calls.sessions:
        await asyncio.sleep(0)
    one.keeper.offer(Candidate("mine.", 900), sent_with=first, login_as=ME)
    await settle()
    await other.keeper.catch_up()
    other.calls.gate.set()
    await renewing
    for _ in range(2):
        await fleet.all_look()
    stored = await fleet.stored()
    assert stored is not None
    assert (stored.value, one.held.value, other.held.value) == ("mine.", "mine.", "mine.")
    assert (one.seen.losses, other.seen.losses) == (0, 0)


async def test_an_operator_leaves_nothing_that_is_still_to_be_stored(build: Build, clock: FakeClock) -> None:
    class Forgetful(BrokenStore):
        shared = True

    store = Forgetful(clock, "latch")
    house = build(store=store, clock=clock, credentials=LOGIN)
    house.calls.on_login.append(SessionRefused("login", "Check it."))
    await house.keeper.token()
    pending = [house.keeper.pending]
    store.broken = ()
    assert (await house.keeper.renew_now()).identity == ME
    assert [*pending, house.keeper.pending] == [True, False]
    assert (house.seen.stores["latch", "ok"], house.seen.stores["latch", "empty"]) == (0, 1)
    house.calls.on_login.append(SessionRefused("login", "Check it."))
    await house.keeper.renew(rejected=house.held)
    assert (house.seen.stores["latch", "ok"], house.seen.stores["latch", "empty"]) == (1, 1)


async def test_an_operator_opens_a_latch_though_the_store_does_not_take_it_at_first(
    build: Build, clock: FakeClock
) -> None:
    class Hiccup(MemoryStore):
        shared = True
        fails = 0

        async def refuse(self, refusals: Mapping[str, str], secrets: str) -> None:
            if self.fails:
                self.fails -= 1
                raise OSError("away for a moment")
            await super().refuse(refusals, secrets)

    store = Hiccup(clock)
    house = build(store=store, clock=clock, credentials=LOGIN)
    house.calls.on_login.append(SessionRefused("login", "Check it."))
    await house.keeper.token()
    store.fails = 1
    assert (await house.keeper.renew_now()).identity == ME
    await house.keeper.catch_up()
    assert house.keeper.refusals == {}


@pytest.mark.parametrize("by", ["the background", "a request", "a save"])
async def test_what_others_were_refused_is_learned_and_forgotten_with_every_look(fleet: Fleet, by: str) -> None:
    house, other = fleet.add(LOGIN), fleet.base.another()
    await other.save(Token("theirs.", house.clock.now(), 900), replaces=None)
    await other.refuse({"login": "Check it."}, LOGIN.secrets)
    await house.keeper.start(eager=False)
    assert house.keeper.refusals == {"login": "Check it."}
    await other.refuse({}, LOGIN.secrets)
    match by:
        case "the background":
            await house.keeper.catch_up()
        case "a request":
            await house.keeper.token(account=True)
        case _:
            house.keeper.offer(Candidate("harvest.", 900), sent_with=house.held)
            await house.keeper.close()
    assert house.keeper.refusals == {}
