"""The command line: which command is meant, and its exit code. Every fault is one clear line on stderr, never a traceback.

Imports little, and of the commands (`proxy/commands/`, one file each) only the one that is meant: until it runs, a signal
ends the process the way Python does it.
"""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Sequence
from typing import Final

from proxy import __version__
from proxy.commands import COMMANDS, parser_of
from proxy.commands.flags import Parser
from proxy.process import (
    BAD_USAGE,
    FAILED,
    OK,
    BadUsage,
    Failed,
    begin_with_signals,
    complain,
    described,
    end_output,
    fill_standard_descriptors,
    tell,
)

#: Commands whose exit code is what is asked for, whatever becomes of the line they print.
_VERDICTS: Final = ("health", "wait", "shutdown", "serve")
#: How the system refuses to write more.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    at = next((index for index, word in enumerate(words) if not word.startswith("-")), len(words))
    wanted = words[at] if at < len(words) else ""
    tells = wanted not in _VERDICTS or not {"-h", "--help"}.isdisjoint(words)
    refused: OSError | None = None
    try:
        begin_with_signals(serves=wanted == "serve", runs=wanted in ("serve", "demo", "simulate"))
        fill_standard_descriptors()
        code = _run(words[:at], wanted, words[at + 1 :])
    except Failed as failed:
        code = tell(failed)
    except SystemExit:  # argparse's, after --help or --version
        code = OK
    except BrokenPipeError:  # the reader of our output (head, less) has seen enough
        code = OK
    except KeyboardInterrupt:  # what was asked is not known, or not done
        code = FAILED
    except OSError as error:
        code, refused = FAILED, error
    # Nothing is left that an interrupt could leave undone; a reader that does not read may be waited for.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    lost = end_output()
    # Much output is written while the command runs.
    if refused is not None and tells and refused.errno in _FULL and refused.filename is None:
        lost, code = refused, OK
    if lost is not None and code == OK and tells:
        complain(f"the output could not be written: {described(lost)}")
        code = FAILED
    elif refused is not None:
        complain(f"the system refused what is needed: {described(refused)}")
    end_output()
    return code


def _run(before: Sequence[str], wanted: str, flags: Sequence[str]) -> int:
    top = Parser(
        prog="cardcash-proxy",
        usage="cardcash-proxy [-h] [--version] COMMAND …",
        description="Apps send plain HTTP to this proxy; it adds CardCash's application id and the one shared session.",
        epilog="commands (each has --help):\n" + "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items()),
    )
    top.add_argument("--version", action="version", version=f"cardcash-proxy {__version__}")
    try:
        top.parse(before)
    except BadUsage:
        if wanted:
            top.error("flags stand after the command")
        raise
    if not wanted:
        top.print_help()
        return BAD_USAGE
    if wanted not in COMMANDS:
        top.refuse_word("command", wanted, COMMANDS)
    command, parser = parser_of(wanted)
    return int(command.run(parser.parse(flags)))
