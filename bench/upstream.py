"""An upstream in plain Python that always gives the same answers: for measuring where there is no nginx.

`python -m bench.upstream --listen PORT`. POST to …/session hands out a token, all else is answered with 1 kB of JSON. It
judges nothing; the simulator does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any, cast

import httptools
import uvloop

from bench.configs import TOKEN, small_json


def _answer(body: str, *more: str) -> bytes:
    # Every server of today sends a Date; the plain proxy and ours would each make one where there is none.
    head = [
        "HTTP/1.1 200 OK",
        "Date: Sun, 22 Nov 2026 08:00:00 GMT",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *more,
    ]
    return "\r\n".join([*head, "", body]).encode()


SMALL = _answer(small_json())
SESSION = _answer(
    json.dumps({"access_token": TOKEN, "expiresInSeconds": 86_400}),
    f"authorization: {TOKEN}",
    "x-token-exp-seconds: 86400",
)


class _Caller(asyncio.Protocol):
    def __init__(self) -> None:
        self._parser: Any = httptools.HttpRequestParser(self)
        self._target = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._target = b""

    def on_url(self, piece: bytes) -> None:
        self._target += piece

    def on_message_complete(self) -> None:
        self._transport.write(SESSION if self._target.endswith(b"/session") else SMALL)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Caller, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    """Serve until a signal ends the process."""
    parser = argparse.ArgumentParser(description="an upstream that always gives the same answers")
    parser.add_argument("--listen", type=int, required=True, metavar="PORT")
    uvloop.run(_serve(parser.parse_args().listen))


if __name__ == "__main__":
    main()
