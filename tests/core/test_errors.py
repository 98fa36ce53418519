"""The table "Error codes" of config/README.md: statuses and codes stay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.core import errors
from proxy.core.errors import (
    Denied,
    Earlier,
    ProxyError,
    SessionUnavailable,
    Unavailable,
    UpstreamError,
    UpstreamUnreachable,
)

DOUBT = Earlier.DOUBT

TABLE = {
    "bad_request": 400,
    "other_account": 409,
    "body_too_large": 413,
    "target_too_long": 414,
    "host_not_allowed": 421,
    "headers_too_large": 431,
    "upstream_unreachable": 502,
    "upstream_reset": 502,
    "upstream_invalid": 502,
    "session_unavailable": 503,
    "overloaded": 503,
    "draining": 503,
    "not_repeatable": 503,
    "upstream_timeout": 504,
}
#: RFC 9209, 2.3, as far as a proxy of one upstream can need them.
PROXY_STATUSES = {
    "destination_unavailable",
    "connection_terminated",
    "connection_limit_reached",
    "http_request_error",
    "http_request_denied",
    "http_protocol_error",
    "http_response_timeout",
    "proxy_internal_error",
}


def below(parent: type[ProxyError]) -> Iterator[type[ProxyError]]:
    for child in parent.__subclasses__():
        if child.__module__ != errors.__name__:
            continue  # another test's
        yield child
        yield from below(child)


LEAVES = [kind for kind in below(ProxyError) if not kind.__subclasses__() and kind is not Denied]


def test_every_code_of_the_contract_stands_exactly_once_with_its_status() -> None:
    assert sorted((kind.code, kind.status) for kind in LEAVES) == sorted(TABLE.items())


@pytest.mark.parametrize("code", ["denied_by_rule", "origin_not_allowed", "client_not_allowed", "header_required"])
def test_a_guards_refusal_is_403_with_the_code_of_the_guard(code: str) -> None:
    error = Denied(code, "A sentence.")
    assert (error.status, error.code, str(error)) == (403, code, "A sentence.")


@pytest.mark.parametrize("kind", [*LEAVES, Denied, ProxyError])
def test_every_error_has_a_proxy_status_of_the_rfc(kind: type[ProxyError]) -> None:
    assert kind.proxy_status in PROXY_STATUSES


@pytest.mark.parametrize("kind", [kind for kind in LEAVES if kind.status == 503])
def test_every_503_has_a_retry_after(kind: type[Unavailable]) -> None:
    assert kind("A sentence.").retry_after == 1.0
    assert kind("A sentence.", retry_after=30.0).retry_after == 30.0


@pytest.mark.parametrize("kind", [kind for kind in LEAVES if kind.status != 503])
def test_no_other_error_has_a_retry_after(kind: type[ProxyError]) -> None:
    assert kind.retry_after is None


@pytest.mark.parametrize("kind", [kind for kind in LEAVES if issubclass(kind, UpstreamError)])
def test_an_error_of_the_upstream_says_what_failed_and_whether_anything_was_sent(kind: type[UpstreamError]) -> None:
    error = kind("A sentence.", kind="x", sent=True, proxy_status="dns_timeout")
    assert (error.kind, error.sent, error.proxy_status, str(error)) == ("x", True, "dns_timeout", "A sentence.")
    assert kind("A sentence.", kind="x", sent=False).proxy_status == kind.proxy_status


@pytest.mark.parametrize("kind", [*LEAVES, Denied])
def test_the_tree_at_the_top_of_the_file_shows_every_error(kind: type[ProxyError]) -> None:
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__
    assert kind is Denied or kind.code in errors.__doc__


def test_a_caller_that_left_is_not_an_answer() -> None:
    assert not issubclass(errors.CallerGone, ProxyError)


def test_an_error_that_is_told_with_what_came_before_stays_what_it_was() -> None:
    for earlier in (Earlier.REFUSED, Earlier.DOUBT):
        told = SessionUnavailable("No session...", retry_after=7).after(earlier)
        assert str(told) == f"No session. {earlier.value}"
        assert (told.status, told.code, told.retry_after, told.sent) == (
            503,
            "session_unavailable",
            7,
            earlier is DOUBT,
        )


def test_a_sentence_that_begins_with_a_dot_keeps_it() -> None:
    assert str(SessionUnavailable(".netrc is unreadable.").after(Earlier.REFUSED)).startswith(".netrc is unreadable. ")


def test_a_sentence_ends_without_what_is_no_longer_true() -> None:
    error = UpstreamUnreachable("No connection; nothing was sent.", kind="dns", sent=False)
    assert str(error.after(Earlier.NONE)) == "No connection; nothing was sent."
    assert str(error.after(Earlier.DOUBT)) == f"No connection. {Earlier.DOUBT.value}"
