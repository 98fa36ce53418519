"""What reaches CardCash: paths, bytes, injected fields, and what never goes up."""

from __future__ import annotations

import pytest

from tests.conftest import StartProxy
from tests.server.harness import APP_ID, RawUpstream, Running


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/merchants/buy", "/v3/merchants/buy"),
        ("/v3/merchants/buy", "/v3/merchants/buy"),
        ("/v3.1/carts/1/cards", "/v3.1/carts/1/cards"),
        ("/v4", "/v4"),
        ("/v3?x", "/v3?x"),
        ("/v3x/y", "/v3/v3x/y"),
        ("/version", "/v3/version"),
        ("/", "/v3/"),
        ("/?", "/v3/?"),
        ("/a?", "/v3/a?"),
        ("//evil.example/x", "/v3//evil.example/x"),
        ("/a/../b/./c", "/v3/a/../b/./c"),
        ("/a%2Fb%zz+%e9", "/v3/a%2Fb%zz+%e9"),
        ("/a?b=c&b=d&&e=%20+?/;", "/v3/a?b=c&b=d&&e=%20+?/;"),
        ('/a?q="|<>^`{}', '/v3/a?q="|<>^`{}'),
        ("/a?url=http://evil.example/", "/v3/a?url=http://evil.example/"),
    ],
)
async def test_a_target_goes_up_byte_for_byte_below_its_version(
    upstream: RawUpstream, proxy: Running, target: str, sent: str
) -> None:
    assert (await proxy.ask(f"GET {target}")).status == 200
    assert upstream.requests[0].line == f"GET {sent} HTTP/1.1"


@pytest.mark.parametrize("authority", ["127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:80"])
async def test_an_absolute_target_loses_its_authority(upstream: RawUpstream, proxy: Running, authority: str) -> None:
    assert (await proxy.ask(f"GET http://{authority}/a?b")).status == 200
    assert upstream.requests[0].line == "GET /v3/a?b HTTP/1.1"
    assert upstream.requests[0].values("host") == [f"127.0.0.1:{upstream.port}".encode()]


async def test_options_of_the_server_is_forwarded(upstream: RawUpstream, proxy: Running) -> None:
    assert (await proxy.ask("OPTIONS *")).status == 200
    assert upstream.requests[0].line == "OPTIONS * HTTP/1.1"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "LOCK"])
async def test_any_registered_method_is_forwarded(upstream: RawUpstream, proxy: Running, method: str) -> None:
    assert (await proxy.ask(f"{method} /a")).status == 200
    assert upstream.requests[0].line == f"{method} /v3/a HTTP/1.1"


@pytest.mark.parametrize("line", ["FOO /a", "get /a", "GET /a#b", "GET a", "GET *", "CONNECT example.com:443"])
async def test_an_unknown_method_or_odd_target_is_refused(upstream: RawUpstream, proxy: Running, line: str) -> None:
    answer = await proxy.ask(line)
    assert (answer.status, answer.code) == (400, "bad_request")
    assert upstream.requests == []


async def test_a_request_goes_up_exactly_so(upstream: RawUpstream, proxy: Running) -> None:
    await proxy.ask(
        "POST /orders?checkout=condensed",
        b"Content-Type: application/json",
        b"x-B: 1",
        b"X-b: 2",
        b"X-Latin: caf\xe9",
        b"X-Utf: \xc3\xa9",
        b"Accept-Encoding: gzip, br, zstd",
        b"User-Agent: app/1",
        b"X-Request-ID: id-1",
        body=b'{"a": 1}',
    )
    assert upstream.requests[0].raw == (
        b"POST /v3/orders?checkout=condensed HTTP/1.1\r\n"
        b"Host: 127.0.0.1:%d\r\n"
        b"X-Request-ID: id-1\r\n"
        b"Content-Type: application/json\r\n"
        b"x-B: 1\r\n"
        b"X-b: 2\r\n"
        b"X-Latin: caf\xe9\r\n"
        b"X-Utf: \xc3\xa9\r\n"
        b"Accept-Encoding: gzip, br, zstd\r\n"
        b"User-Agent: app/1\r\n"
        b"Content-Length: 8\r\n"
        b"x-cc-app: %b\r\n"
        b"Authorization: Bearer %b\r\n"
        b"\r\n"
        b'{"a": 1}'
    ) % (upstream.port, APP_ID.encode(), upstream.tokens[0].encode())


async def test_a_request_without_user_agent_gets_ours(upstream: RawUpstream, proxy: Running) -> None:
    await proxy.ask("GET /a")
    (agent,) = upstream.requests[0].values("user-agent")
    assert agent.startswith(b"cardcash-proxy/")


@pytest.mark.parametrize("given", [(), (b"Content-Type:",), (b"Content-Type: \t",)], ids=["none", "empty", "blank"])
@pytest.mark.parametrize(("line", "body"), [("POST /carts/c/coupons/X", None), ("PUT /orders/1", b"{}")])
async def test_post_and_put_without_a_content_type_reach_cardcash_as_json(
    upstream: RawUpstream, proxy: Running, line: str, body: bytes | None, given: tuple[bytes, ...]
) -> None:
    await proxy.ask(line, *given, body=body)
    assert upstream.requests[0].values("content-type") == [b"application/json"]


async def test_no_connection_takes_a_request_after_upstream_max_age(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(UPSTREAM__MAX_AGE="0.1s")
    caller = await proxy.caller()
    while len(upstream.per_connection) < 3:
        assert (await caller.ask(proxy.request("GET /merchants/buy"))).status == 200
    assert all(requests > 1 for requests in list(upstream.per_connection.values())[:2])


async def test_a_configured_user_agent_is_sent(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(UPSTREAM__USER_AGENT="shop/7")
    await proxy.ask("GET /a")
    assert upstream.requests[0].values("user-agent") == [b"shop/7"]


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization: Bearer mine",
        b"authorization: Basic mine",
        b"X-CC-App: mine",
        b"x_cc_app: mine",
        b"Cookie: a=mine",
        b"Proxy-Authorization: mine",
        b"Proxy-Connection: mine",
        b"Forwarded: for=mine",
        b"X-Forwarded-For: mine",
        b"X-Forwarded-Host: mine",
        b"X-Forwarded-Proto: mine",
        b"Keep-Alive: mine",
        b"TE: mine",
        b"Upgrade: mine",
        b"Trailer: mine",
        b"Connection: X-Mine\r\nX-Mine: mine",
        b"X-Mine: mine\r\nConnection: close, x-mine",
    ],
)
async def test_private_and_hop_by_hop_fields_never_go_up(upstream: RawUpstream, proxy: Running, line: bytes) -> None:
    assert (await proxy.ask("GET /a", line)).status == 200
    assert b"mine" not in upstream.requests[0].raw.lower()
    assert b"x-mine" not in upstream.requests[0].raw.lower()


async def test_no_caller_can_name_our_fields_away(upstream: RawUpstream, proxy: Running) -> None:
    await proxy.ask("GET /a", b"Connection: authorization, x-cc-app, user-agent, host, x-request-id", b"User-Agent: b")
    received = upstream.requests[0]
    assert received.values("x-cc-app") == [APP_ID.encode()]
    assert received.token == upstream.tokens[0]
    assert len(received.values("user-agent")) == 1
    assert len(received.values("x-request-id")) == 1


@pytest.mark.parametrize("given", [b"a" * 128, b"A.b_c-9", b"0"])
async def test_a_callers_good_request_id_goes_up_and_comes_back(
    upstream: RawUpstream, proxy: Running, given: bytes
) -> None:
    answer = await proxy.ask("GET /a", b"X-Request-ID: " + given)
    assert upstream.requests[0].values("x-request-id") == [given]
    assert answer.value("x-request-id") == given


@pytest.mark.parametrize("given", [b"a" * 129, b"a b", b"caf\xe9", b"", b"a;b"])
async def test_another_request_id_is_replaced_by_a_new_one(upstream: RawUpstream, proxy: Running, given: bytes) -> None:
    answer = await proxy.ask("GET /a", b"X-Request-ID: " + given)
    made = answer.value("x-request-id")
    assert made and made != given
    assert upstream.requests[0].values("x-request-id") == [made]


async def test_a_gzip_request_body_goes_up_as_it_came(upstream: RawUpstream, proxy: Running) -> None:
    body = b"\x1f\x8b\x08\x00nothing that gzip could read"
    await proxy.ask("POST /a", b"Content-Encoding: gzip", body=body)
    assert upstream.requests[0].body == body
    assert upstream.requests[0].values("content-encoding") == [b"gzip"]


async def test_an_empty_body_with_a_length_keeps_it(upstream: RawUpstream, proxy: Running) -> None:
    await proxy.ask("POST /carts/1/coupons/A", body=b"")
    assert upstream.requests[0].values("content-length") == [b"0"]


async def test_a_post_without_body_and_length_gets_none(upstream: RawUpstream, proxy: Running) -> None:
    await proxy.ask("POST /carts/1/coupons/A")
    assert upstream.requests[0].values("content-length") == []
    assert upstream.requests[0].values("transfer-encoding") == []


async def test_a_get_with_a_body_keeps_it(upstream: RawUpstream, proxy: Running) -> None:
    await proxy.ask("GET /a", body=b"odd")
    assert upstream.requests[0].body == b"odd"


async def test_a_chunked_body_goes_up_chunked_without_extensions_and_trailers(
    upstream: RawUpstream, proxy: Running
) -> None:
    caller = await proxy.caller()
    head = proxy.request("POST /a", b"Transfer-Encoding: chunked")
    answer = await caller.ask(head + b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Cc-App: stolen\r\n\r\n")
    assert answer.status == 200
    received = upstream.requests[0]
    assert received.body == b"abcde"
    assert b"stolen" not in received.raw and b"ext" not in received.raw
    assert received.values("content-length") == []


async def test_an_empty_chunked_body_goes_up_chunked(upstream: RawUpstream, proxy: Running) -> None:
    caller = await proxy.caller()
    assert (await caller.ask(proxy.request("POST /a", b"Transfer-Encoding: chunked") + b"0\r\n\r\n")).status == 200
    assert upstream.requests[0].raw.endswith(b"\r\n\r\n0\r\n\r\n")


async def test_a_trailer_is_no_header_of_the_next_request(upstream: RawUpstream, proxy: Running) -> None:
    caller = await proxy.caller()
    first = proxy.request("POST /a", b"Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\nX-Leak: stolen\r\n\r\n"
    await caller.send(first + proxy.request("GET /b"))
    assert [(await caller.answer()).status for _ in range(2)] == [200, 200]
    assert [r.line for r in upstream.requests] == ["POST /v3/a HTTP/1.1", "GET /v3/b HTTP/1.1"]
    assert not any(r.values("x-leak") for r in upstream.requests)


async def test_pipelined_requests_are_answered_in_order(upstream: RawUpstream, proxy: Running) -> None:
    caller = await proxy.caller()
    await caller.send(b"".join(proxy.request(f"GET /{n}", b"X-Request-ID: %d" % n) for n in range(20)))
    ids = [(await caller.answer()).value("x-request-id") for _ in range(20)]
    assert ids == [b"%d" % n for n in range(20)]
    assert [r.line.split()[1] for r in upstream.requests] == [f"/v3/{n}" for n in range(20)]


async def test_connections_upstream_are_used_again(upstream: RawUpstream, proxy: Running) -> None:
    for _ in range(10):
        await proxy.ask("GET /a")
        await proxy.quiet()
    assert list(upstream.per_connection.values()) == [10]


async def test_a_base_path_of_ones_own_is_put_before(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(UPSTREAM__BASE_PATH="/v9")
    await proxy.ask("GET /a")
    await proxy.ask("GET /v3/a")
    assert [r.line for r in upstream.requests if "/a" in r.line] == ["GET /v9/a HTTP/1.1", "GET /v3/a HTTP/1.1"]
