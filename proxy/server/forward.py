"""The request path, readable top to bottom.

caller → guard → keep the body if small → token → headers → send → harvest → (400/401 only) peek and recognise a rejected
token → renew and send once more → scrub → stream back. Decisions are `core/retry.py`'s; this file only carries them out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.core import dialect
from proxy.core.answer import Rewrite
from proxy.core.coding import decode
from proxy.core.dialect import Rejection
from proxy.core.errors import BadRequest, CallerGone, NotRepeatable, ProxyError, SessionUnavailable, UpstreamError
from proxy.core.headers import RequestFields, for_upstream
from proxy.core.retry import AfterFailure, AfterRejection, RoutePauses, after_failure, after_rejection
from proxy.core.token import Source, Token
from proxy.server.accounts import Accounts
from proxy.server.answers import send_error
from proxy.server.bodies import NO_BODY, Bodies, Body
from proxy.server.deliver import Answer, deliver
from proxy.server.exchange import Exchange
from proxy.server.guard import Admitted, Guard
from proxy.server.record import Record, new_request_id
from proxy.session.keeper import SessionKeeper
from proxy.tasks import Tasks
from proxy.telemetry.logs import describe, log
from proxy.telemetry.metrics import Metrics
from proxy.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Injected:
    """What every request upstream carries. The application id is asked anew for each, because secrets rotate."""

    #: Host, and User-Agent for callers that send none, as header lines.
    host: bytes
    user_agent: bytes
    #: The application id of a token that does not say for which it was made.
    app_id: Callable[[], str]
    rewrite: Rewrite


@dataclass(slots=True)
class Ask:
    """One caller's request, ready to be sent: everything but the token."""

    method: str
    way: Admitted
    fields: RequestFields
    head: bytes
    body: Body
    record: Record
    #: The last attempt went out on a connection that had ended: the next goes out on a new one.
    fresh: bool = False
    #: An attempt that failed may have reached CardCash.
    sent: bool = False
    #: The e-mail of a caller's own login, whose answer's token carries that account.
    login_as: str | None = None


class _Routes:
    """On which routes one token, the last that was told of, was accepted or rejected."""

    __slots__ = ("_routes", "_token")

    def __init__(self) -> None:
        self._token: Token | None = None
        self._routes: set[str] = set()

    def add(self, token: Token, route: str) -> int:
        """Note one; returns on how many routes it was."""
        if token is not self._token:
            self._token, self._routes = token, set()
        routes = self._routes
        if len(routes) < RoutePauses.MOST:  # callers can make names up
            routes.add(route)
        return len(routes)

    def has(self, token: Token, route: str) -> bool:
        """Say whether this token was noted on this route."""
        return token is self._token and route in self._routes


class _TokenEnded(Exception):
    """The token ended while the request waited for a connection; nothing was sent."""


class Forwarder:
    """Answers every request on the proxy port. One instance serves all connections of one event loop."""

    def __init__(
        self,
        *,
        guard: Guard,
        bodies: Bodies,
        keeper: SessionKeeper,
        upstream: Upstream,
        injected: Injected,
        accounts: Accounts,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.guard = guard
        self._bodies = bodies
        self._keeper = keeper
        self._upstream = upstream
        self._injected = injected
        self._accounts = accounts
        self._metrics = metrics
        self._clock = clock
        self._pauses = RoutePauses()
        self._logins = Tasks(on_failure=lambda _, __: None)  # whoever waits for it hears of its failure
        self._written_for: tuple[Token | None, str] = (None, "")
        self._written = b""
        # The token that was rejected last, and the one that was accepted last, and on which routes.
        self._suspect = _Routes()
        self._good = _Routes()

    async def __call__(self, exchange: Exchange) -> None:
        """Serve one request and write its record, whatever happens."""
        record = Record(exchange.method, exchange.peer)
        self.guard.enter()
        try:
            await self._serve(exchange, record)
        except ProxyError as error:
            self._refused(exchange, error, record)
        except CallerGone:
            record.caller_gone = True
            exchange.abort()
        except asyncio.CancelledError:
            # The caller left, or the drain ran out of time; the upstream connection was ended on the way here.
            record.caller_gone = True
            exchange.abort()
            raise
        except Exception as error:  # the last line of defence: a bug answers 500 and hurts nobody else
            log.error("bug", request_id=record.request_id, **describe(error))
            self._refused(exchange, ProxyError("The proxy failed; its log says where."), record)
        finally:
            self.guard.leave()
            record.close(self._metrics)

    async def _serve(self, exchange: Exchange, record: Record) -> None:
        fields = exchange.fields
        record.request_id = fields.request_id or new_request_id()
        way = self.guard.admit(exchange, fields)
        record.route, record.query = way.route.template, way.query
        if fields.overrides and (way.route.is_session or way.route.is_login):
            raise BadRequest("A session or login call may not have its method overridden by a header.")
        if exchange.method == "POST" and way.route.is_session:
            if fields.has_body:
                await self._bodies.swallow(exchange, fields)
            await self._accounts.answer_session(exchange, record)
            return
        body = await self._bodies.take(exchange, fields) if fields.has_body else NO_BODY
        try:
            ask = self._ask(exchange, way, fields, body, record)
            if exchange.method == "POST" and way.route.is_login:
                outcome = await self._login(ask)
                if isinstance(outcome, Token):
                    self._accounts.answer_login(exchange, record, outcome)
                    return
                answer = outcome
            else:
                answer = await self._answer(ask)
        finally:
            body.release()
        try:
            await deliver(exchange, answer, record, host=fields.host, rewrite=self._injected.rewrite)
        except UpstreamError as error:
            self._metrics.upstream_errors.labels(error.kind).inc()
            raise

    def _ask(self, exchange: Exchange, way: Admitted, fields: RequestFields, body: Body, record: Record) -> Ask:
        head = for_upstream(
            fields,
            start=way.start,
            host=self._injected.host,
            request_id=record.request_id.encode("ascii"),
            user_agent=self._injected.user_agent,
        )
        return Ask(exchange.method, way, fields, head, body, record)

    async def _login(self, ask: Ask) -> Answer | Token:
        """Handle a caller's own login; a caller that leaves meanwhile does not undo it."""
        ask.login_as = self._accounts.email(ask.body, ask.fields, ask.way.start)
        login = self._logins.spawn(self._accounts.log_in(ask.login_as, lambda: self._answer(ask)), name="caller-login")
        try:
            return await asyncio.shield(login)
        except asyncio.CancelledError:
            login.add_done_callback(_discard)
            raise

    async def _answer(self, ask: Ask) -> Answer:
        """Get the answer to hand down: send, and once more where that is right."""
        if ask.method == "TRACE":
            return await self._traced(ask)
        rejections = 0
        while True:
            token = await self._keeper.token(patient=not ask.body.kept or ask.way.buys)
            if self._keeper.identity_lost and ask.way.route.needs_login:
                raise SessionUnavailable(
                    "The login that a caller made was lost with its session, and the proxy does not know its password: "
                    "log in again with POST /customers/login. Nothing was sent."
                )
            answer = await self._attempt(ask, token)
            if answer is None:
                continue
            token = answer.token or token
            kind = await self._rejection(ask, answer) if answer.status in dialect.REJECTION_STATUSES else Rejection.NONE
            if kind is Rejection.NONE:
                self._good.add(token, ask.way.key)
                if self._pauses.known:
                    self._pauses.accepted(ask.way.key)
                if rejections:
                    self._metrics.retries.labels("accepted").inc()
                return self._annotated(answer, ask, renewed=rejections > 0)
            rejections += 1
            try:
                again = await self._renewed(ask, kind, rejections, token)
            except BaseException:
                answer.close()
                raise
            if not again:
                return self._annotated(answer, ask, renewed=rejections > 1)
            answer.close()

    def _sealed(self, ask: Ask, token: Token) -> Token:
        """Choose the token at the last moment: the request may have waited for a connection, and the token ended."""
        current = self._keeper.current()
        if current is None or (current is not token and self._keeper.identity_lost and ask.way.route.needs_login):
            raise _TokenEnded
        return current

    async def _traced(self, ask: Ask) -> Answer:
        """Send a TRACE without credentials: its answer repeats what was sent (RFC 9110, 9.3.8)."""
        while (answer := await self._attempt(ask, None)) is None:
            pass
        return answer

    async def _attempt(self, ask: Ask, token: Token | None) -> Answer | None:
        """Send once; None when nothing was lost and it is to be sent again."""
        record = ask.record
        record.attempts += 1
        started = time.perf_counter()

        def head(waited: bool) -> bytes:
            nonlocal token
            if token is None:
                return ask.head + b"\r\n"
            if waited:
                token = self._sealed(ask, token)
            return ask.head + self._credentials(token)

        try:
            response = await self._upstream.send(
                method=ask.method,
                head=head,
                body=ask.body.content(),
                chunked=ask.body.chunked,
                fresh=ask.fresh,
                repeatable=ask.way.repeatable,
            )
        except _TokenEnded:
            record.attempts -= 1
            return None
        except UpstreamError as error:
            self._metrics.upstream_errors.labels(error.kind).inc()
            decision = after_failure(
                error, attempts=record.attempts, repeatable=ask.way.repeatable, body_kept=ask.body.can_be_sent
            )
            if decision is AfterFailure.GIVE_UP:
                raise error.after_a_send() if ask.sent and not error.sent else error from None
            ask.fresh = True
            ask.sent = ask.sent or error.sent
            return None
        finally:
            record.upstream_seconds = time.perf_counter() - started
        if token is not None and (response.fields.private or ask.login_as is not None):
            self._harvest(response.headers, response.status, ask, token)
        return Answer(response, token)

    def _credentials(self, token: Token) -> bytes:
        """Write the end of a request head: what CardCash knows us by. The same as long as token and id are."""
        # The id goes with the token it made: while the id rotates, requests go on with the old pair.
        app_id = token.app_id or self._injected.app_id()
        if self._written_for != (token, app_id):
            self._written_for = (token, app_id)
            self._written = b"x-cc-app: %b\r\nAuthorization: %b\r\n\r\n" % (app_id.encode("ascii"), token.bearer)
        return self._written

    def _harvest(self, headers: dialect.RawHeaders, status: int, ask: Ask, token: Token) -> None:
        wall = self._clock.now().wall
        found = dialect.harvest(headers, cookie=(token.app_id or self._injected.app_id()).encode("ascii"), wall=wall)
        if ask.login_as is not None and 200 <= status < 300:
            self._accounts.logged_in(found, ask.login_as, token)
        elif found is not None:
            self._keeper.offer(found, sent_with=token)

    async def _rejection(self, ask: Ask, answer: Answer) -> Rejection:
        """Judge a 400 or 401 by its decoded body; what was read of it is kept for the caller."""
        if ask.method == "HEAD":
            # No body to read: it counts as a rejection, under the same pause (CONTRACT "Sessions").
            return Rejection.DOCUMENTED if answer.status == 400 else Rejection.NONE
        raw = await answer.peek(dialect.LONGEST_REJECTION)
        if raw is None:
            return Rejection.NONE
        coding = b",".join(value for name, value in answer.response.headers if name.lower() == b"content-encoding")
        body = decode(raw, coding, limit=dialect.LONGEST_REJECTION)
        return Rejection.NONE if body is None else dialect.is_token_rejection(answer.status, body)

    async def _renewed(self, ask: Ask, kind: Rejection, rejections: int, token: Token) -> bool:
        """After a rejection: renew if that is right; True when the request is to be sent once more."""
        key = ask.way.key
        # The same token was rejected on another route too: then it is the token's fault.
        elsewhere = self._suspect.add(token, key) > 1
        # One that was found, in an answer or in the store, may have died together with the one before it.
        found = token.source in (Source.HARVEST, Source.STORE)
        dead = self._keeper.is_replacing(token) or ((elsewhere or found) and rejections > 1)
        was_good = self._good.has(token, key)
        decision = after_rejection(
            kind,
            rejections=rejections,
            buys=ask.way.buys,
            body_kept=ask.body.can_be_sent,
            dead=dead,
            was_good=was_good,
        )
        if decision is AfterRejection.DELIVER:
            self._metrics.retries.labels("rejected").inc()
            if not was_good:  # else it is not the route that is odd
                self._pauses.rejected_again(key, self._clock.now().steady)
            return False
        if not dead and self._pauses.paused(key, self._clock.now().steady):
            return False
        renewed = await self._keeper.renew(rejected=token)
        if renewed.value == token.value:
            self._metrics.retries.labels("same_token").inc()
            self._pauses.rejected_again(key, self._clock.now().steady)
            return False
        ask.record.renewed = True
        if decision is AfterRejection.RENEW_AND_REFUSE:
            self._metrics.retries.labels("not_repeatable").inc()
            raise NotRepeatable(
                "The session had ended and the request body was too large to keep; the session has been renewed and "
                "nothing was processed: send the request again."
            )
        return decision is AfterRejection.RENEW_AND_REPEAT

    def _annotated(self, answer: Answer, ask: Ask, *, renewed: bool) -> Answer:
        if renewed:
            answer.details.append(b"session-renewed")
        if self._keeper.latched and "login" in self._keeper.latched:
            answer.details.append(b"login-refused")
        ask.record.renewed = ask.record.renewed or renewed
        return answer

    def _refused(self, exchange: Exchange, error: ProxyError, record: Record) -> None:
        """Answer with an error, or end a connection whose answer has begun."""
        record.code = error.code
        record.request_id = record.request_id or new_request_id()
        if exchange.head_sent:
            exchange.break_off()
            return
        if isinstance(error, BadRequest):
            # RFC 9112, 6.3: what follows ambiguous framing must not be read as a request.
            exchange.close_after()
        record.status = error.status
        try:
            send_error(exchange, error, request_id=record.request_id)
        except CallerGone:
            exchange.abort()
        if error.sent:
            self._metrics.outcome_unknown(record.route)

    def refuse_unparsed(self, exchange: Exchange, error: ProxyError) -> None:
        """Answer what never became a request."""
        record = Record("", exchange.peer)
        self._refused(exchange, error, record)
        record.close(self._metrics)


def _discard(login: asyncio.Task[Answer | Token]) -> None:
    """Close an answer that nobody is left to read."""
    if not login.cancelled() and login.exception() is None and isinstance(answer := login.result(), Answer):
        answer.close()
