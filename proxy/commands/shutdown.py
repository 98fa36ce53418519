"""`cardcash-proxy shutdown`: asks the running proxy to drain and stop."""

from __future__ import annotations

import argparse

from proxy.commands.admin_client import add_admin as add_flags
from proxy.commands.admin_client import asked
from proxy.process import OK

__all__ = ["add_flags", "run"]


def run(options: argparse.Namespace) -> int:
    """Ask for the drain; it goes on when this returns."""
    asked(options, "POST", "/shutdown", timeout=5, want=202)
    print("draining")
    return OK
