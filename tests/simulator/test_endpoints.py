"""Every endpoint that is documented exists, with its documented status, and asks for a login where it should."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from tests.simulator.test_business import face

ORDER = {"payment": {"method": "ACH"}, "shippingDetails": {}}
CARD = {"method": "CREDITCARD", "details": {"number": "0000-FAKE-1111"}}

Call = tuple[str, str, dict[str, Any] | None, int]  # method, path, body, status
OPEN: list[Call] = [
    ("GET", "/v3/merchants/buy", None, 200),
    ("GET", "/v3/merchants/sell", None, 200),
    ("POST", "/v3/customers/login", {"customer": {"email": "partner@example.com", "password": "demo-password"}}, 200),
    (
        "POST",
        "/v3/customers",
        {"customer": {"firstName": "a", "lastName": "b", "email": "c@example.com", "password": "d"}},
        201,
    ),
]
# In this order: each goes on from what those before it left. {names} are filled in from earlier answers.
ACCOUNT: list[Call] = [
    ("GET", "/v3/customers", None, 200),
    ("GET", "/v3/customers/", None, 200),
    ("GET", "/v3/merchants/buy/bulk", None, 200),
    ("GET", "/v3/merchants/1/inventory/bulk", None, 200),
    ("POST", "/v3/carts", {"action": "buy"}, 201),
    ("POST", "/v3/carts", {"action": "buy"}, 200),
    ("GET", "/v3/carts", None, 200),
    ("POST", "/v3.1/carts/{cart}/cards", {"cards": [{"merchantId": 1, "faceValue": 0}]}, 201),
    ("PUT", "/v3/carts/{cart}/cards/{line}", {"qty": 1}, 200),
    ("POST", "/v3/carts/{cart}/coupons/SAVE5", None, 200),
    ("DELETE", "/v3/carts/{cart}/coupons/SAVE5", None, 200),
    ("DELETE", "/v3/carts/{cart}/cards/{line}", None, 200),
    ("DELETE", "/v3/carts/{cart}", None, 204),
    ("POST", "/v3/orders?checkout=condensed", {"cards": [{"merchantId": 1, "faceValue": 0}], **ORDER}, 201),
    ("GET", "/v3/orders/buy?store_specific=true", None, 200),
    ("GET", "/v3/orders/sell?store_specific=true", None, 200),
    ("GET", "/v3/orders/{order}", None, 200),
    ("PUT", "/v3/orders/{order}", ORDER, 200),
    ("GET", "/v3/orders/status/{order}", None, 200),
    ("GET", "/v3/wallets", None, 200),
    ("GET", "/v3/wallets?archived=true", None, 200),
    ("GET", "/v3/wallets/{card}", None, 200),
    ("PUT", "/v3/wallets/{card}", {"balance": 1}, 200),
    ("GET", "/v3/wallets/{card}/secure-data", None, 200),
    ("POST", "/v3/customers/payment-options", CARD, 200),
    ("GET", "/v3/customers/payment-options", None, 200),
    ("PUT", "/v3/customers/payment-options", {"id": 1, "default": True}, 200),
    ("DELETE", "/v3/customers/payment-options", {"id": 1}, 200),
    ("GET", "/v3/customers/drawdown-account", None, 200),
    ("GET", "/v3/customers/drawdown-account/transactions", None, 200),
    ("POST", "/v3/carts", {"action": "sell"}, 201),
    ("POST", "/v3/carts/{cart}/cards", {"card": {"merchantId": 1, "enterValue": 50}}, 201),
    ("GET", "/v3/cards/sell", None, 200),
    ("GET", "/v3/payments/sell", None, 200),
    ("GET", "/v3/payments/sell/1", None, 200),
]


async def ask(caller: Any, method: str, path: str, body: Any) -> Any:
    return await caller.call(method, path, **({"json": body} if body is not None else {}))


def learn(names: dict[str, str], answer: Any) -> None:
    """Keep the ids that later paths are made of."""
    told = answer.json if isinstance(answer.json, dict) else {}
    cart = told.get("cart", told)
    if "cartId" in cart:
        names["cart"] = cart["cartId"]
        names["line"] = next((card["id"] for card in cart["cards"]), "")
    if "buyOrder" in told:
        names["order"] = told["buyOrder"]["orderId"]
        names["card"] = str(told["buyOrder"]["cards"][0]["id"])


async def test_every_endpoint_answers_with_its_status(start: Any) -> None:
    caller = await start(wallet_delay=0.0)
    assert (await caller.post("/v3/session")).status == 200
    await caller.login()
    value, names = await face(caller), dict[str, str]()
    for method, path, body, status in deepcopy([*OPEN, *ACCOUNT]):
        for card in (body or {}).get("cards", []):
            card["faceValue"] = value
        answer = await ask(caller, method, path.format(**names), body)
        assert answer.status == status, (method, path, answer.raw)
        learn(names, answer)


@pytest.mark.parametrize(("method", "path", "body"), sorted({(m, p, bool(b)) for m, p, b, _ in ACCOUNT}))
async def test_what_belongs_to_an_account_needs_a_login(caller: Any, method: str, path: str, body: bool) -> None:
    await caller.session()
    answer = await ask(caller, method, path.format(cart="x", line="y", order="z", card="1"), {} if body else None)
    assert (answer.status, answer.json) == (400, {"message": ["You must be logged in"]})


@pytest.mark.parametrize(("method", "path"), [(m, p) for m, p, _, _ in OPEN])
async def test_all_but_the_session_call_need_a_token(caller: Any, method: str, path: str) -> None:
    answer = await ask(caller, method, path, None)
    assert (answer.status, answer.json) == (400, {"message": ["no Authorization token was found"]})
