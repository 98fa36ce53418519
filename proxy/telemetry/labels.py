"""The closed sets of label values: every series of theirs is there from the start, at 0.

A counter that appears with its first event hides that event from `rate()` and `increase()`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from proxy.core.errors import ProxyError
from proxy.core.route_names import KNOWN_ROUTES, OTHER

ROUTES: Final = (*KNOWN_ROUTES, OTHER)

#: A caller chooses its method and CardCash its status, so both are held to those that mean something to somebody.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_STATUSES: Final = frozenset({*map(int, HTTPStatus), 499})


def of_a_request(method: str, route: str, status: int) -> tuple[str, str, str]:
    """Return the labels of a request; a method that is not known is `other`, a status its class, such as `5xx`."""
    shown = str(status) if status in _STATUSES else f"{status // 100}xx"
    return method if method in _METHODS else OTHER, route, shown


#: Ways in which an exchange with CardCash fails: before anything was sent, and after something may have been.
UPSTREAM_FAILURES: Final = (
    *("dns", "refused", "unreachable", "connect_timeout", "tls", "proxy"),
    *("reset_before_head", "reset_in_head", "reset_in_body", "stopped"),
    *("send_timeout", "head_timeout", "body_timeout", "invalid"),
)

_REASONS: Final = ("start", "first", "expired", "rejected", "window", "identity", "operator", "credentials")
RENEWAL_RESULTS: Final = ("ok", "login_refused", "refused", "failed", "same_token", "superseded")
RENEWALS: Final = (
    *((reason, result) for reason in _REASONS for result in RENEWAL_RESULTS),
    *(("keepalive", "ok"), ("keepalive", "failed"), ("store", "ok")),
)

HARVESTS: Final = ("adopted", "unchanged", "late", "malformed", "anonymous", "foreign")
RETRIES: Final = ("accepted", "rejected", "same_token", "probed", "not_repeatable")

STORE_OPERATIONS: Final = (
    *(("load", "ok"), ("load", "empty"), ("load", "foreign"), ("load", "failed")),
    *(("save", "ok"), ("save", "lost"), ("save", "failed")),
    *(("latch", "ok"), ("latch", "empty"), ("latch", "failed")),
    *(("lease", "ok"), ("lease", "failed")),
    *(("enter", "granted"), ("enter", "news"), ("enter", "busy"), ("enter", "paused"), ("enter", "failed")),
    *(("extend", "lost"), ("extend", "failed")),
)
#: Operations of a Redis that are measured.
REDIS_OPERATIONS: Final = ("look", "enter", "save", "failed", "refuse", "login", "extend", "leave")

#: Codes of one class of error, told apart by who raises it.
_DENIALS: Final = ("denied_by_rule", "origin_not_allowed", "client_not_allowed", "header_required")


def error_codes() -> list[str]:
    """List the codes of all errors that the proxy makes itself."""
    codes, kinds = {ProxyError.code, *_DENIALS}, [ProxyError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if "code" in vars(kind):
            codes.add(kind.code)
    return sorted(codes)
