"""A simulator on a free port, a clock that stands still, and a caller that speaks CardCash's dialect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient

from proxy.simulator import Simulator
from tests.asking import Listening
from tests.conftest import StartSimulator

APP = "demo-app-id"


@dataclass
class Answer:
    """A read answer."""

    status: int
    headers: Any
    raw: bytes
    json: Any

    @property
    def token(self) -> str | None:
        value: str | None = self.headers.get("authorization")
        return value


class Caller:
    """One client; `token` goes out as Bearer when it is set."""

    def __init__(self, sim: Simulator, client: TestClient[Any, Any]) -> None:
        self.sim = sim
        self.client = client
        self.token: str | None = None

    async def call(self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any) -> Answer:
        sent = {"x-cc-app": APP, **({"Authorization": f"Bearer {self.token}"} if self.token else {}), **(headers or {})}
        clean = {name: value for name, value in sent.items() if value}
        async with self.client.request(method, path, headers=clean, **more) as response:
            raw = await response.read()
            try:
                value = await response.json(content_type=None, encoding="utf-8-sig") if raw else None
            except ValueError:
                value = None
            return Answer(response.status, response.headers, raw, value)

    async def get(self, path: str, **more: Any) -> Answer:
        return await self.call("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        return await self.call("POST", path, **({"json": body} if body is not None else {}), **more)

    async def session(self) -> str:
        answer = await self.post("/v3/session")
        self.token = answer.json["access_token"]
        assert self.token is not None
        return self.token

    async def login(self, email: str = "partner@example.com", password: str = "demo-password") -> Answer:
        if self.token is None:
            await self.session()
        answer = await self.post("/v3/customers/login", {"customer": {"email": email, "password": password}})
        self.token = answer.token or self.token
        return answer


Start = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def start(start_simulator: StartSimulator, aiohttp_client: AiohttpClient) -> Start:
    """Start simulators with the settings given; their clock stands still until it is moved."""

    async def begin(**settings: Any) -> Caller:
        sim = await start_simulator(**settings)
        sim.clock = lambda: 1_800_000_000.0
        # Cookies are sent by hand where a test is about them.
        return Caller(sim, await aiohttp_client(Listening(sim.url), cookie_jar=aiohttp.DummyCookieJar()))

    return begin


@pytest.fixture
async def caller(start: Start) -> Caller:
    return await start()
