"""What one request does, case by case: the generator is told how each step went, and says what comes next."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.attempts import (
    MOST_REJECTIONS,
    Answered,
    Deliver,
    Failed,
    Probe,
    Probed,
    Rejected,
    Renew,
    Renewed,
    Result,
    Send,
    Step,
    Traits,
    Verdict,
    answered,
    attempts,
)
from proxy.core.errors import (
    NotRepeatable,
    Overloaded,
    ProxyError,
    SessionUnavailable,
    UpstreamError,
    UpstreamInvalid,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.core.rejection_history import RejectionHistory
from proxy.core.rejections import Rejection
from proxy.core.token import Moment, Source, Token

DOCUMENTED, VARIANT, BARE = Rejection.DOCUMENTED, Rejection.VARIANT, Rejection.BARE
SAFE = Traits("GET /v3/carts", safe=True, may_buy=False)
UNSAFE = Traits("PUT /v3/carts/:cartId/cards/:cardId", safe=False, may_buy=False)
ORDER = Traits("POST /v3/orders", safe=False, may_buy=True)
EVERY = (SAFE, UNSAFE, ORDER)


def token(value: str = "a", *, own_login: bool = False, source: Source = Source.SESSION) -> Token:
    return Token(value, Moment(0.0, 0.0), own_login=own_login, source=source)


@dataclass
class Walk:
    """One request on its way: `.step` is what it wants, `.end` what became of it."""

    request: Traits
    history: RejectionHistory = field(default_factory=RejectionHistory)
    end: Deliver | ProxyError | None = None

    def __post_init__(self) -> None:
        self._flow: Generator[Step, Result, Deliver] | None = None
        self.step: Step | None = Send(new_connection=False)
        self.sends = 1

    def told(self, result: Result) -> Walk:
        try:
            if self._flow is not None:
                self.step = self._flow.send(result)
            elif answered(result, self.request, self.history):
                self.step, self.end = None, Deliver()
                return self
            else:
                self._flow = attempts(result, self.request, self.history)
                self.step = next(self._flow)
            self.sends += isinstance(self.step, Send)
        except StopIteration as end:
            self.step, self.end = None, end.value
        except ProxyError as error:
            self.step, self.end = None, error
        return self

    def rejected(
        self, kind: Rejection = DOCUMENTED, of: Token | None = None, *, kept: bool = True, replaced: bool = False
    ) -> Walk:
        return self.told(Rejected(kind, of or token(), 0.0, replaced, kept))

    def failed(self, error: UpstreamError | SessionUnavailable | Overloaded, *, kept: bool = True) -> Walk:
        return self.told(Failed(error, kept))

    @property
    def sentence(self) -> str:
        assert isinstance(self.end, ProxyError)
        return str(self.end)


def unreachable(kind: str = "refused") -> UpstreamError:
    return UpstreamUnreachable("Refused; nothing was sent.", kind=kind, sent=False)


def reset(kind: str = "reset_before_head", *, sent: bool = True) -> UpstreamError:
    what = "the request may have been processed" if sent else "nothing was sent"
    return UpstreamReset(f"Closed; {what}.", kind=kind, sent=sent)


OUTAGE = SessionUnavailable("No session with CardCash.")


# Attempts that are answered


@pytest.mark.parametrize("request_", EVERY)
def test_an_answer_is_delivered(request_: Traits) -> None:
    walk = Walk(request_).told(Answered(token()))
    assert (walk.end, walk.sends) == (Deliver(), 1)


def test_an_answer_to_a_request_without_a_token_is_delivered() -> None:
    assert Walk(SAFE).told(Answered(None)).end == Deliver()


# Attempts without an answer


@pytest.mark.parametrize("kind", ["refused", "dns", "unreachable"])
@pytest.mark.parametrize("request_", EVERY)
def test_a_connection_that_was_not_made_is_tried_once_more_whatever_the_request(kind: str, request_: Traits) -> None:
    assert Walk(request_).failed(unreachable(kind)).step == Send(new_connection=True)


@pytest.mark.parametrize("kind", ["connect_timeout", "tls", "proxy"])
def test_a_failed_connect_that_comes_again_is_not_tried_again(kind: str) -> None:
    assert isinstance(Walk(SAFE).failed(unreachable(kind)).end, UpstreamUnreachable)


def test_an_unreachable_upstream_that_may_have_got_something_is_not_asked_again() -> None:
    error = UpstreamUnreachable("x", kind="refused", sent=True)
    assert Walk(SAFE).failed(error).end is error


@pytest.mark.parametrize("request_", EVERY)
def test_a_reset_before_the_answer_repeats_only_what_is_safe(request_: Traits) -> None:
    walk = Walk(request_).failed(reset())
    assert walk.step == (Send(new_connection=True) if request_.safe else None)


@pytest.mark.parametrize("request_", EVERY)
def test_a_reset_before_anything_was_sent_repeats_every_request(request_: Traits) -> None:
    assert Walk(request_).failed(reset(sent=False)).step == Send(new_connection=True)


BEGUN = (
    reset("reset_in_head"),
    reset("reset_in_body"),
    UpstreamInvalid("x", kind="invalid", sent=True),
    *(UpstreamTimeout("x", kind=kind, sent=True) for kind in ("send_timeout", "head_timeout", "body_timeout")),
)


@pytest.mark.parametrize("error", BEGUN, ids=lambda error: error.kind)
@pytest.mark.parametrize("request_", EVERY)
def test_an_answer_that_began_or_never_came_in_time_is_not_asked_for_again(
    error: UpstreamError, request_: Traits
) -> None:
    assert Walk(request_).failed(error).end is error


@pytest.mark.parametrize("error", [unreachable(), reset(sent=False), reset()], ids=["unreachable", "unsent", "reset"])
def test_nothing_is_sent_a_third_time_after_failures(error: UpstreamError) -> None:
    walk = Walk(SAFE).failed(error).failed(error)
    assert isinstance(walk.end, UpstreamError)
    assert walk.sends == 2


@pytest.mark.parametrize("error", [unreachable(), reset(sent=False), reset()], ids=["unreachable", "unsent", "reset"])
def test_nothing_is_sent_again_without_its_body(error: UpstreamError) -> None:
    assert Walk(SAFE).failed(error, kept=False).end is error


@pytest.mark.parametrize("error", [OUTAGE, Overloaded("Busy; nothing was sent."), unreachable()], ids=lambda e: e.code)
def test_an_error_after_a_lost_attempt_says_that_it_may_have_been_processed(
    error: SessionUnavailable | Overloaded | UpstreamError,
) -> None:
    walk = Walk(SAFE).failed(reset()).failed(error)
    assert "may have been processed" in walk.sentence
    assert "nothing was" not in walk.sentence.lower()
    assert isinstance(walk.end, type(error))
    assert walk.end.sent


@pytest.mark.parametrize(
    "error", [OUTAGE, Overloaded("Busy; nothing was sent."), unreachable("tls")], ids=lambda e: e.code
)
def test_an_error_before_anything_was_sent_says_so(error: SessionUnavailable | Overloaded | UpstreamError) -> None:
    walk = Walk(ORDER).failed(error)
    assert "nothing was sent" in walk.sentence.lower()
    assert isinstance(walk.end, ProxyError)
    assert not walk.end.sent


# Rejections


@pytest.mark.parametrize("request_", EVERY)
def test_the_documented_rejection_is_renewed_and_sent_once_more_whatever_the_request(request_: Traits) -> None:
    walk = Walk(request_).rejected()
    assert walk.step == Renew(walk.step.rejected, needed=True)  # type: ignore[union-attr]
    assert walk.told(Renewed(token("b"))).step == Send(new_connection=False)
    assert walk.told(Answered(token("b"))).end == Deliver(retried=True, counted="accepted")


@pytest.mark.parametrize("request_", EVERY)
def test_the_documented_rejection_of_a_body_that_is_gone_asks_the_caller_to_send_it_again(request_: Traits) -> None:
    walk = Walk(request_).rejected(kept=False).told(Renewed(token("b")))
    assert isinstance(walk.end, NotRepeatable)
    assert "nothing was processed" in walk.sentence


@pytest.mark.parametrize("request_", EVERY)
def test_an_outage_after_the_documented_rejection_says_that_nothing_was_processed(request_: Traits) -> None:
    walk = Walk(request_).rejected().failed(OUTAGE)
    assert isinstance(walk.end, SessionUnavailable)
    assert "nothing was processed" in walk.sentence
    assert "may have been" not in walk.sentence


@pytest.mark.parametrize("kind", [VARIANT, BARE])
@pytest.mark.parametrize("request_", [SAFE, UNSAFE])
def test_an_undocumented_rejection_renews_and_repeats_what_cannot_spend_money(
    kind: Rejection, request_: Traits
) -> None:
    walk = Walk(request_).rejected(kind)
    assert isinstance(walk.step, Renew)
    assert walk.step.needed
    assert walk.told(Renewed(token("b"))).step == Send(new_connection=False)


@pytest.mark.parametrize("kind", [VARIANT, BARE])
@pytest.mark.parametrize(("request_", "kept"), [(ORDER, True), (ORDER, False), (SAFE, False), (UNSAFE, False)])
@pytest.mark.parametrize(
    "renewal", [Renewed(token("b")), Renewed(token()), Failed(OUTAGE)], ids=["new", "same", "outage"]
)
def test_an_undocumented_rejection_that_may_not_be_repeated_is_delivered_whatever_becomes_of_the_renewal(
    kind: Rejection, request_: Traits, kept: bool, renewal: Result
) -> None:
    walk = Walk(request_).rejected(kind, kept=kept)
    assert isinstance(walk.step, Renew)
    assert not walk.step.needed
    walk.told(renewal)
    assert (walk.end, walk.sends) == (Deliver(), 1)


@pytest.mark.parametrize(
    ("kind", "request_", "delivered"),
    [(VARIANT, SAFE, False), (VARIANT, UNSAFE, True), (BARE, SAFE, True), (BARE, UNSAFE, True)],
)
def test_an_outage_after_an_undocumented_rejection_is_told_of_only_where_sending_again_is_harmless(
    kind: Rejection, request_: Traits, delivered: bool
) -> None:
    walk = Walk(request_).rejected(kind).failed(OUTAGE)
    assert isinstance(walk.end, Deliver if delivered else SessionUnavailable)
    assert delivered or "may have been processed" in walk.sentence


def test_an_error_after_a_repeated_variant_says_that_it_may_have_been_processed() -> None:
    walk = Walk(UNSAFE).rejected(VARIANT).told(Renewed(token("b"))).failed(unreachable("tls"))
    assert "may have been processed" in walk.sentence


def test_an_error_after_a_repeated_documented_rejection_says_that_nothing_was_processed() -> None:
    walk = Walk(ORDER).rejected().told(Renewed(token("b"))).failed(unreachable("tls"))
    assert "nothing was processed" in walk.sentence


def test_the_same_token_again_is_delivered_and_pauses_the_route() -> None:
    walk = Walk(ORDER).rejected().told(Renewed(token("a")))
    assert walk.end == Deliver(counted="same_token")
    assert walk.history.pauses.paused(ORDER.route, 0.5)


@pytest.mark.parametrize("kind", [DOCUMENTED, VARIANT, BARE])
def test_a_rejection_after_a_renewal_is_delivered_and_pauses_the_route(kind: Rejection) -> None:
    walk = Walk(SAFE).rejected(kind).told(Renewed(token("b"))).rejected(kind, token("b"))
    assert walk.end == Deliver(retried=True, counted="rejected")
    assert walk.history.pauses.paused(SAFE.route, 0.5)


def test_a_rejection_on_a_paused_route_is_delivered_without_a_renewal() -> None:
    walk = Walk(SAFE)
    walk.history.pauses.rejected_again(SAFE.route, 0.0)
    assert walk.rejected().end == Deliver()


def test_a_paused_route_goes_on_with_a_token_that_was_replaced_elsewhere() -> None:
    walk = Walk(SAFE)
    walk.history.pauses.rejected_again(SAFE.route, 0.0)
    assert isinstance(walk.rejected(replaced=True).step, Renew)


def test_a_token_that_was_good_on_the_route_is_renewed_once_more_and_the_route_does_not_pause() -> None:
    walk = Walk(SAFE).rejected().told(Renewed(token("b")))
    second = token("b")
    walk.history.accepted(second, SAFE.route)
    walk.rejected(of=second)
    assert walk.told(Renewed(token("c"))).step == Send(new_connection=False)
    third = token("c")
    walk.history.accepted(third, SAFE.route)
    assert walk.rejected(of=third).end == Deliver(retried=True, counted="rejected")
    assert not walk.history.pauses.paused(SAFE.route, 0.0)


@pytest.mark.parametrize("request_", EVERY)
def test_a_request_is_sent_three_times_at_most_though_others_replace_its_tokens_meanwhile(request_: Traits) -> None:
    walk = Walk(request_)
    for number in range(2):
        walk.rejected(of=token(str(number)), replaced=True).told(Renewed(token(str(number + 1))))
        assert isinstance(walk.step, Send)
    assert walk.rejected(of=token("2"), replaced=True).end == Deliver(retried=True, counted="rejected")
    assert walk.sends == 3


@pytest.mark.parametrize("kind", [VARIANT, BARE])
def test_a_write_rejected_in_an_undocumented_way_is_sent_once_more_whatever_became_of_its_tokens(
    kind: Rejection,
) -> None:
    walk = Walk(UNSAFE).rejected(kind, replaced=True).told(Renewed(token("b")))
    assert isinstance(walk.rejected(kind, token("b"), replaced=True).end, Deliver)


@pytest.mark.parametrize("source", [Source.HARVEST, Source.STORE])
def test_a_found_token_that_died_with_the_one_before_is_replaced_too(source: Source) -> None:
    walk = Walk(SAFE).rejected().told(Renewed(token("b", source=source))).rejected(of=token("b", source=source))
    assert isinstance(walk.step, Renew)


def test_beyond_the_bound_over_all_routes_a_rejection_is_delivered() -> None:
    history = RejectionHistory()
    for number in range(20):
        assert isinstance(Walk(Traits(f"GET /{number % 2}", safe=True, may_buy=False), history).rejected().step, Renew)
    assert Walk(SAFE, history).rejected().told(Probed(Verdict.REJECTED, replaced=False)).end == Deliver(
        counted="rejected"
    )


@pytest.mark.parametrize(("request_", "kind"), [(SAFE, DOCUMENTED), (ORDER, DOCUMENTED), (ORDER, VARIANT)])
def test_to_take_over_what_another_process_has_renewed_counts_for_no_bound(request_: Traits, kind: Rejection) -> None:
    history = RejectionHistory()
    for number in range(100):
        walk = Walk(request_, history).rejected(kind, of=token(f"a{number}"))
        assert isinstance(walk.step, Renew)
        walk.told(Renewed(token(f"b{number}", source=Source.STORE)))


@pytest.mark.parametrize(("request_", "kind"), [(SAFE, DOCUMENTED), (ORDER, DOCUMENTED), (ORDER, VARIANT)])
def test_what_fails_at_once_because_a_pause_lasts_counts_for_no_bound(request_: Traits, kind: Rejection) -> None:
    history = RejectionHistory()
    paused = SessionUnavailable("The last tries failed.", retry_after=7)
    paused.at_once = True
    for _ in range(100):
        walk = Walk(request_, history).rejected(kind).told(Failed(paused))
        assert walk.end == Deliver() if kind is VARIANT else isinstance(walk.end, SessionUnavailable)


def test_a_renewal_that_brings_nothing_counts_although_the_rejected_token_was_another_processs() -> None:
    history, found = RejectionHistory(), token("a", source=Source.STORE)
    for _ in range(20):
        assert Walk(ORDER, history).rejected(VARIANT, of=found).told(Renewed(found)).end == Deliver()
    assert Walk(ORDER, history).rejected(VARIANT, of=found).end == Deliver(counted="rejected")


def test_who_goes_out_with_the_new_token_at_once_and_is_rejected_renews_nothing() -> None:
    first = Walk(SAFE)
    assert isinstance(first.rejected().told(Renewed(token("b"))).step, Send)
    second = Walk(SAFE, first.history)
    assert second.rejected(of=token("b")).end == Deliver()
    assert first.rejected(of=token("b")).end == Deliver(retried=True, counted="rejected")


def test_a_route_that_accepted_the_new_token_renews_again() -> None:
    first = Walk(SAFE)
    first.rejected().told(Renewed(token("b"))).told(Answered(token("b")))
    assert isinstance(Walk(SAFE, first.history).rejected(of=token("c")).step, Renew)


def test_a_renewal_that_others_began_counts_for_nobody_else() -> None:
    history = RejectionHistory()
    for _ in range(100):
        assert isinstance(Walk(SAFE, history).rejected(replaced=True).step, Renew)
    assert isinstance(Walk(SAFE, history).rejected().step, Renew)


# Probes


def lost_route(walk: Walk) -> None:
    """Let two other routes begin renewals."""
    walk.history.may_begin_renewal(token(), "GET /x", 0.0)
    walk.history.may_begin_renewal(token(), "GET /y", 0.0)


OWN = token(own_login=True)


@pytest.mark.parametrize("kind", [DOCUMENTED, VARIANT, BARE])
def test_a_callers_own_login_is_probed_before_it_is_replaced(kind: Rejection) -> None:
    assert Walk(SAFE).rejected(kind, OWN).step == Probe(OWN)


def test_a_callers_own_login_that_was_accepted_on_the_route_needs_no_probe() -> None:
    walk = Walk(ORDER)
    walk.history.accepted(OWN, ORDER.route)
    assert isinstance(walk.rejected(DOCUMENTED, OWN).step, Renew)


@pytest.mark.parametrize("kind", [VARIANT, BARE])
def test_a_doubtful_rejection_of_a_callers_own_login_is_probed_even_where_it_was_accepted(kind: Rejection) -> None:
    walk = Walk(SAFE)
    walk.history.accepted(OWN, SAFE.route)
    assert walk.rejected(kind, OWN).step == Probe(OWN)


def test_a_rejected_login_of_a_caller_needs_no_probe_since_it_logs_in_again() -> None:
    login = Traits("POST /v3/customers/login", safe=False, may_buy=False, logs_in=True)
    assert isinstance(Walk(login).rejected(DOCUMENTED, OWN).step, Renew)


def test_the_token_is_probed_when_several_routes_began_renewals_lately() -> None:
    walk = Walk(SAFE)
    lost_route(walk)
    assert isinstance(walk.rejected(BARE).step, Probe)


def test_a_token_that_is_being_replaced_is_not_probed() -> None:
    walk = Walk(SAFE)
    lost_route(walk)
    assert isinstance(walk.rejected(BARE, OWN, replaced=True).step, Renew)


@pytest.mark.parametrize("request_", EVERY)
def test_a_probe_that_is_accepted_delivers_the_answer_and_pauses_the_route(request_: Traits) -> None:
    walk = Walk(request_).rejected(VARIANT, OWN).told(Probed(Verdict.ACCEPTED, replaced=False))
    assert walk.end == Deliver(counted="probed")
    assert walk.history.pauses.paused(request_.route, 0.5)


def test_a_probe_that_is_rejected_renews() -> None:
    walk = Walk(SAFE).rejected(BARE, OWN).told(Probed(Verdict.REJECTED, replaced=False))
    assert isinstance(walk.step, Renew)


@pytest.mark.parametrize("kind", [VARIANT, BARE])
def test_a_callers_own_login_is_not_given_up_while_nobody_knows(kind: Rejection) -> None:
    assert isinstance(Walk(SAFE).rejected(kind, OWN).told(Probed(Verdict.UNKNOWN, replaced=False)).end, Deliver)


def test_a_documented_rejection_of_a_callers_own_login_that_cannot_be_probed_is_a_503() -> None:
    walk = Walk(ORDER).rejected(DOCUMENTED, OWN).told(Probed(Verdict.UNKNOWN, replaced=False))
    assert isinstance(walk.end, SessionUnavailable)
    assert "nothing was processed" in walk.sentence


def test_a_probe_that_cannot_be_made_does_not_keep_another_token_from_being_replaced() -> None:
    walk = Walk(SAFE)
    lost_route(walk)
    assert isinstance(walk.rejected(DOCUMENTED).told(Probed(Verdict.UNKNOWN, replaced=False)).step, Renew)


# Every walk there is


errors = st.sampled_from(
    [
        *BEGUN,
        reset(),
        reset(sent=False),
        unreachable(),
        unreachable("tls"),
        OUTAGE,
        Overloaded("Busy; nothing was sent."),
    ]
)
tokens = st.builds(token, st.sampled_from("abc"), own_login=st.booleans(), source=st.sampled_from(Source))
answers_to: dict[type[Step], Callable[[], st.SearchStrategy[Result]]] = {
    Send: lambda: st.one_of(
        st.builds(Answered, tokens),
        st.builds(Failed, errors, st.booleans()),
        st.builds(
            Rejected,
            st.sampled_from([DOCUMENTED, VARIANT, BARE]),
            tokens,
            st.floats(0, 100),
            st.booleans(),
            st.booleans(),
        ),
    ),
    Renew: lambda: st.one_of(st.builds(Renewed, tokens), st.builds(Failed, st.just(OUTAGE))),
    Probe: lambda: st.builds(Probed, st.sampled_from(Verdict), st.booleans()),
}


@given(st.data(), st.sampled_from(EVERY))
def test_no_walk_sends_twice_without_a_proof_and_every_sentence_is_true(data: st.DataObject, request_: Traits) -> None:
    walk = Walk(request_)
    lost_route(walk)
    in_doubt = was_sent = answered = False
    while walk.step is not None:
        step = walk.step
        if isinstance(step, Send):
            # Never again what may have been processed, unless that is harmless or CardCash refused the token so.
            assert not (in_doubt and request_.may_buy)
            result = data.draw(answers_to[Send]())
            if isinstance(result, Failed):
                in_doubt = in_doubt or result.error.sent
                was_sent = was_sent or result.error.sent
            else:
                was_sent = answered = True
                in_doubt = in_doubt or not (isinstance(result, Rejected) and result.kind is DOCUMENTED)
        else:
            result = data.draw(answers_to[type(step)]())
        walk.told(result)
    assert walk.sends <= MOST_REJECTIONS + 1
    if isinstance(walk.end, ProxyError):
        sentence = walk.sentence.lower()
        assert not (was_sent and "nothing was sent" in sentence)
        assert not (in_doubt and "nothing was processed" in sentence)
        assert in_doubt == walk.end.sent
        # An order that was answered in any way but the documented refusal is never turned into an error.
        assert not (in_doubt and answered and request_.may_buy and not isinstance(result, Failed))


# What changed code has slipped through (see `make mutants`)


def rejection(
    of: Token, kind: Rejection = DOCUMENTED, *, now: float = 0.0, replaced: bool = False, resendable: bool = True
) -> Rejected:
    return Rejected(kind, of, now, replaced=replaced, resendable=resendable)


def test_an_accepted_token_is_known_to_be_good_on_its_route() -> None:
    good, walk = token(), Walk(SAFE)
    walk.told(Answered(good))
    assert walk.history.was_accepted(good, SAFE.route)


def test_tokens_rejected_on_one_route_each_prove_nothing_of_each_other() -> None:
    history = RejectionHistory()
    Walk(ORDER, history).told(rejection(token("a")))
    walk = Walk(SAFE, history).told(rejection(token("b"))).told(Renewed(token("c")))
    walk.told(rejection(token("c")))
    assert walk.end == Deliver(retried=True, counted="rejected")


def test_a_token_that_two_routes_reject_is_dead_and_replaced_again() -> None:
    history, dead = RejectionHistory(), token("dead")
    walk = Walk(SAFE, history).told(rejection(token("b"))).told(Renewed(dead))
    Walk(ORDER, history).told(rejection(dead))
    assert walk.told(rejection(dead)).step == Renew(dead, needed=True)


def test_an_order_rejected_in_the_documented_wording_with_two_good_tokens_is_sent_a_third_time() -> None:
    first, second, history = token("a"), token("b"), RejectionHistory()
    walk = Walk(ORDER, history).told(rejection(first)).told(Renewed(second))
    history.accepted(second, ORDER.route)  # by another request
    assert walk.told(rejection(second)).step == Renew(second, needed=True)


def test_a_token_that_is_being_replaced_pauses_no_route() -> None:
    history = RejectionHistory()
    Walk(SAFE, history).told(rejection(token("a"), now=100.0)).told(Renewed(token("b")))
    Walk(SAFE, history).told(rejection(token("b"), now=100.1, replaced=True))
    assert not history.pauses.paused(SAFE.route, 100.2)


@pytest.mark.parametrize("kind", [VARIANT, DOCUMENTED])
def test_a_callers_login_that_was_replaced_while_it_was_probed_is_not_held_on_to(kind: Rejection) -> None:
    own = token(own_login=True)
    walk = Walk(SAFE).told(rejection(own, kind))
    assert walk.step == Probe(own)
    assert walk.told(Probed(Verdict.UNKNOWN, replaced=True)).step == Renew(own, needed=True)


def test_a_callers_login_of_which_nothing_is_known_is_kept_and_the_answer_delivered() -> None:
    walk = Walk(SAFE).told(rejection(token(own_login=True), VARIANT))
    assert walk.told(Probed(Verdict.UNKNOWN, replaced=False)).end == Deliver(retried=False, counted="probed")


def test_a_callers_login_of_which_nothing_is_known_is_told_after_the_documented_wording() -> None:
    walk = Walk(SAFE).told(rejection(token(own_login=True)))
    walk.told(Probed(Verdict.UNKNOWN, replaced=False))
    assert "a caller's own login and could not be asked whether that is lost." in str(walk.end)


def test_whose_token_was_rejected_is_what_is_renewed_whether_the_request_goes_on_or_not() -> None:
    dead = token()
    assert Walk(ORDER).told(rejection(dead, VARIANT)).step == Renew(dead, needed=False)
    assert Walk(SAFE).told(rejection(dead, VARIANT)).step == Renew(dead, needed=True)


def test_a_bare_rejection_whose_renewal_failed_is_delivered_as_a_first_answer() -> None:
    walk = Walk(SAFE).told(rejection(token(), BARE)).told(Failed(SessionUnavailable("No session.")))
    assert walk.end == Deliver(retried=False)


def test_a_body_that_is_gone_is_told_together_with_what_to_do() -> None:
    walk = Walk(SAFE).told(rejection(token("a"), resendable=False)).told(Renewed(token("b")))
    assert "the session has been renewed: send the request again." in str(walk.end)
