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
    """A cart; `action` is buy or sell."""

    cart_id: str
    action: str
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    coupon: dict[str, Any] | None = None

    def view(self) -> dict[str, Any]:
        """Show it as CardCash does."""
        return {"cartId": self.cart_id, "cards": list(self.cards.values()), "couponData": self.coupon}


@dataclass(slots=True)
class Account:
    """One customer. Money in whole cents; `orders` and `wallet` oldest first."""

    customer_id: int
    email: str
    first_name: str
    last_name: str
    balance: int
    carts: dict[str, Cart] = field(default_factory=dict)
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    wallet: dict[int, dict[str, Any]] = field(default_factory=dict)
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
