"""`cardcash-proxy serve`: runs the proxy, in one process or in several."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Final

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
    from proxy.app import Proxy
    from proxy.memory import settle
    from proxy.running import on_hangup, on_signals
    from proxy.telemetry import logs

    writer = logs.configure(settings.log.level, settings.log.format)
    proxy = Proxy(settings, handed_over=handed_over, manager=manager)
    on_signals(proxy.request_stop)
    reading = on_hangup(proxy.have_read_again)
    handed_over.close_unused(settings)
    try:
        async with proxy:
            settle()
            await proxy.run()
    finally:
        await reading.close()
        await writer.finish()
    return OK
