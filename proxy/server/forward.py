"""The request path, readable top to bottom.

caller → guard → keep the body if small → headers → the attempts of `core/attempts.py`, carried out by `outgoing.py` →
scrub → stream back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.core.errors import BadRequest, CallerGone, Earlier, ProxyError, UpstreamError
from proxy.core.token import Token
from proxy.server.accounts import Accounts
from proxy.server.answers import send_error
from proxy.server.bodies import NO_BODY, Bodies
from proxy.server.deliver import deliver
from proxy.server.exchange import Exchange
from proxy.server.guard import Guard
from proxy.server.outgoing import OutgoingRequest, Sender
from proxy.server.record import Record, new_request_id
from proxy.tasks import Tasks
from proxy.telemetry.logs import describe, log
from proxy.telemetry.metrics import Metrics
from proxy.upstream import Response


class Forwarder:
    """Answers every request on the proxy port. One instance serves all connections of one event loop."""

    def __init__(
        self,
        *,
        guard: Guard,
        bodies: Bodies,
        sender: Sender,
        accounts: Accounts,
        metrics: Metrics,
        failed: Callable[[str, str], None],
    ) -> None:
        self.guard = guard
        self._bodies = bodies
        self._sender = sender
        self._accounts = accounts
        self._metrics = metrics
        #: Is told of an answer that the proxy could not give: which one, and the sentence.
        self._failed = failed
        self._logins = Tasks(on_failure=lambda _, __: None)  # whoever waits for it hears of its failure

    async def serve(self, exchange: Exchange) -> None:
        """Serve one request and write its record, whatever happens."""
        record = Record(exchange.method, exchange.link.peer)
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
            failure = ProxyError("The proxy failed; its log says where.")
            self._refused(exchange, failure.after(Earlier.DOUBT) if record.attempts else failure, record)
        finally:
            self.guard.leave()
            record.close(self._metrics)

    async def _serve(self, exchange: Exchange, record: Record) -> None:
        fields = exchange.fields
        given, app_id = fields.request_id, self._sender.injected.app_id
        record.request_id = given if given and given != app_id() else new_request_id()
        admission = self.guard.read(exchange, fields)
        record.route = admission.route.template
        if admission.query:
            record.query = tuple("?" if key == app_id() else key for key in admission.query)
        self.guard.admit(exchange, fields, admission)
        if exchange.method == "POST" and admission.route.is_session:
            if exchange.body is not None:
                await self._bodies.discard(exchange, exchange.body)
            await self._accounts.answer_session(exchange, record)
            return
        body, token = NO_BODY, None
        if exchange.body is not None:
            # A slow caller may send for a minute: the account may be another's by then.
            token = self._sender.token_now()
            body = await self._bodies.take(exchange, exchange.body)
        try:
            request = OutgoingRequest(self._sender, exchange, admission, body, record)
            request.token = token
            if exchange.method == "POST" and admission.route.is_login:
                outcome = await self._login(request)
                if isinstance(outcome, Token):
                    self._accounts.answer_login(exchange, record, outcome)
                    return
                if 200 <= outcome.status < 300:
                    request.added += (*self._accounts.stand_in(exchange),)
            else:
                await self._sender.answer(request)
        finally:
            body.release()
        try:
            await deliver(request)
        except UpstreamError as error:
            self._metrics.upstream_errors.labels(error.kind).inc()
            raise

    async def _login(self, request: OutgoingRequest) -> Response | Token:
        """Handle a caller's own login; a caller that leaves meanwhile does not undo it."""
        request.login_as = self._accounts.email(request.body, request.exchange.fields, request.admission.start)
        login = self._logins.spawn(self._log_in(request, request.login_as), name="caller-login")
        try:
            return await asyncio.shield(login)
        except asyncio.CancelledError:
            login.add_done_callback(_discard)
            raise

    async def _log_in(self, request: OutgoingRequest, email: str) -> Response | Token:
        async with self._accounts.turn(email) as token:
            outcome = token or await self._sender.answer(request)
        try:
            self._accounts.check_not_lost(email)
        except ProxyError:
            request.let_go()
            raise
        return outcome

    def _refused(self, exchange: Exchange, error: ProxyError, record: Record) -> None:
        """Answer with an error, or end a connection whose answer has begun."""
        record.code = error.code
        record.request_id = record.request_id or new_request_id()
        if error.status >= 500:
            self._failed(f"request ({error.code})", str(error))
        if isinstance(error, BadRequest):
            # RFC 9112, 6.3: what follows ambiguous framing must not be read as a request.
            exchange.close_after()
        try:
            if exchange.head_sent:
                exchange.break_off()  # which tells the caller as well, who cannot read what became of it
            else:
                send_error(exchange, error, request_id=record.request_id)
                record.status = error.status
        except CallerGone:
            record.caller_gone = True
            exchange.abort()
            return
        if error.sent:
            self._metrics.outcome_unknown(record.route)

    def refuse_unparsed(self, exchange: Exchange, error: ProxyError) -> None:
        """Answer what never became a request."""
        record = Record("", exchange.link.peer)
        self._refused(exchange, error, record)
        record.close(self._metrics)


def _discard(login: asyncio.Task[Response | Token]) -> None:
    """Close an answer that nobody is left to read."""
    if not login.cancelled() and login.exception() is None and isinstance(response := login.result(), Response):
        response.close()
