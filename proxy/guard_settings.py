"""From the settings to what the guard enforces, on the proxy port and on the admin port."""

from __future__ import annotations

from collections.abc import Callable

from proxy.server.guard import GuardSettings
from proxy.settings import Settings


def guard_settings(settings: Settings, *, required_value: Callable[[], str]) -> GuardSettings:
    """Build them; `required_value` reads the header that callers must send, which may change with its file."""
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
