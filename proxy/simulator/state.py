"""The accounts of the simulator and what they own: carts, coupons, payment options, money, sell side.

Owns the business rules (core/README.md) up to the order; orders.py has the rest. Knows nothing of HTTP but a status.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from proxy.simulator.accounts import Account, BusinessError, Cart, number_of, trim
from proxy.simulator.catalogue import Catalogue
from proxy.simulator.settings import Context

MAX_ACCOUNTS = 1_000
SELL_PERCENT = 83  # of its value is paid for a card
INSUFFICIENT = "Error, insufficient inventory"


class State:
    """All accounts over one catalogue."""

    def __init__(self, context: Context) -> None:
        self.context = context
        settings = context.settings
        self.catalogue = Catalogue(settings.seed, settings.merchants, settings.inventory_qty)
        self.accounts: dict[str, Account] = {}
        self._created: dict[str, str] = {}
        self._next_customer = 100_001
        self._next_option = 1

    # -- accounts ----------------------------------------------------------------------------------------

    def password_ok(self, email: str, password: str) -> bool:
        """Compare with the settings and with the accounts made by POST /customers; e-mails without case."""
        key = email.casefold()
        configured = {name.casefold(): word for name, word in self.context.settings.accounts.items()}
        expected = configured.get(key, self._created.get(key))
        return expected is not None and expected == password

    def account(self, email: str) -> Account:
        """Return the account, made on first use."""
        key = email.casefold()
        found = self.accounts.get(key)
        if found is None:
            found = self._new(email, "Demo", "Partner")
        return found

    def _new(self, email: str, first: str, last: str) -> Account:
        balance = round(self.context.settings.drawdown_balance * 100)
        account = Account(self._next_customer, email, first, last, balance)
        self._next_customer += 1
        self.accounts[email.casefold()] = account
        return account

    def guest(self) -> Account:
        """Return an empty account that nobody keeps."""
        return Account(0, "", "", "", 0)

    def create_customer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer POST /customers (sandbox)."""
        customer = body.get("customer")
        if not isinstance(customer, Mapping):
            raise BusinessError("customer is required")
        for name in ("firstName", "lastName", "email", "password"):
            if not isinstance(customer.get(name), str) or not customer[name]:
                raise BusinessError(f"{name} is required")
        email = str(customer["email"])
        known = {name.casefold() for name in self.context.settings.accounts}
        if email.casefold() in self._created or email.casefold() in known:
            raise BusinessError("Email already exists")
        if len(self._created) >= MAX_ACCOUNTS:
            raise BusinessError("Too many accounts in this simulator")
        self._created[email.casefold()] = str(customer["password"])
        account = self._new(email, str(customer["firstName"]), str(customer["lastName"]))
        self.context.emit("customer_created", email=email, customer_id=account.customer_id)
        return {"customer": account.view()}

    # -- carts -------------------------------------------------------------------------------------------

    def open_cart(self, account: Account, body: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Answer POST /carts: (cart, is new)."""
        action = body.get("action")
        if action not in ("buy", "sell"):
            raise BusinessError("action must be buy or sell")
        cart = account.cart_of(action)
        if cart is not None:
            return cart.view(), False
        cart = Cart(str(uuid.uuid4()), action)
        account.carts[cart.cart_id] = cart
        self.context.emit("cart_created", cart_id=cart.cart_id, action=action, email=account.email)
        return cart.view(), True

    def carts(self, account: Account) -> dict[str, Any]:
        """Answer GET /carts."""
        buy, sell = account.cart_of("buy"), account.cart_of("sell")
        shown: dict[str, Any] = {"customerId": account.customer_id, "buyCart": buy.view() if buy else {}}
        if sell is not None:
            shown["sellCart"] = sell.view()
        return {"cart": shown}

    def cart(self, account: Account, cart_id: str, action: str | None = None) -> Cart:
        """Return that cart. Raises BusinessError."""
        cart = account.carts.get(cart_id)
        if cart is None or (action is not None and cart.action != action):
            raise BusinessError("Cart not found")
        return cart

    def drop_cart(self, account: Account, cart_id: str) -> None:
        """Answer DELETE /carts/:id."""
        self.cart(account, cart_id)
        del account.carts[cart_id]

    def add_cards(self, account: Account, cart_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer POST /v3.1/carts/:cartId/cards: all of them or, with an error, none."""
        cart = self.cart(account, cart_id, "buy")
        wanted = body.get("cards")
        if not isinstance(wanted, list) or not wanted:
            raise BusinessError("cards is required")
        lines = [self.line(item) for item in wanted]
        short = [line for line, offer in lines if line["quantity"] + self._in_cart(cart, line) > offer["qty"]]
        if short:
            one = len(lines) == len(short)
            raise BusinessError(INSUFFICIENT if one else "Not all requested cards were added to the cart")
        for line, _ in lines:
            same = self._same(cart, line)
            if same is not None:
                same["quantity"] += line["quantity"]
            else:
                card_id = str(uuid.uuid4())
                cart.cards[card_id] = {"id": card_id, **line}
        self.context.emit("cards_added", cart_id=cart_id, lines=len(lines), email=account.email)
        return {"cart": cart.view()}

    def line(self, item: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """Check one wanted card: (line, live offer). Raises BusinessError for what the catalogue lacks."""
        if not isinstance(item, Mapping):
            raise BusinessError("card is not valid")
        # Wanted cards say merchantId and faceValue; those of a cart, which an order may take, say merchant and balance.
        merchant = self.catalogue.merchants.get(number_of(item, "merchant" if "merchant" in item else "merchantId"))
        if merchant is None:
            raise BusinessError("merchantId is not valid")
        offer = self.catalogue.offer(merchant["id"], number_of(item, "balance" if "balance" in item else "faceValue"))
        if offer is None:
            raise BusinessError("faceValue is not valid")
        quantity = next((number_of(item, name) for name in ("quantity", "qty") if name in item), 1)
        if quantity < 1:
            raise BusinessError("quantity is not valid")
        line = {"merchant": merchant["id"], "merchantName": merchant["name"], "merchantImage": merchant["image"]}
        amounts = {"balance": offer["faceValue"], "cost": offer["cost"], "quantity": quantity}
        return {
            **line,
            **amounts,
            "percentOff": offer["percentOff"],
            "type": offer["type"],
            "isLowRisk": offer["isLowRisk"],
        }, offer

    @staticmethod
    def _same(cart: Cart, line: Mapping[str, Any]) -> dict[str, Any] | None:
        wanted = (line["merchant"], line["balance"])
        return next((card for card in cart.cards.values() if (card["merchant"], card["balance"]) == wanted), None)

    def _in_cart(self, cart: Cart, line: Mapping[str, Any]) -> int:
        same = self._same(cart, line)
        return same["quantity"] if same is not None else 0

    def change_qty(self, account: Account, cart_id: str, card_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer PUT …/cards/:cardId: the cart, or {cart, requested, added} when there were not enough."""
        cart = self.cart(account, cart_id, "buy")
        card = cart.cards.get(card_id)
        if card is None:
            raise BusinessError("Card not found in cart")
        change = number_of(body, "qty")
        offer = self.catalogue.offer(card["merchant"], card["balance"])
        left = offer["qty"] - card["quantity"] if offer is not None else 0
        added = min(change, left)
        if change > 0 >= added:
            raise BusinessError(INSUFFICIENT)
        card["quantity"] += added
        if card["quantity"] <= 0:
            del cart.cards[card_id]
        if added < change:
            return {"cart": cart.view(), "requested": change, "added": added}
        return {"cart": cart.view()}

    def drop_card(self, account: Account, cart_id: str, card_id: str) -> dict[str, Any]:
        """Answer DELETE …/cards/:cardId with the full cart."""
        cart = self.cart(account, cart_id)
        if cart.cards.pop(card_id, None) is None:
            raise BusinessError("Card not found in cart")
        return {"cart": cart.view()}

    def set_coupon(self, account: Account, cart_id: str, code: str, *, add: bool) -> dict[str, Any]:
        """Answer POST and DELETE …/coupons/:CODE with the full cart."""
        cart = self.cart(account, cart_id, "buy")
        percent = self.context.settings.coupons.get(code)
        if percent is None or (not add and (cart.coupon is None or cart.coupon["code"] != code)):
            raise BusinessError("Invalid coupon")
        number = list(self.context.settings.coupons).index(code) + 1
        cart.coupon = {"id": number, "code": code, "percent": percent} if add else None
        return {"cart": cart.view()}

    def sell_card(self, account: Account, cart_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer POST /carts/:id/cards of a sell cart; the card shows up in cards/sell and payments/sell."""
        cart = self.cart(account, cart_id, "sell")
        card = body.get("card")
        if not isinstance(card, Mapping):
            raise BusinessError("card is required")
        merchant = self.catalogue.merchants.get(number_of(card, "merchantId"))
        if merchant is None:
            raise BusinessError("merchantId is not valid")
        value = next((number_of(card, name) for name in ("enterValue", "faceValue") if name in card), 0)
        card_id = str(uuid.uuid4())
        pays = f"{value * SELL_PERCENT / 100:.2f}"
        shown = {
            "id": card_id,
            "merchant": merchant["id"],
            "merchantName": merchant["name"],
            "enterValue": value,
            "cashValue": pays,
            # Never kept: somebody may try it out with a card of their own.
            "number": None,
            "pin": None,
            "percentage": SELL_PERCENT,
            "refId": card.get("refId"),
            "magStrip": None,
            "balanceVerified": 0,
        }
        cart.cards[card_id] = shown
        payment = {"id": len(account.sold) + 1, "amount": pays, "status": "pending"}
        account.sold.append({"card": {**shown, "status": "submitted"}, "payment": payment})
        trim(account.sold)
        return cart.view()

    # -- payment options ---------------------------------------------------------------------------------

    @staticmethod
    def options(account: Account) -> dict[str, Any]:
        """Answer GET payment-options."""
        return {"data": {"buy": {"items": account.payment_options}}}

    def change_option(
        self, account: Account, method: str, option_id: int | None, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Answer POST, PUT and DELETE payment-options with the full list; of a number only four digits stay."""
        given = body.get("paymentOption", body)
        if not isinstance(given, Mapping):
            raise BusinessError("paymentOption is not valid")
        options = account.payment_options
        if method == "POST":
            if not given:
                raise BusinessError("paymentOption is required")
            options.append({"id": self._next_option, **self._option(given)})
            self._next_option += 1
            trim(options)
            return self.options(account)
        wanted = option_id if option_id is not None else number_of(given, "id")
        found = next((option for option in options if option["id"] == wanted), None)
        if found is None:
            raise BusinessError("Payment option not found")
        if method == "DELETE":
            options.remove(found)
        else:
            found.update(self._option({"paymentMethod": found["paymentMethod"], **given}))
        return self.options(account)

    @staticmethod
    def _option(given: Mapping[str, Any]) -> dict[str, Any]:
        details = given.get("details", given)
        details = details if isinstance(details, Mapping) else {}
        shown: dict[str, Any] = {
            "paymentMethod": str(given.get("paymentMethod", given.get("method", "CREDITCARD"))),
            "default": bool(given.get("default", False)),
            "verified": True,
        }
        for name in ("type", "expireMonth", "expireYear", "routingNumber", "accountType"):
            if name in details:
                shown[name] = details[name]
        if "number" in details:
            shown["lastFour"] = str(details["number"])[-4:]
        if "accountNumber" in details:
            shown["accountNumber"] = "*****" + str(details["accountNumber"])[-4:]
        return shown

    def now_text(self) -> str:
        """Write the time of the clock as CardCash writes times."""
        return text_of(self.context.clock())


def text_of(when: float) -> str:
    """Write Unix seconds as CardCash writes times."""
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
