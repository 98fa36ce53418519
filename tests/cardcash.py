"""CardCash in plain HTTP, for rules in which no byte matters: an aiohttp application that answers what it is told to."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import orjson
from aiohttp import web
from multidict import CIMultiDictProxy
from pytest_aiohttp.plugin import AiohttpServer

from tests.server.harness import REJECTION_BODY, jwt


@dataclass(frozen=True)
class Received:
    """One request as it was understood."""

    line: str
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def token(self) -> str:
        return self.headers["Authorization"].removeprefix("Bearer ")


JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)


class Gone(Exception):
    """Raised by a script: the connection ends instead of an answer."""


Script = Callable[[Received], Awaitable[Reply]]

OK = Reply()
REJECTION = Reply(400, REJECTION_BODY)


def bringing(token: str, lifetime: int | None = None, body: bytes = b"{}") -> Reply:
    """Answer well, with a token."""
    life = {} if lifetime is None else {"x-token-exp-seconds": str(lifetime)}
    return Reply(200, body, {**JSON, "authorization": token, **life})


async def silent(_: Received) -> Reply:
    """Never answer, until the connection ends."""
    await asyncio.Event().wait()
    raise Gone


class CardCash:
    """`answers` are given in turn, then `default`; a script is asked with the request.

    Session calls and logins are answered well, each with a new token, unless `session_answers` or `login_answers` hold
    something. What it got is counted in `requests`, `sessions` and `logins`.
    """

    def __init__(self) -> None:
        self.default: Reply | Script = OK
        self.answers: deque[Reply | Script] = deque()
        self.session_answers: deque[Reply | Script] = deque()
        self.login_answers: deque[Reply | Script] = deque()
        self.requests: list[Received] = []
        self.sessions: list[Received] = []
        self.logins: list[Received] = []
        self.tokens: list[str] = []
        self.lifetime = 3600

    async def serve(self, aiohttp_server: AiohttpServer) -> None:
        """Serve it at `url`, until the test is over."""
        server = await aiohttp_server(self.application(), auto_decompress=False, shutdown_timeout=0.1)
        self.url = str(server.make_url("/")).rstrip("/")

    def application(self) -> web.Application:
        """Make the application."""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        line = f"{request.method} {request.raw_path}"
        got = Received(line, request.headers, await request.read())
        kind = re.sub(r" /v[0-9.]+/", " /", line)
        otherwise: Reply | Script
        if kind == "POST /session":
            log, scripted, otherwise = self.sessions, self.session_answers, self.new_session
        elif kind == "POST /customers/login":
            log, scripted, otherwise = self.logins, self.login_answers, self.new_login
        else:
            log, scripted, otherwise = self.requests, self.answers, self.default
        log.append(got)
        chosen = scripted.popleft() if scripted else otherwise
        try:
            reply = await chosen(got) if callable(chosen) else chosen
        except Gone:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)

    def token(self) -> str:
        """Make the next token."""
        self.tokens.append(jwt(len(self.tokens) + 1, lifetime=self.lifetime))
        return self.tokens[-1]

    async def new_session(self, _: Received) -> Reply:
        """Answer a session call well."""
        token = self.token()
        body = {"access_token": token, "expiresInSeconds": self.lifetime, "sessionId": "s"}
        return bringing(token, self.lifetime, orjson.dumps(body))

    async def new_login(self, _: Received) -> Reply:
        """Answer a login well."""
        return bringing(self.token(), self.lifetime)
