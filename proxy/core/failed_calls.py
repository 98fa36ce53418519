"""A session or login call of the proxy's own failed: a refusal, an outage, a rejected token? And what an operator can do.

What is tried again, and when, is `session/`'s affair.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from enum import Enum
from typing import Final

from proxy.core.rejections import Rejection, judge_rejection, read_error

#: What a 401 of CardCash's says, in lower case.
_UNAUTHORIZED: Final = "unauthorized"
_DOWN: Final = "CardCash, or something on the way, has trouble of its own: wait, or ask CardCash"
_OTHER: Final = "check upstream.origin and upstream.base_path, what answers may not be CardCash"
#: By the kind of an exchange that failed, see `UpstreamError.kind`.
_OF_KINDS: Final = {
    "dns": "check DNS and upstream.origin",
    "refused": "check upstream.origin, else CardCash is down",
    "unreachable": "see that this machine may connect there (firewall, egress policy, route)",
    "connect_timeout": "see that this machine may connect there (firewall, egress policy, route)",
    "tls": "check upstream.origin and upstream.ca_file",
    "proxy": "check HTTPS_PROXY and upstream.trust_env, and that this proxy lets us through to CardCash",
    "invalid": _OTHER,
    "head_timeout": "CardCash is slow or down",
    "body_timeout": "CardCash is slow or down",
    "send_timeout": "CardCash is slow or down",
    "reset_before_head": _DOWN,
    "reset_in_head": _DOWN,
    "reset_in_body": _DOWN,
}


class FailedCall(Enum):
    """What a failed session or login call means."""

    #: CardCash said no: the application id or the login is wrong. Trying again could lock the account.
    REFUSED = "refused"
    #: Anything else: the edge, an overload, a failure. Trying again later is right.
    OUTAGE = "outage"
    #: The session token itself was rejected: a new session, then again.
    REJECTED = "rejected"


def judge_failure(status: int, body: bytes) -> FailedCall:
    """Tell a refusal from an outage, for an answer to a session or login call that brought no token.

    A refusal is a 4xx other than 408 and 429 in CardCash's own envelope and not a token rejection: trying again could lock
    the account. Nobody documents whether the body of its 401 "Unauthorized" is that envelope, a string or plain text (open
    question 4), so a 401 that says this word and no more counts as well. What else a 4xx says comes from a router or an
    edge on the way ("404 page not found"): nothing was refused, and it may be over the next moment.
    """
    if not 400 <= status < 500 or status in (408, 429):
        return FailedCall.OUTAGE
    if judge_rejection(status, body) is not Rejection.NONE:
        return FailedCall.REJECTED
    error = read_error(body)
    if error is None:
        return FailedCall.OUTAGE
    refused = error.envelope or (status == 401 and error.message.lower() == _UNAUTHORIZED)
    return FailedCall.REFUSED if refused else FailedCall.OUTAGE


def may_count(status: int, body: bytes) -> bool:
    """Say whether a login that was answered so may count towards a lock-out, though it is no refusal as CardCash writes one.

    How a failed login looks is not documented (open question 3): any 4xx that is no web page may be one.
    """
    return status == 429 or (400 <= status < 500 and status != 408 and not is_web_page(body))


def is_web_page(body: bytes) -> bool:
    """Say whether somebody answers people here: an edge, a portal, a proxy, never CardCash's API."""
    return body.removeprefix(BOM_UTF8).lstrip().startswith(b"<")


def advice_for_kind(kind: str) -> str:
    """Say what to do about a call that got no answer; "" where nothing is known."""
    return _OF_KINDS.get(kind, "")


def advice_for_answer(status: int, body: bytes) -> str:
    """Say what to do about an answer that is neither a success nor a refusal."""
    if status == 429:
        return "CardCash limits such calls, processes that share a session.store need fewer"
    if status >= 500:
        return _DOWN
    if is_web_page(body):
        if status in (401, 403):
            return (
                "it is a web page, so an edge in front of CardCash turns this machine away: ask CardCash to let it in"
            )
        return f"it is a web page, {_OTHER}"
    return _OTHER
