"""What is decided about the held token: whose it is, which of two counts, when a lost login is told. No loop, no clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.core.dialect import Candidate, Malformed
from proxy.core.token import Moment, Token, Windows
from proxy.session.cardcash_calls import Credentials
from proxy.session.held_token import LAST_MOMENT, Due, HeldToken, Stays
from proxy.session.obstacles import Failure
from proxy.session.renewal import Renewal

ME, YOU = "me@example.com", "you@example.com"
NOW = Moment(1_000.0, 5_000.0)
IDLE_AFTER = 3600.0


def token(value: str = "one.", *, age: float = 0.0, **more: Any) -> Token:
    return Token(value, Moment(NOW.steady - age, NOW.wall - age), 600, **more)


def mine(value: str = "mine.", *, age: float = 0.0, email: str = ME) -> Token:
    return token(value, age=age, identity=email, own_login=True)


def lost(value: str = "lost.", *, age: float = 0.0) -> Token:
    return token(value, age=age, login_lost=True)


def holding(held: Token | None) -> HeldToken:
    holder = HeldToken(300, IDLE_AFTER)
    if held is not None:
        holder.adopt(held, NOW)
    return holder


class TestWhatAnAnswerBrings:
    def test_late_is_what_came_with_another_token_than_the_held_one(self) -> None:
        held, other = token(), token("other.")

        def offered(holder: HeldToken, login_as: str | None = None, *, is_foreign: bool = False) -> Token | str:
            found, sent_with = Candidate("two.", 900), holder.token if is_foreign else other
            assert sent_with is not None
            return holder.harvested(found, sent_with=sent_with, login_as=login_as, is_foreign=is_foreign, now=NOW)

        assert offered(holding(held)) == "late"
        assert offered(holding(held), is_foreign=True) == "late"
        assert isinstance(offered(holding(held), ME), Token)
        assert isinstance(offered(holding(None), ME), Token)
        assert offered(holding(mine()), ME) == "late"

    def test_what_is_malformed_is_not_taken(self) -> None:
        held = token()
        told = holding(held).harvested(Malformed("x"), sent_with=held, login_as=None, is_foreign=False, now=NOW)
        assert told == "malformed"


class TestWhichCounts:
    @pytest.mark.parametrize(
        ("ours", "theirs", "new", "old"),
        [
            (None, token(), True, True),
            (None, token(age=600), False, False),
            (token(), token("two.", age=600), False, False),
            (token(), token(), False, False),
            (token(), token("two.", age=-1), True, True),
            (token(), token("two."), True, False),
            (token(), token("two.", age=1), True, False),
            (token(), mine(age=9), True, True),
            (mine(), token("two.", age=-9), False, False),
            (mine(), lost(age=-9), True, True),
            (mine(), lost(), False, False),
            (mine(), lost(age=9), False, False),
            (lost(), mine(age=9), True, True),
            (token("one."), token("one.", login_lost=True), True, False),
            (mine(), mine("yours.", age=9, email=YOU), True, False),
        ],
    )
    def test_a_login_beats_none_then_what_was_stored_in_its_place_then_the_younger(
        self, ours: Token | None, theirs: Token, new: bool, old: bool
    ) -> None:
        assert holding(ours).yields_to(theirs, ours, NOW, is_new=True, was_shared=True) is new
        assert holding(ours).yields_to(theirs, ours, NOW, is_new=False, was_shared=True) is old

    @pytest.mark.parametrize("new", [False, True])
    def test_a_login_that_nobody_has_seen_yet_is_not_the_one_that_was_lost(self, new: bool) -> None:
        assert not holding(mine()).yields_to(lost(age=-9), mine(), NOW, is_new=new, was_shared=False)

    def test_what_was_rejected_is_no_news_until_cardcash_gives_it_again(self) -> None:
        holder = holding(token())
        holder.reject()
        holder.adopt(token("two."), NOW)
        again = token(age=-5)
        assert not holder.yields_to(again, holder.token, NOW, is_new=True, was_shared=True)
        assert not holder.is_news(again, None, NOW)
        holder.adopt(again, NOW)
        assert not holder.is_rejected
        assert holder.is_news(again, token("two."), NOW)

    def test_only_so_many_rejected_ones_are_remembered(self) -> None:
        holder = holding(None)
        for number in range(9):
            holder.adopt(token(f"{number}."), NOW)
            holder.reject()
        assert holder.is_news(token("0."), None, NOW)
        assert not holder.is_news(token("1."), None, NOW)

    def test_nothing_is_rejected_where_nothing_is_held(self) -> None:
        holder = holding(None)
        holder.reject()
        assert not holder.is_rejected

    @pytest.mark.parametrize(
        ("base", "shared", "is_news"),
        [
            (None, token(), True),
            (None, token(age=600), False),
            (token(), token("two."), False),
            (token(), token("two.", age=-1), True),
            (token(), token(age=-1), False),
        ],
    )
    def test_news_is_a_younger_one_of_another_value(self, base: Token | None, shared: Token, is_news: bool) -> None:
        assert holding(base).is_news(shared, base, NOW) is is_news

    def test_what_came_meanwhile_is_what_is_held_now_but_was_not_at_the_beginning(self) -> None:
        base, theirs = token(), token("two.")
        holder = holding(base)
        assert holder.came_meanwhile(theirs, base) is None
        assert holder.came_meanwhile(replace(base), base) is None
        holder.adopt(theirs, NOW)
        assert holder.came_meanwhile(replace(theirs), base) is theirs
        assert holder.came_meanwhile(replace(theirs, identity=ME), base) is None
        holder.reject()
        assert holder.came_meanwhile(replace(theirs), base) is None


class TestALoginThatIsLost:
    @pytest.mark.parametrize(
        ("before", "after", "is_lost", "is_told"),
        [
            (None, token(), False, False),
            (token(), token("two."), False, False),
            (mine(), token("two."), True, True),
            (mine(), lost(), True, False),
            (None, lost(), True, False),
            (lost(), token("two."), True, False),
            (lost(), mine(), False, False),
            (mine(), mine("two."), False, False),
            (mine(), mine("two.", email=ME.upper()), False, False),
            (mine(), mine("yours.", email=YOU), True, True),
            (mine(age=600), mine("yours.", email=YOU), True, True),
            (token("x.", identity=ME), token("two."), False, False),
        ],
    )
    def test_it_is_told_by_who_lost_it(self, before: Token | None, after: Token, is_lost: bool, is_told: bool) -> None:
        holder = holding(before)
        assert holder.adopt(after, NOW) is is_told
        assert holder.identity_lost is is_lost
        assert holder.token is not None
        assert holder.token.login_lost is (is_lost and holder.token.identity is None)

    def test_the_loss_counts_from_when_it_was_found_whatever_is_held_later(self) -> None:
        holder = holding(mine())
        for seconds in range(3):
            holder.adopt(token(f"{seconds}."), Moment(NOW.steady + seconds, NOW.wall + seconds))
        assert holder.identity_lost
        assert holder.lost_at == NOW.steady

    def test_it_is_told_once(self) -> None:
        holder = holding(mine())
        assert [holder.lose_identity(), holder.lose_identity()] == [True, False]
        assert not holder.adopt(token("two."), NOW)
        assert holder.identity_lost

    def test_a_login_here_ends_it_whoever_it_is(self) -> None:
        holder = holding(mine())
        holder.adopt(mine("yours.", email=YOU), NOW)
        assert not holder.adopt(mine("refreshed.", email=YOU), NOW)
        assert holder.identity_lost
        assert not holder.adopt(mine("third.", email="third@example.com"), NOW)
        assert holder.identity_lost
        assert not holder.adopt(mine("again.", email=YOU), NOW, logged_in=True)
        assert not holder.identity_lost

    def test_after_a_lapse_that_was_told_a_login_elsewhere_holds_for_all(self) -> None:
        holder = holding(mine(age=600))
        holder.lose_identity()
        assert not holder.adopt(mine("yours.", email=YOU), NOW)
        assert not holder.identity_lost


class TestWhatARenewalIsWorth:
    """A renewal began when `base` was held; now `held` is."""

    def weighed(
        self, brings: Token, base: Token | None, held: Token | None = None, *, rejected: bool = False, **more: bool
    ) -> Token | Stays | Failure:
        holder = holding(held or base)
        renewal = Renewal("window", base, Credentials("app-id"), rejected=rejected)
        if rejected:
            holder.reject()
        options = {"is_foreign": False, "login_refused": False, **more}
        return holder.weigh(brings, renewal, now=NOW, **options)

    @pytest.mark.parametrize("base", [None, token(), token(age=600), mine()])
    async def test_another_token_is_adopted(self, base: Token | None) -> None:
        two = token("two.")
        assert self.weighed(two, base) is two

    async def test_the_held_one_again_is_none(self) -> None:
        again = self.weighed(token(age=-1), token())
        assert isinstance(again, Failure)
        assert (again.result, again.sentence) == ("same_token", "CardCash gave the held token again.")

    async def test_the_rejected_one_again_is_none(self) -> None:
        again = self.weighed(token(age=-1), token(), rejected=True)
        assert isinstance(again, Failure)
        assert (again.result, again.sentence) == ("same_token", "CardCash gave the rejected token again.")

    async def test_one_that_is_over_when_it_arrives_is_none(self) -> None:
        over = self.weighed(token("two.", age=600), token())
        assert isinstance(over, Failure)
        assert over.result == "failed"

    async def test_the_held_one_itself_came_meanwhile_from_another_process(self) -> None:
        theirs = token("theirs.")
        assert self.weighed(theirs, token(), theirs) == Stays("superseded")

    async def test_a_login_that_raced_with_it_stays(self) -> None:
        assert self.weighed(token("two."), token(), mine()) == Stays("superseded")

    async def test_an_account_whose_login_is_refused_by_now_stays(self) -> None:
        account = token(identity=ME)
        assert self.weighed(token("two."), account, login_refused=True) == Stays("login_refused")

    async def test_what_came_meanwhile_stays_when_it_brings_only_what_was_held_before(self) -> None:
        assert self.weighed(token(), token(), token("harvest.")) == Stays("superseded")

    @pytest.mark.parametrize("why", ["rejected", "is_foreign"])
    async def test_an_account_that_is_rejected_or_of_another_application_id_does_not_stay(self, why: str) -> None:
        two = token("two.")
        rejected, is_foreign = why == "rejected", why == "is_foreign"
        assert self.weighed(two, mine(), rejected=rejected, is_foreign=is_foreign, login_refused=True) is two


class TestWhatIsDue:
    def due(self, held: Token, at: float, *, unused_for: float = 0.0, **more: Any) -> Due:
        """Ask some seconds after its birth; it lives 600 s, so its window begins after 300 and is ours from the middle."""
        now = Moment(held.born.steady + at, held.born.wall + at)
        options: dict[str, Any] = {"not_before": 0.0, "login_refused": False, "later": 0.0, **more}
        holding = HeldToken(300, IDLE_AFTER)
        holding.adopt(held, held.born)
        holding.last_used = now.steady - unused_for
        return holding.due(now, **options)

    @pytest.mark.parametrize(
        ("held", "refused", "what"),
        [
            (token(), False, Due.RENEWAL),
            (token(), True, Due.RENEWAL),
            (mine(), False, Due.KEEP_ALIVE),
            (token(identity=ME), False, Due.RENEWAL),
            (token(identity=ME), True, Due.NOTHING),
        ],
    )
    def test_in_the_second_half_of_the_window(self, held: Token, refused: bool, what: Due) -> None:
        renew_at = Windows.of(held, 300).renew_at - held.born.steady
        assert self.due(held, renew_at - 1, login_refused=refused) is Due.NOTHING
        assert self.due(held, renew_at, login_refused=refused) is what
        assert self.due(held, renew_at, login_refused=refused, unused_for=IDLE_AFTER - 1) is what
        assert self.due(held, renew_at, login_refused=refused, unused_for=IDLE_AFTER) is Due.NOTHING
        pause = held.born.steady + renew_at + 5
        assert self.due(held, renew_at + 4, login_refused=refused, not_before=pause) is Due.NOTHING
        assert self.due(held, renew_at + 5, login_refused=refused, not_before=pause) is what

    @pytest.mark.parametrize(("held", "what"), [(token(), Due.NOTHING), (mine(), Due.LOSS)])
    def test_after_the_end_only_a_callers_login_is_lost(self, held: Token, what: Due) -> None:
        assert self.due(held, 600) is what

    @pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
    def test_while_the_store_is_down_it_is_due_somewhere_before_the_last_moment(self, fraction: float) -> None:
        windows = Windows.of(token(), 300)
        latest = windows.expires_at - LAST_MOMENT
        at = windows.renew_at + (latest - windows.renew_at) * fraction - token().born.steady
        assert self.due(token(), at - 0.1, later=fraction) is Due.NOTHING
        assert self.due(token(), at + 0.1, later=fraction) is Due.RENEWAL

    def test_a_short_life_is_not_cut_shorter(self) -> None:
        short = replace(token(), lifetime=40)
        renew_at = Windows.of(short, 300).renew_at - short.born.steady
        assert self.due(short, renew_at, later=1.0) is Due.RENEWAL

    @pytest.mark.parametrize(("eager", "what"), [(True, Due.RENEWAL), (False, Due.NOTHING)])
    def test_a_first_one_is_due_after_a_pause_where_it_is_made_eagerly(self, eager: bool, what: Due) -> None:
        nothing = HeldToken(300, IDLE_AFTER)
        nothing.last_used, nothing.eager = NOW.steady, eager

        def due(not_before: float, *, after: float = 0.0) -> Due:
            now = Moment(NOW.steady + after, NOW.wall + after)
            return nothing.due(now, not_before=not_before, login_refused=False, later=0.0)

        assert due(NOW.steady) is what
        assert due(NOW.steady + 1) is Due.NOTHING
        assert due(NOW.steady, after=IDLE_AFTER) is Due.NOTHING
