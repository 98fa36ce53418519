"""`cardcash-proxy health`: whether the running proxy and its loops are alive."""

from __future__ import annotations

import argparse

from proxy.commands.admin_client import add_admin as add_flags
from proxy.commands.admin_client import asked
from proxy.process import FAILED, OK

__all__ = ["add_flags", "run"]


def run(options: argparse.Namespace) -> int:
    """Ask /healthz."""
    reply = asked(options, "GET", "/healthz", timeout=3)
    print(reply.body.get("status", f"not healthy: {reply.status}"))
    return OK if reply.status == 200 else FAILED
