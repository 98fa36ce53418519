"""What a command does with its process before anything else; and how to tell what the system refuses."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time
from io import TextIOWrapper
from typing import Final, NoReturn

#: Exit codes.
OK, FAILED, BAD_USAGE = 0, 1, 2
#: What stops a command that runs for long.
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
#: What is logged of a stop that comes so early.
BEFORE_THE_START: Final = "told to stop before it had started"


class Failed(Exception):
    """The command cannot do what it is for: it ends with `code`, and a line for each of its sentences."""

    code = FAILED


class BadUsage(Failed):
    """What was given cannot be used: a sentence for each fault."""

    code = BAD_USAGE


def begin_with_signals(*, serves: bool, runs: bool) -> None:
    """Hear all signals, whatever was blocked by whoever started this.

    Until the event loop handles them there is nothing to drain: what `runs` for long ends at once, as a success. SIGHUP
    never ends what `serves`: it means to read files again, and they have not been read yet.
    """
    if serves:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if runs:
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: _end_early(in_log=serves))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _end_early(*, in_log: bool) -> None:
    """End at once, with a line for whoever wonders; the settings that say how lines look may not have been read."""
    if in_log:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        console = (os.environ.get("CARDCASH_LOG__FORMAT") or ("console" if os.isatty(1) else "")) == "console"
        line = {"what": BEFORE_THE_START, "event": "stopped", "level": "info", "timestamp": now}
        text = f"{now} [info] stopped: {BEFORE_THE_START}" if console else json.dumps(line)
        with contextlib.suppress(OSError, ValueError):
            if select.select([], [1], [], 0)[1]:  # if nobody reads, the process ends all the same
                os.write(1, f"{text}\n".encode())
    os._exit(OK)


def exit_at_once(number: int, *_: object) -> NoReturn:
    """What the second of `STOP_SIGNALS` does, whatever still runs; it is a handler of signals, too."""
    os._exit(128 + number)


def fill_standard_descriptors() -> None:
    """Open what was closed of 0, 1 and 2: a socket that got such a number would be taken for a standard stream."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    if isinstance(sys.stdout, TextIOWrapper):
        # PYTHONUNBUFFERED, as in many images, would let a full output fail in the middle of a command: see `end_output`.
        # And an e-mail or a file's name may have letters that the terminal's encoding lacks.
        sys.stdout.reconfigure(write_through=False, errors="backslashreplace")


def end_output() -> OSError | None:
    """Write what is still kept of the output; returns why that cannot be done, unless the reader has just seen enough.

    What cannot be written is dropped here: Python would try again at its very end, and exit with a code of its own.
    """
    lost: OSError | None = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                lost = error
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)
    return lost


def tell(failed: Failed) -> int:
    """Tell a person why a command failed; returns its exit code."""
    for sentence in failed.args:
        complain(sentence)
    return failed.code


def complain(sentence: str) -> None:
    """Tell a person what is wrong, in one line."""
    with contextlib.suppress(OSError):  # nobody can be told; the exit code says it, too
        print(f"cardcash-proxy: {sentence}", file=sys.stderr)


def described(error: OSError) -> str:
    """Say what the system refused, and what to do."""
    advice = "; raise the limit of open files (ulimit -n)" if error.errno in (errno.EMFILE, errno.ENFILE) else ""
    return f"{error.strerror or type(error).__name__}{advice}"
