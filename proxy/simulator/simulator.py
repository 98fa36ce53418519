"""The Simulator: starts and stops the stand-in, and lets tests in the same process reach into it.

Owns the listening socket. Everything it can do is in the other files of this folder.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.simulator.app import Gate
from proxy.simulator.control import Control
from proxy.simulator.faults import parse
from proxy.simulator.settings import FIXED, Context, Emit, SimulatorSettings

# Wider than any proxy's own bounds, so that a test of those never meets these first.
MAX_FIELD = 262_144


def _is_news(record: logging.LogRecord) -> bool:
    """Pass what is a fault of the simulator; malformed requests are its daily bread and may hold credentials."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_LOG = logging.getLogger("proxy.simulator")
_LOG.addFilter(_is_news)


class Simulator:
    """A stateful CardCash stand-in on a socket of its own; for one event loop.

    It may be stopped and started again (an outage): accounts, orders, tokens and counters stay.
    """

    def __init__(self, settings: SimulatorSettings | None = None) -> None:
        self._context = Context(settings or SimulatorSettings())
        self._gate = Gate(self._context)
        self._control = Control(self._gate, self._apply)
        self._runner: web.AppRunner | None = None
        self.url = ""
        self.port = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, ssl_context: ssl.SSLContext | None = None) -> None:
        """Listen on `host`:`port` (0: a free one, then in `port` and `url`). Raises OSError when it is taken."""
        if self._runner is not None:
            raise RuntimeError("the simulator is running")
        app = self._gate.application()
        self._control.attach(app)
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_LOG,
            auto_decompress=False,
            keepalive_timeout=75,
            shutdown_timeout=0.1,
            max_line_size=MAX_FIELD,
            max_field_size=MAX_FIELD,
            max_headers=1_000,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port, ssl_context=ssl_context, backlog=1024)
            self._count_connections(runner)
            await site.start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self.port = int(runner.addresses[0][1])
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if ssl_context else 'http'}://{shown}:{self.port}"

    def _count_connections(self, runner: web.AppRunner) -> None:
        server = runner.server
        if server is None:
            return
        made = server.connection_made

        def counting(handler: Any, transport: asyncio.Transport) -> None:
            self._gate.records.connections += 1
            made(handler, transport)

        server.connection_made = counting  # type: ignore[method-assign]  # aiohttp offers no signal for it

    async def stop(self) -> None:
        """Close the socket and every connection; calls still in work are cancelled after 0.1 s."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    # -- in-process controls -----------------------------------------------------------------------------

    @property
    def settings(self) -> SimulatorSettings:
        """The settings of the moment."""
        return self._context.settings

    @property
    def clock(self) -> Callable[[], float]:
        """The clock, Unix seconds; tests set another to move time."""
        return self._context.clock

    @clock.setter
    def clock(self, clock: Callable[[], float]) -> None:
        self._context.clock = clock

    def advance(self, seconds: float) -> None:
        """Move the clock on from where it stands, and let it run."""
        before = self._context.clock
        self._context.clock = lambda: before() + seconds

    @property
    def on_event(self) -> Emit | None:
        """Called in the event loop with (name, fields) of what happens; never a token, password or app id."""
        return self._context.sink

    @on_event.setter
    def on_event(self, sink: Emit | None) -> None:
        self._context.sink = sink

    @property
    def calls(self) -> Counter[str]:
        """Calls received, by "METHOD /v3/template"; "METHOD other" for unknown paths."""
        return self._gate.records.calls

    @property
    def processed(self) -> dict[str, int]:
        """How often each X-Test-Id or X-Request-ID was processed, GET and HEAD aside."""
        return self._gate.records.processed

    @property
    def counters(self) -> dict[str, Any]:
        """What GET /_simulator/counters shows."""
        return self._control.counters()

    def reset_counters(self) -> None:
        """Count anew."""
        self._control.reset_counters()

    def heads(self, last: int = 20) -> list[dict[str, Any]]:
        """Show the last request heads, credentials hashed, oldest first."""
        return self._gate.records.heads(last)

    @property
    def tokens(self) -> list[str]:
        """Every token it has issued and not forgotten."""
        return self._gate.sessions.issued()

    def revoke_all(self) -> int:
        """Revoke every token now; return how many were good."""
        return self._gate.sessions.revoke_all()

    def expire_all(self) -> int:
        """Let every token expire now; return how many were good."""
        return self._gate.sessions.expire_all()

    def configure(self, **changes: Any) -> None:
        """Change settings by name. Raises ValueError naming what is unknown or wrong."""
        self._apply(changes)

    def _apply(self, changes: Mapping[str, Any]) -> None:
        for name in FIXED:
            if name in changes:
                raise ValueError(f"{name}: fixed when the simulator starts")
        self._context.settings = self._context.settings.changed(changes)
        self._context.emit("configured", settings=sorted(changes))

    def fault(self, kind: str, **order: Any) -> None:
        """Order a fault: `kind` fail, delay, reset or reject, and the fields of that control. Raises ValueError."""
        self._gate.faults.add(parse(kind, order))

    def clear_faults(self) -> None:
        """Forget the faults still open."""
        self._gate.faults.clear()

    def force_token(self, *, value: str | None = None, length: int = 0, times: int = 1) -> None:
        """Choose what the next `times` tokens look like: this value, or at least about this length."""
        self._gate.sessions.force_next({"length": length} if value is None else {"value": value}, times)
