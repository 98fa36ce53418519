"""`cardcash-proxy session`: reads or renews the running proxy's session."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from proxy.commands.admin_client import add_admin, address_in, asked
from proxy.commands.flags import Parser, seconds
from proxy.process import OK, BadUsage, Failed, tell

#: Each action, with how it is asked for. A renewal ends within 10 s; another may have to end before it.
_ACTIONS: Final = {"status": ("GET", "/status", 5.0), "renew": ("POST", "/session/renew", 25.0)}
#: Moves a terminal's cursor to the first line, and clears the rest.
_AGAIN: Final = "\x1b[H\x1b[2J"


def add_flags(parser: Parser) -> None:
    """Add what `session` takes."""
    parser.add_word(
        "action",
        _ACTIONS,
        "status: print state, expiry, identity, pauses; renew: renew it now, and try again what was refused",
    )
    add_admin(parser)
    parser.add_argument("--json", dest="as_json", action="store_true", help="as JSON")
    parser.add_argument(
        "--watch",
        metavar="S",
        nargs="?",
        type=seconds,
        const=2.0,
        help="with status: look again every so many seconds (2s), until Ctrl-C; with --json one line for each look",
    )
    parser.check = _check


def _check(options: argparse.Namespace) -> None:
    """Raise `BadUsage` with all that is wrong between the words, and with the admin address."""
    faults = ["--watch goes with status only"] if options.watch is not None and options.action == "renew" else []
    try:
        address_in(options)
    except BadUsage as bad:
        faults += bad.args
    if faults:
        raise BadUsage(*faults)


def run(options: argparse.Namespace) -> int:
    """Do it, and print the session of the answer."""
    _check(options)
    if options.watch is None:
        _once(options)
        return OK
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                _once(options)
            except BadUsage:
                raise
            except Failed as failed:  # it may come back
                tell(failed)
            sys.stdout.flush()
            time.sleep(max(options.watch, 0.1))
    return OK


def _once(options: argparse.Namespace) -> None:
    method, path, timeout = _ACTIONS[options.action]
    reply = asked(options, method, path, timeout=timeout, want=200)
    session = reply.body["session"]
    if options.as_json:
        print(json.dumps(session, indent=None if options.watch else 2, ensure_ascii=False))
        return
    rows = {name.replace("_", " "): _shown(value) for name, value in session.items()}
    if options.action == "status":
        rows = _head(reply.body) | rows | _tail(reply.body)
    if options.watch:
        # In place of what was printed before where that can be.
        print(f"{_AGAIN if sys.stdout.isatty() else chr(10)}{time.strftime('%H:%M:%S')}")
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
        print(f"{name:{width}}  {text}")


def _head(status: Mapping[str, Any]) -> dict[str, str]:
    """Say how things stand and what to do, as the page for people does."""
    from proxy.server.page import banner

    shown = banner(status)
    return {"summary": shown.sentence} | ({"to do": shown.advice} if shown.advice else {})


def _tail(status: Mapping[str, Any]) -> dict[str, str]:
    last = status.get("last_failure")
    return {"last failure": f"{last['time']} {last['what']}: {last['sentence']}"} if last else {}


def _shown(value: object) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
