"""What reaches the caller: CardCash's answers byte for byte, without what is private."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import pytest

from tests.conftest import StartProxy
from tests.server.harness import Peer, RawUpstream, Running, Truncated, answer, jwt, until


async def test_an_answer_comes_down_byte_for_byte(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers.append(
        b"HTTP/1.1 201 Crea\xe9ted, so to speak\r\n"
        b"x-b: 1\r\nX-B: 2\r\nX-Latin: caf\xe9\r\nServer: there\r\nDate: yesterday\r\n"
        b"Content-Length: 3\r\nContent-Type: application/json; charset=utf-8\r\n\r\n{ }"
    )
    got = await proxy.ask("POST /carts", b"X-Request-ID: id-1")
    assert got.head == (
        b"HTTP/1.1 201 Crea\xe9ted, so to speak\r\n"
        b"x-b: 1\r\nX-B: 2\r\nX-Latin: caf\xe9\r\nServer: there\r\nDate: yesterday\r\n"
        b"Content-Type: application/json; charset=utf-8\r\n"
        b"X-Request-ID: id-1\r\nContent-Length: 3\r\n\r\n"
    )
    assert got.body == b"{ }"


async def test_an_answered_order_comes_down_without_the_white_space_before_its_colons(
    upstream: RawUpstream, proxy: Running
) -> None:
    upstream.answers.append(
        b"HTTP/1.1 201 Made : yes\r\nX-Edge : 1\r\nX-B\t:2 : 3\r\nDate: yesterday\r\nSet-Cookie : a=b\r\n"
        b"Content-Length : 2\r\n\r\n{}"
    )
    got = await proxy.ask("POST /orders", b"X-Request-ID: id-1", body=b"{}")
    assert got.head == (
        b"HTTP/1.1 201 Made : yes\r\nX-Edge: 1\r\nX-B:2 : 3\r\nDate: yesterday\r\n"
        b"X-Request-ID: id-1\r\nContent-Length: 2\r\n\r\n"
    )
    assert got.body == b"{}"


async def test_an_answer_without_reason_and_content_type_gets_none(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers.append(b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n")
    got = await proxy.ask("GET /a")
    assert got.head.startswith(b"HTTP/1.1 500 \r\n")
    assert [name.lower() for name, _ in got.fields] == [b"x-request-id", b"date", b"content-length"]


@pytest.mark.parametrize("line", [None, b"Connection: Date\r\nDate: yesterday"])
@pytest.mark.parametrize("status", [200, 204, 304, 400, 500])
async def test_an_answer_without_a_date_gets_one(
    upstream: RawUpstream, proxy: Running, line: bytes | None, status: int
) -> None:
    upstream.answers.append(answer(status, b"", *filter(None, [line]), length=status != 204))
    before = int(time.time())
    got = await proxy.ask("GET /a")
    date = got.value("date")
    assert date is not None and date.endswith(b" GMT")
    assert before <= parsedate_to_datetime(date.decode()).timestamp() <= time.time()


@pytest.mark.parametrize("value", [b"yesterday", b"", b"Tue, 09 Nov 2010 14:49:00 GMT"])
async def test_a_date_of_cardcash_comes_down_as_it_is(upstream: RawUpstream, proxy: Running, value: bytes) -> None:
    upstream.answers.append(answer(200, b"", b"dAtE: " + value))
    got = await proxy.ask("GET /a")
    assert [field for field in got.fields if field[0].lower() == b"date"] == [(b"dAtE", value)]


async def test_a_later_minor_version_comes_down_as_1_1(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers.append(b"HTTP/1.2 201 Created\r\nContent-Length: 2\r\n\r\nok")
    got = await proxy.ask("POST /orders", body=b"{}")
    assert (got.version, got.status, got.body) == (b"HTTP/1.1", 201, b"ok")


async def test_a_compressed_answer_stays_compressed(upstream: RawUpstream, proxy: Running) -> None:
    packed = gzip.compress(b'{"buyMerchants":[]}')
    upstream.answers.append(answer(200, packed, b"Content-Encoding: gzip", b"Vary: Accept-Encoding"))
    got = await proxy.ask("GET /merchants/buy", b"Accept-Encoding: gzip")
    assert got.body == packed
    assert got.value("content-encoding") == b"gzip"


@pytest.mark.parametrize("status", [200, 206, 301, 302, 304, 403, 404, 429, 500, 503, 599])
async def test_any_status_comes_down_and_no_redirect_is_followed(
    upstream: RawUpstream, proxy: Running, status: int
) -> None:
    body = b"" if status == 304 else b"page"
    upstream.answers.append(answer(status, body, b"Location: https://elsewhere.example/x"))
    got = await proxy.ask("GET /a")
    assert (got.status, got.body) == (status, body)
    assert got.value("location") == b"https://elsewhere.example/x"
    assert len(upstream.requests) == 1


async def test_an_answer_to_head_keeps_its_length_and_has_no_body(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers.append(b"HTTP/1.1 200 OK\r\nContent-Length: 330000\r\n\r\n")
    caller = await proxy.caller()
    got = await caller.ask(proxy.request("HEAD /a"))
    assert got.value("content-length") == b"330000"
    assert (await caller.ask(proxy.request("GET /b"))).status == 200


async def test_a_304_keeps_its_length_and_has_no_body(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers.append(b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 77\r\n\r\n")
    caller = await proxy.caller()
    got = await caller.ask(proxy.request("GET /a"))
    assert (got.status, got.value("content-length"), got.value("etag")) == (304, b"77", b"x")
    assert (await caller.ask(proxy.request("GET /b"))).status == 200


async def test_a_204_has_neither_body_nor_framing(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers.append(b"HTTP/1.1 204 No Content\r\n\r\n")
    caller = await proxy.caller()
    got = await caller.ask(proxy.request("DELETE /carts/1"))
    assert got.values("content-length") == got.values("transfer-encoding") == []
    assert (await caller.ask(proxy.request("GET /b"))).status == 200


async def test_a_chunked_answer_comes_down_chunked(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers.append(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Trailer: x\r\n\r\n"
    )
    caller = await proxy.caller()
    got = await caller.ask(proxy.request("GET /a"))
    assert got.value("transfer-encoding") == b"chunked"
    assert got.body == b"abcde"
    assert b"railer" not in got.framing + got.head
    assert (await caller.ask(proxy.request("GET /b"))).status == 200


async def test_an_answer_that_ends_with_its_connection_comes_down_whole(upstream: RawUpstream, proxy: Running) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\nto the end")
        peer.writer.close()

    upstream.answers.append(script)
    caller = await proxy.caller()
    assert (await caller.ask(proxy.request("GET /a"))).body == b"to the end"
    assert (await caller.ask(proxy.request("GET /b"))).status == 200


async def test_informational_answers_are_passed_over(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers.append(
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + answer(200, b"x")
    )
    assert (await proxy.ask("GET /a")).body == b"x"


async def test_a_chunked_answer_to_http_10_is_ended_by_the_connection(upstream: RawUpstream, proxy: Running) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await until(lambda: arrived)
        await peer.send(b"2\r\nde\r\n0\r\n\r\n")

    arrived = b""
    upstream.answers.append(script)
    caller = await proxy.caller()
    await caller.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    head = await caller.head()
    arrived = await caller.reader.readexactly(3)
    assert arrived + await caller.ended() == b"abcde"
    assert b"chunked" not in head and b"keep-alive" not in head


async def test_http_10_may_keep_its_connection(upstream: RawUpstream, proxy: Running) -> None:
    caller = await proxy.caller()
    for _ in range(2):
        got = await caller.ask(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert got.value("connection") == b"keep-alive"
    await caller.ask(b"GET /a HTTP/1.0\r\n\r\n")
    assert await caller.ended() == b""


async def test_a_caller_that_asks_for_it_gets_its_connection_closed(upstream: RawUpstream, proxy: Running) -> None:
    caller = await proxy.caller()
    got = await caller.ask(proxy.request("GET /a", b"Connection: close"))
    assert got.value("connection") == b"close"
    assert await caller.ended() == b""


@pytest.mark.parametrize(
    "line",
    [
        b"x-session-id: secret",
        b"Set-Cookie: app=secret; Path=/",
        b"Set-Cookie2: secret",
        b"Connection: X-Odd\r\nX-Odd: secret",
        b"Keep-Alive: secret",
        b"Proxy-Authenticate: secret",
        b"Upgrade: secret",
        b"Trailer: secret",
        b"X-Request-ID: secret",
    ],
)
async def test_private_and_hop_by_hop_fields_never_come_down(
    upstream: RawUpstream, proxy: Running, line: bytes
) -> None:
    upstream.answers.append(answer(200, b"{}", line))
    got = await proxy.ask("GET /a")
    assert b"secret" not in got.head


@pytest.mark.parametrize("status", [200, 201, 204, 400, 404, 500])
async def test_a_token_in_any_answer_is_taken_and_never_comes_down(
    upstream: RawUpstream, proxy: Running, status: int
) -> None:
    new = jwt(99)
    lines = (b"AUTHORIZATION: " + new.encode(), b"X-Token-Exp-Seconds: 1199")
    upstream.answers.append(answer(status, b"", *lines, length=status != 204))
    got = await proxy.ask("GET /a")
    assert got.status == status
    assert got.values("authorization") == got.values("x-token-exp-seconds") == []
    await proxy.ask("GET /b")
    assert upstream.requests[1].token == new
    assert len(upstream.sessions) == 1


@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("http://127.0.0.1:{port}/v3/x?y#z", "http://{host}/v3/x?y#z"),
        ("HTTP://127.0.0.1:{port}", "http://{host}"),
        ("/v3/x", "/v3/x"),
        ("https://127.0.0.1:{port}/x", "https://127.0.0.1:{port}/x"),
        ("http://127.0.0.1:{port}.evil.example/x", "http://127.0.0.1:{port}.evil.example/x"),
        ("http://elsewhere.example/x", "http://elsewhere.example/x"),
    ],
)
async def test_a_location_at_cardcash_becomes_one_at_the_proxy(
    upstream: RawUpstream, proxy: Running, location: str, seen: str
) -> None:
    names = {"port": upstream.port, "host": proxy.host.decode()}
    upstream.answers.append(answer(302, b"", b"Location: " + location.format(**names).encode()))
    got = await proxy.ask("GET /a")
    assert got.value("location") == seen.format(**names).encode()


async def test_an_answer_of_cardcash_has_no_proxy_status_of_ours(upstream: RawUpstream, proxy: Running) -> None:
    assert (await proxy.ask("GET /a")).values("proxy-status") == []


async def test_a_proxy_status_of_cardcash_comes_down(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers.append(answer(200, b"", b"Proxy-Status: edge; detail=x"))
    assert (await proxy.ask("GET /a")).values("proxy-status") == [b"edge; detail=x"]


@pytest.mark.parametrize(
    "beginning",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 400 Bad\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nnonsense\r\n",
    ],
)
@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_an_answer_cut_short_is_visibly_broken(
    upstream: RawUpstream, proxy: Running, beginning: bytes, how: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(beginning)
        if how == "reset":
            await until(lambda: upstream.requests and proxy.proxy.guard.in_flight)
            peer.reset()
        else:
            peer.writer.close()

    upstream.answers.append(script)
    caller = await proxy.caller()
    await caller.send(proxy.request("GET /a"))
    try:
        got = await caller.answer()
    except Truncated:
        pass
    else:
        assert got.status == 502
        assert got.code in ("upstream_reset", "upstream_invalid")
    await proxy.quiet()


async def test_the_first_byte_is_out_before_the_last_is_in(upstream: RawUpstream, proxy: Running) -> None:
    seen = 0

    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
        await until(lambda: seen == 3)
        await peer.send(b"def")

    upstream.answers.append(script)
    caller = await proxy.caller()
    await caller.send(proxy.request("GET /a"))
    await caller.head()
    seen = len(await caller.reader.readexactly(3))
    assert await caller.reader.readexactly(3) == b"def"


async def _settled(value: Callable[[], int]) -> None:
    """Wait until `value` has not changed for a thousand turns of the loop."""
    before, turns = -1, 0
    while turns < 1000:
        turns = turns + 1 if before == value() else 0
        before = value()
        await asyncio.sleep(0)


async def test_a_slow_reader_holds_cardcash_back(upstream: RawUpstream, proxy: Running) -> None:
    sent = 0
    size = 64 << 20

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            await peer.send(b"x" * 65536)
            sent += 65536

    upstream.answers.append(script)
    caller = await proxy.caller()
    await caller.send(proxy.request("GET /a"))
    await caller.head()
    await _settled(lambda: sent)
    assert 0 < sent < size / 2
    await caller.close()
    await proxy.quiet()


async def test_head_keeps_the_framing_of_a_chunked_answer_away(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers.append(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    caller = await proxy.caller()
    await caller.send(proxy.request("HEAD /a") + proxy.request("GET /b", b"X-Request-ID: second"))
    assert (await caller.answer("HEAD")).status == 200
    assert (await caller.answer()).value("x-request-id") == b"second"


async def test_the_upstream_that_wants_to_close_is_left(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy()
    upstream.default = answer(200, b"", b"Connection: close")
    for _ in range(3):
        assert (await proxy.ask("GET /a")).values("connection") == []
    assert list(upstream.per_connection.values()) == [1, 1, 1]


@pytest.mark.parametrize("line", [b"chunked", b"Chunked ", b"chunked\t", b"\tCHUNKED \t"])
async def test_a_chunked_answer_is_read_whatever_surrounds_its_name(
    upstream: RawUpstream, proxy: Running, line: bytes
) -> None:
    # llhttp takes the third and fourth for something else than chunked.
    upstream.answers.append(b"HTTP/1.1 200 OK\r\nTransfer-Encoding:" + line + b"\r\n\r\n2\r\nab\r\n0\r\n\r\n")
    caller = await proxy.caller()
    assert (await caller.ask(proxy.request("GET /a"))).body == b"ab"
    assert (await caller.ask(proxy.request("GET /b"))).status == 200
