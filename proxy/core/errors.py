"""Every way a request can fail inside the proxy, each with a status and a code that stay (config/README.md).

::

    ProxyError
    ├── RequestRefused                 the caller must change something; nothing was sent upstream, or the sentence says that
    │   │                              a part of the body was, without its end
    │   ├── BadRequest                 400 bad_request
    │   ├── Denied                     403 denied_by_rule | origin_not_allowed | client_not_allowed | header_required
    │   ├── OtherAccount               409 other_account
    │   ├── BodyTooLarge               413 body_too_large
    │   ├── TargetTooLong              414 target_too_long
    │   ├── HostNotAllowed             421 host_not_allowed
    │   └── HeadersTooLarge            431 headers_too_large
    ├── Unavailable                    503, with Retry-After
    │   ├── SessionUnavailable         session_unavailable
    │   ├── Overloaded                 overloaded
    │   ├── Draining                   draining
    │   └── NotRepeatable              not_repeatable
    └── UpstreamError                  carries `sent`: may any byte of the request have reached CardCash?
        ├── UpstreamUnreachable        502 upstream_unreachable (never sent)
        ├── UpstreamReset              502 upstream_reset
        ├── UpstreamInvalid            502 upstream_invalid
        └── UpstreamTimeout            504 upstream_timeout
    CallerGone                         the caller closed its connection: nobody is left to answer

Owns the tree, nothing else; how an error is written to a socket is `server/answers.py`.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Final, Self

#: How the sentence of an error ends that came before anything was sent.
NOTHING_SENT: Final = "; nothing was sent."


class Earlier(Enum):
    """What became of the earlier attempts of one request; the value is what its caller is told of them."""

    NONE = "Nothing was sent."
    REFUSED = "CardCash refused the token of the attempt before this, so nothing was processed."
    DOUBT = "The attempt before this may have been processed, so check before you send it again."


class ProxyError(Exception):
    """Base of every error that is answered by the proxy itself.

    `str(error)` is one sentence for the caller: it names the cause and what to do and never holds
    a byte of the request, a token, or a value of a secret.
    """

    status: ClassVar[int] = 500
    code: str = "internal_error"
    #: Error type of RFC 9209, section 2.3, for `Proxy-Status: cardcash-proxy; error=…`.
    proxy_status: str = "proxy_internal_error"
    #: Seconds for `Retry-After`; None: the header is left out.
    retry_after: float | None = None
    #: The request may have reached CardCash, and nobody knows what became of it.
    sent: bool = False

    def __init_subclass__(cls, *, status: int = 0, code: str = "", proxy_status: str = "") -> None:
        """Take what a class says of itself in its head; the rest is its parent's."""
        super().__init_subclass__()
        said = {"status": status, "code": code, "proxy_status": proxy_status}
        for name, value in said.items():
            if value:
                setattr(cls, name, value)

    def after(self, earlier: Earlier) -> Self:
        """Return the same error with the truth about the attempts that were made before it.

        One that was raised after its own attempt was sent says already that the request may have been processed.
        """
        if self.sent or (earlier is Earlier.NONE and str(self).endswith(NOTHING_SENT)):
            return self
        sentence = f"{str(self).removesuffix(NOTHING_SENT).rstrip('.')}. {earlier.value}"
        error = type(self).__new__(type(self), sentence)
        error.__dict__.update(self.__dict__, sent=earlier is Earlier.DOUBT)
        return error


class RequestRefused(ProxyError, proxy_status="http_request_error"):
    """The request was refused before all of it was sent upstream; the sentence says so where a part of its body was."""


class BadRequest(RequestRefused, status=400, code="bad_request"):
    """Malformed or ambiguous HTTP, or a target the proxy does not serve."""


class Denied(RequestRefused, status=403, proxy_status="http_request_denied"):
    """A guard said no; `code` says which one."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class OtherAccount(RequestRefused, status=409, code="other_account", proxy_status="http_request_denied"):
    """A caller logs in as a different account than the one the shared session carries."""


class BodyTooLarge(RequestRefused, status=413, code="body_too_large"):
    """The request body is larger than `limits.request_body`."""


class TargetTooLong(RequestRefused, status=414, code="target_too_long"):
    """The request line is longer than the server reads."""


class HostNotAllowed(RequestRefused, status=421, code="host_not_allowed", proxy_status="http_request_denied"):
    """`Host` (or the authority of an absolute-form target) is not in `callers.allowed_hosts`."""


class HeadersTooLarge(RequestRefused, status=431, code="headers_too_large"):
    """A header line is too long, or there are too many of them."""


class Unavailable(ProxyError, status=503):
    """The proxy cannot serve the request now; trying again later is right."""

    def __init__(self, sentence: str, *, retry_after: float = 1.0) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after
        #: Nothing was tried: a pause lasts, or what CardCash refused stands.
        self.at_once = False


class SessionUnavailable(Unavailable, code="session_unavailable", proxy_status="destination_unavailable"):
    """No usable session, and none can be made now."""


class Overloaded(Unavailable, code="overloaded", proxy_status="connection_limit_reached"):
    """More requests in flight than `limits.in_flight`, or no upstream connection became free in time."""


class Draining(Unavailable, code="draining", proxy_status="destination_unavailable"):
    """The proxy is shutting down and takes no new requests."""


class NotRepeatable(Unavailable, code="not_repeatable", proxy_status="http_request_error"):
    """The token was rejected and the body was too large to keep: the caller must send it again."""


class UpstreamError(ProxyError, status=502):
    """The exchange with CardCash failed.

    `sent` is False only when provably no byte of the request left this process; `kind` is the label of
    `upstream_errors_total`. `proxy_status` is the type of RFC 9209 that fits the kind.
    """

    def __init__(self, sentence: str, *, kind: str, sent: bool, proxy_status: str | None = None) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.sent = sent
        if proxy_status is not None:
            self.proxy_status = proxy_status


class UpstreamUnreachable(UpstreamError, code="upstream_unreachable", proxy_status="destination_unavailable"):
    """No connection could be made: DNS, refused, connect time-out, TLS. Nothing was sent."""


class UpstreamReset(UpstreamError, code="upstream_reset", proxy_status="connection_terminated"):
    """The connection ended before the answer was complete."""


class UpstreamInvalid(UpstreamError, code="upstream_invalid", proxy_status="http_protocol_error"):
    """CardCash's answer was not valid HTTP/1.1."""


class UpstreamTimeout(UpstreamError, status=504, code="upstream_timeout", proxy_status="http_response_timeout"):
    """CardCash did not read, answer or go on in `upstream.response_timeout`."""


class CallerGone(Exception):
    """The caller closed its connection; what was in flight for it is ended and nothing is answered."""
