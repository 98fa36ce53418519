"""Failures before the first byte, TLS, and tunnels: nothing was sent, and the error says why."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy.core.errors import UpstreamReset, UpstreamUnreachable
from proxy.upstream import Origin, ProxyTunnel, Upstream, tls_context
from tests.upstream.conftest import Connect, body_of
from tests.upstream.wire import GET, OK, Peer, Wire, answers, until


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, name: str = "localhost") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = tls_context(None)
    authority.configure_trust(context)
    return context


async def refused(up: Upstream) -> UpstreamUnreachable:
    with pytest.raises(UpstreamUnreachable) as caught:
        await up.send(method="POST", head=GET)
    await up.aclose()
    assert not caught.value.sent
    assert str(caught.value).endswith("nothing was sent.")
    assert "\n" not in str(caught.value)
    assert up.active_connections == 0
    return caught.value


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_refused_connection(host: str) -> None:
    error = await refused(Upstream(Origin("http", host, free_port()), ssl_context=None))
    assert (error.kind, error.proxy_status) == ("refused", "connection_refused")


async def test_a_name_that_does_not_resolve() -> None:
    error = await refused(Upstream(Origin("http", "nobody.invalid", 80), ssl_context=None))
    assert (error.kind, error.proxy_status) == ("dns", "dns_error")


async def test_a_connect_that_takes_too_long(connect: Connect, authority: trustme.CA) -> None:
    async def mute(peer: Peer) -> None:
        await peer.gone()

    wire = Wire(mute)
    await wire.start()
    up = Upstream(Origin("https", "127.0.0.1", wire.port), ssl_context=client_tls(authority), connect_timeout=0.1)
    error = await refused(up)
    assert (error.kind, error.proxy_status) == ("connect_timeout", "connection_timeout")
    assert str(error) == "The TLS handshake with 127.0.0.1 took too long; nothing was sent."
    await wire.ended.wait()
    await wire.stop()


async def test_tls_works_and_connections_are_reused(connect: Connect, authority: trustme.CA) -> None:
    wire, up = await connect(
        answers(OK), server_tls=server_tls(authority), ssl_context=client_tls(authority), host="localhost"
    )
    for _ in range(3):
        response = await up.send(method="GET", head=GET)
        assert await body_of(response) == b"ok"
    assert wire.accepted == up.opened_total == 1


@pytest.mark.parametrize("trusted", [False, True])
async def test_a_certificate_that_is_not_accepted_is_a_clear_sentence(
    connect: Connect, authority: trustme.CA, *, trusted: bool
) -> None:
    context = client_tls(authority) if trusted else tls_context(None)
    _, up = await connect(
        answers(OK), server_tls=server_tls(authority, "other.example"), ssl_context=context, host="localhost"
    )
    error = await refused(up)
    assert (error.kind, error.proxy_status) == ("tls", "tls_certificate_error")
    assert "certificate of localhost was not accepted" in str(error)


async def test_a_name_that_stands_in_the_common_name_only_is_not_accepted(
    connect: Connect, authority: trustme.CA
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(common_name="localhost").configure_cert(server)
    _, up = await connect(answers(OK), server_tls=server, ssl_context=client_tls(authority), host="localhost")
    assert (await refused(up)).proxy_status == "tls_certificate_error"


async def test_an_upstream_that_speaks_no_tls(connect: Connect, authority: trustme.CA) -> None:
    async def plain(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.finish()

    wire = Wire(plain)
    await wire.start()
    error = await refused(Upstream(Origin("https", "127.0.0.1", wire.port), ssl_context=client_tls(authority)))
    assert error.kind == "tls"
    await wire.stop()


@pytest.mark.parametrize("after", [b"", b"x", OK])
async def test_a_tls_connection_on_which_anything_came_is_not_used(
    connect: Connect, authority: trustme.CA, after: bytes
) -> None:
    go, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await go.wait()
        if after:
            peer.writer.write(after)
        else:
            peer.writer.close()
        gone.set()
        await peer.gone()

    wire, up = await connect(
        script, server_tls=server_tls(authority), ssl_context=client_tls(authority), host="localhost"
    )
    await up.send(method="GET", head=GET)
    go.set()
    await gone.wait()
    response = await up.send(method="POST", head=GET)
    assert response.take() == [b"ok"]
    assert wire.accepted == 2


@pytest.mark.parametrize("notified", [False, True])
async def test_under_tls_only_a_close_notify_is_an_end(
    connect: Connect, authority: trustme.CA, *, notified: bool
) -> None:
    """RFC 9112, section 9.8: whoever is on the path can forge a FIN."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\npart")
        if notified:
            peer.finish()
        else:
            sock = peer.writer.get_extra_info("socket")
            raw = socket.fromfd(sock.fileno(), sock.family, sock.type)
            raw.shutdown(socket.SHUT_WR)
            raw.close()
            await peer.gone()

    _, up = await connect(script, server_tls=server_tls(authority), ssl_context=client_tls(authority), host="localhost")
    response = await up.send(method="GET", head=GET)
    if notified:
        assert await body_of(response) == b"part"
        assert response.complete
        return
    with pytest.raises(UpstreamReset):
        await body_of(response)
    assert not response.complete


async def test_a_large_answer_and_upload_over_tls(connect: Connect, authority: trustme.CA) -> None:
    big = b"x" * 3_000_000
    wire, up = await connect(
        answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(big) + big),
        server_tls=server_tls(authority),
        ssl_context=client_tls(authority),
        host="localhost",
    )
    head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(big)
    response = await up.send(method="POST", head=head, body=big)
    await asyncio.sleep(0.1)
    assert response.buffered <= 400_000
    assert await body_of(response) == big
    assert wire.requests == [head + big]
    assert up.idle_connections == 1


# Tunnels.


class Proxy:
    """A CONNECT proxy; the answer is scripted, the tunnel is real."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.port = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        writer.write(self.answer)
        if b" 200" not in self.answer:
            writer.close()
            return
        port = int(head.split(b" ")[1].rpartition(b":")[2])
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)

        async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
            except ConnectionError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pipe(reader, up_writer), pipe(up_reader, writer))


@pytest.mark.parametrize("tls", [False, True])
async def test_requests_go_through_the_tunnel(connect: Connect, authority: trustme.CA, *, tls: bool) -> None:
    async with Proxy(b"HTTP/1.1 200 Connection established\r\nContent-Length: 7\r\n\r\n") as proxy:
        wire, up = await connect(
            answers(OK),
            server_tls=server_tls(authority) if tls else None,
            ssl_context=client_tls(authority) if tls else None,
            host="localhost",
            proxy=ProxyTunnel("127.0.0.1", proxy.port, b"Basic eDp5"),
        )
        for _ in range(2):
            assert await body_of(await up.send(method="GET", head=GET)) == b"ok"
        target = b"localhost:%d" % wire.port
        assert proxy.heads == [
            b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\nProxy-Authorization: Basic eDp5\r\n\r\n"
        ]
        await up.aclose()
        await until(wire.ended.is_set)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 503 x\r\n\r\n",
        b"",
        b"junk\r\n\r\n",
        b"HTTP/1.1 2",
        b"HTTP/1.1 299 OK\r\n\r\nearly",
    ],
)
async def test_a_refused_tunnel_sent_nothing(answer: bytes, authority: trustme.CA) -> None:
    async with Proxy(answer) as proxy:
        tunnel = ProxyTunnel("127.0.0.1", proxy.port)
        error = await refused(
            Upstream(Origin("https", "a.example", 443), ssl_context=client_tls(authority), proxy=tunnel)
        )
        assert error.kind == "proxy"


async def test_a_proxy_that_is_not_there() -> None:
    tunnel = ProxyTunnel("127.0.0.1", free_port())
    error = await refused(Upstream(Origin("http", "a.example", 80), ssl_context=None, proxy=tunnel))
    assert error.kind == "proxy"
    assert str(error) == "The connection to the proxy 127.0.0.1 was refused; nothing was sent."


async def test_a_name_of_a_proxy_that_does_not_resolve() -> None:
    tunnel = ProxyTunnel("nobody.invalid", 3128)
    error = await refused(Upstream(Origin("http", "a.example", 80), ssl_context=None, proxy=tunnel))
    assert error.kind == "proxy"
    assert str(error) == "The name of the proxy nobody.invalid could not be resolved; nothing was sent."


@pytest.mark.parametrize("trusted", [False, True])
async def test_behind_a_tunnel_it_is_cardcashs_certificate_that_is_judged_and_named(
    connect: Connect, authority: trustme.CA, *, trusted: bool
) -> None:
    async with Proxy(b"HTTP/1.1 200 OK\r\n\r\n") as proxy:
        context = client_tls(authority) if trusted else tls_context(None)
        _, up = await connect(
            answers(OK),
            server_tls=server_tls(authority, "other.example"),
            ssl_context=context,
            host="localhost",
            proxy=ProxyTunnel("127.0.0.1", proxy.port),
        )
        error = await refused(up)
    assert (error.kind, error.proxy_status) == ("tls", "tls_certificate_error")
    assert "certificate of localhost was not accepted" in str(error)
    assert "127.0.0.1" not in str(error)


@pytest.mark.parametrize("ends", ["hangs", "resets", "speaks no TLS"])
async def test_behind_a_tunnel_it_is_cardcash_that_does_not_speak_tls(
    connect: Connect, authority: trustme.CA, ends: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        if ends == "resets":
            peer.reset()
        elif ends == "speaks no TLS":
            await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.gone()

    wire = Wire(script)
    await wire.start()
    async with Proxy(b"HTTP/1.1 200 OK\r\n\r\n") as proxy:
        up = Upstream(
            Origin("https", "localhost", wire.port),
            ssl_context=client_tls(authority),
            connect_timeout=0.3,
            proxy=ProxyTunnel("127.0.0.1", proxy.port),
        )
        error = await refused(up)
    await wire.stop()
    assert error.kind == ("connect_timeout" if ends == "hangs" else "tls")
    assert "localhost" in str(error)
    assert "127.0.0.1" not in str(error)


async def test_a_proxy_that_does_not_answer_connect_is_named(authority: trustme.CA) -> None:
    async def mute(peer: Peer) -> None:
        await peer.gone()

    wire = Wire(mute)
    await wire.start()
    tunnel = ProxyTunnel("127.0.0.1", wire.port)
    up = Upstream(
        Origin("https", "a.example", 443), ssl_context=client_tls(authority), connect_timeout=0.1, proxy=tunnel
    )
    error = await refused(up)
    await wire.stop()
    assert (error.kind, error.sent) == ("proxy", False)
    assert str(error) == "The proxy 127.0.0.1 did not open a tunnel in time; nothing was sent."


def attempts_at(address: tuple[str, int]) -> int:
    """Sockets of this machine that wait for this address to answer (SYN-SENT)."""
    host, port = address
    there = f"{int.from_bytes(socket.inet_aton(host), 'little'):08X}:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(row[2] == there and row[3] == "02" for row in rows)


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are counted in Linux's /proc")
async def test_addresses_are_raced_and_losers_closed(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8305: an address that does not answer costs a quarter of a second, not the connect time-out."""
    wire, up = await connect(answers(OK), host="two.example", connect_timeout=30)
    deaf = ("127.0.0.2", wire.port)

    resolve = asyncio.get_running_loop().getaddrinfo

    async def both(host: str, port: int, **how: Any) -> list[Any]:
        if host != "two.example":
            return await resolve(host, port, **how)
        kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        return [(*kind, deaf), (*kind, ("127.0.0.1", wire.port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
    with socket.create_server(deaf, backlog=0), contextlib.ExitStack() as stack:
        for _ in range(4):  # more than the backlog takes
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf)
        before = attempts_at(deaf)
        asked = asyncio.create_task(up.send(method="GET", head=GET))
        await until(lambda: attempts_at(deaf) > before)
        assert (await asyncio.wait_for(asked, 10)).status == 200
        await until(lambda: attempts_at(deaf) == before)
