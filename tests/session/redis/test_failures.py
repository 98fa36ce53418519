"""What Redis, sockets and TLS say goes into our own words, whatever else stands there."""

from __future__ import annotations

import socket
import ssl

import pytest

from proxy.session.stores.redis.connection import NotRedis, RedisError
from proxy.session.stores.redis.diagnosis import GRANTS, FailureKind, RedisFailure, failure_of
from proxy.session.stores.redis.scripts import NotOurScript
from proxy.session.stores.redis.servers import NoMaster

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
    ],
)
def test_a_refusal_is_known_however_a_version_puts_it(form: str, code: str, kind: FailureKind, says: str) -> None:
    failure = failure_of(RedisError(form.format(code)))
    assert (failure.kind, says in failure.sentence, "hush" in failure.sentence) == (kind, True, False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ERR max number of clients reached", "maxclients"),
        ("ERR DB index is out of range", "no database"),
        ("ERR SELECT is not allowed in cluster mode", "no database"),
        (
            "ERR The user executing the script can't run this command or subcommand script: 0a, on @user_script:7.",
            "grant",
        ),
        ("ERR ACL failure in script: User me has no permissions to run the 'get' command script: 0a", "grant"),
        ("ERR hush", "not known"),
        ("hush", "not known"),
        ("", "not known"),
    ],
)
def test_what_redis_has_no_word_for_is_known_by_its_text(text: str, says: str) -> None:
    assert says in failure_of(RedisError(text)).sentence


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("MOVED 3999 127.0.0.1:6381", ("127.0.0.1", 6381)),
        ("ASK 3999 redis-2.example:6381", ("redis-2.example", 6381)),
        ("MOVED 3999 2001:db8::1:6381", ("2001:db8::1", 6381)),
        ("MOVED 3999 :6381", ("", 6381)),
        ("MOVED 3999 ?:6381", ("", 6381)),
        ("MOVED 3999", None),
        ("MOVED away", None),
        ("READONLY MOVED 3999 127.0.0.1:6381", None),
    ],
)
def test_where_a_cluster_points_to(text: str, target: tuple[str, int] | None) -> None:
    assert RedisError(text).target == target


def not_accepted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "hush")
    error.verify_message = "certificate has expired"
    return error


def of_tls(reason: str | None) -> ssl.SSLError:
    error = ssl.SSLError(1, "hush")
    error.reason = reason  # type: ignore[assignment]
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (NoMaster("hush"), "no Sentinel knows a master of this name that is up"),
        (NotOurScript("hush"), "Redis answers the scripts with something that is not theirs"),
        (TimeoutError("hush"), "Redis did not answer in time"),
        (not_accepted(), "the certificate of Redis is not accepted: certificate has expired"),
        (of_tls("WRONG_VERSION_NUMBER"), "TLS with Redis fails (wrong version number)"),
        (of_tls(None), "TLS with Redis fails (no reason given)"),
        (socket.gaierror(-2, "hush"), "the name of Redis cannot be resolved"),
        (OSError(113, "hush"), "Redis cannot be reached: No route to host"),
        (ConnectionResetError(), "the connection to Redis was closed or cannot be made"),
        (NotRedis("hush"), "what answers is no Redis, or one with TLS where session.store has none"),
        (ValueError("hush"), "what answers is no Redis, or one with TLS where session.store has none"),
    ],
)
def test_what_keeps_us_from_redis_is_told_in_our_words_and_may_pass(error: Exception, says: str) -> None:
    assert failure_of(error) == RedisFailure(FailureKind.DOWN, says)


@pytest.mark.parametrize(
    "error",
    [
        RedisError("hush"),
        RedisError("ERR hush"),
        NotRedis("hush"),
        OSError("hush"),
        OSError(113, "hush"),
        ValueError("hush"),
    ],
)
def test_nothing_that_others_say_is_repeated(error: Exception) -> None:
    failure = failure_of(error)
    assert failure.sentence
    assert (
        "hush" not in f"{failure.sentence} {error!r}"
        if isinstance(error, RedisError)
        else "hush" not in failure.sentence
    )
