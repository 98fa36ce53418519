"""The gate every call passes: faults, application id, token, login, handler, refresh, compression.

Owns the order of these steps (core/README.md, "Sessions and tokens" and "Errors"). What each of them decides is elsewhere.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.simulator.accounts import BusinessError
from proxy.simulator.answers import (
    BARE,
    EDGE_PAGE,
    cut,
    cut_within,
    drip,
    encode,
    envelope,
    rejection,
)
from proxy.simulator.catalogue import dumps
from proxy.simulator.faults import Fault, Faults
from proxy.simulator.orders import Orders
from proxy.simulator.records import Records
from proxy.simulator.routes import ACCOUNT, Routes
from proxy.simulator.sessions import Sessions
from proxy.simulator.settings import Context
from proxy.simulator.signin import TOKEN, SignIn
from proxy.simulator.state import State

CONTROL = "/_simulator"
SESSION, LOGIN, ECHO = "/v3/session", "/v3/customers/login", "/v3/_echo"
MAX_BODY = 64 << 20


class Gate:
    """The middleware, and the parts it leads to."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.sessions = Sessions(context)
        self.state = State(context)
        self.orders = Orders(self.state)
        self.faults = Faults()
        self.records = Records()
        self._packed: dict[tuple[str, bytes], bytes] = {}
        self._signin = signin = SignIn(context, self.sessions, self.state, self.records)
        routes = Routes(self.state, self.orders, signin.refresh)
        self._table = [
            ("POST", SESSION, signin.session, False),
            ("POST", LOGIN, signin.login, False),
            *routes.table(),
        ]
        self._needs_login = {(method, path) for method, path, _, login in self._table if login}

    def application(self) -> web.Application:
        """Build the application; a new one for each start, since aiohttp freezes it."""
        app = web.Application(middlewares=[self._gate], client_max_size=MAX_BODY)
        for method, path, handler, _ in self._table:
            if method == "GET":
                app.router.add_get(path, handler)  # and HEAD
            else:
                app.router.add_route(method, path, handler)
        app.on_response_prepare.append(self._prepare)
        return app

    @staticmethod
    async def _prepare(_: web.Request, response: web.StreamResponse) -> None:
        if response.get(BARE):
            # aiohttp puts application/octet-stream where nothing is set; this runs after it.
            response.headers.popall("Content-Type", None)

    # -- the way of a call -------------------------------------------------------------------------------

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(CONTROL):
            return await handler(request)
        resource = request.match_info.route.resource
        template = resource.canonical if resource is not None else "other"
        self.records.arrived(request, template)
        faults = self.faults.take(request.method, request.path, template)
        for fault in faults.values():
            self.context.emit("fault", kind=fault.kind, when=fault.when, method=request.method, path=template)
        await self._wait(faults, "before")
        reset, fail = faults.get("reset"), faults.get("fail")
        if reset is not None and reset.when == "before_body":
            return self._gone(request)
        try:
            if fail is not None and fail.when == "before":
                await self._drain(request)
                self._authenticate(request)
                response: web.StreamResponse = self._failure(fail)
            else:
                response = await self._answer(request, handler, template, faults)
        except (ConnectionError, web.RequestPayloadError):
            return self._gone(request)
        if fail is not None and fail.when == "after":
            response = self._failure(fail)
        self.records.statuses[str(response.status)] += 1
        if fail is None or not fail.html:
            self._signin.refresh(request, response)
        self._compress(request, response)
        await self._wait(faults, "after")
        if reset is not None and reset.when == "after_body":
            return self._gone(request)
        if reset is not None:
            await cut_within(request, response, in_body=reset.when == "in_body")
            return response
        delay = faults.get("delay")
        if delay is not None and delay.when == "in_body":
            return await drip(request, response, delay.seconds)
        return response

    async def _wait(self, faults: dict[str, Fault], when: str) -> None:
        delay = faults.get("delay")
        seconds = delay.seconds if delay is not None and delay.when == when else 0.0
        if when == "before":
            seconds += self.context.settings.latency
        if seconds:
            await asyncio.sleep(seconds)

    @staticmethod
    def _gone(request: web.Request) -> web.Response:
        cut(request)
        return web.Response(status=500)  # goes nowhere: the connection is closed

    @staticmethod
    def _failure(fault: Fault) -> web.Response:
        if fault.html:
            body, kind = EDGE_PAGE, "text/html; charset=UTF-8"
        elif fault.body is None:
            # core/README.md, "Origins, versions, times": a server-side time-out is a 500 with no body.
            body, kind = b"", ""
        elif isinstance(fault.body, str):
            body, kind = fault.body.encode(), "text/plain; charset=utf-8"
        else:
            body, kind = dumps(fault.body), "application/json; charset=utf-8"
        headers = {name: str(value) for name, value in fault.headers.items()}
        if kind and "content-type" not in {name.lower() for name in headers}:
            headers["Content-Type"] = kind
        return web.Response(status=fault.status, body=body, headers=headers)

    async def _drain(self, request: web.Request) -> None:
        if not self.context.settings.early_refusal:
            async for _ in request.content.iter_any():
                pass

    async def _answer(
        self, request: web.Request, handler: Handler, template: str, faults: dict[str, Fault]
    ) -> web.StreamResponse:
        refusal = self._refusal(request, template, faults)
        if refusal is not None:
            await self._drain(request)
            return refusal
        if request.match_info.http_exception is not None:
            await self._drain(request)
            return envelope("Not Found", 404)
        try:
            if template != ECHO:
                await request.read()  # whole before anything is processed, as the reset "after_body" promises
            response = await handler(request)
        except BusinessError as error:
            response = envelope(error.message, error.status)
        except web.HTTPRequestEntityTooLarge:
            response = envelope("Request body is too large", 413)
        if request.method not in ("GET", "HEAD"):
            self.records.was_processed(request, template, response.status)
        return response

    def _refusal(self, request: web.Request, template: str, faults: dict[str, Fault]) -> web.Response | None:
        """Say no in the order CardCash does: client, application, token, login. None: go on."""
        settings, is_session = self.context.settings, template == SESSION and request.method == "POST"
        app_id = request.headers.get("x-cc-app")
        if settings.user_agent_required and not request.headers.get("User-Agent"):
            return self._unauthorized("no_user_agent")
        if not app_id:
            if not is_session:
                return self._unauthorized("no_app_id")
            self.records.rejected["no_app_id"] += 1
            return envelope("no x-cc-app was found")
        if app_id not in settings.app_ids:
            if not is_session:
                return self._unauthorized("unknown_app_id")
            self.records.rejected["unknown_app_id"] += 1
            return envelope(settings.unknown_app_message, settings.unknown_app_status, settings.unknown_app_shape)
        if request.method == "HEAD" and settings.head_refusal_status:
            return web.Response(status=settings.head_refusal_status)
        names_its_type = bool(request.headers.get("Content-Type", "").strip())
        if settings.content_type_required and request.method in ("POST", "PUT") and not names_its_type:
            self.records.rejected["no_content_type"] += 1
            return envelope(settings.content_type_message, settings.content_type_status)
        if is_session:
            return None
        cause = self._authenticate(request)
        if "reject" in faults:
            cause = "ordered"
            request.pop(TOKEN, None)
        if cause:
            self.records.rejected[f"token_{cause}"] += 1
            self.context.emit("token_rejected", cause=cause, method=request.method, path=template)
            return rejection(settings, cause)
        return self._admit(request, template)

    def _unauthorized(self, why: str) -> web.Response:
        self.records.rejected[why] += 1
        return envelope("Unauthorized", 401, self.context.settings.unauthorized_shape)

    def _authenticate(self, request: web.Request) -> str:
        """Find the token of the request and judge it; "" when it is good, else the cause."""
        settings, app_id = self.context.settings, request.headers.get("x-cc-app", "")
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        header = value.strip() if scheme.lower() == "bearer" else ""
        cookie = "" if settings.credential_precedence == "header_only" else self._cookie(request, app_id)
        first, second = (cookie, header) if settings.credential_precedence == "cookie" else (header, cookie)
        issued, cause = self.sessions.judge(first or second, app_id)
        if issued is not None:
            request[TOKEN] = issued
        return cause

    @staticmethod
    def _cookie(request: web.Request, app_id: str) -> str:
        for line in request.headers.getall("Cookie", ()):
            for pair in line.split(";"):
                name, _, value = pair.strip().partition("=")
                if name == app_id:
                    return value
        return ""

    def _admit(self, request: web.Request, template: str) -> web.Response | None:
        method = "GET" if request.method == "HEAD" else request.method
        if (method, template) not in self._needs_login:
            return None
        settings, email = self.context.settings, request[TOKEN].email
        if email is not None:
            request[ACCOUNT] = self.state.account(email)
        elif settings.anonymous == "guest":
            request[ACCOUNT] = self.state.guest()
        else:
            self.records.rejected["anonymous"] += 1
            return envelope(settings.anonymous_message, settings.anonymous_status, settings.anonymous_shape)
        return None

    # -- coding ------------------------------------------------------------------------------------------

    def _compress(self, request: web.Request, response: web.StreamResponse) -> None:
        coding = self.context.settings.compression
        if coding == "off" or not isinstance(response, web.Response) or not isinstance(response.body, bytes):
            return
        name = coding.removesuffix("-raw")
        accepted = request.headers.get("Accept-Encoding", "").lower()
        if name not in accepted or not response.body or "Content-Encoding" in response.headers:
            return
        body = response.body
        # The big lists are packed once; small bodies differ each time and are not worth keeping.
        packed = self._packed.get((coding, body)) if len(body) > 50_000 else None
        if packed is None:
            packed, _ = encode(body, coding)
            if len(body) > 50_000 and len(self._packed) < 16:
                self._packed[coding, body] = packed
        response.body = packed
        response.headers["Content-Encoding"] = name
        response.headers["Vary"] = "Accept-Encoding"
