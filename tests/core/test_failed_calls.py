"""What a failed session or login call means: a refusal, an outage, a rejected token (core/README.md, "Errors")."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.dialect import FailedCall, judge_failure
from tests.core.test_rejections import DOCUMENTED, STATUSES, VARIANTS, envelope


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
@pytest.mark.parametrize(
    "body",
    [
        envelope(["no x-cc-app was found"]),
        envelope("Invalid credentials"),
        envelope(["locked"], error=True),
        b'{"error": true, "message": "OVER_THE_LIMIT", "remainingSubmitAttempts": 4}',
        b'{"error": "Unauthorized"}',
        b'\xef\xbb\xbf {"message": ["Invalid login"]}\n',
    ],
)
def test_a_4xx_in_the_envelope_is_a_refusal(status: int, body: bytes) -> None:
    assert judge_failure(status, body) is FailedCall.REFUSED


@pytest.mark.parametrize("body", [b"Unauthorized", b'"Unauthorized"', b'["Unauthorized"]', b"Invalid login\n"])
def test_a_short_text_that_is_no_page_is_a_refusal(body: bytes) -> None:
    assert judge_failure(401, body) is FailedCall.REFUSED


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


def test_a_plain_text_of_256_characters_may_be_a_refusal() -> None:
    assert judge_failure(401, b"x" * 256) is FailedCall.REFUSED


def test_a_page_with_a_byte_order_mark_is_a_page() -> None:
    assert judge_failure(403, b"\xef\xbb\xbf<?xml version='1.0'?>") is FailedCall.OUTAGE
