"""The admin port: health, readiness, metrics, status, and the two actions of an operator. Never the proxied paths.

Reading is open to whoever reaches the port (scrapers come by any name); acting needs loopback and passes the same Host and
Origin guards as the proxy port, so that no web page can do it.
"""

from __future__ import annotations

import asyncio
import html
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from proxy.core.dialect import RawHeaders
from proxy.core.errors import BadRequest, Denied, ProxyError, SessionUnavailable
from proxy.core.headers import read_request
from proxy.core.identity import shortened
from proxy.core.target import is_loopback, parse_target
from proxy.server.answers import NAME
from proxy.server.guard import Guard
from proxy.server.record import new_request_id
from proxy.session.keeper import SessionKeeper
from proxy.telemetry.logs import describe, log
from proxy.telemetry.metrics import Metrics
from proxy.upstream import Upstream


@dataclass(slots=True)
class Lifecycle:
    """Where the process is in its life; set by the composition root, read here."""

    started: bool = False
    draining: bool = False
    eager: bool = True


class AdminProtocol(RequestHandler):
    """aiohttp's connection handler, without a byte of a malformed request in its answer or in a log."""

    def __init__(self, manager: web.Server, metrics: Metrics, **options: Any) -> None:
        super().__init__(manager, **options)
        self._metrics = metrics

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
        request._version = HttpVersion11  # aiohttp answers in the version of a request that it could not read
        answer = _refusal(error, self._metrics)
        answer.force_close()
        return answer


class Admin:
    """The application on the admin port."""

    def __init__(
        self,
        *,
        version: str,
        origin: str,
        keeper: SessionKeeper,
        upstream: Upstream,
        guard: Guard,
        metrics: Metrics,
        life: Lifecycle,
        shutdown: Callable[[], None],
    ) -> None:
        self._version = version
        self._origin = origin
        self._keeper = keeper
        self._upstream = upstream
        self._guard = guard
        self._metrics = metrics
        self._life = life
        self._shutdown = shutdown
        self._since = datetime.now(UTC)

    def application(self) -> web.Application:
        """Build the application."""
        app = web.Application(middlewares=[self._errors_in_our_envelope])
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/status", self._status)
        app.router.add_get("/", self._page)
        app.router.add_post("/session/renew", self._renew)
        app.router.add_post("/shutdown", self._stop)
        return app

    def not_ready_because(self) -> list[str]:
        """List what stands against readiness; an outage of the upstream does not, and nothing is dialled."""
        because = []
        if not self._life.started:
            because.append("starting")
        if self._life.eager and not self._keeper.first_attempt_over.is_set():
            because.append("the first session is being made")
        if self._life.draining:
            because.append("draining")
        because += [f"{what} refused: {sentence}" for what, sentence in self._keeper.latched.items()]
        return because

    async def _healthz(self, _: web.Request) -> web.Response:
        alive = self._keeper.alive
        return _json({"status": "ok" if alive else "session keeper has ended"}, status=200 if alive else 503)

    async def _readyz(self, _: web.Request) -> web.Response:
        because = self.not_ready_because()
        return _json(
            {"status": "not ready" if because else "ready", "because": because}, status=503 if because else 200
        )

    async def _metrics_page(self, request: web.Request) -> web.Response:
        body, content_type = self._metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _status(self, _: web.Request) -> web.Response:
        return _json(self.status())

    def status(self) -> dict[str, Any]:
        """Describe the running proxy; holds no token and no application id."""
        session = self._keeper.status()
        return {
            "version": self._version,
            "since": self._since.isoformat(timespec="seconds"),
            "ready": not self.not_ready_because(),
            "not_ready_because": self.not_ready_because(),
            "draining": self._life.draining,
            "session": {
                "state": session.state,
                "expires_at": _iso(session.expires_wall),
                "expires_in_seconds": _rounded(session.expires_in),
                "renews_in_seconds": _rounded(session.renews_in),
                "source": session.source,
                "identity": shortened(session.identity),
                "identity_from_caller": session.own_login,
                "identity_lost": session.identity_lost,
                "latched": session.latched,
                "advice": session.latch_sentence,
                "refused": sorted(self._keeper.latched),
                "paused_seconds": round(session.paused_for, 3),
                "failures_in_a_row": session.failures,
                "renewing": session.renewing,
                "waiters": session.waiters,
                "renewals": session.renewals,
                "harvests": session.harvests,
            },
            "upstream": {
                "origin": self._origin,
                "connections_idle": self._upstream.idle_connections,
                "connections_active": self._upstream.active_connections,
                "connections_opened": self._upstream.opened_total,
            },
            "requests_in_flight": self._guard.in_flight,
        }

    async def _page(self, _: web.Request) -> web.Response:
        rows = "".join(_rows(self.status()))
        body = _PAGE.replace("{rows}", rows).replace("{version}", html.escape(self._version))
        return web.Response(
            text=body,
            content_type="text/html",
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )

    async def _renew(self, request: web.Request) -> web.Response:
        self._check_actor(request)
        await self._keeper.renew_now()
        for sentence in self._keeper.latched.values():
            raise SessionUnavailable(sentence)
        return _json({"status": "renewed", "session": self.status()["session"]})

    async def _stop(self, request: web.Request) -> web.Response:
        self._check_actor(request)
        # After this answer is on its way.
        asyncio.get_running_loop().call_soon(self._shutdown)
        return _json({"status": "draining"}, status=202)

    def _check_actor(self, request: web.Request) -> None:
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        address = peer[0] if isinstance(peer, tuple) else None
        if address is not None and not is_loopback(address.removeprefix("::ffff:")):
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
            return _refusal(error, self._metrics, request.raw_headers)
        except web.HTTPException as error:
            answer = _json({"message": [f"{error.reason}."], "error": f"admin_{error.status}"}, status=error.status)
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer


def _refusal(error: ProxyError, metrics: Metrics, fields: RawHeaders = ()) -> web.Response:
    """Answer with an error as the proxy port does, and count it; `fields` are the request's, where it could be read."""
    metrics.errors.labels(error.code).inc()
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
    return _json({"message": [str(error)], "error": error.code}, status=error.status, headers=headers)


def _json(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    body = orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n"
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def _iso(wall: float | None) -> str | None:
    return None if wall is None else datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _rows(content: Mapping[str, Any], prefix: str = "") -> list[str]:
    rows = []
    for key, value in content.items():
        if isinstance(value, dict):
            rows += _rows(value, f"{prefix}{key} · ")
        else:
            name = (prefix + key).replace("_", " ")
            rows.append(f"<tr><th>{html.escape(name)}<td>{html.escape('–' if value in (None, []) else str(value))}")
    return rows


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<title>cardcash-proxy</title><style>body{font:15px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:500;color:#555;width:45%}
td,th{padding:.25rem .5rem;border-bottom:1px solid #ddd}a{color:#06c}</style>
<h1>cardcash-proxy {version}</h1><p><a href="/status">status</a> · <a href="/metrics">metrics</a> ·
<a href="/readyz">readyz</a> · <a href="/healthz">healthz</a></p><table>{rows}</table></html>
"""
