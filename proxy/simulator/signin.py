"""The calls that make tokens, session and login, and the way a token travels on an answer.

As core/README.md, "Sessions and tokens", tells them.

Owns headers, cookie and body of a new token. Which tokens there are is decided in sessions.py.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from proxy.simulator.accounts import BusinessError
from proxy.simulator.answers import answer, envelope
from proxy.simulator.records import Records
from proxy.simulator.routes import body_of
from proxy.simulator.sessions import Issued, LoginRefusedError, Sessions, TooManySessionsError
from proxy.simulator.settings import Context
from proxy.simulator.state import State

TOKEN = web.RequestKey("token", Issued)
DONE = web.RequestKey("done", bool)  # the answer has had its chance of a refresh


class SignIn:
    """Session, login and refresh over one table of tokens."""

    def __init__(self, context: Context, sessions: Sessions, state: State, records: Records) -> None:
        self._context = context
        self._sessions = sessions
        self._state = state
        self._records = records

    def refresh(self, request: web.Request, response: web.StreamResponse) -> None:
        """Put a new token on the answer when the one it was asked with is near its end."""
        old = request.get(TOKEN)
        if old is None or request.get(DONE):
            return
        request[DONE] = True
        customer = self._state.account(old.email).customer_id if old.email is not None else None
        new = self._sessions.refresh(old, request.method, response.status, customer)
        if new is not None:
            self._deliver(response, new)
            what = {"session_id": new.session_id, "expires_in": self._sessions.remaining(new), "email": new.email}
            self._context.emit("token_refreshed", **what, method=request.method, path=request.path)
        elif self._context.settings.cookie_reissued:
            self._set_cookie(response, old)

    def _deliver(self, response: web.StreamResponse, issued: Issued) -> None:
        settings = self._context.settings
        if settings.delivery != "cookie":
            response.headers["authorization"] = settings.authorization_prefix + issued.value
            lifetime = settings.lifetime_header
            if lifetime:
                real = str(self._sessions.remaining(issued))
                response.headers["x-token-exp-seconds"] = real if lifetime == "real" else lifetime
        self._set_cookie(response, issued)

    def _set_cookie(self, response: web.StreamResponse, issued: Issued) -> None:
        if self._context.settings.delivery != "header":
            response.headers.add("Set-Cookie", f"{issued.app_id}={issued.value}; Path=/; HttpOnly")

    async def session(self, request: web.Request) -> web.Response:
        """Answer POST /session, whatever its body."""
        try:
            issued, new = self._sessions.create(request.headers["x-cc-app"])
        except TooManySessionsError as error:
            self._records.rejected["session_limit"] += 1
            response = envelope("Too many sessions", self._context.settings.session_limit_status)
            response.headers["Retry-After"] = str(error.retry_after)
            return response
        remaining = self._sessions.remaining(issued)
        body: dict[str, Any] = {"access_token": issued.value, "expiresInSeconds": remaining}
        told = self._context.settings.lifetime_body
        if not told:
            del body["expiresInSeconds"]
        elif told != "real":
            try:
                body["expiresInSeconds"] = json.loads(told)
            except ValueError:
                body["expiresInSeconds"] = told
        response = answer({**body, "sessionId": issued.session_id, "renderAssets": True})
        response.headers["x-session-id"] = issued.session_id
        self._deliver(response, issued)
        event = "session_created" if new else "session_returned"
        self._context.emit(event, session_id=issued.session_id, expires_in=remaining)
        return response

    async def login(self, request: web.Request) -> web.Response:
        """Answer POST /customers/login: the token with the identity is in the headers."""
        settings = self._context.settings
        customer = (await body_of(request)).get("customer")
        email, password = (customer.get("email"), customer.get("password")) if isinstance(customer, dict) else ("", "")
        if not isinstance(email, str) or not isinstance(password, str) or not email:
            raise BusinessError("email and password are required")
        good = self._state.password_ok(email, password)
        account = self._state.account(email) if good else None
        number = account.customer_id if account is not None else None
        try:
            issued = self._sessions.login(request[TOKEN], email, number, password_ok=good)
        except LoginRefusedError as error:
            self._context.emit("login_refused", email=email, locked=error.locked)
            if error.locked:
                return envelope(settings.lockout_message, settings.lockout_status, settings.lockout_shape)
            return envelope(settings.login_failed_message, settings.login_failed_status, settings.login_failed_shape)
        response = answer({"customer": account.view() if account is not None else {}})
        self._deliver(response, issued)
        request[DONE] = True
        self._context.emit("login", email=email, customer_id=number, session_id=issued.session_id)
        return response
