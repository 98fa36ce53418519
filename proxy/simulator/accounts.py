"""One customer of the simulator: what is kept, how it is shown, and the small helpers of the business rules.

Owns the records. The rules that change them are in state.py and orders.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_KEPT = 2_000  # orders, wallet cards and transactions kept of each account; older ones are forgotten


class BusinessError(Exception):
    """A refusal of CardCash's own: `message` goes into the envelope."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


@dataclass(slots=True)
class Cart:
    """A cart; `action` is buy or sell. Its cards are kept as they are shown; `coupon` is id, code and percent."""

    cart_id: str
    action: str
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    coupon: dict[str, Any] | None = None

    def view(self) -> dict[str, Any]:
        """Show it as CardCash does."""
        shown = {"cartId": self.cart_id, "cards": list(self.cards.values())}
        return {**shown, "couponData": self.coupon_data()} if self.action == "buy" else shown

    def coupon_data(self) -> dict[str, Any] | None:
        """Show the coupon and what it takes off each card, or None; amounts in dollars."""
        if self.coupon is None:
            return None
        percent, takes = self.coupon["percent"], []
        for card in self.cards.values():
            each = round(card["cost"] * percent / 100, 2)
            takes.append({"id": card["id"], "perCardDiscount": each, "discount": round(each * card["quantity"], 2)})
        return {
            "id": self.coupon["id"],
            "type": "P",
            "coupon": self.coupon["code"],
            "totalAmount": round(sum(card["cost"] * card["quantity"] for card in self.cards.values()), 2),
            "discount": round(sum(take["discount"] for take in takes), 2),
            "description": f"{percent:g} % off",
            "expires": "12/31/2099",
            "usage": 1,
            "cards": takes,
        }


@dataclass(slots=True)
class Bought:
    """One card of an order; `line` is that of the cart, `current_balance` in dollars."""

    number: int
    line: Mapping[str, Any]
    current_balance: float = -1.0
    status: str = "active"

    def __post_init__(self) -> None:
        self.current_balance = self.line["balance"]

    @property
    def last_four(self) -> str:
        """The end of its number."""
        return f"{self.number % 10_000:04d}"


@dataclass(slots=True)
class Order:
    """One order. Times in Unix seconds, money in cents; `paid` is what all payments came to."""

    number: int
    order_id: str
    bought_at: float
    ready_at: float
    total: int
    method: str
    cards: list[Bought] = field(default_factory=list)
    shipping: dict[str, Any] = field(default_factory=dict)
    paid: int = 0

    def __post_init__(self) -> None:
        self.paid = self.total

    @property
    def face_value(self) -> int:
        """What its cards are worth, in cents."""
        return sum(round(card.line["balance"] * 100) for card in self.cards)


@dataclass(slots=True)
class Account:
    """One customer. Money in whole cents; `orders` and `wallet` oldest first."""

    customer_id: int
    email: str
    first_name: str
    last_name: str
    balance: int
    carts: dict[str, Cart] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    wallet: dict[int, tuple[Order, Bought]] = field(default_factory=dict)
    transactions: list[dict[str, Any]] = field(default_factory=list)
    payment_options: list[dict[str, Any]] = field(default_factory=list)
    sold: list[dict[str, Any]] = field(default_factory=list)

    def view(self) -> dict[str, Any]:
        """Show the customer without anything secret."""
        names = {"firstName": self.first_name, "lastName": self.last_name}
        return {"customerId": self.customer_id, "email": self.email, **names}

    def cart_of(self, action: str) -> Cart | None:
        """Return the open cart of that kind."""
        return next((cart for cart in self.carts.values() if cart.action == action), None)


def number_of(body: Mapping[str, Any], name: str) -> int:
    """Read a whole number that clients send as a number or, from forms, as text. Raises BusinessError."""
    value = body.get(name)
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal() and len(value) < 20:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise BusinessError(f"{name} is not valid")


def trim(kept: dict[Any, Any] | list[Any]) -> None:
    """Forget the oldest beyond MAX_KEPT."""
    while len(kept) > MAX_KEPT:
        if isinstance(kept, dict):
            kept.pop(next(iter(kept)))
        else:
            kept.pop(0)
