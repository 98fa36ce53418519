"""What the paths of CardCash's API are called: templates, and which of them are about somebody's account.

Templates are the `route` label of metrics and logs, so that no id, coupon or card ever becomes one.
"""

from __future__ import annotations

import re
from typing import Final

#: The first segment of a path that has a version: /v3, /v3.1.
VERSION: Final = re.compile(r"/v[0-9]+(?:\.[0-9]+)?(?=/|\Z)")
#: The documented paths (`core/README.md`).
KNOWN_ROUTES: Final = (
    "/v3/session",
    "/v3/customers",
    "/v3/customers/login",
    "/v3/customers/payment-options",
    "/v3/customers/payment-options/:id",
    "/v3/customers/drawdown-account",
    "/v3/customers/drawdown-account/transactions",
    "/v3/merchants/buy",
    "/v3/merchants/buy/bulk",
    "/v3/merchants/sell",
    "/v3/merchants/:id/inventory/bulk",
    "/v3/carts",
    "/v3/carts/:cartId",
    "/v3/carts/:cartId/cards",
    "/v3.1/carts/:cartId/cards",
    "/v3/carts/:cartId/cards/:cardId",
    "/v3/carts/:cartId/coupons/:code",
    "/v3/orders",
    "/v3/orders/buy",
    "/v3/orders/sell",
    "/v3/orders/:orderId",
    "/v3/orders/status/:orderId",
    "/v3/wallets",
    "/v3/wallets/:cardId",
    "/v3/wallets/:cardId/secure-data",
    "/v3/cards/sell",
    "/v3/payments/sell",
    "/v3/payments/sell/:id",
)
#: Any other path.
OTHER: Final = "other"
#: What answers without a login; everything else below the roots is about somebody's account.
_WITHOUT_LOGIN: Final = frozenset({"/session", "/customers", "/customers/login", "/merchants/buy", "/merchants/sell"})
_ROOTS: Final = frozenset({"session", "customers", "merchants", "carts", "orders", "wallets", "cards", "payments"})
#: The segment of an id is anything; where one is as good as a name, the name is meant.
_PATTERNS: Final = [
    (re.compile(re.sub(r":\w+", "[^/]+", re.escape(route))), route)
    for route in sorted(KNOWN_ROUTES, key=lambda route: [name.startswith(":") for name in route.split("/")])
]


def template_of(path: str) -> str:
    """Name the known route that a path with its version is, or `OTHER`."""
    return next((route for pattern, route in _PATTERNS if pattern.fullmatch(path)), OTHER)


def is_account_path(path: str) -> bool:
    """Say whether a path without its version is about somebody's account, whatever the method."""
    return path not in _WITHOUT_LOGIN and path.split("/")[1] in _ROOTS
