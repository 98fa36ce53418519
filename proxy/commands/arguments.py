"""Reading a command line: one line per fault, and nothing in it that may be a secret."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, NoReturn

from proxy.process import BAD_USAGE


class Parser(argparse.ArgumentParser):
    """One line per fault, without the usage around it."""

    def error(self, message: str) -> NoReturn:
        """Tell the fault and exit."""
        if message.startswith("unrecognized arguments: "):
            message = self._unknown(message.removeprefix("unrecognized arguments: ").split(" "))
        message = re.sub(r"(?s)(invalid choice): .*(?= \(choose from)", r"\1", message)
        self.exit(BAD_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse does, but a help text that is lost is not passed over."""
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def _unknown(self, words: list[str]) -> str:
        """Name the flags that are slips of the pen; what is like no flag, and any value, may be a secret."""
        import difflib

        from proxy.core.spelling import repeatable

        known = [flag for action in _all_actions(self) for flag in action.option_strings]
        told = []
        for flag in (word.partition("=")[0] for word in words if word.startswith("-")):
            name = dashed(flag.lstrip("-"))
            if name in ("app-id", "login-password"):
                told.append(f"{flag}: a secret on a command line can be read by others; use --{name}-file")
                continue
            close = difflib.get_close_matches(flag, known, n=1)
            shown = flag if repeatable(flag, known) else "a flag"
            told.append(f"{shown} is unknown" + (f", did you mean {close[0]}?" if close else ""))
        return "; ".join(told) or "an argument too many"


def _all_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    actions = []
    for action in parser._actions:
        actions.append(action)
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                actions += _all_actions(sub)
    return actions


def dashed(path: str) -> str:
    """Write the path of a setting as a flag does."""
    return path.replace(".", "-").replace("_", "-")
