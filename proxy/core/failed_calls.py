"""A session or login call of the proxy's own failed: a refusal, an outage, a rejected token? And what an operator can do.

What is tried again, and when, is `session/`'s affair.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from proxy.core.rejections import LONGEST_REJECTION, Rejection, json_or, judge_rejection

#: Characters of a plain text that may be a refusal; a longer one is somebody's page.
_LONGEST_SENTENCE: Final = 256
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

    A refusal is a 4xx other than 408 and 429 in CardCash's own envelope and not a token rejection. Nobody documents
    whether 401's body is an array, a string or plain text (open question 4), so short plain text that is not a page
    counts as well: hammering a login locks the account. "error code: 1020" is the page of Cloudflare's edge as text.
    """
    if not 400 <= status < 500 or status in (408, 429):
        return FailedCall.OUTAGE
    if judge_rejection(status, body) is not Rejection.NONE:
        return FailedCall.REJECTED
    text = _text(body)
    if not text or is_web_page(body) or "<html" in text[:1024].lower() or text.lower().startswith("error code:"):
        return FailedCall.OUTAGE
    content = json_or(text, ...)
    if content is ...:
        refused = len(text) <= _LONGEST_SENTENCE and "\n" not in text
    elif isinstance(content, dict):
        refused = "message" in content or "error" in content
    else:
        refused = isinstance(content, (str, list))
    return FailedCall.REFUSED if refused else FailedCall.OUTAGE


def is_web_page(body: bytes) -> bool:
    """Say whether somebody answers people here: an edge, a portal, a proxy, never CardCash's API."""
    return _text(body).startswith("<")


def _text(body: bytes) -> str:
    return body[: LONGEST_REJECTION + 1].decode("utf-8", "replace").lstrip("\ufeff").strip()


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
