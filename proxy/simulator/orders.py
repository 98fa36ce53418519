"""Orders, their payments and the wallet they fill (core/README.md, "Endpoints").

Owns what happens from POST /orders on: stock and balance go down, the order is listed, later its cards are in
the wallet.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from proxy.simulator.accounts import Account, Bought, BusinessError, Order, trim
from proxy.simulator.ordershapes import Shapes
from proxy.simulator.state import INSUFFICIENT, State

METHODS = ("ACH", "ACH_CREDITCARD", "CREDITCARD", "STORE_CREDIT", "DRAWDOWN_ACCOUNT")
MAX_CARDS = 500  # of one order, so that a typo does not fill the memory


class Orders:
    """Orders of all accounts over one State."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._shapes = Shapes(state.context)
        self._next_number = 5_000_001
        self._next_card = 900_001
        self.placed = 0
        self.payments = 0

    # -- buying ------------------------------------------------------------------------------------------

    def place(self, account: Account, body: Mapping[str, Any], *, condensed: bool) -> dict[str, Any]:
        """Answer POST /orders; without ?checkout=condensed the cards are those of the buy cart, which is used up."""
        method = self._method(body)
        cart = account.cart_of("buy")
        wanted: object = body.get("cards") if condensed else list(cart.cards.values()) if cart else []
        if not isinstance(wanted, list) or not wanted:
            raise BusinessError("cards is required" if condensed else "Cart is empty")
        lines = [self._state.line(item) for item in wanted]
        if sum(line["quantity"] for line, _ in lines) > MAX_CARDS:
            raise BusinessError("Too many cards in one order")
        taken: dict[int, int] = {}
        for line, offer in lines:
            taken[offer["id"]] = taken.get(offer["id"], 0) + line["quantity"]
            if taken[offer["id"]] > offer["qty"]:
                raise BusinessError(INSUFFICIENT)
        subtotal = sum(round(line["cost"] * 100) * line["quantity"] for line, _ in lines)
        percent = self._discount(body, cart.coupon if cart and not condensed else None)
        total = round(subtotal * (100 - percent) / 100)
        order_id = str(uuid.uuid4())
        if method == "DRAWDOWN_ACCOUNT":
            self._draw(account, total, order_id)
        for line, offer in lines:
            offer["qty"] -= line["quantity"]
        order = self._record(account, order_id, [line for line, _ in lines], total, method)
        given = body.get("shippingDetails")
        order.shipping = dict(given) if isinstance(given, Mapping) else {}
        if cart is not None and not condensed:
            del account.carts[cart.cart_id]
        self.placed += 1
        self._state.context.emit(
            "order_placed", order_id=order_id, email=account.email, cards=len(order.cards), total=total / 100
        )
        return self._shapes.detail(account, order)

    @staticmethod
    def _method(body: Mapping[str, Any]) -> str:
        payment = body.get("payment")
        if not isinstance(payment, Mapping) or payment.get("method") not in METHODS:
            raise BusinessError("payment method is not valid")
        return str(payment["method"])

    def _discount(self, body: Mapping[str, Any], coupon: Mapping[str, Any] | None) -> float:
        code = body.get("couponCode") or (coupon["code"] if coupon else None)
        if code is None:
            return 0.0
        percent = self._state.context.settings.coupons.get(str(code))
        if percent is None:
            raise BusinessError("Invalid coupon")
        return percent

    def _draw(self, account: Account, cents: int, order_id: str) -> None:
        if cents > account.balance:
            raise BusinessError("Insufficient funds")
        account.balance -= cents
        account.transactions.append(
            {
                "id": str(uuid.uuid4()),
                "type": "debit",
                "amount": cents / 100,
                "balance": account.balance / 100,
                "orderId": order_id,
                "createdAt": self._state.now_text(),
            }
        )
        trim(account.transactions)

    def _record(self, account: Account, order_id: str, lines: list[dict[str, Any]], total: int, method: str) -> Order:
        context = self._state.context
        now = context.clock()
        order = Order(self._next_number, order_id, now, now + context.settings.wallet_delay, total, method)
        self._next_number += 1
        for line in lines:
            for _ in range(line["quantity"]):
                order.cards.append(Bought(self._next_card, line))
                self._next_card += 1
        account.orders[order_id] = order
        trim(account.orders)
        for card in order.cards:
            account.wallet[card.number] = (order, card)
        trim(account.wallet)
        return order

    def list_buy(self, account: Account) -> list[dict[str, Any]]:
        """Answer GET /orders/buy, newest first; of the orders that are listed by now."""
        context = self._state.context
        until = context.clock() - context.settings.listing_delay
        return [self._shapes.row(order) for order in reversed(account.orders.values()) if order.bought_at <= until]

    def get(self, account: Account, order_id: str) -> dict[str, Any]:
        """Answer GET /orders/:uuid."""
        return self._shapes.detail(account, self._find(account, order_id, "no order was found"))

    def status(self, account: Account, order_id: str) -> dict[str, Any]:
        """Answer GET /orders/status/:uuid."""
        return self._shapes.status(account, self._find(account, order_id, "no order status found"))

    def pay(self, account: Account, order_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer PUT /orders/:id: one more payment each time it is called, as CardCash's documentation warns."""
        order = self._find(account, order_id, "no order was found")
        method = self._method(body)
        if method == "DRAWDOWN_ACCOUNT":
            self._draw(account, order.total, order.order_id)
        order.method = method
        order.paid += order.total
        self.payments += 1
        self._state.context.emit("payment_made", order_id=order.order_id, email=account.email, amount=order.total / 100)
        return self._shapes.detail(account, order)

    @staticmethod
    def _find(account: Account, order_id: str, message: str) -> Order:
        """Find it by its uuid, or by its number, which lists and details swap."""
        order = account.orders.get(order_id.lower())
        if order is None:
            order = next((one for one in account.orders.values() if str(one.number) == order_id), None)
        if order is None:
            raise BusinessError(message)
        return order

    # -- wallet ------------------------------------------------------------------------------------------

    def wallet(self, account: Account, *, archived: bool) -> dict[str, Any]:
        """Answer GET /wallets: the cards that have arrived, newest first."""
        now = self._state.context.clock()
        status = "archived" if archived else "active"
        cards = [
            self._shapes.wallet_card(order, card)
            for order, card in reversed(account.wallet.values())
            if order.ready_at <= now and card.status == status
        ]
        return {"cards": cards}

    def card(self, account: Account, card_id: str) -> dict[str, Any]:
        """Answer GET /wallets/:cardId."""
        return self._shapes.wallet_card(*self._card(account, card_id))

    def change_card(self, account: Account, card_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer PUT /wallets/:cardId with {"status"} or {"balance"}."""
        order, card = self._card(account, card_id)
        if "status" in body:
            if body["status"] not in ("active", "archived"):
                raise BusinessError("status is not valid")
            card.status = body["status"]
        elif "balance" in body:
            if not isinstance(body["balance"], int | float) or body["balance"] < 0:
                raise BusinessError("balance is not valid")
            card.current_balance = body["balance"]
        else:
            raise BusinessError("status or balance is required")
        return self._shapes.wallet_card(order, card)

    def secure_data(self, account: Account, card_id: str) -> dict[str, Any]:
        """Answer GET /wallets/:cardId/secure-data with credentials that are plainly none."""
        _, card = self._card(account, card_id)
        number = f"0000-FAKE-0000-{card.last_four}"
        return {"number": number, "pin": "0000-FAKE", "barcode": f"FAKE-BARCODE-{card.number}"}

    def _card(self, account: Account, card_id: str) -> tuple[Order, Bought]:
        kept = account.wallet.get(int(card_id)) if card_id.isascii() and card_id.isdigit() else None
        if kept is None or kept[0].ready_at > self._state.context.clock():
            raise BusinessError("Card not found")
        return kept
