"""The commands, one file each: `add_flags(parser)` and `run(options)`, which returns the exit code or raises `Failed`.

Each imports only what it needs, so that it starts fast.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Final

from proxy.commands.flags import Parser

#: All commands, with what each is for.
COMMANDS: Final = {
    "serve": "run the proxy",
    "check": "validate the configuration; print the effective one, where it comes from, secrets redacted",
    "doctor": "try the way to CardCash step by step, and say what to do where it fails",
    "health": "exit 0 when the running proxy is alive, else 1 (for a container HEALTHCHECK)",
    "wait": "return when the running proxy is ready (for init containers and scripts)",
    "shutdown": "ask the running proxy to drain and stop (for Kubernetes Jobs)",
    "session": "read (status) or renew (renew) the running proxy's session; never prints a token",
    "demo": "simulator and proxy together: try it out, with curl lines to paste",
    "simulate": "the CardCash simulator alone",
    "completion": "print what makes a shell complete commands and flags (bash, zsh or fish)",
}


def parser_of(command: str) -> tuple[ModuleType, Parser]:
    """Import a command, and only it; returns its module and what reads its flags."""
    module = import_module(f"proxy.commands.{command}")
    parser = Parser(prog=f"cardcash-proxy {command}", description=COMMANDS[command])
    module.add_flags(parser)
    return module, parser
