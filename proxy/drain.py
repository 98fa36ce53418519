"""How a proxy stops: it lets nobody in any more, ends what is in flight, and tells everybody what became of theirs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Final

from proxy.core.errors import Draining
from proxy.listening import let_nobody_new_connect
from proxy.server.guard import Guard
from proxy.server.listener import LAST_SECONDS, Listener
from proxy.server.proxy_port import ProxyServer
from proxy.session.keeper import SessionKeeper
from proxy.telemetry.logs import log
from proxy.telemetry.metrics import Metrics
from proxy.upstream import Upstream

#: Seconds for callers that were half connected when nobody new was let in any more: a round trip of theirs.
_HALF_CONNECTED: Final = 0.05


async def close_listeners(listeners: Sequence[Listener], sockets: Sequence[socket.socket]) -> None:
    """Take in everybody who has connected, and let nobody in after them.

    `sockets`: those that end with this process. Who stands in the queue of one that was handed over waits for the next
    process; at the others, of 200 callers that connect just before and while the proxy is
    told to stop none is reset: they are served, or refused by the kernel before they have sent anything.
    """
    ignored = [let_nobody_new_connect(sock) for sock in sockets]
    if any(ignored):
        await asyncio.sleep(_HALF_CONNECTED)
    for listener in listeners:
        await listener.close_after_the_rest()


async def finish(
    server: ProxyServer, guard: Guard, keeper: SessionKeeper, upstream: Upstream, metrics: Metrics, *, timeout: float
) -> None:
    """End what was taken in: in peace for `timeout` seconds, then with a word to everybody."""
    # What was taken in is served, also the first request of who has just come; each answer is its connection's last.
    server.drain()
    if await _ended(server, guard, within=timeout):
        return
    in_flight, unknown = guard.in_flight + guard.receiving, metrics.outcomes_unknown
    # What still runs ends here, and every caller is told so: what waits for a session, what was sent or waits for
    # a connection, and then what is still being received.
    keeper.refuse()
    await upstream.aclose()
    server.fail_bodies(Draining("The proxy is stopping; nothing was processed, send the request again."))
    await _ended(server, guard, within=LAST_SECONDS)
    advice = "before a cut order is sent again look into GET /orders/buy; a longer drain.timeout cuts fewer"
    log.warning("drain_timeout", in_flight=in_flight, maybe_processed=metrics.outcomes_unknown - unknown, advice=advice)


async def _ended(server: ProxyServer, guard: Guard, *, within: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await guard.empty()
            # The last bytes of the last answers may still be on their way to a slow reader.
            await server.all_ended()
            return True
    return False
