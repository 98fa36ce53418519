"""Session calls go the way of the traffic, with the same dialling, reading and time-outs, but never on its connections."""

from __future__ import annotations

import asyncio
import email.utils
import time

import pytest

from proxy.session import call_sender
from tests.conftest import StartProxy
from tests.server.harness import EMAIL, OK, PASSWORD, REJECTION, Peer, RawUpstream, Running, answer, until

LOGIN = {"LOGIN__EMAIL": EMAIL, "LOGIN__PASSWORD": PASSWORD}


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_sender, "FIRST_WAIT", 0.01)


async def failure(proxy: Running) -> str:
    """The sentence of the last renewal that failed."""
    reply = await proxy.ask("GET /merchants/buy")
    assert (reply.status, reply.code) == (503, "session_unavailable")
    sentence: str = reply.json["message"][0]
    return sentence


async def silent(peer: Peer) -> None:
    await peer.gone()


async def drop(peer: Peer) -> None:
    peer.writer.close()


async def test_a_session_call_is_given_up_after_the_response_timeout(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    upstream.session_answers.append(silent)
    proxy = await start_proxy(UPSTREAM__RESPONSE_TIMEOUT="0.2s")
    assert (await proxy.ask("GET /merchants/buy")).status == 200
    assert proxy.sample("upstream_errors_total", kind="head_timeout") == 1


@pytest.mark.parametrize(
    "extra",
    [(b"X-Long: " + b"x" * 20_000,), tuple(b"X-%d: y" % number for number in range(150))],
    ids=["20 kB", "150 fields"],
)
async def test_session_calls_accept_the_heads_that_ordinary_answers_may_have(
    upstream: RawUpstream, start_proxy: StartProxy, extra: tuple[bytes, ...]
) -> None:
    upstream.default = answer(200, b"{}", *extra)
    upstream.session_answers.append(answer(200, b"{}", b"authorization: " + upstream.token().encode(), *extra))
    upstream.login_answers.append(answer(200, b"{}", b"authorization: " + upstream.token().encode(), *extra))
    proxy = await start_proxy(**LOGIN)
    assert (await proxy.ask("GET /merchants/buy")).status == 200
    assert upstream.requests[0].token == upstream.tokens[1]


async def test_a_pool_that_is_full_keeps_no_session_from_being_renewed(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(UPSTREAM__MAX_CONNECTIONS="2", UPSTREAM__CONNECT_TIMEOUT="5s")
    upstream.default = silent
    busy = [asyncio.create_task(proxy.ask("GET /merchants/buy")) for _ in range(2)]
    await until(lambda: len(upstream.requests) == 2)
    assert (await proxy.admin.ask("POST /session/renew")).status == 200
    assert len(upstream.sessions) == 2
    for task in busy:
        task.cancel()


async def test_no_connection_carries_a_session_call_and_anything_else(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    """A stray answer that waits on a used connection would be taken for a session."""
    proxy = await start_proxy(**LOGIN)
    for _ in range(3):
        assert (await proxy.ask("GET /merchants/buy")).status == 200
    assert (await proxy.admin.ask("POST /session/renew")).status == 200
    calls = [call.connection for call in (*upstream.sessions, *upstream.logins)]
    assert len(set(calls)) == len(calls) == 4
    assert not set(calls) & {request.connection for request in upstream.requests}


@pytest.mark.parametrize(
    ("offered", "says"),
    [
        ([b"authorization: not-a-token"], "a token that is not a JWT"),
        ([b"authorization: h.%b.s" % (b"x" * 9000)], "a token that is longer than 8192 bytes"),
        ([], "with no token"),
    ],
    ids=["malformed", "too long", "none"],
)
async def test_a_session_answer_says_what_is_wrong_with_its_token(
    upstream: RawUpstream, start_proxy: StartProxy, offered: list[bytes], says: str
) -> None:
    upstream.session_answers.extend([answer(200, b"{}", *offered, b"Retry-After: 9")] * 5)
    proxy = await start_proxy()
    sentence = await failure(proxy)
    assert says in sentence
    assert "not-a-token" not in sentence


async def test_one_dropped_session_call_after_a_rejected_login_is_tried_again(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    async def good(peer: Peer) -> None:
        await peer.send(answer(200, b"{}", b"authorization: " + upstream.token().encode()))

    upstream.session_answers.extend([good, drop])
    upstream.login_answers.append(REJECTION)
    proxy = await start_proxy(SESSION__EAGER="false", **LOGIN)
    assert (await proxy.ask("GET /merchants/buy")).status == 200
    assert (len(upstream.sessions), len(upstream.logins)) == (3, 2)


@pytest.mark.parametrize("call", ["session", "login"])
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "IMF-fixdate", "RFC 850", "asctime"])
async def test_a_pause_that_cardcash_asks_for_is_kept_in_whatever_form(
    upstream: RawUpstream, start_proxy: StartProxy, call: str, status: int, form: str
) -> None:
    then = time.time() + 20
    written = {
        "seconds": "20",
        "IMF-fixdate": email.utils.formatdate(then, usegmt=True),
        "RFC 850": time.strftime("%A, %d-%b-%y %H:%M:%S GMT", time.gmtime(then)),
        "asctime": time.asctime(time.gmtime(then)),
    }[form]
    answers = upstream.session_answers if call == "session" else upstream.login_answers
    answers.extend([answer(status, b"", b"Retry-After: " + written.encode())] * 5)
    proxy = await start_proxy(**LOGIN)
    reply = await proxy.ask("GET /merchants/buy")
    assert reply.status == 503
    assert 15 <= int(reply.value("retry-after") or 0) <= 20
    assert len(upstream.sessions if call == "session" else upstream.logins) == 1  # waiting within the call is no use


async def test_a_login_that_is_told_429_is_not_sent_again_before_a_pause(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    upstream.login_answers.append(answer(429))
    proxy = await start_proxy(**LOGIN)
    assert (await proxy.ask("GET /merchants/buy")).value("retry-after") == b"1"
    assert len(upstream.logins) == 1


# A tunnel is judged once, for both.


class Tunnels:
    """A CONNECT proxy that answers with `reply` and then joins the two connections."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        self.asked = 0
        self.port = 0

    async def __aenter__(self) -> Tunnels:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", int(head.split(b" ")[1].rpartition(b":")[2]))
        writer.write(self.reply)

        async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
            except ConnectionError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pipe(reader, up_writer), pipe(up_reader, writer))


@pytest.mark.parametrize(
    ("reply", "opens"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", True),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", False),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n\r\n" + OK, False),
        (b"nonsense\r\n\r\n", False),
    ],
    ids=["200", "204", "100 then 200", "long head", "with a length", "101", "407", "extra bytes", "no HTTP"],
)
async def test_traffic_and_session_calls_judge_a_tunnel_alike(
    upstream: RawUpstream, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch, reply: bytes, *, opens: bool
) -> None:
    async with Tunnels(b"HTTP/1.1 200 OK\r\n\r\n") as tunnels:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{tunnels.port}")
        proxy = await start_proxy(UPSTREAM__TRUST_ENV="true")
        await until(lambda: proxy.proxy.keeper.held)
        tunnels.reply = reply
        traffic = await proxy.ask("GET /merchants/buy")
        session = await proxy.admin.ask("POST /session/renew")
        assert (traffic.status == 200, session.status == 200) == (opens, opens)
        if not opens:
            assert traffic.code == "upstream_unreachable"
            assert str(traffic.json["message"][0]).partition(";")[0] in session.json["message"][0]
