"""Bytes that came before a request was sent are no answer to it, and end the connection (RFC 9112, section 9.2)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme

from proxy.core.errors import UpstreamUnreachable
from proxy.upstream import Origin, Upstream
from tests.upstream.conftest import Connect, body_of
from tests.upstream.wire import GET, HEAD, OK, Peer, answers, pieces, post, until

EARLY = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nearly"


@pytest.mark.parametrize("first", [EARLY, b"\r\n", b""], ids=["an answer", "an empty line", "a hang-up"])
@pytest.mark.parametrize("kind", ["small", "large", "streamed"])
async def test_a_request_goes_out_on_a_connection_that_was_silent(connect: Connect, first: bytes, kind: str) -> None:
    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.send(first)
            if not first:
                peer.finish()
        while True:
            await peer.request()
            await peer.send(OK)

    wire, up = await connect(script)
    for _ in range(3):
        size = 100_000 if kind == "large" else 2
        body = pieces([b"x", b"y"]) if kind == "streamed" else b"x" * size
        response = await up.send(method="POST", head=post(size), body=body, repeatable=False)
        assert await body_of(response) == b"ok"
    assert len(wire.requests) == 3
    assert wire.accepted == 2


async def test_an_upstream_that_always_speaks_first_is_sent_nothing_and_the_error_says_so(connect: Connect) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(EARLY)
        await peer.request()

    wire, up = await connect(script, max_connections=1)
    for _ in range(3):
        with pytest.raises(UpstreamUnreachable) as caught:
            await up.send(method="POST", head=GET, repeatable=False)
        assert not caught.value.sent
        assert "nothing was sent" in str(caught.value)
        assert up.active_connections == up.idle_connections == 0
    assert wire.requests == []
    assert wire.accepted <= 9


class Together:
    """A TLS server whose end of the handshake and first bytes of data leave in one write, on its first connection."""

    def __init__(self, authority: trustme.CA, version: ssl.TLSVersion) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.maximum_version = version
        authority.issue_cert("127.0.0.1").configure_cert(self._context)
        self.requests: list[bytes] = []
        self.accepted = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        early = self.accepted == 1
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
        if early:
            tls.write(EARLY)
        writer.write(outgoing.read())
        while True:
            try:
                data = tls.read(65536)
            except ssl.SSLWantReadError:
                more = await reader.read(65536)
                if not more:
                    break
                incoming.write(more)
                continue
            except ssl.SSLError:
                break
            if not data:
                break
            self.requests.append(data)
            tls.write(OK)
            writer.write(outgoing.read())
        writer.close()


@contextlib.asynccontextmanager
async def together(version: ssl.TLSVersion) -> AsyncIterator[tuple[Together, Upstream]]:
    authority = trustme.CA()
    server = Together(authority, version)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    client = Upstream(Origin("https", "127.0.0.1", listener.sockets[0].getsockname()[1]), ssl_context=context)
    try:
        yield server, client
    finally:
        await client.aclose()
        listener.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_answer_in_one_write_with_the_end_of_the_handshake_is_none(version: ssl.TLSVersion) -> None:
    async with together(version) as (server, client):
        for _ in range(3):
            response = await client.send(method="POST", head=GET, repeatable=False)
            assert await body_of(response) == b"ok"
        assert server.requests == [GET] * 3
        assert server.accepted == 2


async def test_tickets_of_tls_1_3_are_no_answer(connect: Connect) -> None:
    authority = trustme.CA()
    server, context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(context)
    wire, up = await connect(answers(OK), server_tls=server, ssl_context=context)
    for count in range(1, 11):
        assert (await up.send(method="POST", head=GET, new_connection=True, repeatable=False)).status == 200
        assert wire.accepted == up.opened_total == count


@pytest.mark.parametrize("delay", [0.0, 0.0005, 0.001])
async def test_an_order_right_after_an_answer_is_not_answered_by_what_follows_that_answer(
    connect: Connect, delay: float
) -> None:
    loop = asyncio.get_running_loop()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number == 1:
            loop.call_later(delay, peer.writer.write, EARLY)
        await peer.gone()

    wire, up = await connect(script, max_connections=1)
    await up.send(method="GET", head=GET)
    response = await up.send(method="POST", head=GET, repeatable=False)
    assert (response.status, await body_of(response)) == (200, b"ok")
    assert wire.accepted == 2


@pytest.mark.parametrize("fresh", [False, True])
async def test_who_leaves_while_a_connection_is_listened_to_keeps_no_slot(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, *, fresh: bool
) -> None:
    wire, up = await connect(answers(OK), max_connections=1)
    await up.send(method="GET", head=GET)
    with monkeypatch.context() as patched:
        patched.setattr("proxy.upstream.connection.SILENCE", 60.0)
        patched.setattr("proxy.upstream.client.SILENCE", 60.0)
        task = asyncio.create_task(up.send(method="POST", head=GET, new_connection=fresh, repeatable=False))
        await until(lambda: up.idle_connections == 0 and up.active_connections == 1 and wire.accepted == 1 + fresh)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert up.active_connections == up.idle_connections == 0
    assert (await up.send(method="POST", head=GET, repeatable=False)).status == 200
    assert len(wire.requests) == 2


async def test_orders_one_after_the_other_use_one_connection(connect: Connect) -> None:
    _, up = await connect(answers(OK), max_connections=1)
    for _ in range(3):
        await up.send(method="POST", head=GET, repeatable=False)
    await asyncio.gather(*[up.send(method="POST", head=GET, repeatable=False) for _ in range(5)])
    assert up.opened_total == 1


# After an answer without a body.


@pytest.mark.parametrize("late", [b"0\r\n\r\n", b"hello", b"\r\n", EARLY])
@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
)
async def test_a_body_that_comes_where_none_may_come_is_no_answer_to_the_next_request(
    connect: Connect, method: str, answer: bytes, late: bytes
) -> None:
    """Its bytes arrive together with, or after, the next request: only a connection of its own keeps them apart."""

    async def script(peer: Peer) -> None:
        if peer.number > 1:
            await peer.request()
            await peer.send(OK)
            await peer.gone()
        await peer.request()
        await peer.send(answer)
        await peer.request()
        await peer.send(late + OK)

    wire, up = await connect(script)
    response = await up.send(method=method, head=HEAD if method == "HEAD" else GET)
    assert response.complete
    response = await up.send(method="POST", head=GET, repeatable=False)
    assert (response.status, await body_of(response)) == (200, b"ok")
    assert len(wire.requests) == 2
    assert up.opened_total == 2


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
    ],
)
async def test_an_answer_that_announces_no_body_keeps_its_connection(
    connect: Connect, method: str, answer: bytes
) -> None:
    _, up = await connect(answers(answer))
    for _ in range(3):
        await up.send(method=method, head=HEAD if method == "HEAD" else GET)
    assert up.opened_total == 1
