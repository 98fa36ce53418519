"""A plain reverse proxy with aiohttp, as a good developer writes it in an afternoon: the yardstick for one in Python.

`python -m bench.plain_aiohttp --listen PORT --upstream URL --log FILE [--ca FILE]`. uvloop, one shared client session,
answers streamed and left compressed, no cookies, a line of log for each request. It has no sessions, guards or metrics.
"""

from __future__ import annotations

import argparse
import logging
import ssl
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

HOP_BY_HOP = frozenset(("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host"))


def _passed_on(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP)


def application(upstream: str, ca: str | None) -> web.Application:
    """Build the proxy in front of `upstream`."""
    session: aiohttp.ClientSession

    async def forward(request: web.Request) -> web.StreamResponse:
        async with session.request(
            request.method,
            upstream + request.raw_path,
            headers=_passed_on(request.headers),
            data=request.content if request.body_exists else None,
            allow_redirects=False,
        ) as answer:
            response = web.StreamResponse(
                status=answer.status, reason=answer.reason, headers=_passed_on(answer.headers)
            )
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    async def client(_: web.Application) -> AsyncIterator[None]:
        nonlocal session
        tls = ssl.create_default_context(cafile=ca) if ca else True
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        )
        yield
        await session.close()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    app.cleanup_ctx.append(client)
    return app


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="a plain aiohttp reverse proxy, to compare with")
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--ca")
    options = parser.parse_args()
    logging.basicConfig(filename=options.log, level=logging.INFO, format="%(message)s")
    web.run_app(
        application(options.upstream, options.ca),
        host="127.0.0.1",
        port=options.listen,
        backlog=4096,
        access_log_format='%a "%r" %s %b %Tf',
        loop=uvloop.new_event_loop(),
        print=None,
    )


if __name__ == "__main__":
    main()
