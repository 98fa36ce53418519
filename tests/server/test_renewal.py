"""A rejected token: renewed once, the request sent once more, the second answer handed down."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import zlib

import brotli
import pytest

from tests.conftest import StartProxy
from tests.server.harness import OK, REJECTION, REJECTION_BODY, Peer, RawUpstream, Running, answer, until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_a_rejected_request_of_any_method_is_sent_once_more_with_its_body(
    upstream: RawUpstream, proxy: Running, method: str
) -> None:
    upstream.answers += [REJECTION, answer(201, b"second")]
    got = await proxy.ask(f"{method} /orders", b"X-Request-ID: id-1", body=b'{"a":1}')
    assert (got.status, got.body) == (201, b"second")
    assert got.value("proxy-status") == b'cardcash-proxy; details="session-renewed"'
    first, second = upstream.requests
    assert first.token == upstream.tokens[0]
    assert second.token == upstream.tokens[1]
    assert second.raw == first.raw.replace(first.token.encode(), second.token.encode())
    assert len(upstream.sessions) == 2


async def test_a_chunked_body_is_sent_once_more(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers += [REJECTION, OK]
    caller = await proxy.caller()
    got = await caller.ask(proxy.request("POST /carts", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n")
    assert got.status == 200
    assert [r.body for r in upstream.requests] == [b"abc", b"abc"]


async def test_with_a_login_the_new_session_is_logged_in_before_the_second_try(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(LOGIN__EMAIL="a@example.com", LOGIN__PASSWORD="p")
    upstream.answers += [REJECTION, OK]
    assert (await proxy.ask("GET /carts")).status == 200
    assert (len(upstream.sessions), len(upstream.logins)) == (2, 2)
    assert [json.loads(r.body) for r in upstream.logins] == [
        {"customer": {"email": "a@example.com", "password": "p"}}
    ] * 2
    assert upstream.requests[1].token == upstream.tokens[3]


def _chunked(data: bytes) -> bytes:
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(data[i : i + 7]), data[i : i + 7]) for i in range(0, len(data), 7))
    return b"HTTP/1.1 400 x\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"


def _deflate_raw(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


STRING = b'{"message":"No authorization token was found "}'
SHAPES = {
    "gzip": answer(400, gzip.compress(REJECTION_BODY), b"Content-Encoding: gzip"),
    "x-gzip": answer(400, gzip.compress(REJECTION_BODY), b"content-encoding: X-GZIP"),
    "deflate": answer(400, zlib.compress(REJECTION_BODY), b"Content-Encoding: deflate"),
    "raw deflate": answer(400, _deflate_raw(REJECTION_BODY), b"Content-Encoding: deflate"),
    "br": answer(400, brotli.compress(REJECTION_BODY), b"Content-Encoding: br"),
    "zstd": answer(400, zstd.compress(REJECTION_BODY), b"Content-Encoding: zstd"),
    "twice coded": answer(400, gzip.compress(brotli.compress(REJECTION_BODY)), b"Content-Encoding: br, gzip"),
    "BOM": answer(400, b"\xef\xbb\xbf" + REJECTION_BODY),
    "white space": answer(400, b"\r\n  " + REJECTION_BODY + b" " * 5000),
    "string": answer(400, STRING),
    "401": answer(401, REJECTION_BODY),
    "more fields": answer(400, b'{"statusCode":400,"message":["NO AUTHORIZATION TOKEN WAS FOUND","x"]}'),
    "html type": answer(400, REJECTION_BODY, b"Content-Type: text/html"),
    "chunked": _chunked(REJECTION_BODY),
    "chunked gzip": _chunked(gzip.compress(REJECTION_BODY)).replace(b"\r\n", b"\r\nContent-Encoding: gzip\r\n", 1),
    "closed": b"HTTP/1.1 400 x\r\nConnection: close\r\n\r\n" + REJECTION_BODY,
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_rejection_is_recognised_in_any_shape(upstream: RawUpstream, proxy: Running, shape: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.body()
        await peer.send(SHAPES[shape])
        if b"Connection: close" in SHAPES[shape]:
            peer.writer.close()

    upstream.answers += [script, OK]
    got = await proxy.ask("POST /carts/1/cards", body=b"{}")
    assert got.status == 200
    assert got.value("proxy-status") == b'cardcash-proxy; details="session-renewed"'
    assert len(upstream.requests) == 2


def _business(data: bytes, coding: bytes) -> bytes:
    return answer(400, data, b"Content-Type: application/json", b"Content-Encoding: " + coding)


BUSINESS = b'{"message":["no order status found"]}'
NO_REJECTIONS = {
    "gzip": _business(gzip.compress(BUSINESS), b"gzip"),
    "deflate": _business(zlib.compress(BUSINESS), b"deflate"),
    "br": _business(brotli.compress(BUSINESS), b"br"),
    "zstd": _business(zstd.compress(BUSINESS), b"zstd"),
    "more than 64 KiB decoded": _business(zstd.compress(REJECTION_BODY + b" " * 70_000), b"zstd"),
    "more than 64 KiB as it came": _business(REJECTION_BODY + b" " * 70_000, b"identity"),
    "broken": _business(gzip.compress(REJECTION_BODY)[:-3], b"gzip"),
    "of another coding": _business(gzip.compress(REJECTION_BODY), b"br"),
    "of an unknown coding": _business(REJECTION_BODY, b"aes128gcm"),
    "not coded at all": _business(REJECTION_BODY, b"gzip"),
}


@pytest.mark.parametrize("shape", NO_REJECTIONS)
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_answer_that_is_no_rejection_comes_down_in_its_own_bytes(
    upstream: RawUpstream, proxy: Running, shape: str, chunked: bool
) -> None:
    head, _, body = NO_REJECTIONS[shape].partition(b"\r\n\r\n")
    coding = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Encoding"))
    whole = _chunked(body).replace(b"\r\n", b"\r\n" + coding + b"\r\n", 1) if chunked else NO_REJECTIONS[shape]
    upstream.answers.append(whole)
    got = await proxy.ask("POST /orders", body=b"{}")
    assert (got.status, got.body) == (400, body)
    assert got.values("content-encoding") == [coding.partition(b": ")[2]]
    assert len(upstream.requests) == len(upstream.sessions) == 1


VARIANTS = ["jwt expired", "JWT malformed", "invalid token", "invalid signature", "jwt not active"]


@pytest.mark.parametrize("wording", VARIANTS)
@pytest.mark.parametrize("status", [400, 401])
async def test_an_undocumented_wording_renews_and_repeats(
    upstream: RawUpstream, proxy: Running, wording: str, status: int
) -> None:
    upstream.answers += [answer(status, json.dumps({"message": [wording]}).encode()), OK]
    assert (await proxy.ask("POST /carts/1/cards", body=b"{}")).status == 200
    assert len(upstream.requests) == 2


@pytest.mark.parametrize(
    "line",
    ["POST /orders?checkout=condensed", "PUT /orders/7", "PUT /v3.1//orders/7/", "POST /v3/%6frders", "POST /ORDERS"],
)
async def test_an_undocumented_wording_renews_but_never_repeats_an_order(
    upstream: RawUpstream, proxy: Running, line: str
) -> None:
    variant = answer(401, b'{"message":"jwt expired"}')
    upstream.answers.append(variant)
    got = await proxy.ask(line, body=b"{}")
    assert (got.status, got.body) == (401, b'{"message":"jwt expired"}')
    assert (len(upstream.requests), len(upstream.sessions)) == (1, 2)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"message":["Error, insufficient inventory"]}'),
        (400, b'{"message":["no order status found"]}'),
        (400, b'{"message":["no x-cc-app was found"]}'),
        (400, b'{"message":["no Authorization token was found in the header"]}'),
        (400, b'{"message":["x","no Authorization token was found"]}'),
        (400, b'{"error":true,"message":"OVER_THE_LIMIT","remainingSubmitAttempts":4}'),
        (400, b""),
        (400, b"<html>no Authorization token was found</html>"),
        (401, b'{"message":["Unauthorized"]}'),
        (401, b"Unauthorized"),
        (403, REJECTION_BODY),
        (404, REJECTION_BODY),
        (500, REJECTION_BODY),
        (200, REJECTION_BODY),
    ],
)
async def test_any_other_refusal_comes_down_untouched_and_renews_nothing(
    upstream: RawUpstream, proxy: Running, status: int, body: bytes
) -> None:
    upstream.answers.append(answer(status, body))
    got = await proxy.ask("POST /orders", body=b"{}")
    assert (got.status, got.body) == (status, body)
    assert (len(upstream.requests), len(upstream.sessions)) == (1, 1)
    assert got.values("proxy-status") == []


async def test_a_coded_business_error_comes_down_in_its_original_bytes(upstream: RawUpstream, proxy: Running) -> None:
    packed = gzip.compress(b'{"message":["Invalid coupon"]}')
    upstream.answers.append(_chunked(packed).replace(b"\r\n", b"\r\nContent-Encoding: gzip\r\n", 1))
    got = await proxy.ask("POST /carts/1/coupons/X")
    assert got.body == packed
    assert got.value("content-encoding") == b"gzip"


async def test_a_long_400_streams_down_whole(upstream: RawUpstream, proxy: Running) -> None:
    body = b"x" * 300_000
    upstream.answers.append(b"HTTP/1.1 400 x\r\nTransfer-Encoding: chunked\r\n\r\n493e0\r\n" + body + b"\r\n0\r\n\r\n")
    assert (await proxy.ask("GET /a")).body == body


async def test_a_coded_bomb_comes_down_as_it_is(upstream: RawUpstream, proxy: Running) -> None:
    bomb = gzip.compress(b" " * 10_000_000 + REJECTION_BODY)
    assert len(bomb) < 64 * 1024
    upstream.answers.append(answer(400, bomb, b"Content-Encoding: gzip"))
    got = await proxy.ask("GET /a")
    assert (got.status, got.body) == (400, bomb)
    assert len(upstream.sessions) == 1


async def test_rejected_twice_the_caller_sees_the_second_rejection_and_the_route_pauses(
    upstream: RawUpstream, proxy: Running
) -> None:
    upstream.default = REJECTION
    got = await proxy.ask("GET /wallets")
    assert (got.status, got.body) == (400, REJECTION_BODY)
    assert (len(upstream.requests), len(upstream.sessions)) == (2, 2)
    for _ in range(5):
        assert (await proxy.ask("GET /wallets")).status == 400
    assert (len(upstream.requests), len(upstream.sessions)) == (7, 2)


async def test_a_pause_of_one_route_delays_no_other(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers += [REJECTION, REJECTION]
    assert (await proxy.ask("GET /wallets")).status == 400
    upstream.answers += [REJECTION, OK]
    assert (await proxy.ask("GET /carts")).status == 200
    assert len(upstream.sessions) == 3


async def test_an_accepted_answer_ends_the_pause_of_its_route(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers += [REJECTION, REJECTION, OK, REJECTION, OK]
    assert (await proxy.ask("GET /wallets")).status == 400
    assert (await proxy.ask("GET /wallets")).status == 200
    assert (await proxy.ask("GET /wallets")).status == 200
    assert len(upstream.sessions) == 3


async def test_ids_in_the_path_do_not_make_another_route(upstream: RawUpstream, proxy: Running) -> None:
    upstream.default = REJECTION
    for number in range(10):
        assert (await proxy.ask(f"GET /wallets/{number}")).status == 400
    assert len(upstream.sessions) == 2


async def test_a_head_answered_400_counts_as_a_rejection_once(upstream: RawUpstream, proxy: Running) -> None:
    refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 48\r\n\r\n"
    upstream.answers += [refusal, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"]
    assert (await proxy.ask("HEAD /carts")).status == 200
    assert len(upstream.sessions) == 2
    upstream.default = refusal
    for _ in range(4):
        assert (await proxy.ask("HEAD /carts")).status == 400
    assert len(upstream.sessions) == 3


async def test_many_callers_on_a_rejected_token_cost_one_renewal(upstream: RawUpstream, proxy: Running) -> None:
    async def refuse_old(peer: Peer) -> None:
        fresh = f"Bearer {upstream.tokens[-1]}".encode() in peer.head and len(upstream.tokens) > 1
        await peer.send(OK if fresh else REJECTION)

    upstream.default = refuse_old
    answers = await asyncio.gather(*(proxy.ask("GET /carts") for _ in range(50)))
    assert {a.status for a in answers} == {200}
    assert len(upstream.sessions) == 2


async def test_a_caller_that_leaves_cancels_no_renewal(upstream: RawUpstream, proxy: Running) -> None:
    go = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await go.wait()
        await upstream.answer_session(peer)

    await proxy.ask("GET /first")
    upstream.session_answers.append(slow)
    upstream.answers += [REJECTION, OK]
    leaver = await proxy.caller()
    await leaver.send(proxy.request("GET /carts"))
    await until(lambda: len(upstream.sessions) == 2)
    leaver.reset()
    await until(lambda: proxy.proxy.guard.in_flight == 0)
    stayer = asyncio.create_task(proxy.ask("POST /orders", body=b"{}"))
    await until(lambda: proxy.proxy.guard.in_flight == 1)
    go.set()
    assert (await stayer).status == 200
    assert len(upstream.sessions) == 2
    assert upstream.requests[-1].token == upstream.tokens[1]


async def test_a_body_too_large_to_keep_is_answered_not_repeatable_after_the_renewal(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(LIMITS__REPLAY_BODY="10")
    upstream.answers.append(REJECTION)
    got = await proxy.ask("POST /orders", body=b"x" * 11)
    assert (got.status, got.code) == (503, "not_repeatable")
    assert int(got.value("retry-after") or 0) >= 1
    assert (len(upstream.requests), len(upstream.sessions)) == (1, 2)
    again = await proxy.ask("POST /orders", body=b"x" * 11)
    assert again.status == 200
    assert upstream.requests[1].token == upstream.tokens[1]


async def test_bodies_beyond_the_total_are_streamed_and_not_kept(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(LIMITS__REPLAY_BODY="10", LIMITS__REPLAY_TOTAL="15")
    go = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.body()
        await go.wait()
        await peer.send(OK)

    upstream.answers.append(slow)
    first = asyncio.create_task(proxy.ask("POST /a", body=b"x" * 10))
    await until(lambda: upstream.requests)
    assert proxy.sample("replay_buffer_bytes") == 10
    upstream.answers.append(REJECTION)
    assert (await proxy.ask("POST /b", body=b"y" * 10)).code == "not_repeatable"
    go.set()
    assert (await first).status == 200
    await proxy.quiet()
    assert proxy.sample("replay_buffer_bytes") == 0


async def test_the_metrics_count_renewals_and_retries(upstream: RawUpstream, proxy: Running) -> None:
    upstream.answers += [REJECTION, OK, REJECTION, REJECTION]
    await proxy.ask("GET /carts")
    await proxy.ask("GET /wallets")
    assert proxy.sample("session_renewals_total", reason="start", result="ok") == 1
    assert proxy.sample("session_renewals_total", reason="rejected", result="ok") == 2
    assert proxy.sample("session_retries_total", result="accepted") == 1
    assert proxy.sample("session_retries_total", result="rejected") == 1
