"""Owns the shape of the settings: their names, kinds, defaults and meanings, frozen; and the list of all of them.

The dotted keys are the attributes: `settings.upstream.origin`. Durations are float seconds, sizes int bytes. None stands
for "not set" or "the default that depends on others", as each description says. One line here makes a setting: file,
variable, flag, faults and `check` follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Literal

import proxy
from proxy.core.rules import Rule
from proxy.core.secret import Secret
from proxy.core.store_url import StoreUrl
from proxy.core.values import ADMIN_LISTEN, ListenAddress, duration, size
from proxy.settings import parsing
from proxy.settings.files import SecretForm
from proxy.settings.parsing import Network, RequiredHeader, boolean, count, file_path, one_of, unique
from proxy.settings.parsing import positive_duration as positive
from proxy.settings.rules import rules as parsed_rules

PREFIX: Final = "CARDCASH_"
#: Names the configuration file; not a setting itself.
CONFIG_VARIABLE: Final = "CARDCASH_CONFIG"
ORIGINS: Final = {
    "sandbox": "https://sandbox-api.cardcash.com",
    "production": "https://production-api.cardcash.com",
}
KIB: Final = 1024
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting: what is declared of it below, and its path.

    None as its default: not set, or given by other settings; MISSING: it has none.
    """

    parse: Callable[[object], Any]
    default: Any
    meaning: str
    #: An empty environment variable is a value (a path that may be none); else nothing was set.
    empty_counts: bool = False
    #: Its key stands in the file with a value or not at all: who forgot that of a list or a guard meant to deny something.
    needs_value: bool = False
    #: What the secret that the value is, or may hold, is made of: no flag may tell it.
    secret: SecretForm | None = None
    #: The value as a whole is a secret: it has no flag at all, and is never shown.
    hidden: bool = False
    path: str = ""

    @property
    def file(self) -> Leaf | None:
        """The setting that names a file in which it may stand."""
        return leaves().get(f"{self.path}_file")

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.path.upper().replace(".", "__")

    @property
    def flag(self) -> str:
        """The flag that sets it."""
        return "--" + self.path.replace(".", "-").replace("_", "-")

    def read(self, given: object) -> Any:
        """Parse what was given for it. Raises `Bad`."""
        if isinstance(given, Secret):  # from its file
            return given if self.hidden else self.parse(given.reveal())
        unset = given == "" and self.default is None
        return None if unset else self.parse(given)

    def value_in(self, settings: Settings) -> Any:
        """Return what it is set to."""
        return attrgetter(self.path)(settings)


def setting(parse: Callable[[object], Any], default: Any, meaning: str, **traits: Any) -> Any:
    """Declare a setting; `traits` are those of `Leaf`.

    Where the default is None, an empty text un-sets it; without one (MISSING) it is needed.
    """
    return field(default=default, metadata={"leaf": Leaf(parse, default, meaning, **traits)})


def secret(form: SecretForm, default: Any, meaning: str) -> Any:
    """Declare a secret."""
    return setting(parsing.secret(form), default, meaning, secret=form, hidden=True)


def listed(parse: Callable[[object], tuple[Any, ...]], default: Any, meaning: str) -> Any:
    """Declare a list."""
    return setting(parse, default, meaning, needs_value=True)


def file_with(what: str) -> Any:
    """Declare the file that another setting may stand in."""
    return setting(file_path, None, f"file that holds {what}, read again when it changes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """How CardCash is reached."""

    origin: str = setting(
        parsing.origin, ORIGINS["sandbox"], "scheme://host[:port] of CardCash; default: picked by environment"
    )
    allow_plain_http: bool = setting(boolean, False, "allow an http:// origin that is not loopback")
    base_path: str = setting(
        parsing.url_path, "/v3", "put before client paths without a version segment; empty for none", empty_counts=True
    )
    user_agent: str = setting(
        parsing.user_agent, f"cardcash-proxy/{proxy.__version__}", "User-Agent sent when the client sent none"
    )
    ca_file: Path | None = setting(
        parsing.ca_file, None, "PEM bundle of the certificate authorities to trust instead of the system's"
    )
    trust_env: bool = setting(boolean, False, "honour HTTPS_PROXY and NO_PROXY")
    connect_timeout: float = setting(positive, 5.0, "longest time to connect")
    response_timeout: float = setting(
        positive, 120.0, "longest wait for response headers, and between chunks of a body"
    )
    max_connections: int = setting(count, 100, "most connections to CardCash at a time")
    idle_timeout: float = setting(duration, 30.0, "idle connections are closed after this time")
    max_age: float = setting(positive, 300.0, "no connection takes a new request after this time, give or take a tenth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """The customer account the proxy logs in to; nothing set: none."""

    email: str | None = setting(parsing.email, None, "e-mail of the account to log in to after every new session")
    password: Secret | None = secret(SecretForm.ANY, None, "password of the account")
    password_file: Path | None = file_with("the password")

    @property
    def configured(self) -> bool:
        """Whether the proxy logs in by itself."""
        return self.email is not None and self.password is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The shared session's life."""

    renew_ahead: float = setting(duration, 300.0, "the session is renewed this long before it expires")
    eager: bool = setting(boolean, True, "make the session at start instead of with the first request")
    keepalive_path: str = setting(
        parsing.keepalive_path, "/v3/carts", "GET that keeps alive a session in which a caller logged in"
    )
    idle_after: float = setting(positive, 3600.0, "without traffic for this long the session is left to lapse")
    store: str | StoreUrl = setting(
        parsing.store,
        "memory://",
        "where the session is kept: memory://, file:///path, redis://host, redis+sentinel://host/master (rediss: with TLS)",
        secret=SecretForm.ANY,
    )
    store_file: Path | None = file_with("session.store")
    store_secret: Secret | None = secret(
        SecretForm.LINES,
        None,
        "what entries in Redis are encrypted with; of several lines the first encrypts, all decrypt; default: app_id",
    )
    store_secret_file: Path | None = file_with("it")
    store_ca_file: Path | None = setting(
        parsing.ca_file, None, "PEM bundle of the authorities to trust for rediss:// instead of the system's"
    )
    store_cert_file: Path | None = setting(file_path, None, "PEM certificate that Redis is shown, if it wants one")
    store_cert_key_file: Path | None = setting(file_path, None, "PEM key of that certificate, without a password")
    store_sentinel_password: Secret | None = secret(SecretForm.ANY, None, "password of the Sentinels themselves")
    store_sentinel_password_file: Path | None = file_with("it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """The port for operators."""

    listen: tuple[ListenAddress, ...] = listed(
        parsing.listen_addresses, (ADMIN_LISTEN,), "where health, metrics and status are served"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """Who may use the proxy."""

    allowed_hosts: tuple[str, ...] | None = listed(
        parsing.served(parsing.allowed_host, "localhost, loopback and the listen addresses"),
        None,
        "Host values served, *.suffix too, no others; default: localhost, loopback, the listen addresses",
    )
    allowed_origins: tuple[str, ...] = listed(
        unique(parsing.browser_origin), (), "browser origins allowed, scheme://host[:port]"
    )
    allowed_networks: tuple[Network, ...] | None = listed(
        parsing.served(parsing.network, "loopback"), None, "client addresses served; default: loopback"
    )
    require_header: RequiredHeader | None = setting(
        parsing.required_header,
        None,
        '"Name: value" or "Name: /file" that every caller must send',
        needs_value=True,
        secret=SecretForm.HEADER_VALUE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what callers may take."""

    request_body: int = setting(size, 10 * MIB, "larger request bodies are refused")
    replay_body: int = setting(size, 1 * MIB, "request bodies up to this are buffered, to be sent again")
    replay_total: int = setting(
        size, 64 * MIB, "most bytes of request bodies buffered at a time, by all workers together"
    )
    in_flight: int = setting(count, 1000, "more requests at a time are refused")
    connections: int | None = setting(
        count, None, "more callers' connections to a process are refused; default: what its descriptors allow"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """How the proxy stops."""

    delay: float = setting(duration, 0.0, "after SIGTERM: go on accepting for this long, not ready")
    timeout: float = setting(duration, 100.0, "then finish what is in flight for up to this long")


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        one_of("debug", "info", "warning", "error"), "info", "debug, info, warning or error"
    )
    format: Literal["json", "console"] | None = setting(
        one_of("json", "console"), None, "json or console; default: json, console on a terminal"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings. Made by `load_settings`; built in code it reads neither environment nor files, and checks nothing."""

    app_id: Secret = secret(SecretForm.VISIBLE, MISSING, "application id given by CardCash, sent as x-cc-app")
    app_id_file: Path | None = file_with("the application id")
    environment: Literal["sandbox", "production"] = setting(
        one_of("sandbox", "production"), "sandbox", "sandbox or production: picks upstream.origin"
    )
    upstream: Upstream = Upstream()
    login: Login = Login()
    session: Session = Session()
    listen: tuple[ListenAddress, ...] = listed(
        parsing.listen_addresses,
        (ListenAddress("tcp", "127.0.0.1", 8080),),
        "where callers connect: HOST:PORT, [v6]:PORT, unix:/path or fd:NAME",
    )
    #: More than 64 would be a typing error: each is a process with its own 50 MB and its own share of the callers.
    workers: int = setting(
        partial(count, most=64), 1, "processes that serve callers, on one session and one admin port"
    )
    admin: Admin = Admin()
    callers: Callers = Callers()
    rules: tuple[Rule, ...] = listed(
        parsed_rules, (), "ordered list of {allow|deny, methods, path}; the first match wins; in text: JSON"
    )
    limits: Limits = Limits()
    drain: Drain = Drain()
    log: Log = Log()


@cache
def leaves() -> dict[str, Leaf]:
    """Return all settings by path, in the model's order."""
    return {leaf.path: leaf for leaf in _walk(Settings, "")}


@cache
def groups() -> frozenset[str]:
    """Return the paths of all groups."""
    return frozenset(path.rpartition(".")[0] for path in leaves() if "." in path)


def _walk(shape: Any, prefix: str) -> Iterator[Leaf]:
    for each in fields(shape):
        if "leaf" in each.metadata:
            yield replace(each.metadata["leaf"], path=prefix + each.name)
        else:
            yield from _walk(each.default, f"{prefix}{each.name}.")


def built(values: dict[str, Any]) -> Settings:
    """Return settings with these values by path, defaults for the others."""
    inside: dict[str, dict[str, Any]] = {group: {} for group in ("", *groups())}
    for path, value in values.items():
        group, _, name = path.rpartition(".")
        inside[group][name] = value
    top = inside.pop("")
    shapes: dict[str, Any] = {each.name: type(each.default) for each in fields(Settings)}
    return Settings(**top, **{name: shapes[name](**given) for name, given in inside.items()})
