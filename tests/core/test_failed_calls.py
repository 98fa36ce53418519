"""What a failed session or login call means (core/README.md, "Errors"), and what whoever reads of it is advised to do."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.failed_calls import FailedCall, advice_for_answer, advice_for_kind, is_web_page, judge_failure
from proxy.telemetry.labels import UPSTREAM_FAILURES
from tests.core.test_rejections import DOCUMENTED, STATUSES, VARIANTS, envelope

PAGE = b"\n<!doctype html><title>Attention Required!</title>"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
@pytest.mark.parametrize(
    "body",
    [
        envelope(["no x-cc-app was found"]),
        envelope("Invalid credentials"),
        envelope(["locked"], error=True),
        b'{"error": true, "message": "OVER_THE_LIMIT", "remainingSubmitAttempts": 4}',
        b'\xef\xbb\xbf {"message": ["Invalid login"]}\n',
        b'{"message": ["Contrase\xf1a"]}',
        b'{"message": ["line one\\nline two <html>"]}',
        envelope(["x" * 300, None]),
    ],
)
def test_a_4xx_in_the_envelope_is_a_refusal(status: int, body: bytes) -> None:
    assert judge_failure(status, body) is FailedCall.REFUSED


@pytest.mark.parametrize(
    "body",
    [
        *(b"Unauthorized", b"unauthorized\n", b"\xef\xbb\xbf UNAUTHORIZED\r\n"),
        *(b'"Unauthorized"', b' " Unauthorized " ', b'["Unauthorized"]'),
    ],
)
def test_a_401_that_says_unauthorized_and_no_more_is_a_refusal_whatever_it_is_wrapped_in(body: bytes) -> None:
    assert judge_failure(401, body) is FailedCall.REFUSED
    for status in (400, 403, 404):
        assert judge_failure(status, body) is FailedCall.OUTAGE


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 421, 422, 431])
@pytest.mark.parametrize(
    "text",
    [
        *("404 page not found\n", "Not Found", "no healthy upstream", "Forbidden", "RBAC: access denied"),
        *("Method Not Allowed", "Bad Request", "Misdirected Request", "Request Header Fields Too Large"),
        *("Unauthorized.", "401 Unauthorized", "Unauthorized: no route", "Invalid login", "no"),
    ],
)
def test_a_word_of_a_router_on_the_way_is_an_outage_and_no_refusal(status: int, text: str) -> None:
    assert judge_failure(status, text.encode()) is FailedCall.OUTAGE
    assert judge_failure(status, json.dumps(text).encode()) is FailedCall.OUTAGE


@pytest.mark.parametrize("status", [301, 302, 304, 408, 429, 500, 502, 503, 504, 520, 530])
def test_a_status_that_may_pass_is_an_outage(status: int) -> None:
    assert judge_failure(status, envelope(["Invalid credentials"])) is FailedCall.OUTAGE
    assert judge_failure(status, envelope([DOCUMENTED])) is FailedCall.OUTAGE
    assert judge_failure(status, b"") is FailedCall.OUTAGE


@pytest.mark.parametrize("status", [400, 401, 403, 404])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n",
        b"<!DOCTYPE html><html><title>Attention Required! | Cloudflare</title></html>",
        b"\xef\xbb\xbf\n <html></html>",
        b"Sorry: <HTML><body>blocked</body></HTML>",
        b"<?xml version='1.0'?><Error/>",
        b"error code: 1020",
        b"line one\nline two",
        b"x" * 257,
        b"{}",
        b'{"type": "about:blank", "title": "Access denied", "status": 403, "cloudflare_error": true}',
        b"17",
        b"null",
        b"[]",
        b'["no"]',
        b'{"error": "Unauthorized"}',
        b'{"errors": ["no"]}',
        *(envelope(message) for message in ([], [None, "no"], [["no"]], {"0": "no"}, None, True, 17)),
        b'[{"message": ["no"]}]',
        b'{"Message": ["no"]}',
        envelope(["no"])[:-1],
        envelope(["no"]) * 2,
        b"\xff\xfe\n\x00",
    ],
)
def test_a_4xx_of_the_edge_is_an_outage_and_no_refusal(status: int, body: bytes) -> None:
    assert judge_failure(status, body) is FailedCall.OUTAGE


@STATUSES
@pytest.mark.parametrize("wording", [DOCUMENTED, *VARIANTS])
def test_a_rejected_session_token_is_neither_refusal_nor_outage(status: int, wording: str) -> None:
    assert judge_failure(status, envelope([wording])) is FailedCall.REJECTED


def test_the_rejection_wording_with_another_4xx_is_a_refusal() -> None:
    assert judge_failure(403, envelope([DOCUMENTED])) is FailedCall.REFUSED


@pytest.mark.parametrize(
    "body", [b"[" * 60_000, b'{"message":' * 5_000, b"9" * 60_000, b'{"message":[' + b"9" * 60_000 + b"]}"]
)
def test_json_made_to_hurt_is_an_outage(body: bytes) -> None:
    assert judge_failure(400, body) is FailedCall.OUTAGE


@given(st.integers(100, 599), st.binary(max_size=80))
def test_no_answer_makes_judging_fail(status: int, body: bytes) -> None:
    assert judge_failure(status, body) in (FailedCall.REFUSED, FailedCall.OUTAGE)


def test_an_envelope_over_64_kibibytes_is_none() -> None:
    body = envelope(["Invalid login"])
    assert judge_failure(401, body.ljust(64 * 1024)) is FailedCall.REFUSED
    assert judge_failure(401, body.ljust(64 * 1024 + 1)) is FailedCall.OUTAGE


def test_a_page_with_a_byte_order_mark_is_a_page() -> None:
    assert judge_failure(403, b"\xef\xbb\xbf<?xml version='1.0'?>") is FailedCall.OUTAGE
    assert is_web_page(b"\xef\xbb\xbf<html>")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, b"", "trouble of its own"),
        (503, b"", "trouble of its own"),
        (502, PAGE, "trouble of its own"),
        (429, b"{}", "session.store"),
        (401, PAGE, "turns this machine away"),
        (403, PAGE, "turns this machine away"),
        (404, PAGE, "upstream.base_path"),
        (200, PAGE, "web page"),
        (302, b"", "upstream.origin"),
        (400, b"", "upstream.origin"),
    ],
)
def test_an_answer_that_is_none_says_where_to_look(status: int, body: bytes, words: str) -> None:
    assert words in advice_for_answer(status, body)


@pytest.mark.parametrize("kind", [kind for kind in UPSTREAM_FAILURES if kind != "stopped"])
def test_every_way_of_getting_no_answer_says_where_to_look(kind: str) -> None:
    assert advice_for_kind(kind)


def test_a_stop_of_our_own_needs_no_advice() -> None:
    assert advice_for_kind("stopped") == ""


def test_advice_is_half_a_sentence_and_needs_no_second_semicolon() -> None:
    told = [advice_for_kind(kind) for kind in UPSTREAM_FAILURES]
    told += [advice_for_answer(status, body) for status in (200, 302, 403, 404, 429, 503) for body in (b"", PAGE)]
    assert [words for words in told if ";" in words or words.endswith(".")] == []
