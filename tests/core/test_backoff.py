"""How long the pauses are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.backoff import backoff, full_jitter


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
