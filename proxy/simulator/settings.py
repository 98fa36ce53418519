"""Settings of the simulator: one name for each thing a test may choose.

With every answer to the open questions of core/README.md.

Owns names, defaults, allowed values and their checks. Knows nothing of HTTP.
"""

from __future__ import annotations

import json
import reprlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

SHAPES = ("array", "string", "plain", "html", "empty")
CODINGS = ("identity", "gzip", "deflate", "deflate-raw", "br", "zstd")

# Allowed answers of the settings that are a choice; in comments the numbers of core/README.md's open questions.
CHOICES: dict[str, tuple[str, ...]] = {
    "delivery": ("both", "header", "cookie"),  # 5
    "credential_precedence": ("header", "cookie", "header_only"),  # 5
    "session_answer": ("new", "existing", "last"),  # 6
    "session_limit_action": ("refuse", "evict"),  # 4
    "old_after_refresh": ("valid", "revoked", "latest_only"),  # 1
    "old_after_login": ("valid", "revoked"),  # 1
    "parallel_refresh": ("different", "same", "once"),  # 1
    "refresh_on": ("all", "2xx", "get_2xx", "none"),  # 2
    "anonymous": ("refuse", "guest"),  # 3
    "expiry_claim": ("real", "none", "past"),
    "rejection_encoding": CODINGS,
    "compression": ("off", *CODINGS[1:]),
    **dict.fromkeys(
        (
            "rejection_shape",
            "unauthorized_shape",
            "unknown_app_shape",
            "anonymous_shape",
            "login_failed_shape",
            "lockout_shape",
        ),
        SHAPES,
    ),
}
# Read once, when the simulator is built.
FIXED = ("seed", "merchants", "inventory_qty")


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """What the stand-in answers. Times in seconds, money in dollars; core/README.md is the source of every default.

    Raises ValueError, naming the setting, for a value of the wrong type or outside its choices.
    """

    # Who may call
    app_ids: tuple[str, ...] = ("demo-app-id",)
    accounts: Mapping[str, str] = field(default_factory=lambda: {"partner@example.com": "demo-password"})
    user_agent_required: bool = True
    content_type_required: bool = True
    """Refuse POST and PUT without Content-Type (an empty one is none), whatever it names."""

    # Tokens: life and delivery
    token_ttl: float = 1199.0
    refresh_window: float = 300.0
    authorization_prefix: str = ""
    delivery: str = "both"
    """Where new tokens travel: in the headers, in a cookie named after the application id (the older flow), in both."""
    cookie_reissued: bool = False
    """Every answer to a good token sets the cookie again, also where there is no new token."""
    credential_precedence: str = "header"
    """Which of the two is judged when a request has both; "header_only": the cookie is ignored."""
    lifetime_header: str = "real"
    """x-token-exp-seconds: "real", or this text as it stands; "" leaves the header out."""
    lifetime_body: str = "real"
    """expiresInSeconds: "real", or this JSON (else text) as it stands; "" leaves the field out."""
    expiry_claim: str = "real"

    # Tokens: the open questions
    session_answer: str = "new"
    """"existing": the live token of this application; "last": its last token, even if just revoked."""
    session_limit: int = 0
    session_limit_status: int = 429
    session_limit_action: str = "refuse"
    session_rate_limit: int = 0
    """POST /session calls a minute; beyond: 429 with Retry-After. 0: no limit."""
    old_after_refresh: str = "valid"
    """"latest_only": each new token of a session ends all its others, so parallel refreshes kill each other."""
    old_after_login: str = "valid"
    parallel_refresh: str = "different"
    refresh_on: str = "all"
    refresh_keeps_login: bool = True
    one_login_per_account: bool = False
    stillborn_tokens: bool = False
    """Tokens of POST /session are dead on arrival."""
    reject_all: bool = False

    # A rejected token
    rejection_status: int = 400
    rejection_message: str = "no Authorization token was found"
    """The wording, or "by-cause": jwt expired, jwt malformed, invalid signature, invalid token, No … was found."""
    rejection_shape: str = "array"
    rejection_extra: bool = False
    rejection_bom: bool = False
    rejection_padding: int = 0
    """Spaces around the JSON, before it and after it, each."""
    rejection_encoding: str = "identity"
    rejection_content_type: str = "application/json; charset=utf-8"
    """"" sends none."""
    rejection_chunked: bool = False

    # Other refusals
    content_type_status: int = 400
    content_type_message: str = "Content-Type is required"
    unauthorized_shape: str = "array"
    unknown_app_status: int = 400
    unknown_app_message: str = "no x-cc-app was found"
    unknown_app_shape: str = "array"
    anonymous: str = "refuse"
    """"guest": an account path without login is answered 200 from an empty account."""
    anonymous_status: int = 400
    anonymous_message: str = "You must be logged in"
    anonymous_shape: str = "array"
    login_failed_status: int = 400
    login_failed_message: str = "Invalid email or password"
    login_failed_shape: str = "array"
    lockout_after: int = 0
    lockout_seconds: float = 900.0
    lockout_status: int = 423
    lockout_message: str = "Account locked"
    lockout_shape: str = "array"
    head_refusal_status: int = 0
    """Answer every HEAD with this status and no body; 0 answers it as GET."""

    # Business
    wallet_delay: float = 2.0
    listing_delay: float = 0.0
    """Until an order is in GET /orders/buy; by its id it is found at once."""
    drawdown_balance: float = 25_000.0
    coupons: Mapping[str, float] = field(default_factory=lambda: {"SAVE5": 5.0})
    inventory_qty: int = 1000
    merchants: int = 773
    seed: int = 20_260_101

    # The wire
    compression: str = "off"
    """Coding of answers when Accept-Encoding names it."""
    latency: float = 0.0
    """Seconds before every answer."""
    early_refusal: bool = False
    """Refuse (application, token, login, ordered failures) without reading the request body first."""

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item.name, str(item.type), getattr(self, item.name))

    def changed(self, changes: Mapping[str, Any]) -> SimulatorSettings:
        """Return a copy with `changes`, as they come from JSON (lists for tuples, integers for floats).

        Raises ValueError naming the first setting that is unknown or has a wrong value.
        """
        known = {item.name: str(item.type) for item in fields(self)}
        clean: dict[str, Any] = {}
        for name, value in changes.items():
            if name not in known:
                raise ValueError(f"unknown setting: {name}")
            is_count = isinstance(value, int) and not isinstance(value, bool)
            if isinstance(value, list):
                clean[name] = tuple(value)
            elif known[name] == "float" and is_count:
                clean[name] = float(value)
            else:
                clean[name] = value
        return replace(self, **clean)

    def told(self, assignments: Iterable[str]) -> SimulatorSettings:
        """Return a copy changed by texts like `name=value`, the value in JSON or as it stands.

        Raises ValueError with a sentence for each text that is wrong as its `args`.
        """
        told, faults = self, []
        for text in assignments:
            name, sign, value = text.partition("=")
            if not sign:
                # What names no setting may be a secret gone astray.
                called = name if hasattr(self, name) else "a text that names no setting"
                faults.append(f"{called}: must be NAME=VALUE")
                continue
            try:
                read = json.loads(value)
            except ValueError:
                read = value
            try:
                told = told.changed({name: read})
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError(*faults)
        return told


def _check(name: str, kind: str, value: object) -> None:
    """Refuse what a typo in a test or a configure call would otherwise make silently different."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    right = {
        "str": isinstance(value, str),
        "bool": isinstance(value, bool),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": is_number,
        "tuple[str, ...]": isinstance(value, tuple) and all(isinstance(part, str) for part in value),
        "Mapping[str, str]": isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values()),
        "Mapping[str, float]": isinstance(value, Mapping) and all(isinstance(v, int | float) for v in value.values()),
    }[kind]
    if not right:
        raise ValueError(f"{name}: must be {kind}, not {reprlib.repr(value)}")
    if isinstance(value, int | float) and value < 0:
        raise ValueError(f"{name}: must not be negative")
    if name.endswith("_status") and value != 0 and not 200 <= int(str(value)) <= 599:
        raise ValueError(f"{name}: must be an HTTP status")
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(f"{name}: must be one of {', '.join(CHOICES[name])}, not {reprlib.repr(value)}")


Emit = Callable[[str, dict[str, Any]], None]


@dataclass(slots=True)
class Context:
    """What the parts share: the settings of the moment, the clock (Unix seconds) and the event sink."""

    settings: SimulatorSettings
    clock: Callable[[], float] = time.time
    sink: Emit | None = None

    def emit(self, event: str, **what: Any) -> None:
        """Tell `sink` what happened; `what` never holds a token, a password or an application id."""
        if self.sink is not None:
            self.sink(event, what)
