"""What is said of a name that is none."""

from __future__ import annotations

import pytest

from proxy.core.spelling import did_you_mean, unknown

KNOWN = ("session.store", "session.eager", "listen")


def test_the_nearest_name_is_meant_and_a_strange_one_is_none() -> None:
    assert did_you_mean("sesion.store", KNOWN) == '; did you mean "session.store"?'
    assert did_you_mean("lisen", KNOWN) == '; did you mean "listen"?'
    assert did_you_mean("zebra", KNOWN) == ""


@pytest.mark.parametrize(
    ("name", "known", "may"),
    [
        ("sesion.store", KNOWN, True),
        ("SESSION.STORE", KNOWN, True),
        ("listne", KNOWN, True),
        ("a-b-c-d-e", ("a_b_c_d_e",), True),
        ("listen1", KNOWN, False),
        ("hunter", KNOWN, False),
        ("sessions", KNOWN, False),
    ],
)
def test_only_a_slip_of_the_pen_is_repeated(name: str, known: tuple[str, ...], *, may: bool) -> None:
    # Anything else may be a secret gone astray.
    assert unknown(name, known, "it")[0] == (name if may else "it")


@pytest.mark.parametrize("name", ["lis\nten", "lis\x1bten", "lis\u2028ten", "lis\u202eten"])
def test_what_would_break_the_line_is_not_repeated(name: str) -> None:
    assert unknown(name, KNOWN, "a key") == ("a key", '; did you mean "listen"?')


def test_what_stands_before_all_names_makes_none_of_them_alike() -> None:
    assert unknown("lisen", KNOWN, "it", prefix="CARDCASH_") == ("CARDCASH_lisen", '; did you mean "CARDCASH_listen"?')
    assert unknown("zebra", KNOWN, "it", prefix="CARDCASH_") == ("it", "")
