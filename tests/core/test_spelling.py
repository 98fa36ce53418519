"""What is said of a name that is none."""

from __future__ import annotations

import pytest

from proxy.core.spelling import did_you_mean, nearest, repeatable

KNOWN = ("session.store", "session.eager", "listen")


def test_the_nearest_name_is_meant_and_a_strange_one_is_none() -> None:
    assert nearest("sesion.store", KNOWN) == "session.store"
    assert nearest("zebra", KNOWN) is None
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
    assert repeatable(name, known) is may
