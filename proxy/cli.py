"""The commands; the only reader of argv. Every fault is one clear line on stderr and exit code 2, never a traceback.

Imports little: until `main` runs, a signal ends the process the way Python does it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy import __version__
from proxy.commands import operations
from proxy.commands.arguments import Parser, dashed
from proxy.process import (
    BAD_USAGE,
    FAILED,
    OK,
    STOP_SIGNALS,
    begin_with_signals,
    complain,
    end_output,
    fill_standard_descriptors,
    told,
)

if TYPE_CHECKING:
    from proxy.app import Proxy
    from proxy.processes.supervisor import Supervisor
    from proxy.settings import Loaded, Settings


#: Without any caller: for the process itself, and for each worker at its supervisor.
_DESCRIPTORS = 24
_DESCRIPTORS_OF_A_WORKER = 8


#: Commands whose exit code is what is asked for, whatever becomes of the line they print.
_VERDICTS = ("health", "wait", "shutdown", "serve")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    wanted = _command(words)
    begin_with_signals(serves=wanted == "serve", runs=wanted in ("serve", "demo", "simulate"))
    fill_standard_descriptors()
    try:
        options = _parser(words).parse_args(argv)
        command: Callable[[argparse.Namespace], int] = options.command
        code = command(options)
    except SystemExit as end:  # argparse's, after --help, --version or a fault
        code = end.code if isinstance(end.code, int) else BAD_USAGE
    except (KeyboardInterrupt, BrokenPipeError):  # the reader of our output (head, less) has seen enough
        code = OK
    except OSError as error:
        complain(f"the system refused what is needed: {told(error)}")
        code = FAILED
    lost = end_output()
    if lost is not None and code == OK and wanted not in _VERDICTS:
        complain(f"the output could not be written: {told(lost)}")
        code = FAILED
    end_output()
    return code


def _command(argv: Sequence[str]) -> str:
    return next((word for word in argv if not word.startswith("-")), "")


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = Parser(
        prog="cardcash-proxy",
        description="Apps send plain HTTP to this proxy; it adds CardCash's application id and the one shared session.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cardcash-proxy {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, text: str, command: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=command)
        return sub

    # The flags of all settings are made only for the command that has them: --help of another must not pay for it.
    wanted = _command(argv)
    for name, text, command in (
        ("serve", "run the proxy", _serve),
        ("check", "validate the configuration and print the effective one, secrets redacted", _check),
        (
            "health",
            "exit 0 when the running proxy is alive, else 1 (for a container HEALTHCHECK)",
            _operate(operations.health),
        ),
    ):
        sub = add(name, text, command)
        sub.add_argument("--config", metavar="FILE", type=Path, help="YAML file (default: $CARDCASH_CONFIG)")
        if wanted == name:
            _add_setting_flags(sub, only="admin.listen" if name == "health" else None)
    for name, text, command in (
        ("wait", "return when the running proxy is ready (for init containers and scripts)", _operate(operations.wait)),
        ("shutdown", "ask the running proxy to drain and stop (for Kubernetes Jobs)", _operate(operations.shutdown)),
    ):
        sub = add(name, text, command)
        sub.add_argument("--config", metavar="FILE", type=Path, help="YAML file (default: $CARDCASH_CONFIG)")
        if name == "wait":
            sub.add_argument("--timeout", metavar="S", type=_seconds, default=60.0, help="give up after this (60s)")
        if wanted == name:
            _add_setting_flags(sub, only="admin.listen")
    session = commands.add_parser("session", help="read or renew the running proxy's session", allow_abbrev=False)
    actions = session.add_subparsers(title="actions", required=True, metavar="ACTION", parser_class=Parser)
    for name, text, command in (
        (
            "status",
            "print the running proxy's session: state, expiry, identity, pauses; never a token",
            _operate(operations.session_status),
        ),
        (
            "renew",
            "renew the running proxy's session now; opens the latch of a refused login or app_id",
            _operate(operations.session_renew),
        ),
    ):
        sub = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=command)
        sub.add_argument("--config", metavar="FILE", type=Path, help="YAML file (default: $CARDCASH_CONFIG)")
        sub.add_argument("--json", dest="as_json", action="store_true", help="as JSON")
        if wanted == "session":
            _add_setting_flags(sub, only="admin.listen")
    demo = add("demo", "simulator and proxy together: try it out, with curl lines to paste", _demo)
    for flag, default in (("--listen", "8080"), ("--admin-listen", "8081"), ("--simulator-listen", "8090")):
        demo.add_argument(flag, metavar="HOST:PORT", type=_host_port, default=f"127.0.0.1:{default}")
    simulate = add("simulate", "the CardCash simulator alone", _simulate)
    simulate.add_argument("--listen", metavar="HOST:PORT", type=_host_port, default="127.0.0.1:8090")
    simulate.add_argument("--app-id", metavar="ID", action="append", help="application ids it knows (demo-app-id)")
    simulate.add_argument("--token-ttl", metavar="S", type=_seconds, default=1199.0, help="life of a token (1199)")
    simulate.add_argument("--refresh-window", metavar="S", type=_seconds, help="before the end of a token's life (300)")
    simulate.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any of the settings that GET /_simulator/settings shows, say content_type_required=false; repeatable",
    )
    return parser


def _add_setting_flags(parser: argparse.ArgumentParser, *, only: str | None) -> None:
    from proxy.settings.describe import help_of
    from proxy.settings.model import leaves

    group = parser.add_argument_group("settings", "each also as an environment variable, say CARDCASH_UPSTREAM__ORIGIN")
    for flag in leaves().values():
        if flag.kind.hidden or (only is not None and flag.path != only):
            continue
        names = dict.fromkeys((f"--{flag.path}", f"--{flag.path.replace('.', '-')}", "--" + dashed(flag.path)))
        group.add_argument(*names, metavar="VALUE", dest=f"setting:{flag.path}", help=help_of(flag).replace("%", "%%"))


def _host_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


def _settings(options: argparse.Namespace) -> Loaded | None:
    """Load the settings; None after the faults were told, one line each."""
    from proxy.settings import SettingsError, load

    flags = {
        name.removeprefix("setting:"): value
        for name, value in vars(options).items()
        if name.startswith("setting:") and value is not None
    }
    try:
        return load(config=options.config, flags=flags)
    except SettingsError as error:
        for fault in error.faults:
            complain(fault)
        return None


def _run(work: Coroutine[Any, Any, int]) -> int:
    """Run in a uvloop event loop."""
    import asyncio

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _serve(options: argparse.Namespace) -> int:
    from proxy.listening import descriptors

    loaded = _settings(options)
    if loaded is None:
        return BAD_USAGE
    settings = loaded.settings
    there, needed = descriptors(), _DESCRIPTORS + _DESCRIPTORS_OF_A_WORKER * settings.workers
    if there < needed:
        complain(f"the limit of open files is {there}, and this needs {needed}: raise it (ulimit -n)")
        return FAILED
    return _run(_served(settings))


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

    proxy = Proxy(settings)
    _on_signals(proxy.request_stop, reread=proxy.read_again)
    return proxy


def _several(settings: Settings, share_log: Callable[[Path], None]) -> Supervisor:
    """Leave out all that proxies: it runs in processes of its own."""
    from proxy.processes.supervisor import Supervisor

    supervisor = Supervisor(settings, share_log=share_log)
    _on_signals(supervisor.request_stop, supervisor.end_at_once, reread=supervisor.read_again)
    return supervisor


def _on_signals(
    stop: Callable[[], None], at_once: Callable[[], None] | None = None, *, reread: Callable[[], None] | None = None
) -> None:
    """The first SIGTERM or SIGINT drains, the second exits at once, after `at_once`; SIGHUP reads files again."""
    import asyncio

    loop = asyncio.get_running_loop()
    asked = False

    def handle(number: int) -> None:
        nonlocal asked
        if asked:
            if at_once is not None:
                at_once()
            os._exit(128 + number)
        asked = True
        stop()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, handle, number)
    if reread is not None:
        loop.add_signal_handler(signal.SIGHUP, reread)


def _check(options: argparse.Namespace) -> int:
    loaded = _settings(options)
    if loaded is None:
        return BAD_USAGE
    settings = loaded.settings
    from proxy.session.stores import StoreUnusable
    from proxy.session.stores.factory import check_store
    from proxy.settings import describe

    try:
        check_store(settings.session.store)
    except StoreUnusable as error:
        complain(str(error))
        return BAD_USAGE
    print(describe(settings, loaded.where), end="")
    return OK


def _seconds(text: str) -> float:
    from proxy.core.values import duration

    try:
        return duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _operate(work: Callable[..., int]) -> Callable[[argparse.Namespace], int]:
    """Make a command of something done to a running proxy through its admin port."""

    def command(options: argparse.Namespace) -> int:
        more = {name: value for name, value in vars(options).items() if name in ("timeout", "as_json")}
        return work(options.config, getattr(options, "setting:admin.listen"), **more)

    return command


def _demo(options: argparse.Namespace) -> int:
    async def work() -> int:
        import asyncio

        from proxy.commands import demo
        from proxy.settings import SettingsError
        from proxy.telemetry import logs

        logs.configure("error", "console", fd=2)
        ports = demo.Ports(options.listen, options.admin_listen, options.simulator_listen)
        lost: list[OSError] = []

        def tell(line: str) -> None:
            try:
                print(line, flush=True)
            except OSError as error:  # what it tells is all that it is for
                lost.append(error)
                running.cancel()

        running = asyncio.ensure_future(demo.run(ports, tell))
        try:
            code = await _until_signal(running)
        except SettingsError as error:
            for fault in error.faults:
                complain(fault)
            return BAD_USAGE
        if lost:
            raise lost[0]
        return code

    return _run(work())


def _simulate(options: argparse.Namespace) -> int:
    async def work() -> int:
        import asyncio

        from proxy.simulator import Simulator, SimulatorSettings
        from proxy.telemetry import logs

        logs.configure("error", "console", fd=2)
        window = min(300.0, options.token_ttl / 4) if options.refresh_window is None else options.refresh_window
        try:
            settings = SimulatorSettings(
                app_ids=tuple(options.app_id or ["demo-app-id"]), token_ttl=options.token_ttl, refresh_window=window
            ).told(options.set)
        except ValueError as error:
            complain(str(error))
            return BAD_USAGE
        simulator = Simulator(settings)
        host, _, port = options.listen.rpartition(":")
        try:
            await simulator.start(host.strip("[]"), int(port))
        except OSError as error:
            complain(f"--listen: cannot listen on {options.listen}: {error.strerror}")
            return FAILED
        print(f"CardCash simulator at {simulator.url}, controls at {simulator.url}/_simulator/", flush=True)
        print(f"app_id {settings.app_ids[0]}, login {next(iter(settings.accounts.items()))}", flush=True)
        try:
            return await _until_signal(asyncio.Event().wait())
        finally:
            await simulator.stop()

    return _run(work())


async def _until_signal(work: Awaitable[Any]) -> int:
    """Run `work` until it ends or SIGTERM or SIGINT comes; either is a success."""
    import asyncio

    task = asyncio.ensure_future(work)

    def cancel() -> None:
        task.cancel()

    _on_signals(cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return OK
