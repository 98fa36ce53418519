"""CardCash's endpoints (core/README.md): which there are, who may call them, and the thin way from a request to the state.

Owns paths and bodies. The gate (app.py) has judged the token before any handler here runs.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from proxy.simulator.accounts import Account, BusinessError
from proxy.simulator.answers import answer, decode, serialised
from proxy.simulator.orders import Orders
from proxy.simulator.records import shown_headers
from proxy.simulator.state import State

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ACCOUNT = web.RequestKey("account", Account)
ECHOED = 1 << 20  # bytes of a body that _echo gives back; of larger ones length and hash only
_CHUNK = bytes(range(256)) * 256


async def body_of(request: web.Request) -> dict[str, Any]:
    """Read a JSON object, or a form with names like customer[email], whatever the Content-Type. Empty: {}."""
    raw = await request.read()
    try:
        raw = decode(raw, request.headers.get("Content-Encoding", "").strip().lower())
        if not raw.strip():
            return {}
        if request.content_type == "application/x-www-form-urlencoded" and raw.lstrip()[:1] != b"{":
            return _form(raw)
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise BusinessError("Request body is not valid JSON") from None
    if not isinstance(value, dict):
        raise BusinessError("Request body must be an object")
    return value


def _form(raw: bytes) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=1000):
        *parents, last = name.replace("]", "").split("[")
        where = result
        for parent in parents:
            where = where.setdefault(parent, {})
            if not isinstance(where, dict):
                raise BusinessError(f"{name} is not valid")
        where[last] = value
    return result


class Routes:
    """Handlers over one State. `before_stream` may add headers to an answer that is streamed."""

    def __init__(
        self, state: State, orders: Orders, before_stream: Callable[[web.Request, web.StreamResponse], None]
    ) -> None:
        self._state = state
        self._orders = orders
        self._before_stream = before_stream

    def table(self) -> list[tuple[str, str, Handler, bool]]:
        """List (method, path, handler, needs a login)."""
        cart, option = "/v3/carts/{cartId}", "/v3/customers/payment-options"
        drawdown = "/v3/customers/drawdown-account"
        return [
            ("POST", "/v3/customers", self._create_customer, False),
            *(("GET", path, self._customer, True) for path in ("/v3/customers", "/v3/customers/")),
            ("GET", "/v3/merchants/buy", self._merchants_buy, False),
            ("GET", "/v3/merchants/sell", self._merchants_sell, False),
            ("GET", "/v3/merchants/buy/bulk", self._merchants_bulk, True),
            ("GET", "/v3/merchants/{id}/inventory/bulk", self._inventory, True),
            ("POST", "/v3/carts", self._open_cart, True),
            ("GET", "/v3/carts", self._carts, True),
            ("POST", "/v3.1/carts/{cartId}/cards", self._add_cards, True),
            ("POST", f"{cart}/cards", self._sell_card, True),
            ("PUT", f"{cart}/cards/{{cardId}}", self._change_qty, True),
            ("DELETE", f"{cart}/cards/{{cardId}}", self._drop_card, True),
            ("POST", f"{cart}/coupons/{{code}}", self._coupon, True),
            ("DELETE", f"{cart}/coupons/{{code}}", self._coupon, True),
            ("DELETE", cart, self._drop_cart, True),
            ("POST", "/v3/orders", self._place_order, True),
            ("GET", "/v3/orders/buy", self._orders_buy, True),
            ("GET", "/v3/orders/sell", self._orders_sell, True),
            ("GET", "/v3/orders/{orderId}", self._order, True),
            ("PUT", "/v3/orders/{orderId}", self._pay_order, True),
            ("GET", "/v3/orders/status/{orderId}", self._order_status, True),
            ("GET", "/v3/wallets", self._wallet, True),
            ("GET", "/v3/wallets/{cardId}", self._card, True),
            ("PUT", "/v3/wallets/{cardId}", self._change_card, True),
            ("GET", "/v3/wallets/{cardId}/secure-data", self._secure_data, True),
            ("GET", option, self._options, True),
            *((method, option, self._change_option, True) for method in ("POST", "PUT", "DELETE")),
            *((method, f"{option}/{{id}}", self._change_option, True) for method in ("PUT", "DELETE")),
            ("GET", drawdown, self._drawdown, True),
            ("GET", f"{drawdown}/transactions", self._transactions, True),
            ("GET", "/v3/cards/sell", self._cards_sell, True),
            ("GET", "/v3/payments/sell", self._payments_sell, True),
            ("GET", "/v3/payments/sell/{id}", self._payment_sell, True),
            ("GET", "/v3/_stream", self._stream, False),
            *((m, "/v3/_echo", self._echo, False) for m in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")),
        ]

    # -- merchants ---------------------------------------------------------------------------------------

    async def _merchants_buy(self, _: web.Request) -> web.Response:
        return serialised(self._state.catalogue.buy)

    async def _merchants_sell(self, _: web.Request) -> web.Response:
        return serialised(self._state.catalogue.sell)

    async def _merchants_bulk(self, _: web.Request) -> web.Response:
        return serialised(self._state.catalogue.bulk)

    async def _inventory(self, request: web.Request) -> web.Response:
        number = request.match_info["id"]
        found = self._state.catalogue.inventory(int(number)) if number.isascii() and number.isdigit() else None
        if found is None:
            raise BusinessError("Merchant not found")
        return answer(found)

    # -- customers ---------------------------------------------------------------------------------------

    async def _create_customer(self, request: web.Request) -> web.Response:
        return answer(self._state.create_customer(await body_of(request)), 201)

    async def _customer(self, request: web.Request) -> web.Response:
        return answer({"customer": request[ACCOUNT].view()})

    async def _options(self, request: web.Request) -> web.Response:
        return answer(self._state.options(request[ACCOUNT]))

    async def _change_option(self, request: web.Request) -> web.Response:
        number = request.match_info.get("id")
        if number is not None and not (number.isascii() and number.isdigit()):
            raise BusinessError("Payment option not found")
        body = await body_of(request)
        chosen = None if number is None else int(number)
        return answer(self._state.change_option(request[ACCOUNT], request.method, chosen, body))

    async def _drawdown(self, request: web.Request) -> web.Response:
        dollars = request[ACCOUNT].balance / 100
        shown = {"balance": dollars, "availableBalance": dollars, "pendingBalance": 0, "isActive": True}
        return answer(shown)

    async def _transactions(self, request: web.Request) -> web.Response:
        return answer({"transactions": request[ACCOUNT].transactions[::-1]})

    # -- carts -------------------------------------------------------------------------------------------

    async def _open_cart(self, request: web.Request) -> web.Response:
        cart, new = self._state.open_cart(request[ACCOUNT], await body_of(request))
        return answer(cart, 201 if new else 200)

    async def _carts(self, request: web.Request) -> web.Response:
        return answer(self._state.carts(request[ACCOUNT]))

    async def _add_cards(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        return answer(self._state.add_cards(request[ACCOUNT], request.match_info["cartId"], body), 201)

    async def _sell_card(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        return answer(self._state.sell_card(request[ACCOUNT], request.match_info["cartId"], body), 201)

    async def _change_qty(self, request: web.Request) -> web.Response:
        body, ids = await body_of(request), request.match_info
        return answer(self._state.change_qty(request[ACCOUNT], ids["cartId"], ids["cardId"], body))

    async def _drop_card(self, request: web.Request) -> web.Response:
        ids = request.match_info
        return answer(self._state.drop_card(request[ACCOUNT], ids["cartId"], ids["cardId"]))

    async def _coupon(self, request: web.Request) -> web.Response:
        ids, add = request.match_info, request.method == "POST"
        return answer(self._state.set_coupon(request[ACCOUNT], ids["cartId"], ids["code"], add=add))

    async def _drop_cart(self, request: web.Request) -> web.Response:
        self._state.drop_cart(request[ACCOUNT], request.match_info["cartId"])
        return web.Response(status=204)

    # -- orders and wallet -------------------------------------------------------------------------------

    async def _place_order(self, request: web.Request) -> web.Response:
        condensed = request.query.get("checkout") == "condensed"
        return answer(self._orders.place(request[ACCOUNT], await body_of(request), condensed=condensed), 201)

    async def _orders_buy(self, request: web.Request) -> web.Response:
        return answer(self._orders.list_buy(request[ACCOUNT]))

    async def _orders_sell(self, _: web.Request) -> web.Response:
        return answer([])

    async def _order(self, request: web.Request) -> web.Response:
        return answer(self._orders.get(request[ACCOUNT], request.match_info["orderId"]))

    async def _pay_order(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        return answer(self._orders.pay(request[ACCOUNT], request.match_info["orderId"], body))

    async def _order_status(self, request: web.Request) -> web.Response:
        return answer(self._orders.status(request[ACCOUNT], request.match_info["orderId"]))

    async def _wallet(self, request: web.Request) -> web.Response:
        archived = request.query.get("archived") == "true"
        return answer(self._orders.wallet(request[ACCOUNT], archived=archived))

    async def _card(self, request: web.Request) -> web.Response:
        return answer(self._orders.card(request[ACCOUNT], request.match_info["cardId"]))

    async def _change_card(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        return answer(self._orders.change_card(request[ACCOUNT], request.match_info["cardId"], body))

    async def _secure_data(self, request: web.Request) -> web.Response:
        return answer(self._orders.secure_data(request[ACCOUNT], request.match_info["cardId"]))

    # -- sell side ---------------------------------------------------------------------------------------

    async def _cards_sell(self, request: web.Request) -> web.Response:
        return answer([sold["card"] for sold in reversed(request[ACCOUNT].sold)])

    async def _payments_sell(self, request: web.Request) -> web.Response:
        return answer([sold["payment"] for sold in reversed(request[ACCOUNT].sold)])

    async def _payment_sell(self, request: web.Request) -> web.Response:
        for sold in request[ACCOUNT].sold:
            if str(sold["payment"]["id"]) == request.match_info["id"]:
                return answer({**sold["payment"], "cards": [sold["card"]]})
        raise BusinessError("Payment not found")

    # -- for tests of the wire ---------------------------------------------------------------------------

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Stream ?bytes=N of 00 01 … ff repeated; &chunked=1 without a length; &pause=S between 64 KiB blocks."""
        try:
            size, pause = int(request.query.get("bytes", "0")), float(request.query.get("pause", "0"))
        except ValueError:
            raise BusinessError("bytes and pause must be numbers") from None
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        if request.query.get("chunked") == "1":
            response.enable_chunked_encoding()
        else:
            response.content_length = max(0, size)
        self._before_stream(request, response)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        while size > 0:
            await response.write(_CHUNK[:size])
            size -= len(_CHUNK)
            if pause:
                await asyncio.sleep(pause)
        await response.write_eof()
        return response

    async def _echo(self, request: web.Request) -> web.Response:
        """Give back what arrived; credentials as hashes, a body over 1 MiB as length and SHA-256 only."""
        kept, length, sha = bytearray(), 0, hashlib.sha256()
        async for chunk in request.content.iter_any():
            length += len(chunk)
            sha.update(chunk)
            if length <= ECHOED:
                kept += chunk
        body = base64.b64encode(kept).decode() if length <= ECHOED else None
        arrived = {"method": request.method, "target": request.raw_path, "headers": shown_headers(request.raw_headers)}
        return answer({**arrived, "length": length, "sha256": sha.hexdigest(), "body": body})
