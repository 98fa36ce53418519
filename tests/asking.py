"""What `aiohttp_client` makes in this suite: a client of servers that run already, whose answers are read whole."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from aiohttp.test_utils import BaseTestServer, TestClient
from aiohttp.typedefs import StrOrURL
from aiohttp.web import BaseRunner
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL


class Listening(BaseTestServer):
    """Whatever listens at `url` by itself: an admin port, a simulator. A client neither starts nor stops it."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    async def start_server(self, loop: asyncio.AbstractEventLoop | None = None, **_: Any) -> None:
        """It runs."""

    async def _make_runner(self, **_: Any) -> BaseRunner:
        raise NotImplementedError

    def make_url(self, path: StrOrURL) -> URL:
        """Put it before a path, whose spelling is left alone."""
        return URL(f"{self.url}{path}", encoded=True)


@dataclass(frozen=True)
class AdminAnswers:
    """One answer, read."""

    status: int
    headers: CIMultiDictProxy[str] | CIMultiDict[str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error made by the proxy; checks the envelope around it."""
        assert self.headers.getall("Content-Type") == ["application/json"]
        content = self.json
        assert set(content) == {"message", "error"}
        assert isinstance(content["message"], list) and len(content["message"]) == 1
        (status,) = self.headers.getall("Proxy-Status")
        assert status.startswith("cardcash-proxy; error=")
        (request_id,) = self.headers.getall("X-Request-ID")
        assert request_id
        code: str = content["error"]
        return code


class Asking(TestClient[Any, Any]):
    """aiohttp's client of one server; `ask("GET /status")` reads the answer to its end."""

    async def ask(self, line: str, **more: Any) -> AdminAnswers:
        """Ask; `more` is what aiohttp's `request` takes."""
        method, path = line.split(" ")
        async with self.request(method, path, **more) as answer:
            return AdminAnswers(answer.status, answer.headers, await answer.read())
