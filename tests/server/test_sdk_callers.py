"""CardCash's own SDKs (PHP, Java) and Node examples, with only their base URL changed: their way of calling works.

They keep the session in a cookie that is named after the application id they were given, and make a session call whenever
they find none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from http.cookies import SimpleCookie

import pytest

from proxy.simulator import Simulator
from tests.conftest import StartProxy, StartSimulator
from tests.server.harness import Answer, RawUpstream, Running, answer

EMAIL, PASSWORD = "partner@example.com", "password-of-the-tests"
#: What the SDK was given; any: the proxy has its own.
APP = "sdk-app-id"
JSON = b"Content-Type: application/json"
FORM = b"Content-Type: application/x-www-form-urlencoded"
LOGIN = json.dumps({"customer": {"email": EMAIL, "password": PASSWORD}}).encode()


@pytest.fixture
async def cardcash(start_simulator: StartSimulator) -> Simulator:
    return await start_simulator(app_ids=("app-id-of-the-tests",), accounts={EMAIL: PASSWORD}, wallet_delay=0.0)


class Sdk:
    """One client with a cookie jar of its own; `headers` go with each call."""

    def __init__(self, proxy: Running, *headers: bytes, session_body: bytes | None) -> None:
        self.proxy = proxy
        self.headers = (b"x-cc-app: " + APP.encode(), *headers)
        self.session_body = session_body
        self.cookies: dict[str, str] = {}
        self.session_calls = 0

    async def call(self, line: str, *headers: bytes, body: bytes | None = None) -> Answer:
        """Call as the SDKs do: a session call first if there is no cookie named after the application id."""
        if APP not in self.cookies:
            self.session_calls += 1
            assert (await self.ask("POST /v3/session", JSON, body=self.session_body)).status == 200
        return await self.ask(line, *headers, body=body)

    async def ask(self, line: str, *headers: bytes, body: bytes | None = None) -> Answer:
        sent = self.cookie()
        got = await self.proxy.ask(line, *self.headers, *headers, *([b"Cookie: " + sent] if sent else []), body=body)
        for value in got.values("set-cookie"):
            self.keep(value.decode())
        return got

    def cookie(self) -> bytes:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items()).encode()

    def keep(self, set_cookie: str) -> None:
        jar: SimpleCookie = SimpleCookie(set_cookie)
        self.cookies |= {name: morsel.value for name, morsel in jar.items()}


class PhpSdk(Sdk):
    """curl without a User-Agent; what `Set-Cookie` said is sent back whole, attributes and all."""

    def keep(self, set_cookie: str) -> None:
        self.cookies[set_cookie.partition("=")[0]] = set_cookie.partition("=")[2]


def php(proxy: Running) -> Sdk:
    return PhpSdk(proxy, b"Accept: */*", session_body=None)


def java(proxy: Running) -> Sdk:
    return Sdk(proxy, b"User-Agent: Apache-HttpClient/4.5 (Java/1.8)", session_body=b"{}")


MakeSdk = Callable[[Running], Sdk]
SDKS = pytest.mark.parametrize("sdk", [php, java])


@SDKS
@pytest.mark.parametrize("configured", [True, False])
async def test_an_sdk_logs_in_and_buys_with_one_session_call(
    cardcash: Simulator, start_proxy: StartProxy, sdk: MakeSdk, configured: bool
) -> None:
    more = {"LOGIN__EMAIL": EMAIL, "LOGIN__PASSWORD": PASSWORD} if configured else {}
    client = sdk(await start_proxy(origin=cardcash.url, **more))
    assert (await client.call("POST /v3/customers/login", JSON, body=LOGIN)).status == 200
    merchant = (await client.call("GET /v3/merchants/buy")).json["buyMerchants"][0]["id"]
    assert (await client.call("POST /v3/carts", JSON, body=b'{"action":"buy"}')).status == 201
    assert (await client.call("GET /v3/carts")).status == 200
    assert (await client.call(f"GET /v3/merchants/{merchant}/inventory/bulk")).status == 200
    assert (await client.call("GET /v3/orders/buy")).status == 200
    for path in ("/v3/customers/", "/v3/customers"):  # the Java SDK calls it with the slash
        assert (await client.call(f"GET {path}")).status == 200
    assert client.session_calls == 1
    assert cardcash.calls["POST /v3/session"] == 1


@SDKS
@pytest.mark.parametrize("delivery", ["header", "cookie", "both"])
async def test_an_sdk_works_whatever_way_cardcash_gives_its_tokens(
    cardcash: Simulator, start_proxy: StartProxy, sdk: MakeSdk, delivery: str
) -> None:
    cardcash.configure(delivery=delivery, cookie_reissued=True)
    client = sdk(await start_proxy(origin=cardcash.url))
    assert (await client.call("POST /v3/customers/login", JSON, body=LOGIN)).status == 200
    for _ in range(3):
        assert (await client.call("GET /v3/carts")).status == 200
    cardcash.revoke_all()
    assert (await client.call("POST /v3/carts", JSON, body=b'{"action":"buy"}')).status == 503
    assert (await client.call("POST /v3/customers/login", JSON, body=LOGIN)).status == 200
    assert (await client.call("POST /v3/carts", JSON, body=b'{"action":"buy"}')).status == 201
    assert client.session_calls == 1


@SDKS
async def test_what_the_sdk_keeps_is_the_placeholder_and_never_a_token(
    upstream: RawUpstream, proxy: Running, sdk: MakeSdk
) -> None:
    client = sdk(proxy)
    assert (await client.call("GET /v3/merchants/buy")).status == 200
    assert list(client.cookies) == [APP]
    assert not [token for token in upstream.tokens if token in client.cookies[APP]]
    assert upstream.requests[-1].values("cookie") == []
    assert upstream.requests[-1].token == upstream.tokens[0]


async def test_the_cookie_is_named_after_the_callers_application_id(upstream: RawUpstream, proxy: Running) -> None:
    got = await proxy.ask("POST /session", b"X-CC-App: their-app")
    placeholder = got.json["access_token"].encode()
    assert got.value("set-cookie") == b"their-app=" + placeholder + b"; Path=/; HttpOnly"


async def test_the_own_answer_to_a_login_sets_the_cookie_too(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(LOGIN__EMAIL=EMAIL, LOGIN__PASSWORD=PASSWORD)
    got = await proxy.ask("POST /customers/login", b"x-cc-app: their-app", JSON, body=LOGIN)
    assert got.value("set-cookie") == b"their-app=" + (got.value("authorization") or b"") + b"; Path=/; HttpOnly"


async def test_cardcashs_answer_to_a_login_sets_it_as_well(upstream: RawUpstream, proxy: Running) -> None:
    token = b"token-of-the-login"
    upstream.login_answers.append(answer(200, b"{}", b"authorization: " + token, b"Set-Cookie: app=" + token))
    got = await proxy.ask("POST /customers/login", b"x-cc-app: their-app", JSON, body=LOGIN)
    placeholder = got.value("authorization") or b""
    assert got.values("set-cookie") == [b"their-app=" + placeholder + b"; Path=/; HttpOnly"]
    assert placeholder.endswith(b".cGxhY2Vob2xkZXI")
    assert int(got.value("x-token-exp-seconds") or 0) > 0
    assert token not in got.head


async def test_a_refused_login_sets_no_cookie(upstream: RawUpstream, proxy: Running) -> None:
    upstream.login_answers.append(answer(401, b"{}", b"Set-Cookie: app=token"))
    got = await proxy.ask("POST /customers/login", b"x-cc-app: their-app", JSON, body=LOGIN)
    assert (got.status, got.values("set-cookie"), got.value("authorization")) == (401, [], None)


@pytest.mark.parametrize(
    "headers",
    [(), (b"x-cc-app:",), (b"x-cc-app: a b",), (b"x-cc-app: a;b",), (b"x-cc-app: a=b",), (b"x-cc-app: \xe9",)],
)
async def test_without_an_application_id_that_can_name_a_cookie_none_is_set(
    upstream: RawUpstream, proxy: Running, headers: tuple[bytes, ...]
) -> None:
    got = await proxy.ask("POST /session", *headers)
    assert (got.status, got.values("set-cookie")) == (200, [])


async def test_a_form_encoded_cart_of_the_node_examples_reaches_cardcash_as_it_came(
    upstream: RawUpstream, proxy: Running
) -> None:
    got = await proxy.ask("POST /v3/carts", FORM, b"User-Agent: request", body=b"action=sell")
    assert got.status == 200
    assert upstream.requests[0].body == b"action=sell"
    assert upstream.requests[0].values("content-type") == [b"application/x-www-form-urlencoded"]
