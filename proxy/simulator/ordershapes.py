"""How orders and wallet cards are shown: list, detail, status and wallet, each with the fields CardCash documents.

Owns those shapes. `id` and `orderId` change places between list and detail, and amounts are texts: that is CardCash's.
"""

from __future__ import annotations

from typing import Any

from proxy.simulator.accounts import Account, Bought, Order
from proxy.simulator.settings import Context
from proxy.simulator.state import text_of


def dollars(cents: int) -> str:
    """Write an amount as orders do."""
    return f"{cents / 100:.2f}"


class Shapes:
    """Show orders at the clock's moment."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def _is_ready(self, order: Order) -> bool:
        return order.ready_at <= self._context.clock()

    def _status(self, order: Order) -> str:
        return "Digitally Delivered" if self._is_ready(order) else "Processing"

    def row(self, order: Order) -> dict[str, Any]:
        """Show it in GET /orders/buy."""
        return {
            "id": order.order_id,
            "orderId": order.number,
            "datePurchased": text_of(order.bought_at),
            "status": self._status(order),
            "total": dollars(order.total),
            "trackingData": {},
            "cards": {
                "merchants": sorted({card.line["merchant"] for card in order.cards}),
                "face_value": dollars(order.face_value),
                "cash_value": dollars(order.total),
                "qty": len(order.cards),
            },
        }

    def detail(self, account: Account, order: Order) -> dict[str, Any]:
        """Show it in GET and PUT /orders/:uuid, and after POST /orders."""
        status, name = self._status(order), f"{account.first_name} {account.last_name}"
        shipping = {**order.shipping, "method": "email", "trackingNumber": None, "trackingUrl": None}
        total = {
            "order": dollars(order.total),
            "faceValue": dollars(order.face_value),
            "due": dollars(max(0, order.total - order.paid)),
        }
        return {
            "buyOrder": {
                "id": order.number,
                "orderId": order.order_id,
                "datePurchased": text_of(order.bought_at),
                "customerId": account.customer_id,
                "store": "cardcash",
                "status": status,
                "message": "",
                "fulfilled": self._is_ready(order),
                "device": "api",
                "isShipPhysical": any(card.line["type"] == "physical" for card in order.cards),
                "total": total,
                "coupon": {},
                "billingDetails": {"name": name},
                "customerDetails": account.view(),
                "shippingDetails": shipping,
                "paymentDetails": {"method": order.method, "lastFour": "****"},
                "trackingData": {},
                "chargeBack": {},
                "cards": [self._card(order, card) for card in order.cards],
            }
        }

    def _card(self, order: Order, card: Bought) -> dict[str, Any]:
        ready, line = self._is_ready(order), card.line
        return {
            "id": card.number,
            "internalId": card.number,
            "fulfilled": ready,
            "fulfilledId": card.number if ready else None,
            "merchantId": line["merchant"],
            "merchantName": line["merchantName"],
            "merchantImage": line["merchantImage"],
            "amount": {"balance": f"{line['balance']:.2f}", "cost": f"{line['cost']:.2f}"},
            "coupon": {},
            "type": line["type"],
            "isLowRisk": line["isLowRisk"],
            "number": None,
            "pin": None,
            "sourceCode": "",
            "claims": [],
        }

    def status(self, account: Account, order: Order) -> dict[str, Any]:
        """Show it in GET /orders/status/:uuid."""
        ready = self._is_ready(order)
        cards = [
            {
                "merchant": card.line["merchantName"],
                "faceValue": f"{card.line['balance']:.2f}",
                "cashValue": f"{card.line['cost']:.2f}",
                "image": card.line["merchantImage"],
            }
            for card in order.cards
        ]
        return {
            "order": {
                "orderId": order.number,
                "uuid": order.order_id,
                "type": "buy",
                "amount": dollars(order.total),
                "paymentType": order.method,
                "datePurchased": text_of(order.bought_at),
                "paymentStatus": "Paid",
                "statusText": self._status(order),
                "lastStatusUpdate": text_of(order.ready_at if ready else order.bought_at),
                "canCancel": not ready,
                "cards": cards,
                "customer": account.view(),
            }
        }

    @staticmethod
    def wallet_card(order: Order, card: Bought) -> dict[str, Any]:
        """Show a card of the wallet."""
        line = card.line
        return {
            "id": card.number,
            "order": {
                "id": order.order_id,
                "orderNum": order.number,
                "datePurchased": text_of(order.bought_at),
            },
            "merchant": {"id": line["merchant"], "name": line["merchantName"], "image": line["merchantImage"]},
            "amount": {"balance": line["balance"], "cost": line["cost"], "currentBalance": card.current_balance},
            "type": line["type"],
            "numberLastFour": card.last_four,
            "status": card.status,
        }
