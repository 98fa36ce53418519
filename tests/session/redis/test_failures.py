"""What Redis, redis-py, sockets and TLS say goes into our own words, whatever else stands there."""

from __future__ import annotations

import pytest
from redis import exceptions
from redis._parsers import BaseParser

from proxy.session.stores.redis.failures import GRANTS, FailureKind, failure_of

SCRIPT_6 = "ERR Error running script (call to f_0a): @user_script:7: @user_script: 7: -{} hush"
SCRIPT_7 = "{} hush script: 0a, on @user_script:7."


@pytest.mark.parametrize("form", ["{} hush", SCRIPT_6, SCRIPT_7])
@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("LOADING", FailureKind.DOWN, "loading"),
        ("MASTERDOWN", FailureKind.DOWN, "lost its master"),
        ("CLUSTERDOWN", FailureKind.DOWN, "cluster is down"),
        ("READONLY", FailureKind.DOWN, "read-only replica"),
        ("BUSY", FailureKind.DOWN, "busy"),
        ("UNHEARDOF", FailureKind.DOWN, "answers UNHEARDOF"),
        ("NOAUTH", FailureKind.DENIED, "wants a password"),
        ("WRONGPASS", FailureKind.DENIED, "refuses the user or password"),
        ("NOPERM", FailureKind.DENIED, GRANTS),
        ("OOM", FailureKind.REFUSED, "out of memory"),
        ("MISCONF", FailureKind.REFUSED, "snapshots"),
        ("NOREPLICAS", FailureKind.REFUSED, "too few replicas"),
        ("WRONGTYPE", FailureKind.REFUSED, "not of our making"),
    ],
)
def test_a_refusal_is_known_however_a_version_puts_it(form: str, code: str, kind: FailureKind, says: str) -> None:
    failure = failure_of(BaseParser.parse_error(form.format(code)))  # type: ignore[no-untyped-call]
    assert (failure.kind, says in failure.sentence, "hush" in failure.sentence) == (kind, True, False)


@pytest.mark.parametrize(
    "error",
    [
        *(exceptions.ConnectionError("hush"), exceptions.TimeoutError("hush"), exceptions.ResponseError("hush")),
        *(exceptions.InvalidResponse("hush"), exceptions.AuthenticationError("hush"), OSError("hush")),
        *(OSError(113, "hush"), TimeoutError("hush"), ValueError("hush"), exceptions.ResponseError("ERR hush")),
    ],
)
def test_nothing_that_others_say_is_repeated(error: Exception) -> None:
    failure = failure_of(error)
    assert failure.sentence
    assert "hush" not in failure.sentence
