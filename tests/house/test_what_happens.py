"""The table "What happens when…", row by row, with a real proxy and the simulator.

Each row has exactly one test here, named by the row's first cell.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import Proxy
from proxy.settings import load_settings
from proxy.simulator import Simulator, SimulatorSettings
from tests.house.pages import table

EMAIL, PASSWORD = "partner@example.com", "demo-password"
ORDER = {
    "cards": [{"merchantId": 1, "faceValue": 25, "type": "ecode", "quantity": 1}],
    "payment": {"method": "DRAWDOWN_ACCOUNT"},
    "shippingDetails": {},
}
ORDERS = "/orders?checkout=condensed"


@dataclass(frozen=True)
class Seen:
    """An answer as the caller sees it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        content = json.loads(self.body)
        return content["error"] if isinstance(content, dict) and "message" in content else None

    @property
    def sentence(self) -> str:
        return str(json.loads(self.body)["message"][0])

    @property
    def remark(self) -> str:
        return self.headers.get("proxy-status", "")


class World:
    """A simulator, a proxy in front of it, and a caller."""

    def __init__(self, simulator: Simulator, proxy: Proxy, client: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.proxy = proxy
        self._client = client

    async def call(self, method: str, path: str, *, on: str = "", **options: Any) -> Seen:
        base = f"http://{on or self.proxy.addresses[0]}"
        async with self._client.request(method, base + path, **options) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Seen(answer.status, headers, await answer.read())

    async def get(self, path: str = "/carts") -> Seen:
        return await self.call("GET", path)

    async def order(self, **headers: str) -> Seen:
        return await self.call("POST", ORDERS, json=ORDER, headers=headers)

    async def ready(self) -> int:
        return (await self.call("GET", "/readyz", on=self.proxy.admin_addresses[0])).status

    async def status(self) -> dict[str, Any]:
        seen = await self.call("GET", "/status", on=self.proxy.admin_addresses[0])
        return dict(json.loads(seen.body)["session"])

    @property
    def sessions(self) -> int:
        return self.simulator.calls["POST /v3/session"]

    @property
    def orders_placed(self) -> int:
        return int(self.simulator.counters["orders_placed"])


@contextlib.asynccontextmanager
async def world(settings: SimulatorSettings | None = None, *, login: bool = True, **more: str) -> AsyncIterator[World]:
    simulator = Simulator(settings or SimulatorSettings())
    await simulator.start()
    environ = {
        "APP_ID": "demo-app-id",
        "UPSTREAM__ORIGIN": simulator.url,
        "LISTEN": "127.0.0.1:0",
        "ADMIN__LISTEN": "127.0.0.1:0",
        **({"LOGIN__EMAIL": EMAIL, "LOGIN__PASSWORD": PASSWORD} if login else {}),
        **more,
    }
    if "APP_ID_FILE" in environ:
        del environ["APP_ID"]
    settings_of_proxy = load_settings(environ={f"CARDCASH_{name}": value for name, value in environ.items()})
    try:
        async with Proxy(settings_of_proxy) as proxy, aiohttp.ClientSession() as client:
            if settings_of_proxy.session.eager:
                await asyncio.wait_for(proxy.keeper.first_renewal_over.wait(), 15)
            yield World(simulator, proxy, client)
    finally:
        await simulator.stop()


@contextlib.asynccontextmanager
async def down(simulator: Simulator) -> AsyncIterator[None]:
    """Stop it and keep its port, so that no other test's simulator answers in its place."""
    host, _, port = simulator.url.rpartition("/")[2].partition(":")
    await simulator.stop()
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, int(port)))
        yield


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        await asyncio.sleep(0.01)


Scenario = Callable[[Path], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}


def row(when: str) -> Callable[[Scenario], Scenario]:
    def named(scenario: Scenario) -> Scenario:
        SCENARIOS[when] = scenario
        return scenario

    return named


@row("the token nears its end")
async def near_its_end(_: Path) -> None:
    # Harvested: every answer of this simulator brings a new token.
    async with world(SimulatorSettings(refresh_window=1199)) as w:
        assert (await w.get()).status == 200
        assert (await w.status())["harvests"] == 1
        assert w.sessions == 1
    # Renewed: no answer of this one does.
    async with world(SimulatorSettings(token_ttl=2, refresh_on="none")) as w:
        seen = set()
        while w.sessions < 3:
            answer = await w.get()
            seen.add((answer.status, answer.remark))
        assert seen == {(200, "")}
        assert w.simulator.counters["rejected"] == {}


@row("the token was revoked")
async def revoked(_: Path) -> None:
    async with world() as w:
        w.simulator.revoke_all()
        answers = await asyncio.gather(w.order(**{"X-Request-ID": "one"}), *(w.get() for _ in range(20)))
        assert {answer.status for answer in answers} == {200, 201}
        assert 'details="session-renewed"' in answers[0].remark
        assert w.sessions == 2
        assert w.simulator.processed["one"] == w.orders_placed == 1


@row("… and the body was too large to keep")
async def too_large_to_keep(_: Path) -> None:
    async with world(LIMITS__REPLAY_BODY="16") as w:
        w.simulator.revoke_all()
        refused = await w.order()
        assert (refused.status, refused.code, w.orders_placed) == (503, "not_repeatable", 0)
        assert int(refused.headers["retry-after"]) >= 1
        assert ((await w.order()).status, w.orders_placed) == (201, 1)


@row("… and the new token is rejected too")
async def rejected_again(_: Path) -> None:
    async with world() as w:
        w.simulator.fault("reject", path="/v3/wallets", times=100)
        first, second = await w.get("/wallets"), await w.get("/wallets")
        for answer in (first, second):
            assert (answer.status, answer.sentence) == (400, "no Authorization token was found")
        assert w.sessions == 2
        assert (await w.get("/carts")).status == 200


@row("an undocumented wording rejects the token of an order")
async def odd_wording(_: Path) -> None:
    async with world(SimulatorSettings(rejection_message="jwt expired")) as w:
        w.simulator.revoke_all()
        answer = await w.order()
        assert (answer.status, answer.sentence) == (400, "jwt expired")
        assert (w.simulator.calls["POST /v3/orders"], w.orders_placed, w.sessions) == (1, 0, 2)


@row("CardCash refuses the login")
async def login_refused(_: Path) -> None:
    async with world(SimulatorSettings(accounts={EMAIL: "another"})) as w:
        answer = await w.get("/merchants/buy")
        assert (answer.status, answer.remark) == (200, 'cardcash-proxy; details="login-refused"')
        w.simulator.revoke_all()
        assert (await w.get("/merchants/buy")).status == 200
        assert await w.ready() == 503
        assert w.simulator.calls["POST /v3/customers/login"] == 1


@row("CardCash refuses the application id")
async def app_id_refused(_: Path) -> None:
    async with world(APP_ID="not-theirs") as w:
        for _attempt in range(3):
            answer = await w.get()
            assert (answer.status, answer.code) == (503, "session_unavailable")
        assert (await w.ready(), w.sessions) == (503, 1)


@row("CardCash is down, and no session is held")
async def down_without_session(_: Path) -> None:
    async with world(SESSION__EAGER="false") as w, down(w.simulator):
        first = await w.get()
        assert (first.status, first.code) == (503, "session_unavailable")
        tried = None
        while tried != (
            tried := w.proxy.keeper.status()["failures_in_a_row"]
        ):  # the pause may have ended: then it was tried again
            began = time.monotonic()
            second = await w.get()
            assert (second.status, int(second.headers["retry-after"]) >= 1) == (503, True)
        assert time.monotonic() - began < 2


@row("CardCash is down, and a session is held")
async def down_with_session(_: Path) -> None:
    async with world() as w, down(w.simulator):
        answer = await w.order()
        assert (answer.status, answer.code) == (502, "upstream_unreachable")
        assert "nothing was sent" in answer.sentence


@row("the connection ends before an answer, for a GET, `POST /carts` or `POST /session`")
async def reset_of_a_safe_one(_: Path) -> None:
    async with world() as w:
        w.simulator.fault("reset", path="/v3/carts", times=1, when="after_body")
        assert (await w.get()).status == 200
        w.simulator.fault("reset", path="/v3/carts", times=2, when="after_body")
        answer = await w.get()
        assert (answer.status, answer.code) == (502, "upstream_reset")


@row("the connection ends before an answer, for anything else")
async def reset_of_an_order(_: Path) -> None:
    async with world() as w:
        w.simulator.fault("reset", path="/v3/orders", times=1, when="after_body")
        answer = await w.order()
        assert (answer.status, answer.code) == (502, "upstream_reset")
        assert "may have been processed" in answer.sentence
        assert w.simulator.counters["faults"] == {"reset": 1}


@row("the connection ends inside an answer")
async def reset_in_an_answer(_: Path) -> None:
    async with world() as w:
        w.simulator.fault("reset", path="/v3/merchants/buy", times=1, when="in_body")
        with pytest.raises(aiohttp.ClientPayloadError):
            await w.get("/merchants/buy")


@row("CardCash's answer is not HTTP")
async def not_http(_: Path) -> None:
    token = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b"{}", b"{}", b"signature"))
    session = json.dumps({"access_token": token, "expiresInSeconds": 3600}).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST /v3/session"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(session), session))
        else:
            writer.write(b"220 mail.example.com ESMTP\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        origin = "http://127.0.0.1:{1}".format(*server.sockets[0].getsockname())
        async with world(login=False, UPSTREAM__ORIGIN=origin) as w:
            answer = await w.get()
            assert (answer.status, answer.code) == (502, "upstream_invalid")
    finally:
        server.close()


@row("CardCash is slower than `upstream.response_timeout`")
async def slow(_: Path) -> None:
    async with world(UPSTREAM__RESPONSE_TIMEOUT="300ms") as w:
        w.simulator.fault("delay", path="/v3/orders", seconds=30, times=1)
        answer = await w.order()
        assert (answer.status, answer.code) == (504, "upstream_timeout")
        assert "may have been processed" in answer.sentence


@row("CardCash itself answers 400, 404, 500, or its edge a page of HTML")
async def its_own_errors(_: Path) -> None:
    page = "<html>Please wait</html>"
    async with world() as w:
        w.simulator.fault("fail", path="/v3/carts", status=500, body="", times=1)
        w.simulator.fault("fail", path="/v3/wallets", status=403, body=page, times=1)
        for path, status, body in (("/nowhere", 404, None), ("/carts", 500, ""), ("/wallets", 403, page)):
            answer = await w.get(path)
            assert (answer.status, answer.remark) == (status, "")
            assert body is None or answer.body == body.encode()
        assert w.sessions == 1


@row("the request body is larger than `limits.request_body`")
async def large_body(_: Path) -> None:
    async with world(LIMITS__REQUEST_BODY="64", LIMITS__REPLAY_BODY="64") as w:
        answer = await w.order()
        assert (answer.status, answer.code, w.simulator.calls["POST /v3/orders"]) == (413, "body_too_large", 0)


@row("more requests than `limits.in_flight`")
async def overloaded(_: Path) -> None:
    async with world(LIMITS__IN_FLIGHT="1") as w:
        w.simulator.fault("delay", path="/v3/orders/buy", seconds=2, times=1)
        first = asyncio.create_task(w.get("/orders/buy"))
        await until(lambda: w.proxy.guard.in_flight == 1)
        answer = await w.get()
        assert (answer.status, answer.code) == (503, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await first).status == 200


@row("more connections than `limits.connections`")
async def too_many_connections(_: Path) -> None:
    async with world(LIMITS__CONNECTIONS="1") as w:
        w.simulator.fault("delay", path="/v3/orders/buy", seconds=2, times=1)
        first = asyncio.create_task(w.get("/orders/buy"))
        await until(lambda: w.proxy.guard.in_flight == 1)
        answer = await w.get()
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "overloaded", "1")
        assert (await first).status == 200


@row("the proxy is stopping")
async def stopping(_: Path) -> None:
    async with world() as w:
        w.simulator.fault("delay", path="/v3/orders/buy", seconds=2, times=1)
        running = asyncio.create_task(w.proxy.run())
        first = asyncio.create_task(w.get("/orders/buy"))
        await until(lambda: w.proxy.guard.in_flight == 1)
        w.proxy.request_stop()
        await until(lambda: w.proxy.server.draining)
        assert await w.ready() == 503
        with pytest.raises(aiohttp.ClientConnectionError):
            await w.get()
        assert (await first).status == 200
        await asyncio.wait_for(running, 5)


@row("an app logs in as another account")
async def another_account(_: Path) -> None:
    async with world() as w:
        body = {"customer": {"email": "somebody@example.com", "password": "x"}}
        answer = await w.call("POST", "/customers/login", json=body)
        assert (answer.status, answer.code) == (409, "other_account")
        assert w.simulator.calls["POST /v3/customers/login"] == 1  # the proxy's own


@row("an app's own login is lost, for good")
async def own_login_lost(_: Path) -> None:
    async with world(login=False) as w:
        body = {"customer": {"email": EMAIL, "password": PASSWORD}}
        assert (await w.call("POST", "/customers/login", json=body)).status == 200
        assert (await w.get()).status == 200
        w.simulator.revoke_all()
        assert (await w.get("/merchants/buy")).status == 200
        status = await w.status()
        assert (status["identity_lost"], status["identity"]) == (True, None)
        refused = await w.get()
        assert (refused.status, refused.code) == (503, "session_unavailable")
        assert (await w.call("POST", "/customers/login", json=body)).status == 200
        assert (await w.get()).status == 200


@row("a web page or a stranger calls")
async def strangers(_: Path) -> None:
    async with world() as w:
        rebound = await w.call("GET", "/carts", headers={"Host": "evil.example"})
        foreign = await w.call("GET", "/carts", headers={"Origin": "https://evil.example"})
        assert (rebound.status, rebound.code) == (421, "host_not_allowed")
        assert (foreign.status, foreign.code) == (403, "origin_not_allowed")
        assert w.simulator.calls["GET /v3/carts"] == 0


@row("the caller hangs up")
async def hangs_up(_: Path) -> None:
    async with world() as w:
        w.simulator.fault("delay", path="/v3/carts", seconds=30, times=1)
        caller = asyncio.create_task(w.get())
        await until(lambda: w.proxy.guard.in_flight == 1)
        caller.cancel()
        labels = {"method": "GET", "route": "/v3/carts", "status": "499"}
        await until(lambda: w.proxy.metrics.registry.get_sample_value("cardcash_proxy_requests_total", labels))


@row("the content of a secret file changes")
async def secret_changes(folder: Path) -> None:
    secret = folder / "app-id"
    secret.write_text("the-first\n")
    async with world(SimulatorSettings(app_ids=("the-first", "the-second")), APP_ID_FILE=str(secret)) as w:
        secret.write_text("the-second\n")
        while w.sessions < 2:
            assert (await w.get()).status == 200
            await asyncio.sleep(0.02)
        assert (await w.get()).status == 200


@row("an old client makes its own session")
async def old_client(_: Path) -> None:
    async with world() as w:
        answer = await w.call("POST", "/v3/session", headers={"x-cc-app": "something"})
        session = json.loads(answer.body)
        assert (answer.status, set(session)) == (
            200,
            {"access_token", "expiresInSeconds", "sessionId", "renderAssets"},
        )
        assert 0 < session["expiresInSeconds"] <= 1199
        again = await w.call("GET", "/v3/carts", headers={"Authorization": f"Bearer {session['access_token']}"})
        assert (again.status, again.remark, w.sessions) == (200, "", 1)


def test_every_row_has_a_test() -> None:
    assert [cells[0] for cells in table("when")] == list(SCENARIOS)


@pytest.mark.parametrize("when", SCENARIOS)
async def test_it_happens_as_the_readme_says(when: str, tmp_path: Path) -> None:
    await SCENARIOS[when](tmp_path)
