"""The windows in a token's life, by both clocks."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.token import (
    DEFAULT_LIFETIME,
    LONGEST_LIFETIME,
    Freshness,
    Moment,
    Source,
    Token,
    Windows,
    usable_lifetime,
)

SECRET = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2VjcmV0"
BORN = Moment(steady=1000.0, wall=1_700_000_000.0)
LIVES = st.floats(1.0, LONGEST_LIFETIME)
AHEADS = st.floats(0.0, LONGEST_LIFETIME)


def token(lifetime: float) -> Token:
    return Token(SECRET, BORN, lifetime)


def after(seconds: float, *, wall: float | None = None) -> Moment:
    return Moment(BORN.steady + seconds, BORN.wall + (seconds if wall is None else wall))


@pytest.mark.parametrize(
    ("lifetime", "usable_for"),
    [(1, 0.9), (10, 9), (49, 44.1), (50, 45), (51, 46), (1199, 1194), (3600, 3595), (604800, 604795)],
)
def test_a_token_expires_five_seconds_or_a_tenth_of_its_life_early(lifetime: float, usable_for: float) -> None:
    assert token(lifetime).expires_at - BORN.steady == pytest.approx(usable_for)
    assert token(lifetime).expires_wall - BORN.wall == pytest.approx(usable_for)


@pytest.mark.parametrize(
    ("lifetime", "ahead", "stale_after"), [(3600, 300, 3300), (1199, 300, 899), (400, 300, 200), (10, 300, 5)]
)
def test_the_renewal_window_is_never_longer_than_half_of_the_life(
    lifetime: float, ahead: float, stale_after: float
) -> None:
    assert Windows.of(token(lifetime), ahead).stale_at == BORN.steady + stale_after


@given(LIVES, AHEADS)
def test_windows_come_in_order(lifetime: float, ahead: float) -> None:
    windows = Windows.of(token(lifetime), ahead)
    assert BORN.steady + lifetime / 2 <= windows.stale_at + 1e-6
    assert windows.stale_at <= windows.renew_at <= windows.expires_at < BORN.steady + lifetime


@given(LIVES, AHEADS)
def test_the_first_half_of_the_window_is_left_to_refresh_by_traffic(lifetime: float, ahead: float) -> None:
    windows = Windows.of(token(lifetime), ahead)
    assert windows.renew_at - windows.stale_at == pytest.approx((windows.expires_at - windows.stale_at) / 2, abs=1e-6)


def test_without_a_window_a_token_is_fresh_to_its_end() -> None:
    windows = Windows.of(token(100), 0)
    assert windows.stale_at == windows.renew_at == windows.expires_at
    assert windows.freshness(after(94.9)) is Freshness.FRESH
    assert windows.freshness(after(95)) is Freshness.EXPIRED


@pytest.mark.parametrize(
    ("seconds", "freshness"),
    [
        (0, Freshness.FRESH),
        (3299.9, Freshness.FRESH),
        (3300, Freshness.STALE),
        (3594.9, Freshness.STALE),
        (3595, Freshness.EXPIRED),
        (1e9, Freshness.EXPIRED),
    ],
)
def test_a_token_is_fresh_then_stale_then_expired(seconds: float, freshness: Freshness) -> None:
    assert Windows.of(token(3600), 300).freshness(after(seconds)) is freshness


def test_a_wall_clock_past_the_end_expires_although_the_steady_one_stood_still() -> None:
    assert Windows.of(token(3600), 300).freshness(after(10, wall=3595)) is Freshness.EXPIRED


def test_a_wall_clock_set_back_does_not_lengthen_the_life() -> None:
    assert Windows.of(token(3600), 300).freshness(after(3595, wall=-86400)) is Freshness.EXPIRED


def test_a_wall_clock_inside_the_window_does_not_make_a_token_stale() -> None:
    assert Windows.of(token(3600), 300).freshness(after(10, wall=3400)) is Freshness.FRESH


@pytest.mark.parametrize(
    ("claims", "lifetime"),
    [
        ((), DEFAULT_LIFETIME),
        ((None, None, None), DEFAULT_LIFETIME),
        ((1.0,), 1.0),
        ((604800.0,), 604800.0),
        ((0.999, 1200.0), 1200.0),
        ((604800.1, 1200.0), 1200.0),
        ((0.0,), DEFAULT_LIFETIME),
        ((-5.0, None, 30.0), 30.0),
        ((float("nan"), 30.0), 30.0),
        ((float("inf"), float("-inf")), DEFAULT_LIFETIME),
        ((20.0, 30.0), 20.0),
    ],
)
def test_the_first_sane_lifetime_counts(claims: tuple[float | None, ...], lifetime: float) -> None:
    assert usable_lifetime(*claims) == lifetime


@given(st.lists(st.none() | st.floats()))
def test_a_lifetime_is_always_between_a_second_and_a_week(claims: list[float | None]) -> None:
    assert 1.0 <= usable_lifetime(*claims) <= 604800.0


def test_the_repr_of_a_token_is_fit_for_a_log() -> None:
    anonymous = token(1199)
    known = replace(anonymous, identity="someone@example.com", source=Source.LOGIN)
    assert repr(anonymous) == "<Token session anonymous lifetime=1199s>"
    assert repr(known) == "<Token login logged in lifetime=1199s>"


def test_no_rendering_of_a_token_shows_its_value() -> None:
    held = replace(token(60), identity="someone@example.com")
    for text in (repr(held), str(held), f"{held}", f"{[held]}", f"{Windows.of(held, 5)}"):
        assert SECRET not in text
        assert "someone" not in text


def test_tokens_are_compared_by_identity_not_by_value() -> None:
    one, other = token(60), token(60)
    assert one != other
    assert len({one, other, one}) == 2


def test_a_token_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        token(60).value = "other"  # type: ignore[misc]


def test_copies_of_a_token_are_other_tokens() -> None:
    held = token(60)
    assert copy.copy(held) != held
    assert pickle.loads(pickle.dumps(held)).value == held.value


def test_authorization_is_bearer_and_the_value() -> None:
    assert token(60).bearer == b"Bearer " + SECRET.encode()


def test_what_nobody_may_be_told_is_its_value_and_its_application_id_in_lower_case() -> None:
    assert Token("A.b.C", BORN, app_id="My-Id").private == (b"a.b.c", b"my-id")
    assert Token("A.b.C", BORN).private == (b"a.b.c",)


def test_a_token_that_no_header_can_carry_shows_nothing_of_itself() -> None:
    # An error of encoding would have it in its text.
    assert Token("\u00e9.b.c", Moment(0, 0)).bearer == b"Bearer ?.b.c"
