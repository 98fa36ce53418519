"""`cardcash-proxy simulate`: the CardCash simulator alone."""

from __future__ import annotations

import argparse
import asyncio

from proxy.commands.flags import Parser, host_port, seconds
from proxy.process import BadUsage, Failed
from proxy.running import run_loop, until_signal
from proxy.simulator import Simulator, SimulatorSettings
from proxy.telemetry import logs


def add_flags(parser: Parser) -> None:
    """Add what `simulate` takes."""
    parser.add_argument("--listen", metavar="HOST:PORT", type=host_port, default="127.0.0.1:8090")
    parser.add_argument("--app-id", metavar="ID", action="append", help="application ids it knows (demo-app-id)")
    parser.add_argument("--token-ttl", metavar="S", type=seconds, default=1199.0, help="life of a token (1199)")
    parser.add_argument("--refresh-window", metavar="S", type=seconds, help="before the end of a token's life (300)")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any of the settings that GET /_simulator/settings shows, say content_type_required=false; repeatable",
    )
    parser.check = lambda options: _changed(SimulatorSettings(), options)


def run(options: argparse.Namespace) -> int:
    """Simulate until a signal."""
    return run_loop(_simulated(options))


async def _simulated(options: argparse.Namespace) -> int:
    logs.configure("error", "console", fd=2)
    window = min(300.0, options.token_ttl / 4) if options.refresh_window is None else options.refresh_window
    named = SimulatorSettings(
        app_ids=tuple(options.app_id or ["demo-app-id"]), token_ttl=options.token_ttl, refresh_window=window
    )
    settings = _changed(named, options)
    simulator = Simulator(settings)
    try:
        await simulator.start(options.listen.host, options.listen.port)
    except OSError as error:
        raise Failed(f"--listen: cannot listen on {options.listen}: {error.strerror}") from None
    print(f"CardCash simulator at {simulator.url}, controls at {simulator.url}/_simulator/", flush=True)
    print(f"app_id {settings.app_ids[0]}, login {next(iter(settings.accounts.items()))}", flush=True)
    try:
        return await until_signal(asyncio.Event().wait())
    finally:
        await simulator.stop()


def _changed(settings: SimulatorSettings, options: argparse.Namespace) -> SimulatorSettings:
    """Change settings as `--set` says. Raises `BadUsage`."""
    try:
        return settings.told(options.set)
    except ValueError as error:
        raise BadUsage(*(f"--set: {fault}" for fault in error.args)) from None
