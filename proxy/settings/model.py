"""Owns the shape of the settings: their names, types and defaults, frozen. Reads nothing by itself.

The contract's dotted keys are the attributes: `settings.upstream.origin`. Durations are float seconds, sizes int bytes.
None stands for "not set" or "the default that depends on others", as each description says.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

import proxy
from proxy.core.secret import Secret
from proxy.settings import guards, network, parsing
from proxy.settings.guards import RequiredHeader, Rule
from proxy.settings.network import ListenAddress, Network
from proxy.settings.secret import SecretForm

ORIGINS: Final = {
    "sandbox": "https://sandbox-api.cardcash.com",
    "production": "https://production-api.cardcash.com",
}
KIB: Final = 1024
MIB: Final = 1024 * 1024


class Kind(enum.Enum):
    """What the sources and `describe` must know about a leaf beyond its parser."""

    DURATION = enum.auto()
    SIZE = enum.auto()
    SECRET = enum.auto()  # no flag; has a `_file` form; never shown
    LIST = enum.auto()  # an empty environment variable is the empty list
    EMPTY = enum.auto()  # a text for which empty is a value
    HEADER = enum.auto()  # name shown, value not; as a flag only with a file


Duration = Annotated[float, Kind.DURATION, PlainValidator(parsing.duration)]
PositiveDuration = Annotated[float, Kind.DURATION, PlainValidator(parsing.positive_duration)]
Size = Annotated[int, Kind.SIZE, PlainValidator(parsing.size)]
Count = Annotated[int, PlainValidator(parsing.count)]
#: More would be a typing error: each is a process with its own 60 MB and its own share of the callers.
Processes = Annotated[int, PlainValidator(lambda value: parsing.count(value, most=64))]
Bool = Annotated[bool, PlainValidator(parsing.boolean)]
File = Annotated[Path | None, PlainValidator(parsing.optional(parsing.file_path))]
Addresses = Annotated[tuple[ListenAddress, ...], Kind.LIST, PlainValidator(network.listen_addresses)]


class Group(BaseModel):
    """Base of all groups: frozen, and without inputs in pydantic's own messages, which would print secrets."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Upstream(Group):
    """How CardCash is reached."""

    origin: Annotated[str, PlainValidator(network.origin)] = Field(
        ORIGINS["sandbox"], description="scheme://host[:port] of CardCash; default: picked by environment"
    )
    allow_plain_http: Bool = Field(False, description="allow an http:// origin that is not loopback")
    base_path: Annotated[str, Kind.EMPTY, PlainValidator(parsing.url_path)] = Field(
        "/v3", description="put before client paths without a version segment; empty for none"
    )
    user_agent: Annotated[str, PlainValidator(parsing.user_agent)] = Field(
        f"cardcash-proxy/{proxy.__version__}", description="User-Agent sent when the client sent none"
    )
    ca_file: Annotated[Path | None, PlainValidator(parsing.optional(parsing.ca_file))] = Field(
        None, description="PEM bundle of the certificate authorities to trust instead of the system's"
    )
    trust_env: Bool = Field(False, description="honour HTTPS_PROXY and NO_PROXY")
    connect_timeout: PositiveDuration = Field(5.0, description="longest time to connect")
    response_timeout: PositiveDuration = Field(
        120.0, description="longest wait for response headers, and between chunks of a body"
    )
    max_connections: Count = Field(100, description="most connections to CardCash at a time")
    idle_timeout: Duration = Field(30.0, description="idle connections are closed after this time")
    max_age: PositiveDuration = Field(
        300.0, description="no connection takes a new request after this time, give or take a tenth"
    )


class Login(Group):
    """The customer account the proxy logs in to; nothing set: none."""

    email: Annotated[str | None, PlainValidator(parsing.optional(parsing.email))] = Field(
        None, description="e-mail of the account to log in to after every new session"
    )
    password: Annotated[Secret | None, Kind.SECRET, SecretForm.ANY, PlainValidator(parsing.password)] = Field(
        None, description="password of the account"
    )
    password_file: File = Field(None, description="file that holds the password, read again when it changes")

    @property
    def configured(self) -> bool:
        """Whether the proxy logs in by itself."""
        return self.email is not None and self.password is not None


class Session(Group):
    """The shared session's life."""

    renew_ahead: Duration = Field(300.0, description="the session is renewed this long before it expires")
    eager: Bool = Field(True, description="make the session at start instead of with the first request")
    keepalive_path: Annotated[str, PlainValidator(parsing.keepalive_path)] = Field(
        "/v3/carts", description="GET that keeps alive a session in which a caller logged in"
    )
    idle_after: PositiveDuration = Field(
        3600.0, description="without traffic for this long the session is left to lapse"
    )
    store: Annotated[str, PlainValidator(parsing.store)] = Field(
        "memory://", description="where the session is kept: memory:// or file:///path"
    )


class Admin(Group):
    """The port for operators."""

    listen: Addresses = Field(
        (ListenAddress("tcp", "127.0.0.1", 8081),), description="where health, metrics and status are served"
    )


class Callers(Group):
    """Who may use the proxy."""

    allowed_hosts: Annotated[
        tuple[str, ...] | None, Kind.LIST, PlainValidator(parsing.optional_list(network.allowed_hosts))
    ] = Field(
        None,
        description="Host values served, *.suffix too, no others; default: localhost, loopback, the listen addresses",
    )
    allowed_origins: Annotated[tuple[str, ...], Kind.LIST, PlainValidator(network.allowed_origins)] = Field(
        (), description="browser origins allowed, scheme://host[:port]"
    )
    allowed_networks: Annotated[
        tuple[Network, ...] | None, Kind.LIST, PlainValidator(parsing.optional_list(network.allowed_networks))
    ] = Field(None, description="client addresses served; default: loopback")
    require_header: Annotated[
        RequiredHeader | None,
        Kind.HEADER,
        SecretForm.HEADER_VALUE,
        PlainValidator(parsing.optional(guards.required_header)),
    ] = Field(None, description='"Name: value" or "Name: /file" that every caller must send')


class Limits(Group):
    """Bounds on what callers may take."""

    request_body: Size = Field(10 * MIB, description="larger request bodies are refused")
    replay_body: Size = Field(1 * MIB, description="request bodies up to this are kept to be sent again")
    replay_total: Size = Field(
        64 * MIB, description="most bytes of request bodies kept at a time, by all workers together"
    )
    in_flight: Count = Field(1000, description="more requests at a time are refused")
    connections: Annotated[int | None, PlainValidator(parsing.optional(parsing.count))] = Field(
        None, description="more callers' connections to a process are refused; default: what its descriptors allow"
    )


class Drain(Group):
    """How the proxy stops."""

    delay: Duration = Field(0.0, description="after SIGTERM: go on accepting for this long, not ready")
    timeout: Duration = Field(100.0, description="then finish what is in flight for up to this long")


class Log(Group):
    """What is logged, and how."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        PlainValidator(parsing.one_of("debug", "info", "warning", "error")),
    ] = Field("info", description="debug, info, warning or error")
    format: Annotated[
        Literal["json", "console"] | None, PlainValidator(parsing.optional(parsing.one_of("json", "console")))
    ] = Field(None, description="json or console; default: json, console on a terminal")


class Settings(Group):
    """All settings. Made by `load_settings`; built in code it reads neither environment nor files."""

    app_id: Annotated[Secret, Kind.SECRET, SecretForm.VISIBLE, PlainValidator(parsing.app_id)] = Field(
        description="application id given by CardCash, sent as x-cc-app"
    )
    app_id_file: File = Field(None, description="file that holds the application id, read again when it changes")
    environment: Annotated[
        Literal["sandbox", "production"], PlainValidator(parsing.one_of("sandbox", "production"))
    ] = Field("sandbox", description="sandbox or production: picks upstream.origin")
    upstream: Upstream = Upstream()
    login: Login = Login()
    session: Session = Session()
    listen: Addresses = Field(
        (ListenAddress("tcp", "127.0.0.1", 8080),),
        description="where callers connect: HOST:PORT, [v6]:PORT or unix:/path",
    )
    workers: Processes = Field(1, description="processes that serve callers, on one session and one admin port")
    admin: Admin = Admin()
    callers: Callers = Callers()
    rules: Annotated[tuple[Rule, ...], Kind.LIST, PlainValidator(guards.rules)] = Field(
        (), description="ordered list of {allow|deny, methods, path}; the first match wins; in text: JSON"
    )
    limits: Limits = Limits()
    drain: Drain = Drain()
    log: Log = Log()

    @model_validator(mode="before")
    @classmethod
    def _pick_origin(cls, data: Any) -> Any:
        """Let `environment` pick the origin where none is given."""
        upstream = data.get("upstream", {}) if isinstance(data, dict) else None
        picked = str(data.get("environment", "")).strip().lower() if isinstance(data, dict) else ""
        if isinstance(upstream, dict) and "origin" not in upstream and picked in ORIGINS:
            return {**data, "upstream": {**upstream, "origin": ORIGINS[picked]}}
        return data
