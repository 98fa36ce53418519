"""Sessions, login, refresh and rejection as core/README.md tells them, and each answer to its open questions."""

from __future__ import annotations

import asyncio
from typing import Any

import jwt
import pytest

REJECTED = {"message": ["no Authorization token was found"]}


async def test_a_session_answers_with_body_and_headers(caller: Any) -> None:
    answer = await caller.post("/v3/session")
    assert answer.status == 200
    assert set(answer.json) == {"access_token", "expiresInSeconds", "sessionId", "renderAssets"}
    assert answer.token == answer.json["access_token"]
    assert answer.headers["x-token-exp-seconds"] == "1199"
    assert answer.headers["x-session-id"] == answer.json["sessionId"]
    assert answer.headers["Set-Cookie"].startswith(f"demo-app-id={answer.token};")


async def test_a_token_is_a_signed_jwt_with_whole_second_claims(caller: Any) -> None:
    claims = jwt.decode(await caller.session(), options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 1199
    assert "email" not in claims


async def test_a_login_puts_the_identity_into_a_new_token(caller: Any) -> None:
    anonymous = await caller.session()
    answer = await caller.login()
    assert answer.status == 200
    assert answer.token != anonymous
    assert jwt.decode(answer.token, options={"verify_signature": False})["email"] == "partner@example.com"


async def test_a_missing_token_is_rejected(caller: Any) -> None:
    answer = await caller.get("/v3/carts")
    assert (answer.status, answer.json) == (400, REJECTED)


@pytest.mark.parametrize("end", ["revoke_all", "expire_all"])
async def test_an_ended_token_is_rejected(caller: Any, end: str) -> None:
    await caller.session()
    assert getattr(caller.sim, end)() == 1
    assert (await caller.get("/v3/merchants/buy")).json == REJECTED


async def test_a_token_expires_by_the_clock_also_within_a_second(start: Any) -> None:
    caller = await start(token_ttl=0.5, refresh_window=0.0)
    await caller.session()
    caller.sim.advance(0.4)
    assert (await caller.get("/v3/_echo")).status == 200
    caller.sim.advance(0.2)
    assert (await caller.get("/v3/_echo")).json == REJECTED


async def test_the_application_id_is_asked_for_first(caller: Any) -> None:
    missing = await caller.get("/v3/carts", headers={"x-cc-app": ""})
    unknown = await caller.get("/v3/carts", headers={"x-cc-app": "other"})
    assert (missing.status, missing.json) == (unknown.status, unknown.json) == (401, {"message": ["Unauthorized"]})
    session = await caller.post("/v3/session", headers={"x-cc-app": ""})
    assert (session.status, session.json) == (400, {"message": ["no x-cc-app was found"]})


async def test_a_request_without_user_agent_is_unauthorized(caller: Any) -> None:
    answer = await caller.call("POST", "/v3/session", skip_auto_headers=["User-Agent"])
    assert (answer.status, answer.json) == (401, {"message": ["Unauthorized"]})


async def test_an_anonymous_token_does_not_reach_account_paths(start: Any) -> None:
    caller = await start(anonymous_status=401, anonymous_message="Login please", anonymous_shape="plain")
    await caller.session()
    answer = await caller.get("/v3/wallets")
    assert (answer.status, answer.raw) == (401, b"Login please")


async def test_a_guest_sees_an_empty_account_where_the_setting_says_so(start: Any) -> None:
    caller = await start(anonymous="guest")
    await caller.session()
    assert (await caller.get("/v3/wallets")).json == {"cards": []}


# -- rejection in every wording -----------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["identity", "gzip", "deflate", "br", "zstd"])
async def test_a_rejection_comes_in_every_coding(start: Any, coding: str) -> None:
    caller = await start(rejection_encoding=coding, rejection_bom=True, rejection_padding=3, rejection_extra=True)
    answer = await caller.get("/v3/carts")
    assert answer.headers.get("Content-Encoding", "identity") == coding
    assert answer.raw.startswith(b"\xef\xbb\xbf   {")
    assert answer.json == {"statusCode": 400, "error": "Bad Request", **REJECTED}


async def test_a_rejection_can_lack_its_content_type_and_be_chunked(start: Any) -> None:
    caller = await start(rejection_content_type="", rejection_chunked=True)
    answer = await caller.get("/v3/carts")
    assert "Content-Type" not in answer.headers
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.json == REJECTED


@pytest.mark.parametrize(
    ("shape", "raw"),
    [("array", b'{"message":["jwt expired"]}'), ("string", b'{"message":"jwt expired"}'), ("plain", b"jwt expired")],
)
async def test_a_rejection_comes_in_every_shape(start: Any, shape: str, raw: bytes) -> None:
    caller = await start(rejection_status=401, rejection_message="jwt expired", rejection_shape=shape)
    answer = await caller.get("/v3/carts")
    assert (answer.status, answer.raw) == (401, raw)


async def test_the_wording_can_follow_the_cause(start: Any) -> None:
    caller = await start(rejection_message="by-cause")
    told = []
    good = await caller.session()
    foreign = jwt.encode({"exp": 2_000_000_000}, "another key that is long enough for it", algorithm="HS256")
    for token in ("", "rubbish", foreign):
        caller.token = token
        told.append((await caller.get("/v3/carts")).json["message"][0])
    caller.sim.expire_all()
    caller.token = good
    told.append((await caller.get("/v3/carts")).json["message"][0])
    assert told == ["No authorization token was found", "jwt malformed", "invalid signature", "jwt expired"]


# -- refresh ------------------------------------------------------------------------------------------------


async def near_expiry(start: Any, **settings: Any) -> Any:
    caller = await start(token_ttl=100.0, refresh_window=30.0, **settings)
    await caller.login()
    assert (await caller.get("/v3/carts")).token is None
    caller.sim.advance(80)
    return caller


async def test_answers_in_the_window_carry_a_new_token_with_the_login(start: Any) -> None:
    caller = await near_expiry(start)
    answer = await caller.get("/v3/carts")
    assert answer.headers["x-token-exp-seconds"] == "100"
    assert jwt.decode(answer.token, options={"verify_signature": False})["email"] == "partner@example.com"
    caller.token = answer.token
    caller.sim.advance(50)
    assert (await caller.get("/v3/carts")).status == 200


async def test_a_refreshed_token_can_lose_the_login(start: Any) -> None:
    caller = await near_expiry(start, refresh_keeps_login=False)
    caller.token = (await caller.get("/v3/carts")).token
    assert (await caller.get("/v3/carts")).json == {"message": ["You must be logged in"]}


@pytest.mark.parametrize(("answered", "status"), [("valid", 200), ("revoked", 400)])
async def test_the_old_token_after_a_refresh(start: Any, answered: str, status: int) -> None:
    caller = await near_expiry(start, old_after_refresh=answered)
    await caller.get("/v3/carts")
    assert (await caller.get("/v3/carts")).status == status


@pytest.mark.parametrize(("answered", "status"), [("valid", 200), ("revoked", 400)])
async def test_the_old_token_after_a_login(start: Any, answered: str, status: int) -> None:
    caller = await start(old_after_login=answered)
    anonymous = await caller.session()
    await caller.login()
    caller.token = anonymous
    assert (await caller.get("/v3/merchants/sell")).status == status


@pytest.mark.parametrize(("answered", "different"), [("different", 5), ("same", 1), ("once", 1)])
async def test_parallel_refreshes(start: Any, answered: str, different: int) -> None:
    caller = await near_expiry(start, parallel_refresh=answered)
    answers = await asyncio.gather(*(caller.get("/v3/carts") for _ in range(5)))
    tokens = [answer.token for answer in answers if answer.token]
    assert len(set(tokens)) == different
    assert len(tokens) == (1 if answered == "once" else 5)


async def test_latest_only_leaves_one_token_of_parallel_refreshes(start: Any) -> None:
    caller = await near_expiry(start, old_after_refresh="latest_only")
    # All five are past the token check when the first of them is answered.
    caller.sim.fault("delay", path="/v3/carts", times=5, seconds=0.02, when="after")
    caller.sim.configure(latency=0.0)
    answers = await asyncio.gather(*(caller.get("/v3/carts") for _ in range(5)))
    statuses = []
    for token in {answer.token for answer in answers if answer.token}:
        caller.token = token
        statuses.append((await caller.get("/v3/carts")).status)
    assert statuses.count(200) == 1


@pytest.mark.parametrize(
    ("on", "expected"),
    [("all", [True] * 3), ("2xx", [True, True, False]), ("get_2xx", [True, False, False]), ("none", [False] * 3)],
)
async def test_where_a_refresh_rides(start: Any, on: str, expected: list[bool]) -> None:
    caller = await near_expiry(start, refresh_on=on)
    good, post, error = (
        await caller.get("/v3/carts"),
        await caller.post("/v3/carts", {"action": "buy"}),
        await caller.get("/v3/nowhere"),
    )
    assert [answer.token is not None for answer in (good, post, error)] == expected


async def test_a_streamed_answer_carries_a_refresh_too(start: Any) -> None:
    caller = await near_expiry(start)
    assert (await caller.get("/v3/_stream?bytes=10")).token is not None


# -- delivery -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("delivery", "header", "cookie"), [("header", True, False), ("cookie", False, True)])
async def test_tokens_are_given_out_as_the_setting_says(start: Any, delivery: str, header: bool, cookie: bool) -> None:
    answer = await (await start(delivery=delivery)).post("/v3/session")
    assert ("authorization" in answer.headers, "Set-Cookie" in answer.headers) == (header, cookie)


@pytest.mark.parametrize(("wins", "status"), [("header", 200), ("cookie", 400), ("header_only", 200)])
async def test_header_and_cookie_precedence(start: Any, wins: str, status: int) -> None:
    caller = await start(credential_precedence=wins)
    await caller.session()
    answer = await caller.get("/v3/_echo", headers={"Cookie": "a=b; demo-app-id=stale"})
    assert answer.status == status


async def test_a_cookie_alone_is_enough(caller: Any) -> None:
    cookie = f"demo-app-id={await caller.session()}"
    caller.token = None
    assert (await caller.get("/v3/_echo", headers={"Cookie": cookie})).status == 200


async def test_lifetimes_can_be_absurd(start: Any) -> None:
    caller = await start(lifetime_header="a century", lifetime_body="-1", authorization_prefix="Bearer ")
    answer = await caller.post("/v3/session")
    assert answer.headers["x-token-exp-seconds"] == "a century"
    assert answer.json["expiresInSeconds"] == -1
    assert answer.token.startswith("Bearer ")


# -- session calls and logins -------------------------------------------------------------------------------


@pytest.mark.parametrize(("answered", "alive_same", "revoked_same"), [
    ("new", False, False), ("existing", True, False), ("last", True, True),
])  # fmt: skip
async def test_what_a_repeated_session_call_returns(
    start: Any, answered: str, alive_same: bool, revoked_same: bool
) -> None:
    caller = await start(session_answer=answered)
    first, second = await caller.session(), await caller.session()
    assert (first == second) is alive_same
    caller.sim.revoke_all()
    assert (second == await caller.session()) is revoked_same


async def test_a_session_limit_refuses_or_evicts(start: Any) -> None:
    caller = await start(session_limit=1)
    first = await caller.session()
    assert (await caller.post("/v3/session")).status == 429
    caller.sim.configure(session_limit_action="evict")
    assert await caller.session() != first
    caller.token = first
    assert (await caller.get("/v3/_echo")).status == 400


async def test_a_rate_of_session_calls_is_limited(start: Any) -> None:
    caller = await start(session_rate_limit=1)
    await caller.session()
    refused = await caller.post("/v3/session")
    assert (refused.status, refused.headers["Retry-After"]) == (429, "60")
    caller.sim.advance(60)
    assert (await caller.post("/v3/session")).status == 200


async def test_a_failed_login_and_the_lock_out(start: Any) -> None:
    caller = await start(lockout_after=2, lockout_seconds=60.0, login_failed_status=401, lockout_shape="string")
    for _ in range(2):
        assert (await caller.login(password="wrong")).status == 401
    locked = await caller.login()
    assert (locked.status, locked.json) == (423, {"message": "Account locked"})
    caller.sim.advance(61)
    assert (await caller.login()).status == 200


async def test_stillborn_tokens_and_an_upstream_that_rejects_everything(start: Any) -> None:
    caller = await start(stillborn_tokens=True)
    await caller.session()
    assert (await caller.get("/v3/_echo")).json == REJECTED
    caller.sim.configure(stillborn_tokens=False, reject_all=True)
    await caller.session()
    assert (await caller.get("/v3/_echo")).json == REJECTED


async def test_a_second_login_can_end_the_first(start: Any) -> None:
    caller = await start(one_login_per_account=True)
    first = (await caller.login()).token
    caller.token = None
    await caller.login()
    caller.token = first
    assert (await caller.get("/v3/carts")).status == 400


async def test_head_can_be_refused(start: Any) -> None:
    caller = await start(head_refusal_status=400)
    await caller.session()
    answer = await caller.call("HEAD", "/v3/merchants/buy")
    assert (answer.status, answer.raw) == (400, b"")
