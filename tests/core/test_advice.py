"""Whoever reads that a call to CardCash failed also reads what to do."""

from __future__ import annotations

import pytest

from proxy.core import advice
from proxy.telemetry.labels import UPSTREAM_FAILURES

PAGE = b"\n<!doctype html><title>Attention Required!</title>"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (503, b"", "trouble of its own"),
        (502, PAGE, "trouble of its own"),
        (429, b"{}", "session.store"),
        (403, PAGE, "turns this machine away"),
        (404, PAGE, "upstream.base_path"),
        (200, PAGE, "web page"),
        (302, b"", "upstream.origin"),
        (400, b"", "upstream.origin"),
    ],
)
def test_an_answer_that_is_none_says_where_to_look(status: int, body: bytes, words: str) -> None:
    assert words in advice.of_answer(status, body)


@pytest.mark.parametrize("kind", [kind for kind in UPSTREAM_FAILURES if kind != "stopped"])
def test_every_way_of_getting_no_answer_says_where_to_look(kind: str) -> None:
    assert advice.of_kind(kind)


def test_advice_is_half_a_sentence_and_needs_no_second_semicolon() -> None:
    told = [advice.of_kind(kind) for kind in UPSTREAM_FAILURES]
    told += [advice.of_answer(status, body) for status in (200, 302, 403, 404, 429, 503) for body in (b"", PAGE)]
    assert [words for words in told if ";" in words or words.endswith(".")] == []
