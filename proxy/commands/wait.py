"""`cardcash-proxy wait`: returns when the running proxy is ready."""

from __future__ import annotations

import argparse
import time
from typing import Final

from proxy.commands.admin_client import NoAnswer, asked
from proxy.commands.flags import add_admin, seconds
from proxy.process import OK, Failed

#: Seconds between two looks.
_LOOK_EVERY: Final = 0.1


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `wait` takes."""
    add_admin(parser)
    parser.add_argument("--timeout", metavar="S", type=seconds, default=60.0, help="give up after this (60s)")


def run(options: argparse.Namespace) -> int:
    """Ask /readyz until it says 200; when the time is over, tell what stands against it."""
    end = time.monotonic() + options.timeout
    while True:
        failed: Failed
        try:
            reply = asked(options, "GET", "/readyz", timeout=3)
            if reply.status == 200:
                print("ready")
                return OK
            failed = Failed("not ready: " + "; ".join(map(str, reply.body.get("because", [reply.status]))))
        except NoAnswer as error:
            failed = error
        if time.monotonic() >= end:
            raise failed
        time.sleep(_LOOK_EVERY)
