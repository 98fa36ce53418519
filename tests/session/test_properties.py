"""What holds whatever happens to a session, in whatever order: one rule each, checked after every turn of the event loop.

The loop's clock is the fake one, so timers, deadlines and pauses happen when the story moves the clock, and never else.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from proxy.core.dialect import Candidate, Malformed
from proxy.core.errors import Draining, SessionUnavailable
from proxy.core.token import Token, Windows
from proxy.session.cardcash_calls import Credentials, SessionOutage, SessionRefused, SessionTokenRejected
from proxy.session.ports import RENEWAL_DEADLINE
from tests.session.fakes import ANONYMOUS, LOGIN, FakeCalls, FakeClock, House, Step

LIFETIMES = st.sampled_from([1.0, 30.0, 1200.0])
SECONDS = st.sampled_from([0.5, 3.0, 12.0, 70.0, 400.0, 1300.0])
#: The token an answer belongs to: the newest, or one before.
WHICH = st.sampled_from([0, 0, 1, 2])
FOUND = st.sampled_from(["new", "new", "new", "unchanged", "older", "malformed"])


class Loop(asyncio.SelectorEventLoop):
    """An event loop that lives in the fake time, save for the time the machine sleeps."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        #: Seconds for which the machine slept: timers stand still, the steady clock does not.
        self.slept = 0.0
        super().__init__()

    def time(self) -> float:
        return self.clock.steady - self.slept

    @property
    def is_busy(self) -> bool:
        """Say whether something besides the running task can go on at once."""
        return bool(self._ready)  # type: ignore[attr-defined]


class Calls(FakeCalls):
    """Logins, too, wait at the gate and are counted as under way."""

    async def login(self, session: Token, *, tries: int, until: float = math.inf) -> Token:
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            await self.gate.wait()
            return await super().login(session, tries=tries, until=until)
        finally:
            self.busy -= 1


class Story(RuleBasedStateMachine):
    """One keeper, and everything that can happen to it; the tests add the one thing they look at."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.loop = Loop(self.clock)
        self.runner = asyncio.Runner(loop_factory=lambda: self.loop)
        self.waiting: list[asyncio.Task[None]] = []
        #: Every token that was ever held, the newest last.
        self.tokens: list[Token] = []

    # To be overridden, one of them in each test

    def look(self) -> None:
        """Look at the keeper; called after every turn of the loop."""

    def handed_out(self, token: Token) -> None:
        """Look at what `token()` returned, at the moment it did."""

    def offered(self, before: Token, sent_with: Token, *, login: bool) -> None:
        """Look at what an offer has done."""

    def settled(self) -> None:
        """Look when nothing more can happen without the clock or the gate."""

    # The machinery

    def run(self, work: Callable[[], Coroutine[Any, Any, None]] | Callable[[], None]) -> None:
        """Do something, then let everything happen that can happen now."""

        async def until_quiet() -> None:
            if (going_on := work()) is not None:
                await going_on
            idle = 0
            while idle < 2:  # the second look is for timers that are due
                await asyncio.sleep(0)
                idle = 0 if self.loop.is_busy else idle + 1
                if (held := self.keeper.held) is not None and not any(held is token for token in self.tokens):
                    self.tokens.append(held)
                self.look()
            for task in [task for task in self.waiting if task.done()]:
                self.waiting.remove(task)
                if not task.cancelled():
                    task.result()
            self.settled()

        self.runner.run(until_quiet())

    def wait_for(self, work: Coroutine[Any, Any, object]) -> None:
        async def caller() -> None:
            try:
                await work
            except (SessionUnavailable, Draining) as error:
                assert error.retry_after is None or error.retry_after > 0

        self.waiting.append(self.loop.create_task(caller()))

    @initialize(logs_in=st.booleans())
    def the_proxy_starts(self, logs_in: bool) -> None:
        async def start() -> None:
            self.house = House(credentials=LOGIN if logs_in else ANONYMOUS, clock=self.clock)
            self.keeper = self.house.keeper
            calls = Calls(self.clock, self.house.calls.credentials)
            self.house.calls = self.keeper.calls = calls
            await self.keeper.start(eager=True)
            self.looking = self.loop.create_task(look_every_second())

        async def look_every_second() -> None:
            while True:
                await asyncio.sleep(1)
                self.keeper.look()

        self.run(start)

    @rule(patient=st.booleans())
    def a_request_asks_for_the_token(self, patient: bool) -> None:
        async def ask() -> None:
            self.handed_out(await self.keeper.token(patient=patient))

        def crowd() -> None:
            for _ in range(2):
                self.wait_for(ask())

        self.run(crowd)

    @precondition(lambda self: self.tokens)
    @rule(which=WHICH)
    def a_token_is_rejected(self, which: int) -> None:
        token = self.tokens[-1 - min(which, len(self.tokens) - 1)]

        def crowd() -> None:
            for _ in range(2):
                self.wait_for(self.keeper.renew(rejected=token))

        self.run(crowd)

    @rule()
    def an_operator_renews(self) -> None:
        self.run(lambda: self.wait_for(self.keeper.renew_now()))

    @precondition(lambda self: self.waiting)
    @rule()
    def a_caller_leaves(self) -> None:
        def leave() -> None:
            self.waiting[0].cancel()

        self.run(leave)

    @precondition(lambda self: self.tokens)
    @rule(which=WHICH, found=FOUND, lifetime=LIFETIMES)
    def an_answer_brings_a_token(self, which: int, found: str, lifetime: float) -> None:
        self.an_offer(which, found, lifetime, login=False)

    # A caller's own login is forwarded only when none is configured.
    @precondition(lambda self: self.tokens and not self.house.calls.credentials.logs_in)
    @rule(which=WHICH, found=FOUND, lifetime=LIFETIMES, raced=st.booleans())
    def a_caller_has_logged_in(self, which: int, found: str, lifetime: float, raced: bool) -> None:
        self.an_offer(which, found, lifetime, login=True)
        if raced:
            self.an_offer(which + 1, "new", lifetime, login=True)

    def an_offer(self, which: int, found: str, lifetime: float, *, login: bool) -> None:
        sent_with = self.tokens[-1 - min(which, len(self.tokens) - 1)]
        self.clock.made += 1
        value = {"unchanged": sent_with.value, "older": self.tokens[0].value}.get(found, f"new.{self.clock.made}.")
        what = Malformed() if found == "malformed" else Candidate(value, lifetime)

        def offer() -> None:
            before = self.house.held
            self.keeper.offer(what, sent_with=sent_with, login_as="own@example.com" if login else None)
            self.offered(before, sent_with, login=login)

        self.run(offer)

    @rule(seconds=SECONDS)
    def time_goes_by(self, seconds: float) -> None:
        self.run(lambda: self.clock.advance(seconds))

    @precondition(lambda self: self.tokens)
    @rule()
    def the_window_opens(self) -> None:
        windows = Windows.of(self.house.held, 300)
        self.time_goes_by(max(0.0, windows.renew_at - self.clock.steady))

    @rule(seconds=SECONDS)
    def the_machine_sleeps(self, seconds: float) -> None:
        def sleep() -> None:
            self.loop.slept += seconds
            self.clock.advance(seconds)

        self.run(sleep)

    @rule(seconds=st.sampled_from([-86_400.0, -30.0, 30.0, 86_400.0]))
    def the_wall_clock_is_set(self, seconds: float) -> None:
        def step() -> None:
            self.clock.wall += seconds

        self.run(step)

    @rule(is_open=st.booleans())
    def cardcash_hangs_or_goes_on(self, is_open: bool) -> None:
        self.run(self.house.calls.gate.set if is_open else self.house.calls.gate.clear)

    @precondition(lambda self: self.tokens)
    @rule(seconds=st.sampled_from([0.5, 3.0]), lifetime=LIFETIMES)
    def cardcash_takes_its_time(self, seconds: float, lifetime: float) -> None:
        self.house.calls.lifetime = lifetime
        self.cardcash_hangs_or_goes_on(False)
        self.a_token_is_rejected(0)
        self.a_request_asks_for_the_token(patient=True)
        self.time_goes_by(seconds)
        self.cardcash_hangs_or_goes_on(True)

    @rule(down=st.sampled_from([None, None, SessionOutage("down"), SessionOutage("down", retry_after=9000.0)]))
    def cardcash_goes_down_or_comes_back(self, down: SessionOutage | None) -> None:
        self.house.calls.down = down

    @rule(what=st.sampled_from(["same token", "app_id refused", "login refused", "dead session", "outage", "refresh"]))
    def the_next_answer_is_odd(self, what: str) -> None:
        calls = self.house.calls
        outage = SessionOutage("once")
        session: dict[str, Step] = {"app_id refused": SessionRefused("app_id", "refused"), "outage": outage}
        login: dict[str, Step] = {
            "login refused": SessionRefused("login", "refused"),
            "dead session": SessionTokenRejected(),
            "outage": outage,
        }
        keep_alive: dict[str, Step] = {
            "dead session": SessionTokenRejected(),
            "refresh": "kept.alive.",
            "outage": outage,
        }
        if self.tokens:
            session["same token"] = self.tokens[-1].value
        for script, odd in ((calls.on_session, session), (calls.on_login, login), (calls.on_keep_alive, keep_alive)):
            if what in odd:
                script.append(odd[what])

    @rule(lifetime=LIFETIMES)
    def tokens_live_longer_or_shorter(self, lifetime: float) -> None:
        self.house.calls.lifetime = lifetime

    @rule(app_id=st.booleans())
    def a_secret_changes(self, app_id: bool) -> None:
        now: Credentials = self.house.calls.credentials
        self.clock.made += 1
        if app_id or not now.logs_in:
            changed = replace(now, app_id=f"app-id-{self.clock.made}")
        else:
            changed = replace(now, password=f"password-{self.clock.made}")
        self.run(lambda: self.keeper.use_credentials(changed))

    def teardown(self) -> None:
        if hasattr(self, "keeper"):
            self.house.calls.gate.set()
            self.looking.cancel()
            self.runner.run(self.keeper.close())
        self.runner.close()


def tell(story: type[Story], examples: int) -> None:
    run_state_machine_as_test(
        story,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def is_over(token: Token, clock: FakeClock) -> bool:
    """The words of proxy/README.md, and none of the product's code."""
    life = token.lifetime - min(5.0, token.lifetime / 10)
    return clock.steady >= token.born.steady + life or clock.wall >= token.born.wall + life


def test_a_token_that_is_expired_by_our_reckoning_is_never_handed_out() -> None:
    class NeverExpired(Story):
        def handed_out(self, token: Token) -> None:
            assert not is_over(token, self.clock)

        def look(self) -> None:
            current = self.keeper.current()
            assert current is None or not is_over(current, self.clock)

    tell(NeverExpired, 60)


def test_a_late_answer_never_replaces_a_newer_token() -> None:
    class NeverLate(Story):
        def offered(self, before: Token, sent_with: Token, *, login: bool) -> None:
            if sent_with is not before and not (login and before.identity is None):
                assert self.house.held is before

    tell(NeverLate, 80)


def test_an_account_is_never_lost_without_a_word() -> None:
    class NeverSilent(Story):
        identity: str | None = None

        def look(self) -> None:
            now = None if self.keeper.held is None else self.keeper.held.identity
            if self.identity is not None and now is None:
                assert self.keeper.identity_lost or "login" in self.keeper.refusals
            self.identity = now

    tell(NeverSilent, 80)


def test_never_is_more_than_one_session_call_under_way() -> None:
    class OneAtATime(Story):
        def look(self) -> None:
            assert self.house.calls.most_busy <= 1
            # The store's lease alone would see to that; nor may a second renewal queue up behind the first.
            assert sum(task.get_name() == "session-renewal" for task in asyncio.all_tasks()) <= 1

    tell(OneAtATime, 60)


def test_whoever_waits_gets_an_answer() -> None:
    class NobodyWaits(Story):
        def settled(self) -> None:
            if self.house.calls.gate.is_set():
                assert not self.waiting

        def teardown(self) -> None:
            # Although CardCash hangs: a renewal has its deadline, and an operator may have had to wait for another's.
            for _ in range(3 * bool(self.waiting)):
                self.run(lambda: self.clock.advance(RENEWAL_DEADLINE + 0.5))
            assert not self.waiting
            super().teardown()

    tell(NobodyWaits, 60)


def test_closing_answers_whoever_waits() -> None:
    class ClosedAtTheEnd(Story):
        def teardown(self) -> None:
            async def close() -> None:
                await self.keeper.close()

            self.run(close)
            assert not self.waiting
            super().teardown()

    tell(ClosedAtTheEnd, 40)
