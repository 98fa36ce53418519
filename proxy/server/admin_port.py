"""The admin port as such: its endpoints, its guards, its JSON and its page; what they tell is in `reports.py`.

Reading is open to whoever reaches the port (scrapers come by any name); acting needs loopback and passes the same Host and
Origin guards as the proxy port, so that no web page can do it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import orjson
from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from proxy import __version__
from proxy.core.dialect import RawHeaders
from proxy.core.errors import BadRequest, ProxyError
from proxy.core.request_fields import read_request
from proxy.core.target import parse_target
from proxy.server.admin import OwnProcess
from proxy.server.answers import envelope_of, fields_of
from proxy.server.listener import LAST_SECONDS, Listener
from proxy.server.page import POLICY, render
from proxy.server.record import new_request_id
from proxy.server.reports import Processes
from proxy.telemetry.logs import describe, log
from proxy.telemetry.summed_metrics import exposed

#: Seconds that the last connections get for their request, where the next process serves those after.
_JUST_MADE: Final = 0.05


class AdminProtocol(RequestHandler):
    """aiohttp's connection handler, without a byte of a malformed request in its answer or in a log.

    Of `most` open connections the oldest makes room for a new one, so that whoever looks is always let in.
    """

    def __init__(self, server: web.Server, refused: Callable[[str], None], most: int, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._refused = refused
        self._most = most

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make room for it."""
        transports = (one.transport for one in self._server.connections)
        # One that was ended a moment ago is still among them: many may come in one turn of the loop.
        others = [one for one in transports if one is not None and not one.is_closing()]
        if len(others) >= self._most:
            others[0].abort()  # not closed: one that does not read its answer would stay
        super().connection_made(transport)

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


class AdminPort:
    """The application on the admin port.

    `own` is this process, `processes` tells of all that are one proxy with it; `shutdown` begins a drain.
    """

    def __init__(self, own: OwnProcess, processes: Callable[[], Processes], shutdown: Callable[[], None]) -> None:
        #: Counts a refusal by its code.
        self.refused = own.counted.refused_by_us
        self._own = own
        self._processes = processes
        self._shutdown = shutdown

    def application(self) -> web.Application:
        """Build the application."""
        app = web.Application(middlewares=[self._errors_in_our_envelope])
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/startupz", self._startupz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/status", self._status)
        app.router.add_get("/", self._page)
        app.router.add_post("/session/renew", self._renew)
        app.router.add_post("/shutdown", self._stop)
        return app

    async def _healthz(self, _: web.Request) -> web.Response:
        if self._own.not_alive() and (dead := self._processes().not_alive):
            return _in_json({"status": f"not alive: {', '.join(dead)}", "not_alive": dead}, status=503)
        return _in_json({"status": "ok"})

    async def _startupz(self, _: web.Request) -> web.Response:
        because = self._processes().starting
        content = {"status": "starting" if because else "started", "because": because}
        return _in_json(content, status=503 if because else 200)

    async def _readyz(self, _: web.Request) -> web.Response:
        processes = self._processes()
        because = processes.not_ready_because
        self._own.life.was_ready |= not because
        content = {"status": "not ready" if because else "ready", "because": because, "refusals": processes.refusals}
        return _in_json(content, status=503 if because else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        # Adding up takes some 10 ms for each process: in a thread, so that callers are served meanwhile.
        accept, families = request.headers.get("Accept", ""), self._processes().families()
        body, content_type = await asyncio.to_thread(exposed, families, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _status(self, _: web.Request) -> web.Response:
        return _in_json(self._told())

    def _told(self) -> dict[str, Any]:
        told = self._processes().status()
        self._own.life.was_ready |= told["ready"]
        return told

    async def _page(self, _: web.Request) -> web.Response:
        headers = {
            "Content-Security-Policy": POLICY,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        text = render(self._told(), version=__version__)
        return web.Response(text=text, content_type="text/html", charset="utf-8", headers=headers)

    async def _renew(self, request: web.Request) -> web.Response:
        self._check_actor(request)
        await self._own.renew()
        return _in_json({"status": "renewed", "session": self._processes().session(own=True)})

    async def _stop(self, request: web.Request) -> web.Response:
        self._check_actor(request)
        # After this answer is on its way.
        asyncio.get_running_loop().call_soon(self._shutdown)
        return _in_json({"status": "draining"}, status=202)

    def _check_actor(self, request: web.Request) -> None:
        name = request.transport.get_extra_info("peername") if request.transport is not None else None
        peer = name[0] if isinstance(name, tuple) else None  # None: a unix socket
        self._own.guard.check_actor(
            read_request(request.raw_headers), parse_target("POST", request.raw_path).authority, peer
        )

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
            answer = _in_json({"message": [f"{error.reason}."], "error": f"admin_{error.status}"}, status=error.status)
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer


@asynccontextmanager
async def serving(port: AdminPort, sockets: Mapping[socket.socket, bool], *, most: int) -> AsyncIterator[None]:
    """Serve it at these sockets; True: the socket goes on listening afterwards.

    There are at most `most` connections: half of them open, the others being taken in or ended.
    """
    runner = web.AppRunner(port.application(), access_log=None, handle_signals=False)
    await runner.setup()
    server = runner.server
    assert server is not None  # noqa: S101
    options = {"loop": asyncio.get_running_loop(), "access_log": None, "keepalive_timeout": 75.0}
    connection = partial(AdminProtocol, server, port.refused, max(1, most // 2), **options)
    at_a_time = most // (4 * len(sockets))
    listeners = [Listener(connection, sock, at_a_time=at_a_time, stays=stays) for sock, stays in sockets.items()]
    try:
        yield
    finally:
        for listener in listeners:
            await listener.close_after_the_rest()
        if server.connections and any(sockets.values()):
            await asyncio.sleep(_JUST_MADE)  # a connection that was just made may be about to bring a request
        await runner.shutdown()
        await server.shutdown(LAST_SECONDS)
        await runner.cleanup()


def _refusal(error: ProxyError, refused: Callable[[str], None], fields: RawHeaders = ()) -> web.Response:
    """Answer with an error as the proxy port does, and count it; `fields` are the request's, where it could be read."""
    refused(error.code)
    try:
        request_id = read_request(fields).request_id
    except ProxyError:
        request_id = None
    headers = {"X-Request-ID": request_id or new_request_id(), **fields_of(error)}
    return _in_json(envelope_of(error), status=error.status, headers=headers)


def _in_json(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer with JSON that people can read too."""
    body = orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n"
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
