"""`cardcash-proxy serve`: runs the proxy, in one process or in several."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.commands.flags import add_settings as add_flags
from proxy.commands.flags import load
from proxy.process import BAD_USAGE, FAILED, OK, complain

if TYPE_CHECKING:
    from proxy.app import Proxy
    from proxy.processes.supervisor import Supervisor
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
    return run_loop(_served(settings))


async def _served(settings: Settings) -> int:
    from proxy.listening import CannotListen
    from proxy.memory import settle
    from proxy.processes import WorkerFailed
    from proxy.session.stores import StoreUnusable
    from proxy.telemetry import logs

    writer = logs.configure(settings.log.level, settings.log.format)
    running = _one_process(settings) if settings.workers == 1 else _several(settings, writer.share)
    try:
        async with running:
            settle()
            await running.run()
    except StoreUnusable as error:
        complain(str(error))
        return BAD_USAGE
    except WorkerFailed as error:
        complain(str(error))
        return error.code
    except (CannotListen, ValueError) as error:
        complain(str(error))
        return FAILED
    finally:
        await writer.finish()
    return OK


def _one_process(settings: Settings) -> Proxy:
    from proxy.app import Proxy
    from proxy.commands.running import on_signals

    proxy = Proxy(settings)
    on_signals(proxy.request_stop, reread=proxy.read_again)
    return proxy


def _several(settings: Settings, share_log: Callable[[Path], None]) -> Supervisor:
    """Leave out all that proxies: it runs in processes of its own."""
    from proxy.commands.running import on_signals
    from proxy.processes.supervisor import Supervisor

    supervisor = Supervisor(settings, share_log=share_log)
    on_signals(supervisor.request_stop, supervisor.end_at_once, reread=supervisor.read_again)
    return supervisor
