"""The buy flow and its neighbours (core/README.md): state persists through it, and the business says no as documented."""

from __future__ import annotations

import re
from typing import Any

import pytest

CARD = {"merchantId": 1, "faceValue": 0}
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


async def face(caller: Any) -> int:
    offers = (await caller.get("/v3/merchants/1/inventory/bulk")).json["inventory"]
    value: int = offers[0]["faceValue"]
    return value


async def cart(caller: Any) -> str:
    identity: str = (await caller.post("/v3/carts", {"action": "buy"})).json["cartId"]
    return identity


async def order(caller: Any, quantity: int = 1, method: str = "DRAWDOWN_ACCOUNT", **more: Any) -> Any:
    card = {"merchantId": 1, "faceValue": await face(caller), "quantity": quantity, "type": "ecode"}
    body = {"cards": [card], "payment": {"method": method, "details": {"id": 1}}, "shippingDetails": {}}
    return await caller.post("/v3/orders?checkout=condensed", body, **more)


async def test_the_merchants_list_has_its_documented_size_and_names(caller: Any) -> None:
    await caller.session()
    answer = await caller.get("/v3/merchants/buy")
    assert len(answer.json["buyMerchants"]) == 773
    assert 320_000 < len(answer.raw) < 340_000
    assert not answer.raw.isascii()
    assert "ETag" not in answer.headers


async def test_the_other_lists(caller: Any) -> None:
    await caller.login()
    assert isinstance((await caller.get("/v3/merchants/buy/bulk")).json, list)
    assert len((await caller.get("/v3/merchants/sell")).json["sellMerchants"]) == 773
    inventory = (await caller.get("/v3/merchants/7/inventory/bulk")).json
    assert set(inventory) == {"id", "image", "buyMessage", "description", "inventory"}


async def test_a_cart_is_new_once(caller: Any) -> None:
    await caller.login()
    first, second = [await caller.post("/v3/carts", {"action": "buy"}) for _ in range(2)]
    assert (first.status, second.status) == (201, 200)
    assert first.json == second.json == {"cartId": first.json["cartId"], "cards": [], "couponData": None}
    assert UUID4.fullmatch(first.json["cartId"])


async def test_a_cart_through_its_life(caller: Any) -> None:
    await caller.login()
    path = f"/carts/{await cart(caller)}"
    added = await caller.post(f"/v3.1{path}/cards", {"cards": [{"merchantId": 1, "faceValue": await face(caller)}]})
    card_id = added.json["cart"]["cards"][0]["id"]
    more = await caller.call("PUT", f"/v3{path}/cards/{card_id}", json={"qty": 2})
    coupon = await caller.post(f"/v3{path}/coupons/SAVE5")
    shown = await caller.get("/v3/carts")
    emptied = await caller.call("DELETE", f"/v3{path}/cards/{card_id}")
    gone = await caller.call("DELETE", f"/v3{path}")
    assert (added.status, gone.status, gone.raw) == (201, 204, b"")
    assert more.json["cart"]["cards"][0]["quantity"] == 3
    assert coupon.json["cart"]["couponData"]["coupon"] == "SAVE5"
    assert shown.json["cart"]["buyCart"] == coupon.json["cart"]
    assert emptied.json["cart"]["cards"] == []
    assert (await caller.get("/v3/carts")).json["cart"]["buyCart"] == {}


async def test_the_business_says_no_in_its_own_words(start: Any) -> None:
    caller = await start(inventory_qty=3, drawdown_balance=1.0)
    await caller.login()
    path, value = f"/carts/{await cart(caller)}", await face(caller)
    one = {"merchantId": 1, "faceValue": value}

    async def told(method: str, where: str, body: Any = None) -> str:
        answer = await caller.call(method, where, **({"json": body} if body is not None else {}))
        assert answer.status == 400
        message: str = answer.json["message"][0]
        return message

    cards = f"/v3.1{path}/cards"
    assert await told("POST", cards, {"cards": [{**one, "quantity": 9}]}) == "Error, insufficient inventory"
    part = {"cards": [{**one, "quantity": 9}, {"merchantId": 2, "faceValue": 0}]}
    assert await told("POST", cards, part) == "faceValue is not valid"
    assert await told("POST", cards, {"cards": [{"merchantId": 9999, "faceValue": 1}]}) == "merchantId is not valid"
    assert await told("POST", f"/v3{path}/coupons/NOPE") == "Invalid coupon"
    assert await told("GET", "/v3/orders/status/00000000-0000-4000-8000-000000000000") == "no order status found"
    assert (await order(caller)).json == {"message": ["Insufficient funds"]}


async def test_a_quantity_is_filled_as_far_as_stock_goes(start: Any) -> None:
    caller = await start(inventory_qty=3)
    await caller.login()
    path = f"/carts/{await cart(caller)}"
    added = await caller.post(f"/v3.1{path}/cards", {"cards": [{"merchantId": 1, "faceValue": await face(caller)}]})
    card_id = added.json["cart"]["cards"][0]["id"]
    answer = await caller.call("PUT", f"/v3{path}/cards/{card_id}", json={"qty": 9})
    assert (answer.json["requested"], answer.json["added"]) == (9, 2)


async def test_an_order_shows_up_everywhere_and_later_in_the_wallet(start: Any) -> None:
    caller = await start(wallet_delay=60.0)
    await caller.login()
    placed = await order(caller, quantity=2)
    assert placed.status == 201
    order_id = placed.json["buyOrder"]["orderId"]
    assert UUID4.fullmatch(order_id)
    newer = (await order(caller)).json["buyOrder"]["orderId"]
    assert [row["id"] for row in (await caller.get("/v3/orders/buy")).json] == [newer, order_id]
    assert (await caller.get(f"/v3/orders/{order_id}")).json["buyOrder"]["orderId"] == order_id
    assert (await caller.get(f"/v3/orders/status/{order_id}")).json["order"]["statusText"] == "Processing"
    assert (await caller.get("/v3/wallets")).json == {"cards": []}
    caller.sim.advance(61)
    assert (await caller.get(f"/v3/orders/status/{order_id}")).json["order"]["statusText"] == "Digitally Delivered"
    cards = (await caller.get("/v3/wallets")).json["cards"]
    assert [card["order"]["id"] for card in cards] == [newer, order_id, order_id]


async def test_a_wallet_card_is_shown_changed_and_plainly_fake(start: Any) -> None:
    caller = await start(wallet_delay=0.0)
    await caller.login()
    await order(caller)
    card = (await caller.get("/v3/wallets")).json["cards"][0]
    path = f"/v3/wallets/{card['id']}"
    assert (await caller.get(path)).json == card
    secure = (await caller.get(f"{path}/secure-data")).json
    assert set(secure) == {"number", "pin", "barcode"}
    assert all("FAKE" in value for value in secure.values())
    assert (await caller.call("PUT", path, json={"status": "archived"})).json["status"] == "archived"
    assert (await caller.get("/v3/wallets")).json["cards"] == []
    assert len((await caller.get("/v3/wallets?archived=true")).json["cards"]) == 1


async def test_an_order_draws_the_account_down_and_takes_stock(caller: Any) -> None:
    await caller.login()
    before = (await caller.get("/v3/customers/drawdown-account")).json["balance"]
    total = float((await order(caller, quantity=2)).json["buyOrder"]["total"]["order"])
    assert (await caller.get("/v3/customers/drawdown-account")).json["balance"] == round(before - total, 2)
    assert (await caller.get("/v3/customers/drawdown-account/transactions")).json["transactions"][0]["amount"] == total
    assert (await caller.get("/v3/merchants/1/inventory/bulk")).json["inventory"][0]["qty"] == 998


async def test_each_put_of_an_order_is_one_more_payment(caller: Any) -> None:
    await caller.login()
    path = f"/v3/orders/{(await order(caller)).json['buyOrder']['orderId']}"
    for number in (1, 2):
        answer = await caller.call("PUT", path, json={"payment": {"method": "ACH"}})
        assert answer.json["buyOrder"]["paymentDetails"]["method"] == "ACH"
        assert caller.sim.counters["payments_made"] == number


async def test_an_order_without_condensed_uses_the_cart_up(caller: Any) -> None:
    await caller.login()
    path = f"/carts/{await cart(caller)}"
    await caller.post(f"/v3.1{path}/cards", {"cards": [{"merchantId": 1, "faceValue": await face(caller)}]})
    await caller.post(f"/v3{path}/coupons/SAVE5")
    placed = (await caller.post("/v3/orders", {"payment": {"method": "ACH"}})).json["buyOrder"]
    (card,) = placed["cards"]
    assert float(placed["total"]["order"]) == round(float(card["amount"]["cost"]) * 0.95, 2)
    assert (await caller.get("/v3/carts")).json["cart"]["buyCart"] == {}


async def test_payment_options_keep_four_digits_only(caller: Any) -> None:
    await caller.login()
    path = "/v3/customers/payment-options"
    made = await caller.post(path, {"method": "CREDITCARD", "details": {"number": "4111111111111111", "ccv": "123"}})
    (shown,) = made.json["data"]["buy"]["items"]
    wanted = {"paymentMethod": "CREDITCARD", "default": False, "verified": True, "lastFour": "1111"}
    assert shown == {"id": shown["id"], **wanted}
    changed = await caller.call("PUT", path, json={"id": shown["id"], "default": True})
    assert changed.json["data"]["buy"]["items"][0]["default"] is True
    emptied = await caller.call("DELETE", f"{path}/{shown['id']}")
    assert emptied.json == (await caller.get(path)).json == {"data": {"buy": {"items": []}}}


async def test_a_sold_card_is_listed(caller: Any) -> None:
    await caller.login()
    identity = (await caller.post("/v3/carts", {"action": "sell"})).json["cartId"]
    answer = await caller.post(f"/v3/carts/{identity}/cards", {"card": {"merchantId": 1, "enterValue": 50}})
    assert answer.status == 201
    assert (await caller.get("/v3/cards/sell")).json[0]["enterValue"] == 50
    payment = (await caller.get("/v3/payments/sell")).json[0]
    assert (await caller.get(f"/v3/payments/sell/{payment['id']}")).json["amount"] == "41.50"


async def test_a_new_customer_can_log_in_and_has_an_account_of_its_own(caller: Any) -> None:
    await caller.login()
    await order(caller)
    customer = {"firstName": "Zoë", "lastName": "B", "email": "zoe@example.com", "password": "fresh"}
    assert (await caller.post("/v3/customers", {"customer": customer})).status == 201
    assert (await caller.post("/v3/customers", {"customer": customer})).json == {"message": ["Email already exists"]}
    assert (await caller.login("zoe@example.com", "fresh")).status == 200
    assert (await caller.get("/v3/orders/buy")).json == []


async def test_a_form_is_as_good_as_json(caller: Any) -> None:
    await caller.session()
    form = {"customer[email]": "partner@example.com", "customer[password]": "demo-password"}
    assert (await caller.post("/v3/customers/login", data=form)).status == 200


async def test_a_body_that_is_no_json_gets_the_envelope(caller: Any) -> None:
    await caller.login()
    answer = await caller.post("/v3/carts", data=b"{nope")
    assert (answer.status, answer.json) == (400, {"message": ["Request body is not valid JSON"]})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v3/session"),
        ("POST", "/v3/customers/login"),
        ("POST", "/v3/carts"),
        ("POST", "/v3/orders"),
        ("PUT", "/v3/wallets/1"),
    ],
)
@pytest.mark.parametrize("headers", [{}, {"Content-Type": " "}])
async def test_a_post_or_put_without_content_type_is_refused_and_not_processed(
    caller: Any, method: str, path: str, headers: dict[str, str]
) -> None:
    await caller.login()
    answer = await caller.call(method, path, headers=headers, skip_auto_headers=["Content-Type"])
    assert (answer.status, answer.json) == (400, {"message": ["Content-Type is required"]})
    assert caller.sim.counters["rejected"] == {"no_content_type": 1}
    caller.sim.configure(content_type_required=False)
    answer = await caller.call(method, path, headers=headers, skip_auto_headers=["Content-Type"])
    assert answer.json.get("message") != ["Content-Type is required"]


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
async def test_any_content_type_is_enough(caller: Any, kind: str) -> None:
    assert (await caller.post("/v3/session", headers={"Content-Type": kind})).status == 200


async def test_get_and_delete_need_no_content_type(caller: Any) -> None:
    await caller.login()
    identity = await cart(caller)
    assert (await caller.get("/v3/carts")).status == 200
    assert (await caller.call("DELETE", f"/v3/carts/{identity}")).status == 204


async def test_unknown_endpoints_get_the_envelope(caller: Any) -> None:
    await caller.session()
    unknown, wrong_method = await caller.get("/v3/nowhere"), await caller.call("PATCH", "/v3/carts")
    assert (
        (unknown.status, unknown.json) == (wrong_method.status, wrong_method.json) == (404, {"message": ["Not Found"]})
    )


async def test_answers_are_packed_when_asked_for(start: Any) -> None:
    caller = await start(compression="gzip")
    await caller.session()
    packed = await caller.get("/v3/merchants/buy", headers={"Accept-Encoding": "gzip"})
    plain = await caller.get("/v3/merchants/buy", headers={"Accept-Encoding": "identity"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert packed.raw == plain.raw
