"""What the parts are built of, from the settings: for the composition root, and for commands that build some of them."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

from proxy.clock import Clock
from proxy.server.guard import GuardSettings
from proxy.server.outgoing import Injected
from proxy.session.call_sender import CallClient
from proxy.session.cardcash_calls import Credentials, SessionCalls
from proxy.settings import Settings, proxy_variables
from proxy.upstream import Origin, ProxyTunnel, Upstream

#: Session calls at a time: a renewal, a keep-alive, and what was given up and still closes.
SESSION_CONNECTIONS = 8


def tunnel(settings: Settings) -> ProxyTunnel | None:
    """Read the proxy that the environment asks to go through, where it counts."""
    found = proxy_variables(settings.upstream.origin, os.environ) if settings.upstream.trust_env else None
    return None if found is None else ProxyTunnel(found.host, found.port, found.authorization)


def client(settings: Settings, tls: ssl.SSLContext | None, *, max_connections: int, idle_timeout: float) -> Upstream:
    """Build a client of CardCash; `tls` is for an origin of https."""
    upstream = settings.upstream
    return Upstream(
        Origin.parse(upstream.origin),
        ssl_context=tls,
        connect_timeout=upstream.connect_timeout,
        response_timeout=upstream.response_timeout,
        max_connections=max_connections,
        idle_timeout=idle_timeout,
        max_age=upstream.max_age,
        proxy=tunnel(settings),
    )


def client_of_session_calls(settings: Settings, tls: ssl.SSLContext | None) -> Upstream:
    """Build one for them alone: no full pool keeps them waiting, and no connection is used for a second call."""
    return client(settings, tls, max_connections=SESSION_CONNECTIONS, idle_timeout=0.0)


def session_calls(
    settings: Settings,
    credentials: Credentials,
    upstream: CallClient,
    *,
    clock: Clock,
    failed: Callable[[str], None] = lambda _: None,
) -> SessionCalls:
    """Build what makes sessions and logs them in; `failed` hears of each try that failed."""
    return SessionCalls(
        credentials,
        upstream,
        host=Origin.parse(settings.upstream.origin).host_header,
        base_path=settings.upstream.base_path,
        user_agent=settings.upstream.user_agent,
        clock=clock,
        failed=failed,
    )


def injected(settings: Settings, app_id: Callable[[], str]) -> Injected:
    """Build what every request upstream carries."""
    origin = Origin.parse(settings.upstream.origin)
    host = origin.host_header
    default_port = {"http": b":80", "https": b":443"}[origin.scheme]
    plain = f"{origin.scheme}://".encode() + host
    return Injected(
        host=b"Host: %b\r\n" % host,
        app_id=app_id,
        user_agent=b"User-Agent: %b\r\n" % settings.upstream.user_agent.encode("latin-1"),
        origins=(plain.lower(), plain.lower() + default_port),
    )


def guard_settings(settings: Settings, *, required_value: Callable[[], str]) -> GuardSettings:
    """Build what the guard of both ports enforces; `required_value` reads the header that callers must send, whose file may
    change."""
    callers, header = settings.callers, settings.callers.require_header
    if callers.allowed_hosts is not None:
        hosts = frozenset(callers.allowed_hosts)
    else:
        hosts = frozenset(address.host.lower() for address in settings.listen if address.host)
    return GuardSettings(
        hosts=hosts,
        default_hosts=callers.allowed_hosts is None,
        origins=frozenset(callers.allowed_origins),
        networks=callers.allowed_networks,
        required_name=header.name.lower().encode("ascii") if header else None,
        required_value=required_value,
        rules=settings.rules,
        in_flight=settings.limits.in_flight,
        base_path=settings.upstream.base_path,
    )
