"""What a rejected token looks like (core/README.md, "Errors")."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.rejections import Rejection, judge_answer_to_head, judge_rejection

DOCUMENTED = "no Authorization token was found"
VARIANTS = (
    "jwt expired",
    "jwt malformed",
    "invalid token",
    "invalid signature",
    "jwt not active",
    "The token has expired",
    "Authorization token expired",
)
STATUSES = pytest.mark.parametrize("status", [400, 401])
ORDINARY = (
    "Error, insufficient inventory",
    "Invalid coupon",
    "no order status found",
    "Insufficient funds",
    "Not all requested cards were added to the cart",
    "no x-cc-app was found",
    "OVER_THE_LIMIT",
    "Unauthorized",
)


def envelope(message: object, **more: object) -> bytes:
    return json.dumps({"message": message, **more}).encode()


@pytest.mark.parametrize(("status", "counts"), [(400, True), (401, False), (404, False), (200, False), (500, False)])
def test_a_head_has_no_body_to_read_so_its_400_counts(status: int, *, counts: bool) -> None:
    assert judge_answer_to_head(status) is (Rejection.BARE if counts else Rejection.NONE)


@pytest.mark.parametrize("wording", [DOCUMENTED, f" {DOCUMENTED}\n"])
def test_the_documented_wording_is_a_documented_rejection(wording: str) -> None:
    assert judge_rejection(400, envelope([wording])) is Rejection.DOCUMENTED
    assert judge_rejection(400, envelope(wording)) is Rejection.DOCUMENTED


@pytest.mark.parametrize(
    ("status", "wording"),
    [
        (401, DOCUMENTED),
        (400, DOCUMENTED.lower()),
        (400, DOCUMENTED.upper()),
        (400, "No authorization token was found"),
    ],
)
def test_what_differs_from_the_documented_answer_by_status_or_capitals_is_a_variant(status: int, wording: str) -> None:
    assert judge_rejection(status, envelope([wording])) is Rejection.VARIANT


@STATUSES
@pytest.mark.parametrize("wording", VARIANTS)
def test_an_undocumented_wording_is_a_variant(status: int, wording: str) -> None:
    for spelling in (wording, wording.upper(), wording.title(), f"\t{wording} "):
        assert judge_rejection(status, envelope([spelling])) is Rejection.VARIANT
        assert judge_rejection(status, envelope(spelling)) is Rejection.VARIANT


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + envelope([DOCUMENTED]),
        b" \r\n\t" + envelope([DOCUMENTED]) + b"\r\n",
        envelope([DOCUMENTED]) + b"\n\0",
        envelope([DOCUMENTED, "and more"]),
        envelope([DOCUMENTED], error=True, statusCode=400, stack=[1, {"a": None}]),
        json.dumps({"message": [DOCUMENTED]}, indent=4).encode(),
        b'{"message":["no Authorizatio\\u006e token was found"]}',
        b'{"message":["no Authorization token was found"],"path":"caf\xe9"}',
    ],
    ids=["BOM", "white space", "NUL", "longer array", "more fields", "indented", "escapes", "Latin-1 beside it"],
)
def test_packaging_does_not_hide_a_rejection(body: bytes) -> None:
    assert judge_rejection(400, body) is Rejection.DOCUMENTED


@pytest.mark.parametrize(
    "body",
    [DOCUMENTED.encode(), json.dumps(DOCUMENTED).encode(), json.dumps([DOCUMENTED]).encode(), b"jwt expired\n"],
    ids=["plain text", "JSON string", "JSON array", "plain variant"],
)
def test_a_wording_outside_the_envelope_is_only_a_variant(body: bytes) -> None:
    assert judge_rejection(400, body) is Rejection.VARIANT
    assert judge_rejection(401, body) is Rejection.VARIANT


@STATUSES
@pytest.mark.parametrize("message", ORDINARY)
def test_an_ordinary_error_is_no_rejection(status: int, message: str) -> None:
    for body in (envelope([message]), envelope(message), message.encode(), json.dumps(message).encode()):
        assert judge_rejection(status, body) is Rejection.NONE


@pytest.mark.parametrize("wording", [DOCUMENTED, *VARIANTS])
@pytest.mark.parametrize("frame", ["{}.", "{}!", "Error: {}", "{} {}", "'{}'", "x{}", "{}\u200b", "{}: order 5"])
def test_a_rejection_inside_a_longer_message_is_none(wording: str, frame: str) -> None:
    message = frame.format(wording, wording)
    assert judge_rejection(400, envelope([message])) is Rejection.NONE
    assert judge_rejection(400, message.encode()) is Rejection.NONE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"true",
        b"400",
        envelope([]),
        envelope(None),
        envelope([None, DOCUMENTED]),
        envelope(["Invalid coupon", DOCUMENTED]),
        envelope([[DOCUMENTED]]),
        envelope({"0": DOCUMENTED}),
        json.dumps({"error": DOCUMENTED}).encode(),
        json.dumps({"Message": [DOCUMENTED]}).encode(),
        json.dumps({"data": {"message": [DOCUMENTED]}}).encode(),
        json.dumps([{"message": [DOCUMENTED]}]).encode(),
        envelope([DOCUMENTED])[:-1],
        envelope([DOCUMENTED]) * 2,
        envelope([DOCUMENTED]).decode().encode("utf-16"),
        b"<html><body>" + DOCUMENTED.encode() + b"</body></html>",
        b'{"message":["\xff"]}',
    ],
)
def test_another_shape_is_no_rejection(body: bytes) -> None:
    assert judge_rejection(400, body) is Rejection.NONE


@pytest.mark.parametrize("status", [200, 201, 204, 301, 402, 403, 404, 408, 409, 422, 429, 500, 502, 503, 504])
def test_only_400_and_401_can_be_rejections(status: int) -> None:
    assert judge_rejection(status, envelope([DOCUMENTED])) is Rejection.NONE


@pytest.mark.parametrize(
    "wording", ["The token haſ expired", "jwt expıred", "ｊｗｔ expired", "no Authorization token was ﬁound"]
)
def test_letters_that_only_look_alike_do_not_match(wording: str) -> None:
    assert judge_rejection(400, envelope([wording])) is Rejection.NONE


def test_an_answer_over_64_kibibytes_is_no_rejection() -> None:
    body = envelope([DOCUMENTED])
    assert judge_rejection(400, body.ljust(64 * 1024)) is Rejection.DOCUMENTED
    assert judge_rejection(400, body.ljust(64 * 1024 + 1)) is Rejection.NONE


@pytest.mark.parametrize(
    "body", [b"[" * 60_000, b'{"message":' * 5_000, b"9" * 60_000, b'{"message":[' + b"9" * 60_000 + b"]}"]
)
def test_json_made_to_hurt_is_no_rejection(body: bytes) -> None:
    assert judge_rejection(400, body) is Rejection.NONE


@given(st.text(max_size=60))
def test_any_other_message_is_no_rejection(message: str) -> None:
    known = message.strip().lower() in {DOCUMENTED.lower(), *(wording.lower() for wording in VARIANTS)}
    assert (judge_rejection(400, envelope([message])) is not Rejection.NONE) is known


@given(st.integers(100, 599), st.binary(max_size=80))
def test_no_answer_makes_judging_fail(status: int, body: bytes) -> None:
    assert judge_rejection(status, body) is Rejection.NONE
