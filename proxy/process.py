"""What a command does with its process before anything else; and how to tell what the system refuses."""

from __future__ import annotations

import errno
import os
import signal
import sys

from proxy.operations import OK


def end_quietly_on_signals(command: str) -> None:
    """Until the event loop handles signals there is nothing to drain: what runs for long ends at once, as a success."""
    if command in ("serve", "demo", "simulate"):
        for number in stop_signals(command):
            signal.signal(number, lambda *_: os._exit(OK))


def stop_signals(command: str) -> list[signal.Signals]:
    """List what stops a command; a terminal that goes away drains `serve` too, unless nohup has it ignored."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if command == "serve" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


def fill_standard_descriptors() -> None:
    """Open what was closed of 0, 1 and 2: a socket that got such a number would be taken for a standard stream."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def told(error: OSError) -> str:
    """Say what the system refused, and what to do."""
    advice = "; raise the limit of open files (ulimit -n)" if error.errno in (errno.EMFILE, errno.ENFILE) else ""
    return f"{error.strerror or type(error).__name__}{advice}"
