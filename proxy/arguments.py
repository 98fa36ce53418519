"""Reading a command line: one line per fault, and no value of a flag in it, for it may be a secret."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from proxy.operations import BAD_USAGE


class Parser(argparse.ArgumentParser):
    """One line per fault, without the usage around it."""

    def error(self, message: str) -> NoReturn:
        """Tell the fault and exit."""
        if message.startswith("unrecognized arguments: "):
            message = self._unknown(message.removeprefix("unrecognized arguments: ").split(" "))
        self.exit(BAD_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse does, but a help text that is lost is not passed over."""
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def _unknown(self, words: list[str]) -> str:
        """Name the flags nobody knows, never their values: those may be secrets."""
        import difflib

        known = [flag for action in _all_actions(self) for flag in action.option_strings]
        told = []
        for flag in (word.partition("=")[0] for word in words if word.startswith("-")):
            name = dashed(flag.lstrip("-"))
            if name in ("app-id", "login-password"):
                told.append(f"{flag}: a secret on a command line can be read by others; use --{name}-file")
            elif close := difflib.get_close_matches(flag, known, n=1):
                told.append(f"{flag} is unknown, did you mean {close[0]}?")
            else:
                told.append(f"{flag} is unknown")
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
