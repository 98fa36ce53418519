"""`POST /session` and the login on the wire: exact requests, few retries, and no secret in any failure."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Never

import pytest
import trustme

from proxy.core.errors import Draining, Overloaded, ProxyError, SessionUnavailable
from proxy.core.failed_calls import advice_for_answer, advice_for_kind
from proxy.core.token import Moment, Source, Token
from proxy.session.call_sender import CallAnswer
from proxy.session.cardcash_calls import (
    Credentials,
    ForeignLogin,
    SessionCalls,
    SessionOutage,
    SessionRefused,
    SessionTokenRejected,
)
from proxy.session.keeper import Policy, SessionKeeper
from proxy.session.stores.memory import MemoryStore
from proxy.upstream import ProxyTunnel, tls_context
from tests.core.test_identity import jwt
from tests.session.calls import calls_to
from tests.session.fakes import FakeClock, Recorder
from tests.session.raw_server import CLOSE, HANG, RawServer, answer, serving

APP, EMAIL, PASSWORD = "the-app-id", "me@example.com", "pass word é"
TOKEN = "head.claims.signature"
GOOD = answer("200 OK", b"{}", f"authorization: {TOKEN}", "x-token-exp-seconds: 900")
NO = b'{"message": ["no Authorization token was found"]}'
REFUSAL = b'{"message": ["Invalid email or password"]}'
PAGE = b"<!DOCTYPE html><html>Just a moment</html>"

Call = Callable[..., SessionCalls]


@pytest.fixture
async def calls() -> AsyncIterator[Call]:
    async with AsyncExitStack() as stack:

        def make(origin: str, **more: Any) -> SessionCalls:
            return calls_to(origin, stack, Credentials(APP, EMAIL, PASSWORD), **more)

        yield make


def held(value: str = TOKEN) -> Token:
    return Token(value, FakeClock().now(), 600)


def fields(request: bytes) -> dict[bytes, bytes]:
    lines = request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    names = [line.partition(b":")[0].lower() for line in lines]
    assert len(names) == len(set(names))
    return {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in lines}


# Requests


async def test_the_session_call_sends_the_application_id_a_user_agent_and_nothing_to_identify_by(calls: Call) -> None:
    async with serving(GOOD) as server:
        await calls(server.url).session(tries=1)
    request = server.requests[0]
    assert request.startswith(b"POST /v3/session HTTP/1.1\r\n")
    assert request.endswith(b"\r\n\r\n")
    assert fields(request) == {
        b"host": server.url.removeprefix("http://").encode(),
        b"x-cc-app": APP.encode(),
        b"user-agent": b"agent/1",
        b"accept": b"application/json",
        b"content-type": b"application/json",
        b"content-length": b"0",
        b"connection": b"close",
    }


async def test_the_login_sends_token_and_the_documented_body(calls: Call) -> None:
    async with serving(GOOD) as server:
        await calls(server.url).login(held("anonymous.session.token"), tries=1)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v3/customers/login HTTP/1.1\r\n")
    assert json.loads(body) == {"customer": {"email": EMAIL, "password": PASSWORD}}
    sent = fields(server.requests[0])
    assert sent[b"authorization"] == b"Bearer anonymous.session.token"
    assert sent[b"content-type"] == b"application/json"
    assert b"accept-encoding" not in sent


@pytest.mark.parametrize(("base", "path"), [("/v3", "/v3"), ("/v4.2", "/v4.2"), ("", "/v3"), ("/proxy", "/v3")])
async def test_the_session_lives_where_the_version_of_the_base_path_says(calls: Call, base: str, path: str) -> None:
    async with serving(GOOD) as server:
        await calls(server.url, base_path=base).session(tries=1)
    assert server.requests[0].startswith(f"POST {path}/session ".encode())


async def test_no_connection_is_kept(calls: Call) -> None:
    async with serving(GOOD) as server:
        made = calls(server.url)
        await made.session(tries=1)
        await made.session(tries=1)
    assert server.connections == 2


async def test_cookies_are_neither_kept_nor_sent(calls: Call) -> None:
    async with serving(answer("200 OK", b"{}", f"authorization: {TOKEN}", "Set-Cookie: a=b")) as server:
        made = calls(server.url)
        await made.session(tries=1)
        await made.session(tries=1)
    assert b"cookie" not in fields(server.requests[1])


async def test_credentials_changed_during_a_call_are_for_the_next(calls: Call) -> None:
    cookie = answer("200 OK", b"{}", f"Set-Cookie: {APP}={TOKEN}")
    async with serving(cookie) as server:
        made = calls(server.url)
        call = asyncio.create_task(made.session(tries=1))
        await server.arrived.wait()
        made.credentials = Credentials("other-app")
        assert (await call).value == TOKEN


# Answers


@pytest.mark.parametrize(
    "reply",
    [
        answer("200 OK", b"{}", f"Authorization: {TOKEN}"),
        answer("201 Created", b"{}", f"authorization: Bearer {TOKEN}"),
        answer("200 OK", json.dumps({"access_token": TOKEN}).encode()),
        answer("200 OK", b"\xef\xbb\xbf" + json.dumps({"access_token": TOKEN}).encode()),
        answer("200 OK", b"", f"Set-Cookie: {APP}={TOKEN}; Path=/"),
        answer("200 OK", gzip.compress(json.dumps({"access_token": TOKEN}).encode()), "Content-Encoding: gzip"),
    ],
    ids=["header", "bearer", "body", "bom", "cookie", "gzip"],
)
async def test_the_token_is_found_wherever_cardcash_puts_it(calls: Call, reply: bytes) -> None:
    async with serving(reply) as server:
        session = await calls(server.url).session(tries=1)
    assert (session.value, session.app_id, session.source, session.identity) == (TOKEN, APP, Source.SESSION, None)


BAD = {
    "no token": answer("200 OK", b"{}"),
    "malformed token": answer("200 OK", b'{"access_token": "secret-but-no-jwt"}', "authorization: secret-but-no-jwt"),
    "page": answer("200 OK", PAGE),
    "not json": answer("200 OK", b"\xff\xfe"),
    "huge": answer("200 OK", b"x" * 70_000, f"authorization: {TOKEN}"),
    "zip bomb": answer("200 OK", gzip.compress(b"x" * 10_000_000), f"authorization: {TOKEN}", "Content-Encoding: gzip"),
    "not gzip": answer("200 OK", b"plain", f"authorization: {TOKEN}", "Content-Encoding: gzip"),
    "no http": b"secret-but-no-jwt\r\n\r\n",
    "bad head": b"HTTP/1.1 200 OK\r\nauthorization secret-but-no-jwt\r\n\r\n",
    "page 403": answer("403 Forbidden", PAGE),
    "429": answer("429 Too Many Requests", REFUSAL),
    "408": answer("408 Request Timeout", REFUSAL),
    "300": answer("300 Multiple Choices", b"", f"authorization: {TOKEN}"),
    "302": answer("302 Found", b"", "Location: http://127.0.0.1:1/"),
    "rejection": answer("400 Bad Request", NO),
    "empty 400": answer("400 Bad Request"),
    "503": answer("503 Service Unavailable", REFUSAL),
}


@pytest.mark.parametrize("reply", BAD.values(), ids=BAD.keys())
async def test_an_answer_that_is_no_session_is_an_outage(calls: Call, reply: bytes) -> None:
    async with serving(reply) as server:
        with pytest.raises(SessionOutage) as caught:
            await calls(server.url).session(tries=1)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "secret-but-no-jwt" not in shown
    assert caught.value.__context__ is None


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "403 Forbidden", "423 Locked"])
async def test_a_refusal_in_cardcashs_envelope_is_final(calls: Call, status: str) -> None:
    async with serving(answer(status, REFUSAL)) as server:
        with pytest.raises(SessionRefused) as session:
            await calls(server.url).session(tries=4)
        with pytest.raises(SessionRefused) as login:
            await calls(server.url).login(held(), tries=4)
    assert (session.value.what, login.value.what) == ("app_id", "login")
    assert len(server.requests) == 2


async def test_a_session_rejected_at_login_is_told_apart_from_a_refused_login(calls: Call) -> None:
    async with serving(answer("400 Bad Request", NO)) as server:
        with pytest.raises(SessionTokenRejected):
            await calls(server.url).login(held(), tries=4)
    assert len(server.requests) == 1


async def test_a_login_without_a_token_of_its_own_logs_the_session_in(calls: Call) -> None:
    session = held()
    async with serving(answer("200 OK", b"{}")) as server:
        token = await calls(server.url).login(session, tries=1)
    assert (token.value, token.identity, token.born, token.source) == (TOKEN, EMAIL, session.born, Source.LOGIN)


@pytest.mark.parametrize("again", [TOKEN, "no-jwt"])
async def test_nor_does_one_that_brings_the_sessions_token_again_or_none_that_is_one(calls: Call, again: str) -> None:
    session = Token(TOKEN, Moment(900.0, 900.0), 600)
    async with serving(answer("200 OK", b"{}", f"authorization: {again}")) as server:
        token = await calls(server.url).login(session, tries=1)
    assert (token.value, token.identity, token.born, token.lifetime) == (TOKEN, EMAIL, session.born, 600)


@pytest.mark.parametrize("where", ["authorization: {}", "Set-Cookie: the-app-id={}"])
async def test_a_logins_own_token_begins_a_life_and_shows_whose_it_is_from_then_on(calls: Call, where: str) -> None:
    session, own = Token(jwt(sid=1), Moment(900.0, 900.0), 600, app_id=APP), jwt(sid=1, customerId=5)
    async with serving(answer("200 OK", b"{}", where.format(own), "x-token-exp-seconds: 300")) as server:
        token = await calls(server.url).login(session, tries=1)
    assert (token.value, token.born, token.lifetime) == (own, FakeClock().now(), 300)
    assert (token.identity, token.own_login, token.source, token.app_id) == (EMAIL, False, Source.LOGIN, APP)
    assert token.marks == {"customerId": [None, 5]}


@pytest.mark.parametrize("brings", [jwt(sid=2, email="zz@example.com"), None], ids=["in its token", "in the session's"])
async def test_a_login_that_shows_the_e_mail_of_another_account_is_refused(calls: Call, brings: str | None) -> None:
    session = held(jwt(sid=1) if brings else jwt(sid=1, customer={"email": "zz@example.com"}))
    reply = answer("200 OK", b"{}", *([] if brings is None else [f"authorization: {brings}"]))
    async with serving(reply) as server:
        with pytest.raises(ForeignLogin, match=r"another account than login\.email.*session renew") as refused:
            await calls(server.url).login(session, tries=4)
    assert (refused.value.what, "example.com" in str(refused.value), len(server.requests)) == ("login", False, 1)


@pytest.mark.parametrize(
    "shows", [{"email": EMAIL.upper()}, {"customerId": 77}, {"customer": {"email": EMAIL, "id": 5}}]
)
async def test_a_login_that_shows_its_own_e_mail_or_none_is_adopted(calls: Call, shows: dict[str, object]) -> None:
    own = jwt(sid=2, **shows)
    async with serving(answer("200 OK", b"{}", f"authorization: {own}")) as server:
        assert (await calls(server.url).login(held(jwt(sid=1)), tries=1)).value == own


async def test_a_redirect_is_no_login_whatever_it_brings(calls: Call) -> None:
    async with serving(answer("300 Multiple Choices", b"{}", f"authorization: {TOKEN}")) as server:
        with pytest.raises(SessionOutage):
            await calls(server.url).login(held("anonymous.session.token"), tries=1)


@pytest.mark.parametrize("brings", [(), (f"authorization: {TOKEN}",)], ids=["no token", "the session's"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
async def test_a_web_page_with_200_is_no_login_with_a_byte_order_mark_or_without(
    calls: Call, mark: bytes, brings: tuple[str, ...]
) -> None:
    async with serving(answer("200 OK", mark + PAGE, *brings)) as server:
        with pytest.raises(SessionOutage):
            await calls(server.url).login(held(), tries=1)


async def test_retry_after_of_an_outage_is_told(calls: Call) -> None:
    async with serving(answer("429 Too Many Requests", b"", "Retry-After: 17")) as server:
        with pytest.raises(SessionOutage) as caught:
            await calls(server.url).session(tries=4)
    assert caught.value.retry_after == 17


async def test_the_life_of_a_token_counts_from_the_try_that_brought_it(calls: Call) -> None:
    clock = FakeClock()

    def later() -> float:
        clock.advance(5)
        return 0.0

    async with serving(answer("503 Unavailable"), GOOD) as server:
        token = await calls(server.url, clock=clock, fraction=later).session(tries=2)
    assert (token.born, token.lifetime) == (clock.now(), 900)


async def test_the_keep_alive_brings_the_refresh_with_the_account_of_the_token(calls: Call) -> None:
    token = Token("held.token.x", Moment(900.0, 900.0), 600, identity="a@example.com", own_login=True)
    async with serving(GOOD) as server:
        refreshed = await calls(server.url).keep_alive(token, "/v3/carts")
    assert refreshed is not None
    assert (refreshed.value, refreshed.identity, refreshed.own_login) == (TOKEN, "a@example.com", True)
    assert (refreshed.born, refreshed.lifetime, refreshed.source) == (FakeClock().now(), 900, Source.HARVEST)
    assert server.requests[0].startswith(b"GET /v3/carts HTTP/1.1\r\n")
    assert fields(server.requests[0])[b"authorization"] == b"Bearer held.token.x"


async def test_a_keep_alive_without_a_new_token_brings_none(calls: Call) -> None:
    async with serving(answer("200 OK", b"{}", f"authorization: {TOKEN}")) as server:
        assert await calls(server.url).keep_alive(held(), "/v3/carts") is None


@pytest.mark.parametrize(
    ("reply", "known"),
    [
        (answer("204 No Content"), True),
        (answer("400 Bad Request", b'{"message": ["Error, insufficient inventory"]}'), True),
        (answer("500 Internal Server Error"), False),
        (answer("429 Too Many", b"slow down"), False),
        (answer("403 Forbidden", PAGE), False),
        (answer("200 OK", PAGE), False),
        (answer("404 Not Found", b"404 page not found"), False),
        (answer("302 Found", b"", "Location: /x"), False),
    ],
    ids=["204", "business error", "500", "429", "page 403", "page 200", "router", "302"],
)
async def test_only_cardcashs_own_answer_says_that_a_token_was_taken(calls: Call, reply: bytes, known: bool) -> None:
    async with serving(reply) as server:
        keeping = calls(server.url).keep_alive(held(), "/v3/carts")
        if known:
            assert await keeping is None
        else:
            with pytest.raises(SessionOutage, match="keep-alive"):
                await keeping


async def test_a_keep_alive_does_not_bring_the_token_of_another_account(calls: Call) -> None:
    token = Token("held.token.x", FakeClock().now(), 600, identity="a@example.com", own_login=True)
    async with serving(answer("200 OK", b"{}", f"authorization: {jwt(email='b@example.com')}")) as server:
        assert await calls(server.url).keep_alive(token, "/v3/carts") is None


async def test_a_keep_alive_tells_of_a_rejected_token(calls: Call) -> None:
    async with serving(answer("400 Bad Request", NO)) as server:
        with pytest.raises(SessionTokenRejected):
            await calls(server.url).keep_alive(held(), "/v3/carts")


# Retries


@pytest.mark.parametrize(
    "reply",
    [
        answer("500 Internal Server Error"),
        answer("500 Internal Server Error", b"x" * 200_000),
        answer("520 Unknown"),
        CLOSE,
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nBREAK",
    ],
    ids=["500", "large 500", "520", "closed", "broken off"],
)
async def test_5xx_and_lost_connections_are_tried_exactly_as_often_as_asked(calls: Call, reply: bytes | str) -> None:
    for tries in (1, 4):
        async with serving(reply) as server:
            with pytest.raises(SessionOutage):
                await calls(server.url).session(tries=tries)
        assert len(server.requests) == tries


async def test_a_lost_connection_of_the_keep_alive_is_not_sent_again_by_the_library(calls: Call) -> None:
    async with serving(CLOSE) as server:
        with pytest.raises(SessionOutage):
            await calls(server.url).keep_alive(held(), "/v3/carts")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "408 Timeout", "429 Too Many", "200 OK"])
async def test_a_session_call_that_met_the_edge_is_tried_again(calls: Call, status: str) -> None:
    async with serving(answer(status, PAGE)) as server:
        with pytest.raises(SessionOutage):
            await calls(server.url).session(tries=3)
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "403 Forbidden"])
async def test_a_refusal_is_never_tried_again(calls: Call, status: str) -> None:
    async with serving(answer(status, b'{"message":["Invalid"]}')) as server:
        with pytest.raises(SessionRefused):
            await calls(server.url).session(tries=4)
        with pytest.raises(SessionRefused):
            await calls(server.url).login(held(), tries=4)
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", ["300 Multiple Choices", "302 Found"])
async def test_redirects_are_never_tried_again(calls: Call, status: str) -> None:
    async with serving(answer(status, PAGE, "Location: /elsewhere")) as server:
        with pytest.raises(SessionOutage):
            await calls(server.url).session(tries=4)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "tries"), [("400 Bad", 3), ("403 Forbidden", 3), ("408 Timeout", 3), ("429 Too Many", 1)]
)
async def test_a_login_that_met_the_edge_is_tried_again_but_not_after_429(calls: Call, status: str, tries: int) -> None:
    async with serving(answer(status, PAGE)) as server:
        with pytest.raises(SessionOutage):
            await calls(server.url).login(held(), tries=3)
    assert len(server.requests) == tries


@pytest.mark.parametrize(("call", "tries"), [("session", 3), ("login", 1)])
@pytest.mark.parametrize(
    "reply",
    [
        answer("404 Not Found", b"404 page not found\n", "Content-Type: text/plain; charset=utf-8"),
        answer("403 Forbidden", b"RBAC: access denied", "Content-Type: text/plain"),
        answer("403 Forbidden", b"[]", "Content-Type: application/json"),
        answer("421 Misdirected Request", b'"no"', "Content-Type: application/json"),
        answer("401 Unauthorized", b" \r\n"),
    ],
    ids=["router", "mesh", "array", "string", "nothing"],
)
async def test_a_word_of_a_router_on_the_way_refuses_nothing_but_a_login_is_tried_again_only_after_the_pause(
    calls: Call, reply: bytes, call: str, tries: int
) -> None:
    # Nobody knows that no failed login looks so: at once, tries would count towards a lock-out.
    async with serving(reply) as server:
        made = calls(server.url)
        with pytest.raises(SessionOutage, match=r"upstream\.origin"):
            await (made.session(tries=3) if call == "session" else made.login(held(), tries=3))
    assert len(server.requests) == tries


@pytest.mark.parametrize("call", ["session", "login"])
async def test_nothing_is_tried_again_of_which_nobody_would_hear(calls: Call, call: str) -> None:
    until = asyncio.get_running_loop().time()
    async with serving(BAD["503"]) as server:
        made = calls(server.url, fraction=lambda: 1.0)
        with pytest.raises(SessionOutage, match="with 503"):
            await (
                made.session(tries=3, until=until) if call == "session" else made.login(held(), tries=3, until=until)
            )
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "first", [CLOSE, answer("502 Bad Gateway"), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nBREAK"]
)
async def test_a_retry_that_succeeds_is_a_success(calls: Call, first: bytes | str) -> None:
    async with serving(first, GOOD) as server:
        assert (await calls(server.url).session(tries=2)).value == TOKEN
    assert len(server.requests) == 2


# Failures

RENEW = "then run `cardcash-proxy session renew`."


@pytest.mark.parametrize(
    ("call", "reply", "sentence"),
    [
        ("session", BAD["503"], f"CardCash answered POST /session with 503; {advice_for_answer(503, b'')}."),
        (
            "session",
            BAD["huge"],
            "POST /v3/session failed: CardCash's answer is too long to be one of a session, or in a coding that cannot be "
            f"undone; {advice_for_kind('invalid')}.",
        ),
        ("session", BAD["page"], f"CardCash answered POST /session with no token; {advice_for_answer(200, PAGE)}."),
        (
            "session",
            answer("401 Unauthorized", REFUSAL),
            f"CardCash refused the application id with 401; check app_id and environment, {RENEW}",
        ),
        ("login", BAD["503"], f"CardCash answered the login with 503; {advice_for_answer(503, b'')}."),
        ("login", BAD["page"], f"CardCash answered the login with a web page; {advice_for_answer(200, PAGE)}."),
        (
            "login",
            answer("401 Unauthorized", REFUSAL),
            "CardCash refused the login with 401; it is not tried again, so that the account is not locked: "
            f"check login.email and login.password, {RENEW}",
        ),
        ("login", BAD["rejection"], "CardCash rejected a new session's token at login with 400."),
        ("keep_alive", BAD["rejection"], "CardCash rejected the token of the keep-alive call with 400."),
    ],
)
async def test_operators_are_told_which_call_failed_with_what_and_what_to_do(
    calls: Call, call: str, reply: bytes, sentence: str
) -> None:
    async with serving(reply) as server:
        made = calls(server.url)
        called: dict[str, Callable[[], Awaitable[object]]] = {
            "session": lambda: made.session(tries=1),
            "login": lambda: made.login(held(), tries=1),
            "keep_alive": lambda: made.keep_alive(held(), "/v3/carts"),
        }
        with pytest.raises((SessionOutage, SessionRefused, SessionTokenRejected)) as caught:
            await called[call]()
    assert str(caught.value) == sentence


async def test_a_refused_connection_says_so(calls: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(SessionOutage) as caught:
        await calls(f"http://127.0.0.1:{port}").session(tries=2)
    assert str(caught.value) == (
        f"POST /v3/session failed: The connection to 127.0.0.1 was refused; {advice_for_kind('refused')}."
    )


@pytest.mark.parametrize("error", [Overloaded("All are busy; send it again."), Draining("It stops; send it again.")])
async def test_what_our_own_client_cannot_send_says_why_without_the_advice_for_callers(error: ProxyError) -> None:
    class Client:
        async def send(self, *, method: str, head: bytes, body: bytes | None) -> Never:
            raise error

    made = SessionCalls(Credentials(APP), Client(), host=b"x", base_path="/v3", user_agent="x", clock=FakeClock())
    with pytest.raises(SessionOutage) as caught:
        await made.session(tries=2)
    assert str(caught.value) == f"POST /v3/session failed: {str(error).partition(';')[0]}."


@pytest.mark.parametrize("fault", ["unknown authority", "other name"])
async def test_a_certificate_that_is_not_valid_says_what_to_check(calls: Call, fault: str) -> None:
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost" if fault == "unknown authority" else "other.example").configure_cert(server_side)
    context = tls_context(None)
    if fault == "other name":
        authority.configure_trust(context)
    async with serving(GOOD, tls=server_side) as server:
        with pytest.raises(
            SessionOutage,
            match=r"certificate of localhost was not accepted .*; check upstream.origin and upstream.ca_file",
        ):
            await calls(server.url, ssl_context=context).session(tries=1)
    assert server.requests == []


async def test_a_proxy_that_refuses_is_named_without_its_credentials(calls: Call) -> None:
    async with serving(answer("407 Proxy Authentication Required")) as proxy:
        tunnel = ProxyTunnel("localhost", int(proxy.url.rpartition(":")[2]), b"Basic c2VjcmV0")
        made = calls("https://upstream.test", ssl_context=tls_context(None), tunnel=tunnel)
        with pytest.raises(SessionOutage, match=r"\(status 407\); check HTTPS_PROXY") as caught:
            await made.session(tries=1)
    assert proxy.requests[0].startswith(b"CONNECT upstream.test:443 HTTP/1.1\r\n")
    assert fields(proxy.requests[0])[b"proxy-authorization"] == b"Basic c2VjcmV0"
    assert "c2VjcmV0" not in "".join(traceback.format_exception(caught.value))
    assert APP.encode() not in proxy.requests[0]


async def test_no_secret_shows_in_any_repr() -> None:
    clock = FakeClock()
    shown = repr(Credentials(APP, EMAIL, PASSWORD)) + repr(
        CallAnswer("POST", 200, ((b"authorization", TOKEN.encode()),), TOKEN.encode(), clock.now())
    )
    for secret in (APP, EMAIL, PASSWORD, TOKEN):
        assert secret not in shown


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Unavailable"])
async def test_a_renewal_waits_for_no_retry_after_beyond_its_end_but_pauses_as_long_and_says_what_was_answered(
    calls: Call, status: str
) -> None:
    async with serving(answer(status, b"", "Retry-After: 3")) as server:
        clock = FakeClock()
        keeper = SessionKeeper(
            calls(server.url), store=MemoryStore(clock), clock=clock, observer=Recorder(), policy=Policy(deadline=2.5)
        )
        with pytest.raises(SessionUnavailable, match=rf"answered POST /session with {status[:3]}") as failed:
            await keeper.token()
        await keeper.close()
    assert (failed.value.retry_after, len(server.requests)) == (3, 1)


@pytest.mark.parametrize("where", ["before the head", "in the body"])
async def test_a_hung_upstream_does_not_outlive_the_keepers_deadline(calls: Call, where: str) -> None:
    hung: bytes | str = HANG if where == "before the head" else b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"
    server: RawServer
    async with serving(hung) as server:
        made = calls(server.url)
        keeper = SessionKeeper(
            made, store=MemoryStore(FakeClock()), clock=FakeClock(), observer=Recorder(), policy=Policy(deadline=0.2)
        )
        with pytest.raises(SessionUnavailable, match=r"within 0\.2 s"):
            await keeper.token()
        async with asyncio.timeout(30):
            await server.left.wait()
        await keeper.close()
    assert len(server.requests) == 1
