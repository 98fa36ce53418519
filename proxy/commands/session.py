"""`cardcash-proxy session`: reads or renews the running proxy's session."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from proxy.commands.admin_client import asked, refused
from proxy.commands.flags import Parser, add_admin, seconds
from proxy.process import BAD_USAGE, OK, complain

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


def run(options: argparse.Namespace) -> int:
    """Do it, and print the session of the answer."""
    if options.watch is None:
        return _once(options)
    if options.action != "status":
        complain("--watch goes with status only")
        return BAD_USAGE
    while _once(options) != BAD_USAGE:
        sys.stdout.flush()
        time.sleep(max(options.watch, 0.1))
    return BAD_USAGE


def _once(options: argparse.Namespace) -> int:
    method, path, timeout = _ACTIONS[options.action]
    reply = asked(options, method, path, timeout=timeout)
    if isinstance(reply, int):
        return reply
    if reply.status != 200:
        return refused(reply)
    session = reply.body.get("session", {})
    if options.as_json:
        print(json.dumps(session, indent=None if options.watch else 2, ensure_ascii=False))
        return OK
    if options.watch and session:
        _print_head(reply.body)
    width = max(map(len, session), default=0)
    for name, value in session.items():
        print(f"{name.replace('_', ' '):{width}}  {_shown(value)}")
    return OK


def _print_head(status: Mapping[str, Any]) -> None:
    """Print the time and how things stand, in place of what was printed before where that can be."""
    from proxy.server.page import banner

    told = banner(status)
    again = _AGAIN if sys.stdout.isatty() else "\n"
    print(f"{again}{time.strftime('%H:%M:%S')}  {told.sentence}")
    if told.advice:
        print(f"          {told.advice}")
    print()


def _shown(value: object) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
