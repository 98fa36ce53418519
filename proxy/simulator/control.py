"""The controls of a running simulator under /_simulator/: JSON in, JSON out, no authentication.

Owns their paths and bodies, for tests in other processes, demos and people with curl.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from aiohttp import web

from proxy.simulator.answers import answer, envelope
from proxy.simulator.app import CONTROL, Gate
from proxy.simulator.faults import KINDS, parse

ABOUT = {
    "GET /_simulator/": "this list",
    "GET /_simulator/counters": "calls, statuses, refusals, tokens, orders, connections since start or reset",
    "POST /_simulator/reset-counters": "{} – count anew",
    "POST /_simulator/revoke": "{} – revoke every token now",
    "POST /_simulator/expire": "{} – let every token expire now",
    "GET /_simulator/settings": "the settings of the moment; of secrets only the names",
    "POST /_simulator/configure": '{"token_ttl": 15, "listing_delay": 60, …} – change settings by name',
    "POST /_simulator/fail": '{"path", "method"?, "times"?, "skip"?, "status"?, "body"?, "html"?, "headers"?, '
    '"when"?: "before|after"} – answer so, before or after processing',
    "POST /_simulator/delay": '{"path", "seconds", "method"?, "times"?, "skip"?, "when"?: "before|after|in_body"}',
    "POST /_simulator/reset": '{"path", "method"?, "times"?, "skip"?, '
    '"when"?: "before_body|after_body|in_head|in_body"} – close with RST',
    "POST /_simulator/reject": '{"path", "method"?, "times"?, "skip"?} – reject the token of the next calls',
    "POST /_simulator/clear-faults": "{} – forget open orders of fail, delay, reset and reject",
    "POST /_simulator/token": '{"value" | "length", "times"?} – what the next tokens look like',
    "GET /_simulator/state": "accounts, live tokens, open orders of faults; no credentials",
    "GET /_simulator/processed": "how often each X-Test-Id / X-Request-ID was processed (not GET); ?log=1: the last",
    "GET /_simulator/headers": "the last request heads, credentials hashed; ?last=N (20)",
    "GET /v3/_stream?bytes=N": "with a token: N bytes; &chunked=1, &pause=S",
    "ANY /v3/_echo": "with a token: what arrived; credentials hashed, body in base64",
}


class Control:
    """Handlers over one Gate; `configure` changes settings and raises ValueError."""

    def __init__(self, gate: Gate, configure: Callable[[Mapping[str, Any]], None]) -> None:
        self._gate = gate
        self._configure = configure

    def attach(self, app: web.Application) -> None:
        """Add the routes to `app`."""
        get: dict[str, Callable[[web.Request], object]] = {
            "": lambda _: ABOUT,
            "counters": lambda _: self.counters(),
            "settings": lambda _: self._settings(),
            "state": lambda _: self._state(),
            "processed": self._processed,
            "headers": self._headers,
        }
        post: dict[str, Callable[[dict[str, Any]], object]] = {
            "reset-counters": lambda _: self.reset_counters(),
            "revoke": lambda _: {"revoked": self._gate.sessions.revoke_all()},
            "expire": lambda _: {"expired": self._gate.sessions.expire_all()},
            "configure": self._change,
            "clear-faults": lambda _: {"cleared": self._gate.faults.clear()},
            "token": self._token,
            **{kind: self._order(kind) for kind in KINDS},
        }
        for name, show in get.items():
            app.router.add_get(f"{CONTROL}/{name}", self._getter(show))
        app.router.add_get(CONTROL, self._getter(get[""]))
        for name, act in post.items():
            app.router.add_post(f"{CONTROL}/{name}", self._poster(act))
        app.router.add_route("*", CONTROL + "/{rest:.*}", self._unknown)

    @staticmethod
    async def _unknown(_: web.Request) -> web.Response:
        return envelope(f"no such control; GET {CONTROL}/ lists them", 404)

    @staticmethod
    def _getter(show: Callable[[web.Request], object]) -> Callable[[web.Request], Any]:
        async def handler(request: web.Request) -> web.Response:
            return answer(show(request))

        return handler

    @staticmethod
    def _poster(act: Callable[[dict[str, Any]], object]) -> Callable[[web.Request], Any]:
        async def handler(request: web.Request) -> web.Response:
            try:
                raw = await request.read()
                body = json.loads(raw) if raw.strip() else {}
                if not isinstance(body, dict):
                    return envelope("the body must be a JSON object")
                return answer(act(body))
            except (ValueError, TypeError) as error:
                return envelope(str(error))

        return handler

    # -- reading -----------------------------------------------------------------------------------------

    def counters(self) -> dict[str, Any]:
        """Show every count, the calls per "METHOD /template" in `calls`."""
        gate, records = self._gate, self._gate.records
        return {
            "calls": dict(records.calls),
            "statuses": dict(records.statuses),
            "rejected": dict(records.rejected),
            "tokens": {name: gate.sessions.counters[name] for name in _TOKEN_COUNTS},
            "faults": dict(gate.faults.used),
            "orders_placed": gate.orders.placed,
            "payments_made": gate.orders.payments,
            "connections": records.connections,
        }

    def reset_counters(self) -> dict[str, Any]:
        """Set every count, the log and the heads back; tokens and accounts stay."""
        self._gate.records.clear()
        self._gate.sessions.counters.clear()
        self._gate.faults.used.clear()
        self._gate.orders.placed = self._gate.orders.payments = 0
        return {"reset": True}

    def _settings(self) -> dict[str, Any]:
        settings = self._gate.context.settings
        shown = {item.name: getattr(settings, item.name) for item in fields(settings)}
        return {**shown, "accounts": sorted(settings.accounts), "app_ids": len(settings.app_ids)}

    def _state(self) -> dict[str, Any]:
        accounts = {
            account.email: {
                "customerId": account.customer_id,
                "carts": len(account.carts),
                "orders": len(account.orders),
                "walletCards": len(account.wallet),
                "balance": account.balance / 100,
            }
            for account in self._gate.state.accounts.values()
        }
        return {"accounts": accounts, "liveTokens": self._gate.sessions.live(), "faults": self._gate.faults.open()}

    def _processed(self, request: web.Request) -> object:
        records = self._gate.records
        return list(records.log) if request.query.get("log") == "1" else records.processed

    def _headers(self, request: web.Request) -> object:
        last = request.query.get("last", "20")
        return self._gate.records.heads(int(last) if last.isascii() and last.isdigit() else 20)

    # -- acting ------------------------------------------------------------------------------------------

    def _change(self, body: dict[str, Any]) -> object:
        self._configure(body)
        return {"configured": sorted(body)}

    def _order(self, kind: str) -> Callable[[dict[str, Any]], object]:
        def act(body: dict[str, Any]) -> object:
            self._gate.faults.add(parse(kind, body))
            return {"open": self._gate.faults.open()}

        return act

    def _token(self, body: dict[str, Any]) -> object:
        unknown = set(body) - {"value", "length", "times"}
        if unknown or ("value" in body) == ("length" in body):
            raise ValueError('give "value" or "length", and "times" if not 1')
        value = body.get("value", "")
        if not isinstance(value, str) or any(ord(sign) < 32 or ord(sign) > 126 for sign in value):
            raise ValueError("value: must be printable ASCII")
        length, times = int(body.get("length", 0)), int(body.get("times", 1))
        if not 0 <= length <= 1_000_000 or not 1 <= times <= 10_000:
            raise ValueError("length: at most 1000000; times: 1 to 10000")
        self._gate.sessions.force_next({"value": value} if "value" in body else {"length": length}, times)
        return {"times": times}


_TOKEN_COUNTS = (
    "tokens_issued",
    "refreshes",
    "sessions_created",
    "sessions_returned",
    "logins",
    "logins_failed",
    "logins_locked",
)
