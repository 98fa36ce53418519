"""What one request does, from the end of its first attempt to what its caller is told: one pure generator.

Nearly always that attempt was `answered()`, and nothing is to be decided. Else `attempts()` yields what is to be done and is
told how it went, so every rule about money is tried with `next()` and `.send()`, without a loop or a network::

    step                 may be answered with
    Send(new_connection) Answered | Rejected | Failed
    Probe(token)         Probed
    Renew(rejected)      Renewed | Failed
    (return)             Deliver: hand down the last answer

    it raises            the error whose sentence is true of all attempts together

The cases. "It may buy": a request that can spend money (below `orders`, and no read) or whose method a header overrides;
"safe" is one that CardCash documents as harmless to repeat: every GET and HEAD, POST /session, POST /carts.

    an attempt ended with                          what is done
    an answer that is no rejection                 delivered
    no answer, provably nothing sent               sent once more, if a second try at once can cure it
    no answer, something may have been sent        sent once more if safe and the connection has merely ended (no time-out,
                                                   no part of an answer), else the error: it may have been processed
    either of them a second time                   the error, with what became of the first

    a rejection, in the documented wording         renewed, sent once more whatever it is: it was refused unprocessed
      … and its body is gone                       renewed, 503 not_repeatable: nothing was processed
      … and the renewal fails                      503: nothing was processed
      … and the renewal brings the same token      delivered, the route pauses
    a variant of it                                renewed, sent once more unless it may buy or its body is gone
    a bare 400 to a HEAD                           likewise
      … it may buy, or its body is gone            delivered as it came, whatever becomes of the renewal
      … and the renewal fails                      delivered; a variant's safe request: 503
    a rejection on a route that pauses             delivered
    a rejection of the token of a renewal that this
    very route has just begun, in another request  delivered, the route pauses, unless it was rejected elsewhere too
    a rejection after a renewal                    delivered, the route pauses
      … and it is the token's fault, not the       renewed if it is held, sent once more if that cannot have been processed
      route's: replaced on its way, found in an    or is safe: the caller must not see that a session ended
      answer or the store, good on this very
      route, or rejected on another too
      … after that one too                         delivered, whatever became of the tokens
    a rejection when rejections on all routes
    together have begun too many renewals          delivered (those that took over another process's do not count, nor
                                                   what failed at once, since a pause lasts)

Whatever is sent once more goes as the account as which it went before: whoever carries the steps out answers a `Send` with
the failure that another one holds the session by now.

Before a token is replaced that may be good, it is probed: where the fault may be the route's (a HEAD, a variant, a route on
which it was not yet accepted) and replacing it costs a caller's own login, or several routes began renewals lately.

    the probe was accepted                         delivered, the route pauses
    the probe was rejected                         as above
    nobody knows                                   as above, but a caller's own login is not given up: delivered, or 503
                                                   after the documented wording
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from proxy.core.errors import (
    Earlier,
    NotRepeatable,
    SessionUnavailable,
    Unavailable,
    UpstreamError,
    UpstreamReset,
    UpstreamUnreachable,
)
from proxy.core.rejection_history import RejectionHistory
from proxy.core.rejections import Rejection
from proxy.core.token import Source, Token

#: Rejections of one request after which it is delivered whatever is known of its tokens.
MOST_REJECTIONS: Final = 3
#: Failures of a connect that a second try at once can cure; a time-out or a bad certificate comes again.
_WORTH_A_SECOND_CONNECT: Final = frozenset({"refused", "dns", "unreachable"})


@dataclass(frozen=True, slots=True)
class Traits:
    """What the policy has to know of a request."""

    #: Names method and route, for pauses after rejections.
    route: str
    #: It may be sent twice even though it may have been processed.
    safe: bool
    #: It can spend money, or a header overrides its method: only the documented rejection proves that it was not processed.
    may_buy: bool
    #: It is a caller's own login: a new session costs it nothing.
    logs_in: bool = False


# Steps


@dataclass(frozen=True, slots=True)
class Send:
    """Get the held token and send the request with it; `new_connection`: not on one that was used before."""

    new_connection: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """Try this token on a harmless path; one try for all who ask."""

    token: Token


@dataclass(frozen=True, slots=True)
class Renew:
    """Replace a rejected token. `needed`: the request goes on with the new one; else its answer is delivered anyway."""

    rejected: Token
    needed: bool


Step = Send | Probe | Renew


# How they went


@dataclass(slots=True)  # as `Moment`
class Answered:
    """CardCash answered; `token` was accepted. None: the request carried none."""

    token: Token | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """CardCash answered that it does not take the token.

    `replaced`: the token is being replaced, or has been. `resendable`: the whole body can be sent again. `now`: steady
    seconds.
    """

    kind: Rejection
    token: Token
    now: float
    replaced: bool
    resendable: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """The step brought an error; `resendable` as in `Rejected`."""

    error: UpstreamError | Unavailable
    resendable: bool = True


@dataclass(frozen=True, slots=True)
class Renewed:
    """This token is held now."""

    token: Token


class Verdict(Enum):
    """What a probe said of a token."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe has ended; `replaced` as in `Rejected`, by now."""

    verdict: Verdict
    replaced: bool


Result = Answered | Rejected | Failed | Renewed | Probed


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand the last answer down. `retried`: it needed a renewal; `counted`: the label of `session_retries_total`."""

    retried: bool = False
    counted: str | None = None


def answered(result: Result, traits: Traits, history: RejectionHistory) -> bool:
    """Note an answer that is no rejection, which is delivered; False: the attempt ended in another way."""
    if not isinstance(result, Answered):
        return False
    if result.token is not None:
        history.accepted(result.token, traits.route)
    return True


def attempts(first: Result, traits: Traits, history: RejectionHistory) -> Generator[Step, Result, Deliver]:
    """Walk one request on, whose `first` attempt, on any connection, was not `answered`; see the table above.

    Raises `UpstreamError` or `Unavailable`, whose sentences tell the truth about all attempts.
    """
    earlier = Earlier.NONE
    result, step = first, Send(new_connection=False)
    failed = False
    rejections = 0
    while not answered(result, traits, history):
        if isinstance(result, Failed):
            if failed or not _is_worth_another(result, traits):
                raise result.error.after(earlier)
            failed, step = True, Send(new_connection=True)
            if result.error.sent:
                earlier = Earlier.DOUBT
        else:
            assert isinstance(result, Rejected)  # noqa: S101
            rejections += 1
            if earlier is not Earlier.DOUBT:
                # Only the documented wording proves that nothing was processed.
                earlier = Earlier.REFUSED if result.kind is Rejection.DOCUMENTED else Earlier.DOUBT
            delivery = yield from _after_rejection(traits, history, result, rejections, earlier)
            if delivery is not None:
                return delivery
        result = yield step
    return Deliver(retried=True, counted="accepted") if rejections else Deliver()


def _after_rejection(
    traits: Traits, history: RejectionHistory, rejected: Rejected, rejections: int, earlier: Earlier
) -> Generator[Step, Result, Deliver | None]:
    """Decide after a rejection; None: the request is to be sent once more. `rejections` and `earlier` include this one."""
    kind, token, now, route = rejected.kind, rejected.token, rejected.now, traits.route
    retried = rejections > 1
    was_good = history.was_accepted(token, route)
    # Rejected on another route too: then it is the token's fault. One that was found, in an answer or in the store, may
    # have died together with the one before it.
    elsewhere = history.rejected(token, route) or token.source in (Source.HARVEST, Source.STORE)
    dead = rejected.replaced or (elsewhere and retried)
    once = kind is not Rejection.DOCUMENTED and not traits.safe  # it may have been processed each time
    if rejections >= (MOST_REJECTIONS if (dead or was_good) and not once else 2):
        if not was_good:  # else it is not the route that is odd
            history.pauses.rejected_again(route, now)
        return Deliver(retried, "rejected")
    if not (rejected.replaced or elsewhere) and history.just_renewed(token, route, now):
        history.pauses.rejected_again(route, now)
    if not dead and history.pauses.paused(route, now):
        return Deliver(retried)

    replaced = rejected.replaced
    doubtful = kind is not Rejection.DOCUMENTED or not was_good
    costly = token.own_login and not traits.logs_in
    if not replaced and doubtful and (costly or history.comes_from_many_routes(route, now)):
        probed = yield Probe(token)
        assert isinstance(probed, Probed)  # noqa: S101
        replaced = probed.replaced
        if probed.verdict is Verdict.ACCEPTED:
            history.pauses.rejected_again(route, now)
            return Deliver(retried, "probed")
        if probed.verdict is Verdict.UNKNOWN and costly and not replaced:
            if kind is not Rejection.DOCUMENTED:
                return Deliver(retried, "probed")
            raise SessionUnavailable(
                "CardCash rejected the token of a caller's own login and could not be asked whether that is lost."
            ).after(earlier)
    if not replaced and not history.may_begin_renewal(token, route, now):
        return Deliver(retried, "rejected")

    delivered = kind is not Rejection.DOCUMENTED and (traits.may_buy or not rejected.resendable)
    renewed = yield Renew(token, needed=not delivered)
    if not replaced and _was_none(renewed, token):
        history.no_renewal(route)
    if delivered:
        return Deliver(retried)
    if isinstance(renewed, Failed):
        if kind is Rejection.BARE or (kind is Rejection.VARIANT and not traits.safe):
            return Deliver(retried)
        raise renewed.error.after(earlier)
    assert isinstance(renewed, Renewed)  # noqa: S101
    if renewed.token.value == token.value:
        history.pauses.rejected_again(route, now)
        return Deliver(retried, "same_token")
    if not rejected.resendable:
        raise NotRepeatable(
            "The session had ended and the request body was too large to keep; the session has been renewed: send the "
            "request again."
        ).after(earlier)
    return None


def _was_none(renewed: Result, rejected: Token) -> bool:
    """Say whether no renewal was made here: a pause lasts, or another process had made it."""
    if isinstance(renewed, Failed):
        return isinstance(renewed.error, Unavailable) and renewed.error.at_once
    assert isinstance(renewed, Renewed)  # noqa: S101
    return renewed.token.value != rejected.value and renewed.token.source is Source.STORE


def _is_worth_another(failed: Failed, traits: Traits) -> bool:
    """Say whether an attempt without an answer is made once more: provably nothing was sent, or the request is safe."""
    error = failed.error
    if not failed.resendable:
        return False
    if isinstance(error, UpstreamUnreachable):
        return not error.sent and error.kind in _WORTH_A_SECOND_CONNECT
    return isinstance(error, UpstreamReset) and error.kind == "reset_before_head" and (traits.safe or not error.sent)
