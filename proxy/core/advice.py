"""What an operator can do when a call of the proxy's own to CardCash fails: half a sentence for logs, page and `doctor`.

Pure. Owns the words only; what is tried again, and when, is decided elsewhere.
"""

from __future__ import annotations

from typing import Final

_DOWN: Final = "CardCash, or something on the way, has trouble of its own: wait, or ask CardCash"
_OTHER: Final = "check upstream.origin and upstream.base_path, what answers may not be CardCash"
#: By the kind of an exchange that failed, see `UpstreamError.kind`.
_OF_KINDS: Final = {
    "dns": "check DNS and upstream.origin",
    "refused": "check upstream.origin, else CardCash is down",
    "unreachable": "see that this machine may connect there (firewall, egress policy, route)",
    "connect_timeout": "see that this machine may connect there (firewall, egress policy, route)",
    "tls": "check upstream.origin and upstream.ca_file",
    "proxy": "check HTTPS_PROXY, or upstream.trust_env",
    "invalid": _OTHER,
    "head_timeout": "CardCash is slow or down",
    "body_timeout": "CardCash is slow or down",
    "send_timeout": "CardCash is slow or down",
    "reset_before_head": _DOWN,
    "reset_in_head": _DOWN,
    "reset_in_body": _DOWN,
}


def of_kind(kind: str) -> str:
    """Say what to do about a call that got no answer; "" where nothing is known."""
    return _OF_KINDS.get(kind, "")


def of_answer(status: int, body: bytes) -> str:
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


def is_web_page(body: bytes) -> bool:
    """Say whether somebody answers people here: an edge, a portal, a proxy, never CardCash's API."""
    return body.lstrip().startswith(b"<")
