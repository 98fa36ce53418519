"""The admin port as such: its endpoints, its guards, its JSON and its page; what they tell comes from a subclass.

Reading is open to whoever reaches the port (scrapers come by any name); acting needs loopback and passes the same Host and
Origin guards as the proxy port, so that no web page can do it. What one process tells is in `admin.py`; what one of several
workers tells for all, in `processes/admin.py`.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from proxy.core.dialect import RawHeaders
from proxy.core.errors import BadRequest, Denied, ProxyError
from proxy.core.request_fields import read_request
from proxy.core.target import names_this_machine, parse_target
from proxy.server.answers import NAME
from proxy.server.guard import Guard
from proxy.server.page import POLICY, render
from proxy.server.record import new_request_id
from proxy.telemetry.logs import describe, log


class AdminProtocol(RequestHandler):
    """aiohttp's connection handler, without a byte of a malformed request in its answer or in a log.

    Of `most` open `connections` the oldest makes room for a new one, so that whoever looks is always let in.
    """

    def __init__(
        self,
        manager: web.Server,
        refused: Callable[[str], None],
        connections: dict[AdminProtocol, None],
        most: int,
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self._refused = refused
        self._connections = connections
        self._most = most

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it in."""
        super().connection_made(transport)
        if len(self._connections) >= self._most and (oldest := next(iter(self._connections)).transport) is not None:
            oldest.close()
        self._connections[self] = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count it out."""
        self._connections.pop(self, None)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # aiohttp's signature
    ) -> web.StreamResponse:
        """Answer what never became a request, or a bug."""
        if exc is not None and not isinstance(exc, HttpProcessingError):
            log.error("bug", **describe(exc))
        error = (
            BadRequest("The request is not valid HTTP/1.1.")
            if status < 500
            else ProxyError("The proxy failed; its log says where.")
        )
        request._version = HttpVersion11  # noqa: SLF001 — aiohttp answers in the version of a request that it could not read
        answer = _refusal(error, self._refused)
        answer.force_close()
        return answer


class AdminPort(ABC):
    """The application on the admin port. `refused` counts a refusal by its code."""

    def __init__(
        self, *, version: str, guard: Guard, shutdown: Callable[[], None], refused: Callable[[str], None]
    ) -> None:
        self.refused = refused
        self._version = version
        self._guard = guard
        self._shutdown = shutdown
        self._was_ready = False

    @abstractmethod
    def not_alive(self) -> list[str]:
        """Name what should run for the life of the process and does not."""

    @abstractmethod
    async def not_started_because(self) -> list[str]:
        """List what the start still waits for: the first attempt at a session, well or not."""

    @abstractmethod
    async def against_readiness(self) -> tuple[list[str], list[str]]:
        """List what stands against readiness, and what of the credentials is refused; nothing is dialled."""

    async def not_ready_because(self) -> list[str]:
        """List what stands against readiness; an outage of the upstream does not.

        A refusal does as long as these credentials were never good: a rollout of wrong ones halts. Once ready, it does not:
        to take all replicas out of service helps nobody.
        """
        return self._judged(*await self.against_readiness())

    def _judged(self, because: list[str], refusals: list[str]) -> list[str]:
        because = because if self._was_ready else because + refusals
        self._was_ready = self._was_ready or not because
        return because

    @abstractmethod
    async def status(self) -> dict[str, Any]:
        """Describe what runs; holds no token and no application id."""

    @abstractmethod
    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Write all metrics in the format the scraper accepts; returns body and content type."""

    @abstractmethod
    async def renew(self, request: web.Request) -> web.Response:
        """Make a new session now and tell of it. Raises `SessionUnavailable`."""

    def application(self) -> web.Application:
        """Build the application."""
        app = web.Application(middlewares=[self._errors_in_our_envelope])
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/startupz", self._startupz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/status", self._status)
        app.router.add_get("/", self._page)
        app.router.add_post("/session/renew", self._renew)
        app.router.add_post("/shutdown", self._stop)
        return app

    async def _healthz(self, _: web.Request) -> web.Response:
        dead = self.not_alive()
        if dead:
            return in_json({"status": f"not alive: {', '.join(dead)}", "not_alive": dead}, status=503)
        return in_json({"status": "ok"})

    async def _startupz(self, _: web.Request) -> web.Response:
        because = await self.not_started_because()
        return in_json(
            {"status": "starting" if because else "started", "because": because}, status=503 if because else 200
        )

    async def _readyz(self, _: web.Request) -> web.Response:
        standing, refusals = await self.against_readiness()
        because = self._judged(standing, refusals)
        told = {"status": "not ready" if because else "ready", "because": because, "refusals": refusals}
        return in_json(told, status=503 if because else 200)

    async def _metrics_page(self, request: web.Request) -> web.Response:
        body, content_type = await self.metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _status(self, _: web.Request) -> web.Response:
        return in_json(await self.status())

    async def _page(self, _: web.Request) -> web.Response:
        headers = {
            "Content-Security-Policy": POLICY,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        text = render(await self.status(), version=self._version)
        return web.Response(text=text, content_type="text/html", charset="utf-8", headers=headers)

    async def _renew(self, request: web.Request) -> web.Response:
        self._check_actor(request)
        return await self.renew(request)

    async def _stop(self, request: web.Request) -> web.Response:
        self._check_actor(request)
        # After this answer is on its way.
        asyncio.get_running_loop().call_soon(self._shutdown)
        return in_json({"status": "draining"}, status=202)

    def _check_actor(self, request: web.Request) -> None:
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        address = peer[0] if isinstance(peer, tuple) else None
        if address is not None and not names_this_machine(address.removeprefix("::ffff:")):
            raise Denied("client_not_allowed", "This action is allowed from loopback only.")
        self._guard.check_actor(read_request(request.raw_headers), parse_target("POST", request.raw_path).authority)

    @web.middleware
    async def _errors_in_our_envelope(
        self, request: web.Request, handler: Callable[[web.Request], Any]
    ) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
            return response
        except ProxyError as error:
            return _refusal(error, self.refused, request.raw_headers)
        except web.HTTPException as error:
            answer = in_json({"message": [f"{error.reason}."], "error": f"admin_{error.status}"}, status=error.status)
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer


def _refusal(error: ProxyError, refused: Callable[[str], None], fields: RawHeaders = ()) -> web.Response:
    """Answer with an error as the proxy port does, and count it; `fields` are the request's, where it could be read."""
    refused(error.code)
    try:
        request_id = read_request(fields).request_id
    except ProxyError:
        request_id = None
    headers = {
        "X-Request-ID": request_id or new_request_id(),
        "Proxy-Status": f"{NAME.decode()}; error={error.proxy_status}",
    }
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return in_json({"message": [str(error)], "error": error.code}, status=error.status, headers=headers)


def in_json(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer with JSON that people can read too."""
    body = orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n"
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
