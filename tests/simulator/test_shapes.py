"""Every documented shape: the same fields, each of its documented kind, and no others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.simulator.test_business import UUID4, cart, face, order

Check = Callable[[Any], bool]


def one_of(*values: object) -> Check:
    return lambda value: value in values


def number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def text(value: object) -> bool:
    return isinstance(value, str)


def flag(value: object) -> bool:
    return isinstance(value, bool)


def uuid(value: object) -> bool:
    return isinstance(value, str) and UUID4.fullmatch(value) is not None


def amount(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\d+\.\d\d", value) is not None


def when(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value) is not None


def anything(_: object) -> bool:
    return True


def null(value: object) -> bool:
    return value is None


def some_object(value: object) -> bool:
    return isinstance(value, dict)


def maybe(kind: Check) -> Check:
    return lambda value: value is None or kind(value)


def differs(value: Any, shape: Any, where: str = "$") -> list[str]:
    """Name where `value` departs from `shape`: an object by its fields, [x] a list of x that is not empty, or a check."""
    if isinstance(shape, dict):
        if not isinstance(value, dict) or value.keys() != shape.keys():
            return [f"{where} has {sorted(value) if isinstance(value, dict) else value!r}, not {sorted(shape)}"]
        return [line for name, kind in shape.items() for line in differs(value[name], kind, f"{where}.{name}")]
    if isinstance(shape, list):
        if not isinstance(value, list) or not value:
            return [f"{where} is {value!r}, not a list of some"]
        return [line for index, item in enumerate(value) for line in differs(item, shape[0], f"{where}[{index}]")]
    return [] if shape(value) else [f"{where} is {value!r}"]


TYPE = one_of("ecode", "physical", "newEcodeB2B", "newEcodeAsPre")
CUSTOMER = {"customerId": whole, "email": text, "firstName": text, "lastName": text}
ROW = {
    "id": uuid,
    "orderId": whole,
    "datePurchased": when,
    "status": text,
    "total": amount,
    "trackingData": some_object,
    "cards": {"merchants": [whole], "face_value": amount, "cash_value": amount, "qty": whole},
}
DETAIL = {
    "id": whole,
    "orderId": uuid,
    "datePurchased": when,
    "customerId": whole,
    "store": text,
    "status": text,
    "message": text,
    "fulfilled": flag,
    "device": text,
    "isShipPhysical": flag,
    "total": {"order": amount, "faceValue": amount, "due": amount},
    "coupon": some_object,
    "billingDetails": some_object,
    "customerDetails": CUSTOMER,
    "shippingDetails": {"city": text, "method": text, "trackingNumber": maybe(text), "trackingUrl": maybe(text)},
    "paymentDetails": {"method": text, "lastFour": text},
    "trackingData": some_object,
    "chargeBack": some_object,
    "cards": [
        {
            "id": whole,
            "internalId": whole,
            "fulfilled": flag,
            "fulfilledId": maybe(whole),
            "merchantId": whole,
            "merchantName": text,
            "merchantImage": text,
            "amount": {"balance": amount, "cost": amount},
            "coupon": some_object,
            "type": TYPE,
            "isLowRisk": flag,
            "number": null,
            "pin": null,
            "sourceCode": text,
            "claims": one_of([]),
        }
    ],
}
STATUS = {
    "orderId": whole,
    "uuid": uuid,
    "type": one_of("buy"),
    "amount": amount,
    "paymentType": text,
    "datePurchased": when,
    "paymentStatus": text,
    "statusText": one_of(
        *("Checkout", "Pending", "Processing", "Fulfillment", "Digitally Delivered", "Shipped", "Canceled"),
        *("Hold", "Review", None),
    ),
    "lastStatusUpdate": when,
    "canCancel": flag,
    "cards": [{"merchant": text, "faceValue": amount, "cashValue": amount, "image": text}],
    "customer": CUSTOMER,
}
WALLET = {
    "id": whole,
    "order": {"id": uuid, "orderNum": whole, "datePurchased": when},
    "merchant": {"id": whole, "name": text, "image": text},
    "amount": {"balance": number, "cost": number, "currentBalance": number},
    "type": TYPE,
    "numberLastFour": lambda value: re.fullmatch(r"\d{4}", value) is not None,
    "status": text,
}
CART_CARD = {
    "id": uuid,
    "merchant": whole,
    "merchantName": text,
    "merchantImage": text,
    "balance": number,
    "cost": number,
    "quantity": whole,
    "percentOff": number,
    "type": TYPE,
    "isLowRisk": maybe(flag),
}
COUPON = {
    "id": whole,
    "type": one_of("P", "F", "S"),
    "coupon": text,
    "totalAmount": number,
    "discount": number,
    "description": text,
    "expires": lambda value: re.fullmatch(r"\d\d/\d\d/\d{4}", value) is not None,
    "usage": whole,
    "cards": [{"id": uuid, "perCardDiscount": number, "discount": number}],
}
MERCHANT = {
    "id": whole,
    "name": text,
    "cardsAvailable": whole,
    "ecodesAvailable": whole,
    "upToPercentage": number,
    "image": text,
    "slug": text,
    "primaryColor": maybe(text),
    "aliases": [text],
    "cardType": one_of("ecode", "physical", "BOTH", None),
    "popular": anything,
    "sellIsOff": one_of(0, 1),
    "featured": anything,
    "maxFaceValue": maybe(number),
    "minFaceValue": maybe(number),
    "affiliate_link": maybe(text),
}
BULK = {
    "id": whole,
    "name": text,
    "image": text,
    "slug": text,
    "primaryColor": maybe(text),
    "aliases": [text],
    "cardsAvailable": whole,
    "preownedAvailable": whole,
    "physicalAvailable": whole,
    "ecodesAvailable": whole,
    "lowRiskPOAvailable": whole,
    "minFaceValue": number,
    "maxFaceValue": number,
    "minPercOff": number,
    "maxPercOff": number,
    "maxEcodePercOff": number,
    "newAvailable": flag,
}
OFFER = {
    "id": whole,
    "faceValue": number,
    "percentOff": number,
    "cost": number,
    "qty": whole,
    "type": TYPE,
    "isNew": flag,
    "isLowRisk": flag,
    "tooltipMessages": one_of([]),
}
SELL_CARD = {
    "id": uuid,
    "merchant": whole,
    "merchantName": text,
    "enterValue": number,
    "cashValue": amount,
    "number": maybe(text),
    "pin": maybe(text),
    "percentage": number,
    "refId": maybe(text),
    "magStrip": maybe(text),
    "balanceVerified": one_of(0, 1),
}


@pytest.fixture
async def buyer(start: Any) -> Any:
    """Logged in; its cards arrive at once."""
    caller = await start(wallet_delay=0.0)
    await caller.login()
    return caller


async def bought(caller: Any, **more: Any) -> Any:
    card = {"merchantId": 1, "faceValue": await face(caller), "quantity": 2, "type": "ecode"}
    body = {"cards": [card], "payment": {"method": "DRAWDOWN_ACCOUNT"}, "shippingDetails": {"city": "Łódź"}, **more}
    return (await caller.post("/v3/orders?checkout=condensed", body)).json


async def test_the_merchants_to_buy(buyer: Any) -> None:
    assert differs((await buyer.get("/v3/merchants/buy")).json, {"buyMerchants": [MERCHANT]}) == []


async def test_the_merchants_to_buy_in_bulk(buyer: Any) -> None:
    assert differs((await buyer.get("/v3/merchants/buy/bulk")).json, [BULK]) == []


async def test_the_inventory_of_a_merchant(buyer: Any) -> None:
    shape = {"id": whole, "image": text, "buyMessage": text, "description": text, "inventory": [OFFER]}
    assert differs((await buyer.get("/v3/merchants/7/inventory/bulk")).json, shape) == []


async def test_a_cart_with_cards_and_a_coupon(buyer: Any) -> None:
    path = f"/carts/{await cart(buyer)}"
    body = {"cards": [{"merchantId": 1, "faceValue": await face(buyer), "quantity": 3}]}
    added = (await buyer.post(f"/v3.1{path}/cards", body)).json["cart"]
    assert differs(added, {"cartId": uuid, "cards": [CART_CARD], "couponData": null}) == []
    shown = (await buyer.post(f"/v3{path}/coupons/SAVE5")).json["cart"]
    assert differs(shown, {"cartId": uuid, "cards": [CART_CARD], "couponData": COUPON}) == []
    (card,), coupon = shown["cards"], shown["couponData"]
    assert coupon["totalAmount"] == round(card["cost"] * 3, 2)
    assert coupon["discount"] == round(round(card["cost"] * 0.05, 2) * 3, 2)


async def test_a_sell_cart(buyer: Any) -> None:
    opened = await buyer.post("/v3/carts", {"action": "sell"})
    assert (opened.status, differs(opened.json, {"cartId": uuid, "cards": one_of([])})) == (201, [])
    card = {"merchantId": 1, "enterValue": 100, "number": "0000-FAKE", "pin": "0000"}
    shown = await buyer.post(f"/v3/carts/{opened.json['cartId']}/cards", {"card": card})
    assert (shown.status, differs(shown.json, {"cartId": uuid, "cards": [SELL_CARD]})) == (201, [])
    assert shown.json["cards"][0]["cashValue"] == "83.00"


async def test_an_order_just_placed_and_its_detail(buyer: Any) -> None:
    placed = await bought(buyer)
    assert differs(placed, {"buyOrder": DETAIL}) == []
    assert (await buyer.get(f"/v3/orders/{placed['buyOrder']['orderId']}")).json == placed
    paid = await buyer.call("PUT", f"/v3/orders/{placed['buyOrder']['id']}", json={"payment": {"method": "ACH"}})
    assert differs(paid.json, {"buyOrder": DETAIL}) == []


async def test_the_list_of_orders_has_the_ids_the_other_way_round(buyer: Any) -> None:
    placed = (await bought(buyer))["buyOrder"]
    rows = (await buyer.get("/v3/orders/buy")).json
    assert differs(rows, [ROW]) == []
    assert (rows[0]["id"], rows[0]["orderId"]) == (placed["orderId"], placed["id"])
    assert rows[0]["cards"]["qty"] == 2
    assert rows[0]["total"] == placed["total"]["order"]


async def test_the_status_of_an_order(start: Any) -> None:
    caller = await start(wallet_delay=60.0)
    await caller.login()
    path = f"/v3/orders/status/{(await bought(caller))['buyOrder']['orderId']}"
    for _ in ("processing", "delivered"):
        assert differs((await caller.get(path)).json, {"order": STATUS}) == []
        caller.sim.advance(61)


async def test_the_wallet(buyer: Any) -> None:
    placed = (await bought(buyer))["buyOrder"]
    shown = (await buyer.get("/v3/wallets")).json
    assert differs(shown, {"cards": [WALLET]}) == []
    assert differs((await buyer.get(f"/v3/wallets/{shown['cards'][0]['id']}")).json, WALLET) == []
    assert shown["cards"][0]["order"]["orderNum"] == placed["id"]


async def test_the_payment_options_of_a_card_and_of_an_account(buyer: Any) -> None:
    path = "/v3/customers/payment-options"
    card = {"number": "4111111111111111", "ccv": "123", "type": "visa", "expireMonth": 12, "expireYear": 2030}
    await buyer.post(path, {"method": "CREDITCARD", "details": card})
    account = {"accountNumber": "123456789", "routingNumber": "021000021", "accountType": "checking"}
    shown = await buyer.post(path, {"method": "ACH", "details": account})
    base = {"id": whole, "paymentMethod": text, "default": flag, "verified": flag}
    by_card = {**base, "lastFour": text, "type": text, "expireMonth": whole, "expireYear": whole}
    by_account = {**base, "accountNumber": text, "routingNumber": text, "accountType": text}
    first, second = shown.json["data"]["buy"]["items"]
    assert set(shown.json) == {"data"}
    assert differs(first, by_card) == differs(second, by_account) == []
    assert not any(secret in shown.raw for secret in (b"4111111111111111", b'"123"', b"123456789"))


async def test_the_drawdown_account(buyer: Any) -> None:
    path = "/v3/customers/drawdown-account"
    shape = {"balance": number, "availableBalance": number, "pendingBalance": number, "isActive": flag}
    assert differs((await buyer.get(path)).json, shape) == []
    await bought(buyer)
    assert differs((await buyer.get(f"{path}/transactions")).json, {"transactions": [some_object]}) == []


async def test_an_order_is_listed_late_where_the_setting_says_so(caller: Any) -> None:
    await caller.login()
    assert (await caller.post("/_simulator/configure", {"listing_delay": 30})).status == 200
    order_id = (await order(caller)).json["buyOrder"]["orderId"]
    assert (await caller.get("/v3/orders/buy")).json == []
    assert (await caller.get(f"/v3/orders/{order_id}")).status == 200
    caller.sim.advance(29.0)
    assert (await caller.get("/v3/orders/buy")).json == []
    caller.sim.advance(1.0)
    assert [row["id"] for row in (await caller.get("/v3/orders/buy")).json] == [order_id]
