"""A caller's own session and login calls, answered from the shared session."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from tests.cardcash import OK, REJECTION, CardCash, Received, Reply, bringing
from tests.conftest import StartProxy
from tests.server.harness import Running, until


@pytest.fixture
async def upstream(cardcash: CardCash) -> CardCash:
    """In plain HTTP: nothing here is about bytes."""
    return cardcash


def login(email: str, password: str = "x") -> bytes:
    return json.dumps({"customer": {"email": email, "password": password}}).encode()


JSON = b"Content-Type: application/json"


@pytest.mark.parametrize("target", ["/session", "/v3/session", "/v3.1/session", "/v3/session?x=y"])
async def test_a_session_call_is_answered_with_a_placeholder_and_the_real_lifetime(
    upstream: CardCash, proxy: Running, target: str
) -> None:
    got = await proxy.ask(f"POST {target}")
    assert got.status == 200
    body = got.json
    assert set(body) == {"access_token", "expiresInSeconds", "sessionId", "renderAssets"}
    assert 3500 < body["expiresInSeconds"] <= 3600
    assert got.value("authorization") == body["access_token"].encode()
    assert got.value("x-token-exp-seconds") == b"%d" % body["expiresInSeconds"]
    assert got.value("x-session-id") == body["sessionId"].encode()
    assert body["access_token"] not in upstream.tokens
    assert body["access_token"].count(".") == 2
    assert upstream.requests == []
    assert len(upstream.sessions) == 1


async def test_a_legacy_client_may_send_the_placeholder_and_is_served_with_the_real_token(
    upstream: CardCash, proxy: Running
) -> None:
    placeholder = (await proxy.ask("POST /session")).json["access_token"]
    assert (await proxy.ask("GET /carts", b"Authorization: Bearer " + placeholder.encode())).status == 200
    assert upstream.requests[0].token == upstream.tokens[0]


async def test_a_session_call_with_a_body_keeps_working_on_its_connection(upstream: CardCash, proxy: Running) -> None:
    caller = await proxy.caller()
    got = await caller.ask(proxy.request("POST /session", JSON, body=b"{}"))
    assert got.status == 200
    if got.value("connection") == b"close":
        assert await caller.ended() == b""
    else:
        assert (await caller.ask(proxy.request("GET /a"))).status == 200


@pytest.mark.parametrize("email", ["me@example.com", " ME@Example.com "])
async def test_a_login_as_the_configured_account_is_answered_here(
    upstream: CardCash, start_proxy: StartProxy, email: str
) -> None:
    proxy = await start_proxy(LOGIN__EMAIL="me@example.com", LOGIN__PASSWORD="p")
    got = await proxy.ask("POST /customers/login", JSON, body=login(email))
    assert got.status == 200
    assert got.value("authorization")
    assert got.value("authorization") not in {t.encode() for t in upstream.tokens}
    assert (len(upstream.logins), upstream.requests) == (1, [])


async def test_a_login_as_another_account_is_409(upstream: CardCash, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(LOGIN__EMAIL="me@example.com", LOGIN__PASSWORD="p")
    got = await proxy.ask("POST /v3/customers/login", JSON, body=login("you@example.com"))
    assert (got.status, got.code) == (409, "other_account")
    assert b"example.com" not in got.body
    assert all(b"you@" not in received.body for received in upstream.logins)


@pytest.mark.parametrize("body", [b"", b"{}", b"nonsense", b'{"customer":{"email":"a@b","email":"c@d"}}', b"[" * 5000])
async def test_a_login_whose_account_cannot_be_told_is_400(
    upstream: CardCash, start_proxy: StartProxy, body: bytes
) -> None:
    proxy = await start_proxy(LOGIN__EMAIL="me@example.com", LOGIN__PASSWORD="p")
    got = await proxy.ask("POST /customers/login", JSON, body=body)
    assert (got.status, got.code) == (400, "bad_request")


@pytest.mark.parametrize("kind", [JSON, b"Content-Type: application/x-www-form-urlencoded"])
async def test_a_login_that_json_and_form_readers_read_as_two_accounts_is_400_and_never_forwarded(
    upstream: CardCash, proxy: Running, kind: bytes
) -> None:
    assert (await proxy.ask("POST /customers/login", JSON, body=login("a@x.example"))).status == 200
    body = login("a@x.example", "&customer[email]=b@x.example&customer[password]=p&z=")
    got = await proxy.ask("POST /customers/login", kind, body=body)
    assert (got.status, got.code) == (400, "bad_request")
    got = await proxy.ask("POST /customers/login?customer[email]=b@x.example", kind, body=login("a@x.example"))
    assert (got.status, got.code) == (400, "bad_request")
    assert len(upstream.logins) == 1


async def test_a_look_alike_of_the_account_is_another_account(upstream: CardCash, proxy: Running) -> None:
    assert (await proxy.ask("POST /customers/login", JSON, body=login("kate@x.example"))).status == 200
    assert (await proxy.ask("POST /customers/login", JSON, body=login("\u212aate@x.example"))).status == 409


async def test_without_a_configured_login_it_is_forwarded_and_adopted(upstream: CardCash, proxy: Running) -> None:
    got = await proxy.ask("POST /customers/login", JSON, body=login("me@example.com", "their-password"))
    assert got.status == 200
    assert got.values("authorization") == [] or got.value("authorization") != upstream.tokens[1].encode()
    assert json.loads(upstream.logins[0].body) == {
        "customer": {"email": "me@example.com", "password": "their-password"}
    }
    await proxy.ask("GET /carts")
    assert upstream.requests[0].token == upstream.tokens[1]
    assert (await proxy.admin.ask("GET /status")).json["session"]["identity_from_caller"] is True


#: A token that says nothing of its life, as CardCash's may.
OPAQUE = "opaque.session.token"


@pytest.mark.parametrize("configured", [True, False])
async def test_a_login_that_repeats_the_token_without_a_lifetime_keeps_the_lifetime_of_the_session(
    upstream: CardCash, start_proxy: StartProxy, configured: bool
) -> None:
    upstream.session_answers.append(bringing(OPAQUE, 3000))
    upstream.login_answers.append(bringing(OPAQUE))
    proxy = await start_proxy(**({"LOGIN__EMAIL": "me@x.example", "LOGIN__PASSWORD": "p"} if configured else {}))
    assert (await proxy.ask("POST /customers/login", JSON, body=login("me@x.example"))).status == 200
    told = (await proxy.admin.ask("GET /status")).json["session"]
    assert (told["identity"], 2900 < told["expires_in_seconds"] <= 3000) == ("m…@x.example", True)


async def test_after_an_adopted_login_the_same_is_forwarded_again_and_another_is_409(
    upstream: CardCash, proxy: Running
) -> None:
    await proxy.ask("POST /customers/login", JSON, body=login("me@example.com"))
    assert (await proxy.ask("POST /customers/login", JSON, body=login("ME@example.com"))).status == 200
    assert (await proxy.ask("POST /customers/login", JSON, body=login("you@example.com"))).code == "other_account"
    assert len(upstream.logins) == 2


async def test_a_login_whose_session_has_been_revoked_is_made_again_and_adopted(
    upstream: CardCash, proxy: Running
) -> None:
    await proxy.ask("POST /customers/login", JSON, body=login("me@example.com"))
    upstream.login_answers.append(REJECTION)
    assert (await proxy.ask("POST /customers/login", JSON, body=login("me@example.com"))).status == 200
    await proxy.ask("GET /carts")
    assert upstream.requests[-1].token == upstream.tokens[-1]
    session = (await proxy.admin.ask("GET /status")).json["session"]
    assert (session["identity"], session["identity_lost"]) == ("m…@example.com", False)


async def test_a_caller_that_leaves_during_its_login_does_not_undo_it(upstream: CardCash, proxy: Running) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def slow(got: Received) -> Reply:
        arrived.set()
        await go.wait()
        return await upstream.new_login(got)

    upstream.login_answers.append(slow)
    caller = await proxy.caller()
    await caller.send(proxy.request("POST /customers/login", JSON, body=login("me@example.com")))
    await arrived.wait()
    caller.reset()
    await until(lambda: proxy.proxy.guard.in_flight == 0)
    go.set()
    await until(lambda: proxy.account == "me@example.com")


async def test_a_login_in_gzip_is_read_and_forwarded_as_it_came(upstream: CardCash, proxy: Running) -> None:
    coded = gzip.compress(login("me@example.com"))
    got = await proxy.ask("POST /customers/login", JSON, b"Content-Encoding: gzip", body=coded)
    assert got.status == 200
    assert upstream.logins[0].body == coded


async def test_a_refused_login_of_a_caller_comes_down_and_is_not_remembered(upstream: CardCash, proxy: Running) -> None:
    upstream.login_answers.append(Reply(400, b'{"message":["Invalid email or password"]}'))
    got = await proxy.ask("POST /customers/login", JSON, body=login("me@example.com"))
    assert (got.status, got.body) == (400, b'{"message":["Invalid email or password"]}')
    assert (await proxy.ask("POST /customers/login", JSON, body=login("you@example.com"))).status == 200
    assert len(upstream.logins) == 2


async def test_of_two_logins_at_once_the_first_wins(upstream: CardCash, proxy: Running) -> None:
    go = asyncio.Event()

    async def slow(got: Received) -> Reply:
        await go.wait()
        return await upstream.new_login(got)

    upstream.login_answers.append(slow)
    first = asyncio.create_task(proxy.ask("POST /customers/login", JSON, body=login("me@example.com")))
    await until(lambda: upstream.logins)
    second = asyncio.create_task(proxy.ask("POST /customers/login", JSON, body=login("you@example.com")))
    await until(lambda: proxy.proxy.guard.in_flight == 2)
    go.set()
    assert (await first).status == 200
    assert (await second).status == 409
    assert len(upstream.logins) == 1


async def test_a_lost_login_goes_on_anonymously_says_so_and_anybody_may_log_in(
    upstream: CardCash, proxy: Running
) -> None:
    await proxy.ask("POST /customers/login", JSON, body=login("me@example.com"))
    upstream.answers += [REJECTION, REJECTION, OK]  # the second is the probe's: the login is gone for certain
    assert (await proxy.ask("GET /merchants/buy")).status == 200
    session = (await proxy.admin.ask("GET /status")).json["session"]
    assert session["identity"] is None
    assert session["identity_lost"] is True
    assert proxy.sample("session_identity_lost_total") == 1
    assert (await proxy.ask("POST /customers/login", JSON, body=login("you@example.com"))).status == 200


async def test_the_token_of_a_login_rejected_at_first_is_adopted_from_the_second_try(
    upstream: CardCash, proxy: Running
) -> None:
    upstream.login_answers.append(REJECTION)
    assert (await proxy.ask("POST /customers/login", JSON, body=login("me@example.com"))).status == 200
    assert (len(upstream.logins), len(upstream.sessions)) == (2, 2)
    await proxy.ask("GET /carts")
    assert upstream.requests[0].token == upstream.tokens[2]


async def test_a_form_login_is_understood(upstream: CardCash, proxy: Running) -> None:
    form = b"customer%5Bemail%5D=me%40example.com&customer[password]=p"
    got = await proxy.ask("POST /customers/login", b"Content-Type: application/x-www-form-urlencoded", body=form)
    assert got.status == 200
    assert upstream.logins[0].body == form
    assert (await proxy.ask("POST /customers/login", JSON, body=login("you@example.com"))).status == 409


@pytest.mark.parametrize(
    "line",
    [
        "GET /session",
        "OPTIONS /v3/session",
        "PUT /customers/login",
        "POST /v3/session/",
        "POST /session%20",
        "POST /session.json",
        "POST /v3//customers/login",
        "POST /customers/login%20",
        "GET /customers/login.json",
    ],
)
async def test_what_may_be_read_as_a_session_or_login_call_is_never_forwarded(
    upstream: CardCash, proxy: Running, line: str
) -> None:
    got = await proxy.ask(line)
    assert (got.status, got.code) == (400, "bad_request")
    assert (upstream.requests, upstream.logins) == ([], [])


@pytest.mark.parametrize("line", ["POST /sessions", "POST /x/session"])
async def test_nothing_else_is_taken_for_a_session_or_login_call(upstream: CardCash, proxy: Running, line: str) -> None:
    assert (await proxy.ask(line)).status == 200
    assert len(upstream.requests) == 1


async def test_a_login_that_lapses_without_traffic_is_reported_as_lost(
    upstream: CardCash, start_proxy: StartProxy
) -> None:
    upstream.lifetime = 1
    proxy = await start_proxy(SESSION__IDLE_AFTER="1ms")
    assert (await proxy.ask("POST /customers/login", JSON, body=login("me@example.com"))).status == 200
    await until(lambda: proxy.proxy.keeper.identity_lost)
    assert proxy.sample("session_identity_lost_total") == 1
    session = (await proxy.admin.ask("GET /status")).json["session"]
    assert (session["state"], session["identity"], session["identity_lost"]) == ("expired", None, True)


async def test_the_body_of_a_session_call_is_swallowed_and_bounded(upstream: CardCash, proxy: Running) -> None:
    caller = await proxy.caller()
    await caller.send(b"POST /session HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n")
    await caller.send(bytes(0x200000) + b"\r\n0\r\n\r\n" + proxy.request("GET /a"))
    first, second = await caller.answer(), await caller.answer()
    assert (first.status, second.status) == (200, 200)
    await caller.send(b"POST /session HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\na00001\r\n")
    await caller.send(bytes(0xA00001))
    assert (await caller.answer()).code == "body_too_large"
