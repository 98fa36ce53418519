"""`cardcash-proxy serve`: runs the proxy, in one process or in several."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING, Final

from proxy import __version__
from proxy.commands.flags import add_settings as add_flags
from proxy.commands.flags import load
from proxy.process import OK, BadUsage, Failed

if TYPE_CHECKING:
    from proxy.handed_over import HandedOver
    from proxy.notify import ServiceManager
    from proxy.settings import Settings

__all__ = ["add_flags", "run"]

#: Descriptors without any caller: for the process itself, and for each worker at its supervisor.
_DESCRIPTORS: Final = 24
_DESCRIPTORS_OF_A_WORKER: Final = 8


def run(options: argparse.Namespace) -> int:
    """Serve until a signal."""
    settings = load(options).settings
    from proxy.memory import begin_lean

    begin_lean()  # before anything imports aiohttp
    from proxy.handed_over import HandedOver
    from proxy.listening import CannotListen, descriptors
    from proxy.notify import ServiceManager
    from proxy.running import run_loop
    from proxy.session.stores import StoreUnusable

    handed_over, manager = HandedOver.take(os.environ), ServiceManager.take(os.environ)
    if faults := handed_over.faults(settings):
        raise BadUsage(*faults)
    there, needed = descriptors(), _DESCRIPTORS + _DESCRIPTORS_OF_A_WORKER * settings.workers
    if there < needed:
        raise Failed(f"the limit of open files is {there}, and this needs {needed}: raise it (ulimit -n)")
    try:
        if settings.workers > 1:
            from proxy.processes.supervisor import serve

            return serve(settings, handed_over, manager)
        return run_loop(_served(settings, handed_over, manager))
    except StoreUnusable as error:
        raise BadUsage(str(error)) from None
    except (CannotListen, ValueError) as error:
        raise Failed(str(error)) from None


async def _served(settings: Settings, handed_over: HandedOver, manager: ServiceManager) -> int:
    """Be the one process of the proxy, and tell of its life."""
    from proxy.app import AT_THE_END, Proxy
    from proxy.memory import settle
    from proxy.running import on_hangup, on_signals
    from proxy.telemetry import logs
    from proxy.telemetry.logs import log

    async def read_again() -> None:
        if proxy.life.serving:
            manager.reloading()
            await proxy.have_read_again()
        if proxy.life.serving:
            manager.ready(proxy.addresses)

    def tell_alive() -> None:
        """Tell that this process is alive, as long as `/healthz` says so."""
        if not proxy.loops.not_alive():
            manager.alive()

    writer = logs.configure(settings.log.level, settings.log.format)
    began, drain = time.perf_counter(), settings.drain
    proxy = Proxy(settings, handed_over=handed_over)
    on_signals(proxy.request_stop)
    reading = on_hangup(read_again)
    handed_over.close_unused(settings)
    try:
        async with proxy:
            settle()
            log.info(
                "started",
                version=__version__,
                listen=proxy.addresses,
                admin=proxy.admin_addresses,
                origin=settings.upstream.origin,
                start_ms=round((time.perf_counter() - began) * 1000, 1),
            )
            manager.ready(proxy.addresses)
            if manager.alive_every:
                proxy.loops.every(manager.alive_every, "watchdog", tell_alive)
            await proxy.told_to_stop()
            log.info("draining", delay=drain.delay, timeout=drain.timeout, in_flight=proxy.guard.in_flight)
            manager.stopping(drain.delay + drain.timeout + AT_THE_END)
            await proxy.drain()
            log.info("stopped")
    finally:
        await reading.close()
        await writer.finish()
    return OK
