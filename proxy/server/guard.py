"""Who may call, and what: hosts, networks, origins, the required header, rules, the in-flight limit.

Owns the order of the checks; each refusal is an error of `core/errors.py`, answered and counted in one place. Callers are
not authenticated, so these checks are all that stands between a web page in somebody's browser and the shared session.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from proxy.core.attempts import Traits
from proxy.core.errors import BadRequest, Denied, HostNotAllowed, Overloaded
from proxy.core.own_calls import check_own_call
from proxy.core.path_readings import Route, classify
from proxy.core.repeatability import buys, may_repeat, overriding_methods
from proxy.core.request_fields import RequestFields
from proxy.core.rules import Rule, allowed
from proxy.core.target import host_in, parse_target, query_keys, upstream_target
from proxy.core.values import is_loopback
from proxy.server.exchange import Exchange

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Characters of a target or a path that is remembered, so that callers cannot fill the memory.
_LONGEST_REMEMBERED: Final = 256


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """The settings `callers.*`, `rules` and `limits.in_flight`.

    `hosts` and `origins` are lower case; a host `*.example.com` allows all below it. `default_hosts`: names of loopback and
    the address a connection came in by are served too. `networks` None: loopback only.
    `required_value` is asked each time, because the file it may come from changes.
    """

    hosts: frozenset[str] = frozenset()
    default_hosts: bool = True
    origins: frozenset[str] = frozenset()
    networks: tuple[Network, ...] | None = None
    required_name: bytes | None = None
    required_value: Callable[[], str] = str
    rules: tuple[Rule, ...] = ()
    in_flight: int = 1000
    base_path: str = "/v3"


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that may go on: its line for the upstream, and what that means."""

    #: Method, target and version, with the CRLF.
    start: bytes
    #: What may be logged of the query.
    query: tuple[str, ...]
    route: Route
    #: What decides how often it may be sent.
    traits: Traits
    #: It is about somebody's account: never to be answered as somebody else, or as nobody when somebody is logged in.
    account: bool
    #: Its method, and what some servers take for it because the query says so.
    methods: tuple[str, ...]
    #: The authority of its target, if that is an absolute one.
    authority: str | None


class Guard:
    """Checks every request before anything is read of its body, sent upstream, or asked of the session."""

    def __init__(self, policy: GuardSettings) -> None:
        self.policy = policy
        self.in_flight = 0
        #: Requests that wait for the rest of their bodies, and are not in flight meanwhile.
        self.receiving = 0
        # Callers name few hosts; measured beside a whole request, reading one anew costs 3 %.
        self._serves = lru_cache(maxsize=256)(self._serves_host)
        self._emptied = asyncio.Event()

    def enter(self) -> None:
        """Count a request in."""
        self.in_flight += 1

    def leave(self) -> None:
        """Count a request out."""
        self.in_flight -= 1
        if not self.in_flight:
            self._emptied.set()

    @contextmanager
    def waiting_for_body(self) -> Iterator[None]:
        """Let a request that is counted in wait without a place for what its caller still has to send.

        Raises `Overloaded` when there is no place for it then; nothing was sent yet.
        """
        self.leave()
        self.receiving += 1
        try:
            yield
        finally:
            self.receiving -= 1
            self.enter()
        self._check_in_flight()

    async def empty(self) -> None:
        """Wait until no request is in flight."""
        while self.in_flight:
            self._emptied.clear()
            await self._emptied.wait()

    def check_caller(self, peer: str | None) -> None:
        """Refuse a client address outside `callers.allowed_networks`; a unix socket is guarded by its file mode."""
        if peer is None:
            return
        address, networks = _address(peer), self.policy.networks
        good = address.is_loopback if networks is None else any(address in network for network in networks)
        if not good:
            raise Denied("client_not_allowed", "This client address is not in callers.allowed_networks.")

    def check_host(self, host: bytes | None, local: str | None, *, http_10: bool) -> None:
        """Refuse a Host nobody allowed: it is what a DNS-rebinding page in a browser would send."""
        if host is None:
            if http_10:
                return  # no browser sends HTTP/1.0
            raise BadRequest("The request has no Host.")
        if not self._serves(host.decode("latin-1"), local):
            raise HostNotAllowed("This Host is not in callers.allowed_hosts; a page may not call the proxy by it.")

    def check_actor(self, fields: RequestFields, authority: str | None, peer: str | None) -> None:
        """Check a request that acts on the admin port; the names of loopback are always good there, ours use them."""
        if peer is not None and not _address(peer).is_loopback:
            raise Denied("client_not_allowed", "This action is allowed from loopback only.")
        if fields.host is None:
            raise BadRequest("The request has no Host.")
        for name in (fields.host.decode("latin-1"), authority):
            if name is not None and not is_loopback(host_in(name)) and not self._serves(name, None):
                raise HostNotAllowed("This Host is not in callers.allowed_hosts; a page may not call the proxy by it.")
        self.check_origin(fields)

    def check_origin(self, fields: RequestFields) -> None:
        """Refuse what a browser sends for a page of another site, unless `callers.allowed_origins` has its origin.

        Origin: RFC 6454; Sec-Fetch-Site: Fetch Metadata, which also marks requests without an Origin.
        """
        for origin in fields.origins:
            if origin.decode("latin-1").lower() not in self.policy.origins and not _same_origin(origin, fields.host):
                raise Denied("origin_not_allowed", "This browser origin is not in callers.allowed_origins.")
        site = fields.fetch_site
        if site is not None and not fields.origins and site.strip().lower() not in (b"none", b"same-origin"):
            raise Denied("origin_not_allowed", "Cross-site requests of browsers are not served.")

    def read(self, exchange: Exchange, fields: RequestFields) -> Admission:
        """Read what a request is, which is known of it also when it is refused. Raises `BadRequest`."""
        read = _read_known if len(exchange.target) <= _LONGEST_REMEMBERED else _read
        overridden = bool(fields.overrides or fields.other_targets)
        return read(exchange.method, exchange.target, overridden, self.policy.base_path)

    def admit(self, exchange: Exchange, fields: RequestFields, admission: Admission) -> None:
        """Make all checks of a request in order. Raises the refusal. Its caller's address was checked when it connected."""
        policy, authority = self.policy, admission.authority
        self.check_host(fields.host, exchange.link.local, http_10=exchange.http_10)
        if authority is not None and not self._serves(authority, exchange.link.local):
            raise HostNotAllowed("The authority of the request target is not in callers.allowed_hosts.")
        if fields.origins or fields.fetch_site is not None:
            self.check_origin(fields)
        if policy.required_name is not None:
            self._check_required(fields.required)
        routes = [admission.route]
        if fields.other_targets:  # the session and the login call under another's path are refused while read
            routes += (_read(exchange.method, each, True, policy.base_path).route for each in fields.other_targets)
        if policy.rules:
            methods = (*admission.methods, *fields.overrides)
            if not all(allowed(policy.rules, each, route) for each in methods for route in routes):
                raise Denied("denied_by_rule", "A rule of this proxy does not allow this method and path.")
        self._check_in_flight()

    def _check_in_flight(self) -> None:
        if self.in_flight > self.policy.in_flight:
            raise Overloaded("More requests are in flight than limits.in_flight; nothing was sent, try again.")

    def _serves_host(self, authority: str, local: str | None) -> bool:
        """Say whether `host[:port]` is one that callers may name. Raises `BadRequest`."""
        name, hosts = host_in(authority), self.policy.hosts
        if name in hosts or (self.policy.default_hosts and (is_loopback(name) or name == local)):
            return True
        labels = name.split(".")
        return any(f"*.{'.'.join(labels[place:])}" in hosts for place in range(1, len(labels)))

    def _check_required(self, values: Sequence[bytes]) -> None:
        wanted = self.policy.required_value().encode()
        if len(values) != 1 or not hmac.compare_digest(values[0].strip(), wanted):
            raise Denied("header_required", "The header of callers.require_header is missing or wrong.")


def _address(peer: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(peer.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def _judge(method: str, path: str, overridden: bool, base_path: str) -> tuple[Route, Traits, bool]:
    """Judge a method and an upstream path, without a query, for `Admission`. Raises `BadRequest`."""
    route = classify(path, base_path)
    check_own_call(method, path, route, base_path)
    if overridden and (route.is_session or route.is_login):
        raise BadRequest("A session or login call may not have its method overridden.")
    traits = Traits(
        route=f"{method} {route.key}",
        safe=may_repeat(method, route.path, overridden=overridden),
        may_buy=overridden or buys(method, route),
        logs_in=route.is_login and method == "POST",
    )
    return route, traits, route.needs_login("" if overridden else method)


#: Measured beside a whole request: judging a path anew costs 12 %.
_judge_known = lru_cache(maxsize=1024)(_judge)


def _read(method: str, target: str, overridden: bool, base_path: str) -> Admission:
    """Read a request line. Raises `BadRequest`."""
    parsed = parse_target(method, target)
    text = upstream_target(parsed.text, base_path)
    path, _, query = text.partition("?")
    judge = _judge_known if len(path) <= _LONGEST_REMEMBERED else _judge
    start = f"{method} {text} HTTP/1.1\r\n".encode("ascii")
    keys = query_keys(query) if query else ()
    others = overriding_methods(query) if query else ()
    judged = judge(method, path, overridden or bool(others), base_path)
    return Admission(start, keys, *judged, (method, *others), parsed.authority)


#: The same: reading a line anew whose path is known costs 4 %.
_read_known = lru_cache(maxsize=1024)(_read)


def _same_origin(origin: bytes, host: bytes | None) -> bool:
    return host is not None and origin.lower() == b"http://" + host.lower()
