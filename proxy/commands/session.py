"""`cardcash-proxy session`: reads or renews the running proxy's session."""

from __future__ import annotations

import argparse
import json
from typing import Final

from proxy.commands.admin_client import asked, refused
from proxy.commands.flags import Parser, add_admin
from proxy.process import OK

#: Each action, with how it is asked for. A renewal ends within 10 s; another may have to end before it.
_ACTIONS: Final = {"status": ("GET", "/status", 5.0), "renew": ("POST", "/session/renew", 25.0)}


def add_flags(parser: Parser) -> None:
    """Add what `session` takes."""

    def action(word: str) -> str:
        if word not in _ACTIONS:
            parser.refuse_word("action", word, _ACTIONS)
        return word

    parser.add_argument(
        "action",
        metavar="ACTION",
        type=action,
        help="status: print state, expiry, identity, pauses; renew: renew it now, and open the latch of a refused login "
        "or app_id",
    )
    add_admin(parser)
    parser.add_argument("--json", dest="as_json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    """Do it, and print the session of the answer."""
    method, path, timeout = _ACTIONS[options.action]
    reply = asked(options, method, path, timeout=timeout)
    if isinstance(reply, int):
        return reply
    if reply.status != 200:
        return refused(reply)
    session = reply.body.get("session", {})
    if options.as_json:
        print(json.dumps(session, indent=2, ensure_ascii=False))
        return OK
    width = max(map(len, session), default=0)
    for name, value in session.items():
        print(f"{name.replace('_', ' '):{width}}  {_shown(value)}")
    return OK


def _shown(value: object) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
