"""One request, one answer: framing, exactness, interim and early answers."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.errors import UpstreamInvalid, UpstreamReset
from tests.upstream.conftest import Connect, body_of
from tests.upstream.wire import GET, HEAD, OK, Peer, answers, once


async def test_a_small_answer_is_complete_when_send_returns(connect: Connect) -> None:
    _, up = await connect(answers(OK))
    response = await up.send(method="GET", head=GET)
    assert response.complete
    assert up.idle_connections == 1
    assert (response.status, response.head.start) == (200, b"HTTP/1.1 200 OK")
    assert response.headers == [(b"Content-Length", b"2")]
    assert response.take() == [b"ok"]
    assert await response.read() == b""


async def test_the_head_is_written_verbatim(connect: Connect) -> None:
    head = b"GET //a?b=%zz HTTP/1.1\r\nhOST: x\r\nX: \xff  y\r\nX: y\r\n\r\n"
    wire, up = await connect(answers(OK))
    await up.send(method="GET", head=head)
    assert wire.requests == [head]


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: t\r\n\r\n", b"ok"),
        (b"HTTP/1.1 201 \r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK, b"ok"),
    ],
)
async def test_answers_are_read_however_they_are_cut(connect: Connect, answer: bytes, body: bytes, step: int) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            for start in range(0, len(answer), step):
                await peer.send(answer[start : start + step])
                await asyncio.sleep(0)

    _, up = await connect(script)
    for _ in range(2):
        response = await up.send(method="GET", head=GET)
        assert response.status in {200, 201}
        assert await body_of(response) == body
        assert response.complete
        assert not [name for name, _ in response.headers if name in {b"X-Trailer", b"Link"}]
    assert up.opened_total == 1


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
)
async def test_some_answers_have_no_body_whatever_they_say(connect: Connect, method: str, answer: bytes) -> None:
    _, up = await connect(answers(answer))
    head = HEAD if method == "HEAD" else GET
    for _ in range(2):
        response = await up.send(method=method, head=head)
        assert response.complete
        assert not response.has_body
        assert await response.read() == b""


@pytest.mark.parametrize("stray", [b"x", b"\r\n", OK])
@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", OK),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    ],
)
async def test_bytes_after_an_answer_cost_the_connection(
    connect: Connect, method: str, answer: bytes, stray: bytes
) -> None:
    _, up = await connect(answers(answer + stray))
    head = HEAD if method == "HEAD" else GET
    response = await up.send(method=method, head=head)
    assert response.complete
    assert b"".join(response.take()) in {b"", b"ok"}
    assert up.idle_connections == 0
    await up.send(method=method, head=head)
    assert up.opened_total == 2


async def test_data_after_a_closing_answer_is_ignored(connect: Connect) -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nokjunk"
    _, up = await connect(answers(answer))
    response = await up.send(method="GET", head=GET)
    assert await body_of(response) == b"ok"
    assert up.idle_connections == 0


async def test_without_framing_a_clean_end_is_the_end(connect: Connect) -> None:
    _, up = await connect(once(b"HTTP/1.1 200 OK\r\n\r\nall of it", close=True))
    response = await up.send(method="GET", head=GET)
    assert response.head.content_length is None
    assert not response.head.chunked
    assert await body_of(response) == b"all of it"
    assert response.complete
    assert up.active_connections == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"hello",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_no_answer_is_invalid_at_once(connect: Connect, answer: bytes) -> None:
    wire, up = await connect(once(answer))
    with pytest.raises(UpstreamInvalid) as caught:
        await up.send(method="GET", head=GET)
    assert (caught.value.kind, caught.value.sent) == ("invalid", True)
    assert "may have been processed" in str(caught.value)
    assert up.active_connections == up.idle_connections == 0
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(b"", "reset_before_head"), (b"HTT", "reset_in_head"), (b"HTTP/1.1 200 OK\r\nA: b\r\n", "reset_in_head")],
)
@pytest.mark.parametrize("hard", [False, True])
async def test_an_end_before_the_answer_is_a_reset(connect: Connect, answer: bytes, kind: str, *, hard: bool) -> None:
    seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        if hard and answer:
            await asyncio.sleep(0.01)  # lets the bytes arrive; what is asserted does not depend on it being enough
        peer.reset() if hard else peer.finish()
        seen.set()

    wire, up = await connect(script)
    with pytest.raises(UpstreamReset) as caught:
        await up.send(method="POST", head=GET)
    assert caught.value.sent
    assert caught.value.kind == kind or (hard and caught.value.kind == "reset_before_head")
    assert len(wire.requests) == wire.accepted == 1


_PARTS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n",
)


# Without framing a clean end is the end, so that answer is cut by a reset only.
@pytest.mark.parametrize(
    ("answer", "hard"),
    [*((part, hard) for part in _PARTS for hard in (False, True)), (b"HTTP/1.1 200 OK\r\n\r\npart", True)],
)
async def test_a_truncated_body_never_looks_complete(connect: Connect, answer: bytes, *, hard: bool) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        await go.wait()
        peer.reset() if hard else peer.finish()

    _, up = await connect(script)
    response = await up.send(method="GET", head=GET)
    received = b"".join(response.take())
    while received != b"part":
        received += await response.read()
    go.set()
    for _ in range(2):
        with pytest.raises(UpstreamReset) as caught:
            await response.read()
        assert (caught.value.kind, caught.value.sent) == ("reset_in_body", True)
    assert not response.complete
    assert up.active_connections == up.idle_connections == 0


async def test_invalid_chunks_fail_the_body_after_what_was_good(connect: Connect) -> None:
    _, up = await connect(
        once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n"), response_timeout=30
    )
    response = await up.send(method="GET", head=GET)
    response.close()
    _, up = await connect(once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"))
    response = await up.send(method="GET", head=GET)
    with pytest.raises(UpstreamInvalid):
        await response.read()


async def test_nothing_secret_is_in_a_repr(connect: Connect) -> None:
    answer = b"HTTP/1.1 200 OK\r\nAuthorization: secret\r\nContent-Length: 6\r\n\r\nsecret"
    _, up = await connect(answers(answer))
    response = await up.send(method="GET", head=GET)
    assert "secret" not in repr(response) + str(response) + repr(up) + str(vars(up))


async def test_closing_early_costs_the_connection_and_is_idempotent(connect: Connect) -> None:
    _, up = await connect(once(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"))
    response = await up.send(method="GET", head=GET)
    assert up.active_connections == 1
    response.close()
    response.close()
    assert up.active_connections == up.idle_connections == 0
    with pytest.raises(RuntimeError):
        await response.read()


async def test_closing_a_finished_answer_keeps_the_connection(connect: Connect) -> None:
    _, up = await connect(answers(OK))
    response = await up.send(method="GET", head=GET)
    response.close()
    assert up.idle_connections == 1


@pytest.mark.parametrize("where", ["head", "body"])
async def test_cancelling_ends_the_connection(connect: Connect, where: str) -> None:
    arrived = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if where == "body":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        arrived.set()
        await peer.gone()

    wire, up = await connect(script)

    async def work() -> None:
        response = await up.send(method="GET", head=GET)
        await response.read()

    task = asyncio.create_task(work())
    await arrived.wait()
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert up.active_connections == up.idle_connections == 0
    await wire.ended.wait()
