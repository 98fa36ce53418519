"""A caller's request on its way to CardCash: carries out the steps of `core/attempts.py`, and decides nothing.

Each `Send` gets the held token, puts it under the request at the last moment, harvests the answer and looks whether it is a
rejection; each other step is the session keeper's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from proxy.clock import Clock
from proxy.core import dialect
from proxy.core.attempts import (
    Answered,
    Deliver,
    Failed,
    Probe,
    Probed,
    Rejected,
    Renew,
    Renewed,
    Result,
    Send,
    answered,
    attempts,
)
from proxy.core.content_coding import decode_answer
from proxy.core.errors import NotRepeatable, SessionUnavailable, Unavailable, UpstreamError
from proxy.core.login_request import same_account
from proxy.core.rejection_history import RejectionHistory
from proxy.core.rejections import (
    LONGEST_REJECTION,
    REJECTION_STATUSES,
    Rejection,
    judge_answer_to_head,
    judge_rejection,
)
from proxy.core.request_fields import for_upstream
from proxy.core.token import Token
from proxy.server.accounts import LOST_TO_ANOTHER, Accounts
from proxy.server.answers import status_line
from proxy.server.bodies import Body
from proxy.server.exchange import Exchange
from proxy.server.guard import Admission
from proxy.server.record import Record
from proxy.session.keeper import SessionKeeper
from proxy.telemetry.metrics import Metrics
from proxy.upstream import Response, Upstream

#: Seconds that an answer which is delivered anyway waits for the renewal it began, so that its caller's next request finds
#: the new token.
_RENEWAL_WAIT: Final = 1.0
#: Tokens that are looked for in answers, so that what is remembered is bounded.
_TOKENS_KNOWN: Final = 4


@dataclass(frozen=True, slots=True)
class Injected:
    """What every request upstream carries. The application id is asked anew for each, because secrets rotate."""

    #: Host, and User-Agent for callers that send none, as header lines.
    host: bytes
    user_agent: bytes
    #: The application id of a token that does not say for which it was made.
    app_id: Callable[[], str]
    #: The upstream's own, as they stand in a `Location`; lower case.
    origins: tuple[bytes, ...] = ()


class OutgoingRequest:
    """One request on its way, and what has become of it."""

    __slots__ = (
        "added",
        "admission",
        "body",
        "exchange",
        "id_line",
        "login_as",
        "record",
        "response",
        "sender",
        "token",
    )

    def __init__(self, sender: Sender, exchange: Exchange, admission: Admission, body: Body, record: Record) -> None:
        self.sender = sender
        self.exchange = exchange
        self.admission = admission
        self.body = body
        self.record = record
        #: Goes up and comes down.
        self.id_line = b"X-Request-ID: " + record.request_id.encode()
        #: The e-mail of a caller's own login, whose answer's token carries that account.
        self.login_as: str | None = None
        #: The token of the last attempt, or before the first one that was held when it began to come; None: it carried none.
        self.token: Token | None = None
        #: The last answer that came.
        self.response: Response | None = None
        #: Lines that go down with it besides its own.
        self.added: tuple[bytes, ...] = ()

    def let_go(self) -> None:
        """Discard the last answer, if there is one: it may still hold the only connection."""
        if self.response is not None:
            self.response.close()
            self.response = None

    def head(self, waited: bool) -> bytes:
        """Write its head, at the last moment: a connection is free, for which it `waited` or not. Raises `_TokenEnded`."""
        sender, token, fields = self.sender, self.token, self.exchange.fields
        injected = sender.injected
        parts = for_upstream(fields, self.admission.start, injected.host, self.id_line, injected.user_agent)
        if token is None:
            return b"".join([*parts, b"\r\n"])
        if waited:
            token = self.token = sender.token_at_send(self, token)
        # The id goes with the token it made: while the id rotates, requests go on with the old pair.
        app_id = (token.app_id or injected.app_id()).encode()
        return b"".join([*parts, b"x-cc-app: ", app_id, b"\r\nAuthorization: ", token.bearer, b"\r\n\r\n"])


class _TokenEnded(Exception):
    """The token ended while the request waited for a connection; nothing was sent."""


class Sender:
    """Gets the answer to hand down. One instance serves all requests of one event loop, of one of several `processes`."""

    def __init__(
        self,
        *,
        keeper: SessionKeeper,
        upstream: Upstream,
        injected: Injected,
        accounts: Accounts,
        metrics: Metrics,
        clock: Clock,
        processes: int = 1,
    ) -> None:
        self._keeper = keeper
        self._upstream = upstream
        self.injected = injected
        #: The upstream's own, as they stand in a `Location`; lower case.
        self.origins = injected.origins
        self._accounts = accounts
        self._metrics = metrics
        self._clock = clock
        self._history = RejectionHistory(processes)
        #: The last tokens that were held or sent, and what is private of them, as long as `_last` is held.
        self._known: deque[Token] = deque(maxlen=_TOKENS_KNOWN)
        self._last: Token | None = None
        self._last_app_id = ""
        self._private: Iterable[bytes] = ()

    def token_now(self) -> Token | None:
        """Return the token that a request would go with which is here at this moment, if one is held."""
        return self._keeper.current()

    async def answer(self, request: OutgoingRequest) -> Response:
        """Walk the request through its attempts. Raises `UpstreamError` or `Unavailable`, true of all of them together."""
        try:
            result = await self._send(request, new_connection=False)
            delivered = answered(result, request.admission.traits, self._history)
            retried = not delivered and await self._go_on(request, result)
            response = request.response
            assert response is not None  # noqa: S101 — it was answered, or there is something to deliver
            login_refused = self._keeper.login_refused(request.token)
            if retried or login_refused:
                request.added += (status_line(renewed=retried, login_refused=login_refused),)
            return response
        except BaseException as error:
            request.let_go()
            if isinstance(error, NotRepeatable):
                self._metrics.retries.labels("not_repeatable").inc()
            raise

    async def _go_on(self, request: OutgoingRequest, first: Result) -> bool:
        """Do what `attempts` says after the first; returns whether the answer that is delivered needed a renewal."""
        flow = attempts(first, request.admission.traits, self._history)
        try:
            step = next(flow)
            while True:
                if isinstance(step, Send):
                    result = await self._send(request, step.new_connection)
                elif isinstance(step, Renew):
                    result = await self._renew(step, request)
                else:
                    result = await self._probe(step)
                step = flow.send(result)
        except StopIteration as end:
            delivery: Deliver = end.value
            if delivery.counted is not None:
                self._metrics.retries.labels(delivery.counted).inc()
            if delivery.retried:
                request.record.renewed = True
            return delivery.retried

    async def _send(self, request: OutgoingRequest, new_connection: bool) -> Result:
        if request.response is not None:
            request.let_go()
        record, admission, body, method = request.record, request.admission, request.body, request.exchange.method
        response = None
        try:
            while response is None:
                token = self._keeper.token_at_once(account=admission.account) if method != "TRACE" else None
                if token is None:
                    token = await self._token(request)
                if request.token is not None and token is not request.token:
                    _check_same_account(request, request.token, token)
                request.token = token
                record.attempts += 1
                started = time.perf_counter()
                try:
                    response = await self._upstream.send(
                        method=method,
                        head=request.head,
                        body=body.content(),
                        chunked=body.chunked,
                        # A purchase goes out on a connection of its own: no stray answer to another request can be taken
                        # for its.
                        new_connection=new_connection or admission.traits.may_buy,
                        repeatable=admission.traits.safe,
                    )
                except _TokenEnded:
                    record.attempts -= 1
                finally:
                    record.upstream_seconds = time.perf_counter() - started
        except (UpstreamError, Unavailable) as error:
            if isinstance(error, UpstreamError):
                self._metrics.upstream_errors.labels(error.kind).inc()
            return Failed(error, body.resendable)
        request.response, token = response, request.token
        if token is not None and (response.head.private or request.login_as is not None):
            self._harvest(response.headers, response.status, request, token)
        if token is not None and response.status in REJECTION_STATUSES:
            kind = await _rejection(method, response)
            if kind is not Rejection.NONE:
                now, resendable = self._clock.now().steady, body.resendable
                return Rejected(kind, token, now, self._keeper.is_replacing(token), resendable)
        return Answered(token)

    async def _token(self, request: OutgoingRequest) -> Token | None:
        """Get the token to send with; None for a TRACE, whose answer repeats what was sent (RFC 9110, 9.3.8)."""
        if request.exchange.method == "TRACE":
            return None
        patient = not request.body.buffered or request.admission.traits.may_buy
        token = await self._keeper.token(patient=patient, account=request.admission.account)
        if self._keeper.identity_lost and request.admission.account:
            raise SessionUnavailable(
                LOST_TO_ANOTHER
                if token.identity is not None
                else "The login that a caller made was lost with its session, and the proxy does not know its password: "
                "log in again with POST /customers/login."
            )
        return token

    def token_at_send(self, request: OutgoingRequest, token: Token) -> Token:
        """Choose the token of a request that has waited for a connection: its own may have ended. Raises `_TokenEnded`."""
        current = self._keeper.current()
        if current is None:
            raise _TokenEnded
        is_anothers = current is not token and (self._keeper.identity_lost or current.identity != token.identity)
        if is_anothers and request.admission.account:
            raise _TokenEnded
        return current

    def private(self, token: Token | None) -> Iterable[bytes]:
        """List what CardCash knows us by, in lower case: nothing of it may come down in the head of an answer to a request
        with `token`.

        Tokens that were held before are good for as long as they live, so the last few stay among it.
        """
        held, app_id = self._keeper.held, self.injected.app_id()
        if token is not held or held is not self._last or app_id != self._last_app_id:
            self._known.extend(each for each in (token, held) if each is not None and each not in self._known)
            self._last, self._last_app_id = held, app_id
            self._private = {app_id.lower().encode()}.union(*(each.private for each in self._known))
        return self._private

    def _harvest(self, headers: dialect.RawHeaders, status: int, request: OutgoingRequest, token: Token) -> None:
        wall = self._clock.now().wall
        found = dialect.harvest(headers, cookie=(token.app_id or self.injected.app_id()).encode("ascii"), wall=wall)
        if request.login_as is not None and 200 <= status < 300:
            self._accounts.logged_in(found, request.login_as, token)
        elif found is not None:
            self._keeper.offer(found, sent_with=token)

    async def _renew(self, step: Renew, request: OutgoingRequest) -> Result:
        if not step.needed:
            try:
                async with asyncio.timeout(_RENEWAL_WAIT):
                    return Renewed(await self._keeper.renew(rejected=step.rejected))
            except Unavailable as error:
                return Failed(error)
            except TimeoutError:
                return Renewed(step.rejected)  # its answer is delivered anyway
        try:
            token = await self._keeper.renew(rejected=step.rejected)
        except Unavailable as error:
            return Failed(error)
        request.record.renewed = request.record.renewed or token.value != step.rejected.value
        return Renewed(token)

    async def _probe(self, step: Probe) -> Probed:
        verdict = await self._keeper.probe(step.token)
        return Probed(verdict, self._keeper.is_replacing(step.token))


def _check_same_account(request: OutgoingRequest, before: Token, now: Token | None) -> None:
    """Refuse to go on as another account than the request began as: its order would be billed to somebody else, and its
    caller handed somebody else's cards."""
    if not request.admission.account or before.identity is None or now is None or now.identity is None:
        return
    if not same_account(before.identity, now.identity):
        raise SessionUnavailable(
            "The shared session went over to another account while this request was under way; see as whom it shall be made "
            "before you send it again."
        )


async def _rejection(method: str, response: Response) -> Rejection:
    """Judge a 400 or 401 by its decoded body, which still goes down to the caller."""
    if method == "HEAD":
        return judge_answer_to_head(response.status)
    raw = await response.peek(LONGEST_REJECTION)
    if raw is None:
        return Rejection.NONE
    body = decode_answer(raw, response.headers, limit=LONGEST_REJECTION)
    return Rejection.NONE if body is None else judge_rejection(response.status, body)
