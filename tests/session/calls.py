"""Session calls on the client that the composition root gives them."""

from __future__ import annotations

import ssl
from contextlib import AsyncExitStack
from typing import Any

from proxy.session.cardcash_calls import Credentials, SessionCalls
from proxy.upstream import Origin, ProxyTunnel, Upstream
from tests.session.fakes import FakeClock


def calls_to(
    url: str,
    stack: AsyncExitStack,
    credentials: Credentials,
    *,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout: float = 5.0,
    tunnel: ProxyTunnel | None = None,
    **more: Any,
) -> SessionCalls:
    """Make session calls to `url`, whose connections are closed with the stack."""
    origin = Origin.parse(url)
    client = Upstream(origin, ssl_context=ssl_context, connect_timeout=connect_timeout, idle_timeout=0.0, proxy=tunnel)
    stack.push_async_callback(client.aclose)
    options: dict[str, Any] = {
        "base_path": "/v3",
        "user_agent": "agent/1",
        "clock": FakeClock(),
        "fraction": lambda: 0.0,
    }
    return SessionCalls(credentials, client, host=origin.host_header, **{**options, **more})
