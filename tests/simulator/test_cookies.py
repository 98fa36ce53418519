"""The older flow, which CardCash's own SDKs use: the token in a cookie named after the application id, no Authorization."""

from __future__ import annotations

from http.cookies import SimpleCookie
from typing import Any

import pytest

APP = "demo-app-id"


def kept(answer: Any) -> list[str]:
    """What a cookie jar takes from the answer."""
    return [SimpleCookie(line)[APP].value for line in answer.headers.getall("Set-Cookie", [])]


async def with_cookie(caller: Any, method: str, path: str, value: str, **more: Any) -> Any:
    headers = {"Cookie": f"first=1; {APP}={value}; last=2", **more.pop("headers", {})}
    return await caller.call(method, path, headers=headers, **more)


@pytest.mark.parametrize("delivery", ["both", "cookie"])
async def test_a_client_can_live_on_the_cookie_alone(start: Any, delivery: str) -> None:
    caller = await start(delivery=delivery)
    (cookie,) = kept(await caller.post("/v3/session", {}))
    body = {"customer": {"email": "partner@example.com", "password": "demo-password"}}
    login = await with_cookie(caller, "POST", "/v3/customers/login", cookie, json=body)
    assert ("authorization" in login.headers) is (delivery == "both")
    (cookie,) = kept(login)
    assert (await with_cookie(caller, "GET", "/v3/carts", cookie)).status == 200
    assert (await with_cookie(caller, "GET", "/v3/customers/", cookie)).json["customer"]["customerId"] > 0


async def test_a_cookie_of_another_name_is_none(caller: Any) -> None:
    (cookie,) = kept(await caller.post("/v3/session"))
    answer = await caller.get("/v3/_echo", headers={"Cookie": f"other-app-id={cookie}"})
    assert answer.json == {"message": ["no Authorization token was found"]}


async def test_an_answer_near_the_end_sets_the_cookie_anew(start: Any) -> None:
    caller = await start(delivery="cookie", token_ttl=100.0, refresh_window=30.0)
    (cookie,) = kept(await caller.post("/v3/session"))
    assert kept(await with_cookie(caller, "GET", "/v3/merchants/sell", cookie)) == []
    caller.sim.advance(80)
    (newer,) = kept(await with_cookie(caller, "GET", "/v3/merchants/sell", cookie))
    assert newer != cookie
    caller.sim.advance(50)
    assert (await with_cookie(caller, "GET", "/v3/_echo", newer)).status == 200


async def test_every_answer_can_set_the_cookie_again(start: Any) -> None:
    caller = await start(cookie_reissued=True)
    (cookie,) = kept(await caller.post("/v3/session"))
    answer = await with_cookie(caller, "GET", "/v3/merchants/sell", cookie)
    assert (kept(answer), "authorization" in answer.headers) == ([cookie], False)
    assert kept(await with_cookie(caller, "GET", "/v3/nowhere", cookie)) == [cookie]
    assert kept(await with_cookie(caller, "GET", "/v3/_echo", "stale")) == []


@pytest.mark.parametrize(
    ("wins", "good_header", "good_cookie", "alone"),
    [("header", 200, 400, 200), ("cookie", 400, 200, 200), ("header_only", 200, 400, 400)],
)
async def test_which_of_the_two_wins_is_a_setting(
    start: Any, wins: str, good_header: int, good_cookie: int, alone: int
) -> None:
    caller = await start(credential_precedence=wins)
    (good,) = kept(await caller.post("/v3/session"))
    told = {"Authorization": f"Bearer {good}"}
    assert (await with_cookie(caller, "GET", "/v3/_echo", "stale", headers=told)).status == good_header
    stale = {"Authorization": "Bearer stale"}
    assert (await with_cookie(caller, "GET", "/v3/_echo", good, headers=stale)).status == good_cookie
    assert (await with_cookie(caller, "GET", "/v3/_echo", good)).status == alone
