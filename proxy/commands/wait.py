"""`cardcash-proxy wait`: returns when the running proxy is ready."""

from __future__ import annotations

import argparse
import time
from typing import Final

from proxy.commands.admin_client import NoAnswer, add_admin, asked
from proxy.commands.flags import Parser, seconds
from proxy.process import OK, Failed

#: Seconds between two looks, and the least that one may take.
_LOOK_EVERY: Final = 0.1
#: Seconds that a look may take at most; the first one may take so much however short the timeout is: the proxy that is
#: asked once, by `--timeout 0`, may be short of CPU.
_LONGEST_LOOK: Final = 3.0
_FIRST_LOOK: Final = 0.5


def add_flags(parser: Parser) -> None:
    """Add what `wait` takes."""
    add_admin(parser)
    parser.add_argument("--timeout", metavar="S", type=seconds, default=60.0, help="give up after this (60s)")


def run(options: argparse.Namespace) -> int:
    """Ask /readyz until it says 200; when the time is over, tell what stands against it."""
    end = time.monotonic() + options.timeout
    least = _FIRST_LOOK
    while True:
        left = round(max(end - time.monotonic(), least), 1)
        least = _LOOK_EVERY
        failed: Failed
        try:
            reply = asked(options, "GET", "/readyz", timeout=min(left, _LONGEST_LOOK))
            if reply.status == 200:
                print("ready")
                return OK
            failed = Failed("not ready: " + "; ".join(map(str, reply.body.get("because", [reply.status]))))
        except NoAnswer as error:
            failed = error
        if time.monotonic() >= end:
            raise failed
        time.sleep(_LOOK_EVERY)
