"""`cardcash-proxy serve`: runs the proxy, in one process or in several."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from proxy.commands.flags import add_settings as add_flags
from proxy.commands.flags import load
from proxy.process import BAD_USAGE, FAILED, OK, complain

if TYPE_CHECKING:
    from proxy.settings import Settings

__all__ = ["add_flags", "run"]

#: Descriptors without any caller: for the process itself, and for each worker at its supervisor.
_DESCRIPTORS: Final = 24
_DESCRIPTORS_OF_A_WORKER: Final = 8


def run(options: argparse.Namespace) -> int:
    """Serve until a signal."""
    loaded = load(options)
    if loaded is None:
        return BAD_USAGE
    from proxy.commands.running import run_loop
    from proxy.listening import descriptors

    settings = loaded.settings
    there, needed = descriptors(), _DESCRIPTORS + _DESCRIPTORS_OF_A_WORKER * settings.workers
    if there < needed:
        complain(f"the limit of open files is {there}, and this needs {needed}: raise it (ulimit -n)")
        return FAILED
    if settings.workers > 1:
        from proxy.processes.supervisor import serve

        return serve(settings)
    return run_loop(_served(settings))


async def _served(settings: Settings) -> int:
    from proxy.app import Proxy
    from proxy.commands.running import on_signals
    from proxy.listening import CannotListen
    from proxy.memory import settle
    from proxy.session.stores import StoreUnusable
    from proxy.telemetry import logs

    writer = logs.configure(settings.log.level, settings.log.format)
    proxy = Proxy(settings)
    on_signals(proxy.request_stop, reread=proxy.read_again)
    try:
        async with proxy:
            settle()
            await proxy.run()
    except StoreUnusable as error:
        complain(str(error))
        return BAD_USAGE
    except (CannotListen, ValueError) as error:
        complain(str(error))
        return FAILED
    finally:
        await writer.finish()
    return OK
