"""Answers made by the proxy: envelope, code, status, Retry-After, and whether anything was sent."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from proxy.server import connection
from tests.conftest import StartProxy
from tests.server.harness import OK, Peer, RawUpstream, Running, answer, until

MARK = b"zebra-9173"
SENT_IN_PART = "A part of it was sent to CardCash, without its end."


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nX: %b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: %b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n%b : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA: \x01%b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA: x\r\n %b\r\n\r\n",
        b"GET /%b HTTP/2.0\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /%b HTTP/0.9\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /%b\r\n\r\n",
        b"GET /%b \xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"%b / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1 %b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1:99999\r\nX: %b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: user@127.0.0.1\r\nX: %b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nX: %b\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nContent-Length: 4\r\nX: %b\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3, 3\r\nX: %b\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: +3\r\nX: %b\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip, chunked\r\nX: %b\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: x%b\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nX: %b\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n%b\r\n\r\n",
        b"\x16\x03\x01\x02\x00%b\r\n\r\n",
    ],
)
async def test_a_malformed_request_is_answered_400_without_its_bytes_and_goes_nowhere(
    upstream: RawUpstream, proxy: Running, data: bytes
) -> None:
    caller = await proxy.caller()
    await caller.send(data.replace(b"%b", MARK))
    got = await caller.answer()
    assert (got.status, got.code) == (400, "bad_request")
    assert MARK not in got.head + got.body
    assert got.value("connection") == b"close"
    assert await caller.ended() == b""
    assert upstream.requests == []


async def test_a_malformed_body_of_a_streamed_upload_breaks_the_request_upstream(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(LIMITS__REPLAY_BODY="10")
    whole = False

    async def script(peer: Peer) -> None:
        nonlocal whole
        await peer.body()
        whole = True

    upstream.answers.append(script)
    caller = await proxy.caller()
    await caller.send(proxy.request("POST /a", b"Transfer-Encoding: chunked") + b"14\r\n" + b"x" * 20 + b"\r\n")
    await until(lambda: upstream.requests)
    await caller.send(b"nonsense\r\n\r\n")
    got = await caller.answer()
    assert (got.status, got.code) == (400, "bad_request")
    await proxy.quiet()
    assert not whole


async def test_a_target_too_long_is_414(upstream: RawUpstream, proxy: Running) -> None:
    got = await proxy.ask("GET /" + "a" * 20_000)
    assert (got.status, got.code) == (414, "target_too_long")


@pytest.mark.parametrize("lines", [[b"X-A: " + b"a" * 20_000], [b"X-%d: a" % n for n in range(200)]])
async def test_headers_too_large_or_too_many_are_431(upstream: RawUpstream, proxy: Running, lines: list[bytes]) -> None:
    got = await proxy.ask("GET /a", *lines)
    assert (got.status, got.code) == (431, "headers_too_large")
    assert upstream.requests == []


async def test_a_large_target_and_header_within_the_limits_pass(upstream: RawUpstream, proxy: Running) -> None:
    got = await proxy.ask("GET /" + "a" * 15_000, b"X-A: " + b"a" * 15_000)
    assert got.status == 200


async def test_a_length_beyond_the_limit_is_413_before_the_body_is_sent(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(LIMITS__REQUEST_BODY="100")
    caller = await proxy.caller()
    await caller.send(proxy.request("POST /a", b"Expect: 100-continue", b"Content-Length: 101"))
    got = await caller.answer()
    assert (got.status, got.code) == (413, "body_too_large")
    assert upstream.requests == []


async def test_a_refused_upload_that_keeps_coming_still_gets_its_413(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(LIMITS__REQUEST_BODY="100")
    caller = await proxy.caller()
    await caller.send(proxy.request("POST /a", body=b"x" * 1_000_000))
    assert (await caller.answer()).status == 413
    assert await caller.ended() == b""


async def test_a_chunked_body_beyond_the_limit_is_413_and_never_whole_upstream(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(LIMITS__REQUEST_BODY="100", LIMITS__REPLAY_BODY="10")
    whole = False

    async def script(peer: Peer) -> None:
        nonlocal whole
        await peer.body()
        whole = True

    upstream.default = script
    caller = await proxy.caller()
    await caller.send(
        proxy.request("POST /a", b"Transfer-Encoding: chunked") + b"65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n"
    )
    got = await caller.answer()
    assert (got.status, got.code) == (413, "body_too_large")
    await proxy.quiet()
    assert not whole


async def test_a_small_chunked_body_beyond_the_limit_is_413_too(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(LIMITS__REQUEST_BODY="100")
    caller = await proxy.caller()
    await caller.send(
        proxy.request("POST /a", b"Transfer-Encoding: chunked") + b"65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n"
    )
    got = await caller.answer()
    assert (got.code, "sent" in got.json["message"][0]) == ("body_too_large", False)
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("then", "told"),
    [
        (b"51\r\n" + b"x" * 81 + b"\r\n0\r\n\r\n", (413, "body_too_large")),
        (b"no size\r\n", (400, "bad_request")),
        (b"", (400, "bad_request")),
    ],
    ids=["too large", "not framed", "no more"],
)
async def test_a_refusal_after_a_part_of_the_body_was_sent_says_so(
    upstream: RawUpstream,
    start_proxy: StartProxy,
    monkeypatch: pytest.MonkeyPatch,
    then: bytes,
    told: tuple[int, str],
) -> None:
    proxy = await start_proxy(LIMITS__REQUEST_BODY="100", LIMITS__REPLAY_BODY="10")
    arrived = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"x" * 20)
        arrived.set()
        await peer.gone()

    upstream.default = script
    caller = await proxy.caller()
    await caller.send(proxy.request("POST /a", b"Transfer-Encoding: chunked") + b"14\r\n" + b"x" * 20 + b"\r\n")
    await arrived.wait()
    answered = asyncio.create_task(caller.answer())
    if then:
        await caller.send(then)
    server, passed = proxy.proxy.server, proxy.proxy.server.time()
    while not then and not answered.done():
        passed += connection.CALLER_IDLE + 1
        monkeypatch.setattr(server, "time", lambda now=passed: now)
        server.look()
        await asyncio.sleep(0.002)
    got = await answered
    assert (got.status, got.code) == told
    assert got.json["message"][0].endswith(SENT_IN_PART)


async def test_a_session_call_whose_body_is_too_large_does_not_say_that_a_part_was_sent(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(LIMITS__REQUEST_BODY="100", LIMITS__REPLAY_BODY="10")
    caller = await proxy.caller()
    await caller.send(
        proxy.request("POST /session", b"Transfer-Encoding: chunked") + b"65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n"
    )
    got = await caller.answer()
    assert (got.code, "sent" in got.json["message"][0]) == ("body_too_large", False)


async def test_a_body_of_exactly_the_limit_passes(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(LIMITS__REQUEST_BODY="100")
    assert (await proxy.ask("POST /a", body=b"x" * 100)).status == 200


async def test_expect_is_answered_before_the_body_and_not_sent_up(upstream: RawUpstream, proxy: Running) -> None:
    caller = await proxy.caller()
    await caller.send(proxy.request("POST /a", b"Expect: 100-continue", b"Content-Length: 3"))
    assert await caller.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert upstream.requests == []
    await caller.send(b"abc")
    assert (await caller.answer("POST")).status == 200
    assert upstream.requests[0].values("expect") == []
    assert upstream.requests[0].body == b"abc"


async def test_a_guard_refuses_before_100_continue(upstream: RawUpstream, proxy: Running) -> None:
    caller = await proxy.caller()
    await caller.send(
        proxy.request("POST /a", b"Expect: 100-continue", b"Content-Length: 3", b"Origin: https://evil.example")
    )
    assert (await caller.answer()).status == 403


async def test_nothing_listening_is_502_unreachable(upstream: RawUpstream, proxy: Running) -> None:
    await proxy.ask("GET /a")
    await proxy.quiet()
    await upstream.stop()
    await until(lambda: proxy.proxy.upstream.idle_connections == 0)
    got = await proxy.ask("POST /orders", body=b"{}")
    assert (got.status, got.code) == (502, "upstream_unreachable")
    assert "othing was sent" in got.json["message"][0]
    assert proxy.sample("request_errors_total", code="upstream_unreachable") == 1


async def test_a_reset_before_the_answer_is_502_and_an_order_is_sent_once(
    upstream: RawUpstream, proxy: Running
) -> None:
    async def script(peer: Peer) -> None:
        await peer.body()
        peer.reset()

    upstream.default = script
    got = await proxy.ask("POST /orders", body=b"{}")
    assert (got.status, got.code) == (502, "upstream_reset")
    assert "may have" in got.json["message"][0]
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("line", ["PUT /orders/1", "PUT /a", "DELETE /a", "PATCH /a", "POST /carts/1/cards"])
async def test_nothing_unsafe_is_repeated_after_a_reset(upstream: RawUpstream, proxy: Running, line: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.body()
        peer.reset()

    upstream.default = script
    assert (await proxy.ask(line, body=b"{}")).status == 502
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("line", ["GET /a", "HEAD /a", "POST /carts"])
async def test_the_safe_list_is_repeated_once_after_a_reset(upstream: RawUpstream, proxy: Running, line: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.body()
        peer.reset()

    upstream.answers += [script, OK.removesuffix(b"{}") if line.startswith("HEAD") else OK]
    assert (await proxy.ask(line)).status == 200
    assert len(upstream.requests) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\x00c\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_an_answer_that_is_not_http_is_502_invalid(upstream: RawUpstream, proxy: Running, data: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.body()
        await peer.send(data)
        await peer.gone()

    upstream.default = script
    got = await proxy.ask("POST /orders", body=b"{}")
    assert (got.status, got.code) == (502, "upstream_invalid")
    assert len(upstream.requests) == 1


async def test_no_answer_in_time_is_504_and_sent_once(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(UPSTREAM__RESPONSE_TIMEOUT="0.2")

    async def script(peer: Peer) -> None:
        await peer.gone()

    upstream.default = script
    started = time.monotonic()
    got = await proxy.ask("POST /orders", body=b"{}")
    assert (got.status, got.code) == (504, "upstream_timeout")
    assert 0.15 < time.monotonic() - started < 3
    assert len(upstream.requests) == 1


async def test_without_a_session_requests_are_503_at_once_until_the_pause_is_over(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    upstream.session_answers += [answer(429, b"{}", b"Retry-After: 7")] * 9
    proxy = await start_proxy()
    await until(proxy.proxy.keeper.first_renewal_over.is_set)
    calls = len(upstream.sessions)
    started = time.monotonic()
    got = await proxy.ask("GET /a")
    assert time.monotonic() - started < 0.5
    assert (got.status, got.code) == (503, "session_unavailable")
    assert 1 <= int(got.value("retry-after") or 0) <= 7
    assert upstream.requests == []
    assert len(upstream.sessions) == calls


async def test_a_refused_application_id_is_not_tried_again(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    upstream.session_answers += [answer(400, b'{"message":["no x-cc-app was found"]}')] * 9
    proxy = await start_proxy()
    await until(proxy.proxy.keeper.first_renewal_over.is_set)
    for _ in range(3):
        assert (await proxy.ask("GET /a")).code == "session_unavailable"
    assert len(upstream.sessions) == 1
    assert (await proxy.admin.ask("GET /readyz")).status == 503


async def test_a_404_of_a_router_on_the_way_refuses_neither_application_id_nor_login(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    router = answer(404, b"404 page not found\n", b"Content-Type: text/plain; charset=utf-8")
    upstream.session_answers.append(router)
    upstream.login_answers.append(router)
    proxy = await start_proxy(LOGIN__EMAIL="a@example.com", LOGIN__PASSWORD="p")
    # A session call is tried again at once, a login after the pause.
    async with asyncio.timeout(30):
        while (got := await proxy.ask("GET /merchants/buy")).status == 503:
            await asyncio.sleep(0.05)
    assert (got.status, got.value("proxy-status")) == (200, None)
    assert (len(upstream.sessions), len(upstream.logins)) == (3, 2)


async def test_a_refused_login_lets_requests_go_on_anonymously_and_says_so(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    upstream.login_answers += [answer(400, b'{"message":["Invalid email or password"]}')] * 9
    proxy = await start_proxy(LOGIN__EMAIL="a@example.com", LOGIN__PASSWORD="p")
    for _ in range(3):
        got = await proxy.ask("GET /merchants/buy")
        assert got.status == 200
        assert got.value("proxy-status") == b'cardcash-proxy; details="login-refused"'
    assert len(upstream.logins) == 1


@pytest.mark.parametrize("asked_by", ["operator", "new password"])
async def test_while_a_refused_login_is_tried_again_anonymous_answers_say_so(
    upstream: RawUpstream, start_proxy: StartProxy, tmp_path: Path, asked_by: str
) -> None:
    go = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await go.wait()
        await upstream.answer_login(peer)

    upstream.login_answers += [answer(400, b'{"message":["Invalid email or password"]}'), slow]
    secret = tmp_path / "password"
    secret.write_text("old")
    proxy = await start_proxy(LOGIN__EMAIL="a@example.com", LOGIN__PASSWORD_FILE=str(secret))
    assert (await proxy.ask("GET /carts")).status == 200
    secret.write_text("new")
    asked = asyncio.create_task(proxy.admin.ask("POST /session/renew")) if asked_by == "operator" else None
    await until(lambda: len(upstream.logins) == 2)
    for _ in range(5):
        got = await proxy.ask("GET /carts")
        assert got.value("proxy-status") == b'cardcash-proxy; details="login-refused"'
    go.set()
    await until(lambda: proxy.account)
    assert (await proxy.ask("GET /carts")).value("proxy-status") is None
    if asked is not None:
        await asked


async def test_more_in_flight_than_allowed_is_503_overloaded(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(LIMITS__IN_FLIGHT="2")
    go = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await go.wait()
        await peer.send(OK)

    upstream.default = slow
    waiting = [asyncio.create_task(proxy.ask("GET /a")) for _ in range(2)]
    await until(lambda: len(upstream.requests) == 2)
    got = await proxy.ask("GET /a")
    assert (got.status, got.code) == (503, "overloaded")
    assert got.value("retry-after")
    go.set()
    assert [a.status for a in await asyncio.gather(*waiting)] == [200, 200]
    assert (await proxy.ask("GET /a")).status == 200


async def test_no_free_connection_in_time_is_503_overloaded(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(UPSTREAM__MAX_CONNECTIONS="1", UPSTREAM__CONNECT_TIMEOUT="0.6")
    go = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await go.wait()
        await peer.send(OK)

    upstream.default = slow
    first = asyncio.create_task(proxy.ask("GET /a"))
    await until(lambda: upstream.requests)
    got = await proxy.ask("POST /orders", body=b"{}")
    assert (got.status, got.code) == (503, "overloaded")
    go.set()
    assert (await first).status == 200
    assert len(upstream.requests) == 1


async def test_while_draining_a_new_request_is_503(upstream: RawUpstream, proxy: Running) -> None:
    go = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await go.wait()
        await peer.send(OK)

    upstream.default = slow
    busy = await proxy.caller()
    await busy.send(proxy.request("GET /a") + proxy.request("GET /b"))
    await until(lambda: upstream.requests)
    stopping = asyncio.create_task(proxy.proxy.run())
    proxy.proxy.request_stop()
    await until(lambda: proxy.proxy.server.draining)
    assert (await proxy.admin.ask("GET /readyz")).status == 503
    assert (await proxy.admin.ask("GET /healthz")).status == 200
    go.set()
    got = await busy.answer()
    assert got.status == 200
    assert got.value("connection") == b"close"
    await stopping
    assert [r.line for r in upstream.requests] == ["GET /v3/a HTTP/1.1"]


async def test_a_bug_is_answered_500_without_its_text(
    upstream: RawUpstream, proxy: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("zebra-9173")

    monkeypatch.setattr(proxy.proxy.guard, "admit", broken)
    got = await proxy.ask("GET /a")
    assert (got.status, got.code) == (500, "internal_error")
    assert MARK not in got.body


async def test_a_caller_that_stops_inside_its_body_is_let_go(
    upstream: RawUpstream, proxy: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CALLER_IDLE", 0.1)
    caller = await proxy.caller()
    await caller.send(proxy.request("POST /a", b"Content-Length: 5") + b"ab")
    told = asyncio.create_task(caller.answer())
    while not told.done():
        proxy.proxy.server.look()
        await asyncio.sleep(0.002)
    assert (await told).code == "bad_request"
    assert upstream.requests == []


async def test_an_error_counts_in_the_metrics_and_an_error_to_head_has_no_body(
    upstream: RawUpstream, proxy: Running
) -> None:
    caller = await proxy.caller()
    got = await caller.ask(proxy.request("HEAD /a", b"Origin: https://evil.example"))
    assert got.status == 403
    assert int(got.value("content-length") or 0) > 0
    assert await caller.ended() == b"" if got.value("connection") else True
    assert proxy.sample("request_errors_total", code="origin_not_allowed") == 1
    assert proxy.sample("requests_total", method="HEAD", route="other", status="403") == 1


@pytest.mark.parametrize("phase", ["before head", "in body", "uploading"])
async def test_a_caller_that_leaves_ends_its_request_upstream(
    upstream: RawUpstream, start_proxy: StartProxy, phase: str
) -> None:
    proxy = await start_proxy(LIMITS__REPLAY_BODY="10")
    ended = asyncio.Event()

    async def script(peer: Peer) -> None:
        if phase == "in body":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await peer.gone()
        ended.set()

    upstream.answers.append(script)
    caller = await proxy.caller()
    if phase == "uploading":
        await caller.send(proxy.request("POST /a", b"Content-Length: 100") + b"x" * 50)
    else:
        await caller.send(proxy.request("GET /a"))
    await until(lambda: upstream.requests)
    if phase == "in body":
        await caller.head()
    caller.reset()
    await asyncio.wait_for(ended.wait(), 5)
    await proxy.quiet()
    assert proxy.sample("requests_in_flight") == 0
    assert proxy.sample("session_waiters") == 0
    assert proxy.sample("replay_buffer_bytes") == 0
    assert proxy.sample("upstream_connections", state="active") == 0
    assert proxy.sample("upstream_errors_total", kind="reset_before_head") == 0
    assert (await proxy.ask("GET /b")).status == 200


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"/ HTTP/1.1\r\nX : 1\r\n\r\n", 400),
        (b"/ HTTP/3\r\n\r\n", 400),
        (b"/" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 414),
    ],
)
@pytest.mark.parametrize("at", [None, 9])
async def test_a_malformed_head_request_is_refused_without_a_body(
    proxy: Running, rest: bytes, status: int, at: int | None
) -> None:
    caller = await proxy.caller()
    head = b"HEAD " + rest
    if at is not None:
        await caller.send(head[:at])
        await asyncio.sleep(0)
        head = head[at:]
    await caller.send(head)
    assert (await caller.answer("HEAD")).status == status
    assert await caller.ended() == b""
