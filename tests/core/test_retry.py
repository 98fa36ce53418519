"""What is done after an attempt, and how long the pauses are."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.dialect import Rejection
from proxy.core.errors import UpstreamError, UpstreamInvalid, UpstreamReset, UpstreamTimeout, UpstreamUnreachable
from proxy.core.retry import (
    AfterFailure,
    AfterRejection,
    RoutePauses,
    after_failure,
    after_rejection,
    backoff,
    full_jitter,
)

BOTH = (True, False)


def unreachable(kind: str, *, sent: bool = False) -> UpstreamError:
    return UpstreamUnreachable("x", kind=kind, sent=sent)


def reset(kind: str, *, sent: bool = True) -> UpstreamError:
    return UpstreamReset("x", kind=kind, sent=sent)


def repeated(error: UpstreamError, *, attempts: int = 1, repeatable: bool = True, body_kept: bool = True) -> bool:
    decision = after_failure(error, attempts=attempts, repeatable=repeatable, body_kept=body_kept)
    return decision is AfterFailure.REPEAT


ERRORS = (
    unreachable("refused"),
    unreachable("dns"),
    unreachable("unreachable"),
    unreachable("connect_timeout"),
    unreachable("tls"),
    reset("reset_before_head"),
    reset("reset_before_head", sent=False),
    reset("reset_in_head"),
    reset("reset_in_body"),
    UpstreamInvalid("x", kind="invalid", sent=True),
    *(UpstreamTimeout("x", kind=kind, sent=True) for kind in ("send_timeout", "head_timeout", "body_timeout")),
)


@pytest.mark.parametrize("kind", ["refused", "dns", "unreachable"])
def test_a_connection_that_was_not_made_is_tried_again_whatever_the_request(kind: str) -> None:
    assert repeated(unreachable(kind), repeatable=False)
    assert repeated(unreachable(kind), repeatable=True)


@pytest.mark.parametrize("kind", ["connect_timeout", "tls"])
def test_a_failed_connect_that_comes_again_is_not_tried_again(kind: str) -> None:
    assert not repeated(unreachable(kind))


def test_an_unreachable_upstream_that_may_have_got_something_is_not_asked_again() -> None:
    assert not repeated(unreachable("refused", sent=True))


def test_a_reset_before_the_answer_repeats_only_the_safe_list() -> None:
    assert repeated(reset("reset_before_head"), repeatable=True)
    assert not repeated(reset("reset_before_head"), repeatable=False)


def test_a_reset_before_anything_was_sent_repeats_every_request() -> None:
    assert repeated(reset("reset_before_head", sent=False), repeatable=False)


@pytest.mark.parametrize("error", ERRORS[-6:], ids=lambda error: error.kind)
def test_an_answer_that_began_or_never_came_in_time_is_not_asked_for_again(error: UpstreamError) -> None:
    assert not repeated(error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{error.kind} {error.sent}")
def test_nothing_is_sent_a_third_time(error: UpstreamError) -> None:
    for attempts, repeatable in itertools.product((2, 3, 100), BOTH):
        assert not repeated(error, attempts=attempts, repeatable=repeatable)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{error.kind} {error.sent}")
def test_nothing_is_sent_again_without_its_body(error: UpstreamError) -> None:
    for repeatable in BOTH:
        assert not repeated(error, repeatable=repeatable, body_kept=False)


@pytest.mark.parametrize("error", [error for error in ERRORS if error.sent], ids=lambda error: error.kind)
def test_what_may_have_been_processed_is_never_repeated_off_the_safe_list(error: UpstreamError) -> None:
    assert not repeated(error, repeatable=False)


# Rejections

REPEAT, DELIVER = AfterRejection.RENEW_AND_REPEAT, AfterRejection.RENEW_AND_DELIVER
REFUSE, GIVE_UP = AfterRejection.RENEW_AND_REFUSE, AfterRejection.DELIVER


@pytest.mark.parametrize(
    ("kind", "buys", "body_kept", "decision"),
    [
        (Rejection.DOCUMENTED, False, True, REPEAT),
        (Rejection.DOCUMENTED, True, True, REPEAT),
        (Rejection.DOCUMENTED, False, False, REFUSE),
        (Rejection.DOCUMENTED, True, False, REFUSE),
        (Rejection.VARIANT, False, True, REPEAT),
        (Rejection.VARIANT, True, True, DELIVER),
        (Rejection.VARIANT, False, False, REFUSE),
        (Rejection.VARIANT, True, False, DELIVER),
    ],
)
def test_a_first_rejection_renews(kind: Rejection, buys: bool, body_kept: bool, decision: AfterRejection) -> None:
    assert after_rejection(kind, rejections=1, buys=buys, body_kept=body_kept) is decision


@pytest.mark.parametrize("rejections", [2, 3])
@pytest.mark.parametrize("kind", [Rejection.DOCUMENTED, Rejection.VARIANT])
def test_a_second_rejection_is_delivered(kind: Rejection, rejections: int) -> None:
    for buys, body_kept in itertools.product(BOTH, BOTH):
        assert after_rejection(kind, rejections=rejections, buys=buys, body_kept=body_kept) is GIVE_UP


@pytest.mark.parametrize("kind", [Rejection.DOCUMENTED, Rejection.VARIANT])
def test_a_second_rejection_of_a_token_that_was_good_on_the_route_renews_once_more(kind: Rejection) -> None:
    assert after_rejection(kind, rejections=2, buys=False, body_kept=True, was_good=True) is REPEAT
    assert after_rejection(kind, rejections=3, buys=False, body_kept=True, was_good=True) is GIVE_UP


# Backoff


@pytest.mark.parametrize(("failures", "seconds"), [(1, 1), (2, 2), (3, 4), (5, 16), (6, 30), (7, 30), (10**6, 30)])
def test_a_pause_doubles_up_to_its_cap(failures: int, seconds: float) -> None:
    assert backoff(failures, first=1.0, cap=30.0) == seconds


@given(st.integers(1, 10**9), st.floats(0.01, 10), st.floats(0.01, 100))
def test_a_pause_never_shrinks_and_never_passes_its_cap(failures: int, first: float, cap: float) -> None:
    pause = backoff(failures, first=first, cap=cap)
    assert 0 < pause <= backoff(failures + 1, first=first, cap=cap) <= cap


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_full_jitter_is_between_nothing_and_the_pause(failures: int, fraction: float) -> None:
    assert (
        0 <= full_jitter(failures, first=0.2, cap=3.0, fraction=fraction) <= backoff(failures, first=0.2, cap=3.0) <= 3
    )


def test_full_jitter_spans_the_whole_pause() -> None:
    assert full_jitter(3, first=1.0, cap=30.0, fraction=0.0) == 0
    assert full_jitter(3, first=1.0, cap=30.0, fraction=1.0) == 4


# Pauses of routes


def test_a_route_that_was_never_rejected_is_not_paused() -> None:
    assert not RoutePauses().paused("/a", 0.0)


def test_a_pause_ends_after_its_time() -> None:
    pauses = RoutePauses()
    pauses.rejected_again("/a", 100.0)
    assert pauses.paused("/a", 100.0)
    assert pauses.paused("/a", 100.999)
    assert not pauses.paused("/a", 101.0)


def test_pauses_of_a_route_grow_from_one_to_sixty_seconds() -> None:
    pauses, now, lengths = RoutePauses(), 0.0, []
    for _ in range(9):
        pauses.rejected_again("/a", now)
        lengths.append(next(length for length in (1, 2, 4, 8, 16, 32, 60, 64) if not pauses.paused("/a", now + length)))
        now += lengths[-1]
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_many_rejections_in_one_pause_lengthen_nothing() -> None:
    pauses = RoutePauses()
    for moment in range(1000):
        pauses.rejected_again("/a", moment / 1001)
    assert not pauses.paused("/a", 1.0)
    pauses.rejected_again("/a", 1.0)
    assert pauses.paused("/a", 2.99)
    assert not pauses.paused("/a", 3.0)


def test_a_pause_is_of_its_route_only() -> None:
    pauses = RoutePauses()
    pauses.rejected_again("/a", 0.0)
    assert not pauses.paused("/b", 0.5)


def test_an_accepted_answer_ends_the_pause_and_its_growth() -> None:
    pauses = RoutePauses()
    pauses.rejected_again("/a", 0.0)
    pauses.rejected_again("/a", 1.0)
    pauses.accepted("/a")
    assert not pauses.paused("/a", 1.5)
    pauses.rejected_again("/a", 1.5)
    assert not pauses.paused("/a", 2.5)


def test_an_accepted_answer_of_another_route_ends_nothing() -> None:
    pauses = RoutePauses()
    pauses.rejected_again("/a", 0.0)
    pauses.accepted("/b")
    assert pauses.paused("/a", 0.5)


def test_pauses_are_bounded_and_the_least_recent_goes_first() -> None:
    pauses = RoutePauses()
    pauses.rejected_again("/first", 0.0)
    pauses.rejected_again("/first", 1.0)
    for number in range(RoutePauses.MOST - 1):
        pauses.rejected_again(f"/{number}", 2.0)
    assert pauses.paused("/first", 2.5)
    pauses.rejected_again("/first", 3.0)
    for number in range(5000):
        pauses.rejected_again(f"/more/{number}", 3.0)
        assert len(pauses) <= RoutePauses.MOST
    assert not pauses.paused("/first", 3.5)
    assert pauses.paused("/more/4999", 3.5)


def test_made_up_routes_share_one_pause_beyond_the_first_few() -> None:
    pauses = RoutePauses()
    for number in range(100):
        pauses.rejected_again(f"GET other made-up-{number}", 0.0)
    assert len(pauses) == RoutePauses.MOST_UNKNOWN + 1
    assert pauses.paused("GET other never-seen", 0.5)
    assert not pauses.paused("GET /v3/carts", 0.5)
