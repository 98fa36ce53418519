"""Reading the words of a command line: one line per fault, and nothing in it that may be a secret."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from proxy.core.values import Bad, ListenAddress, duration, listen_address, shown
from proxy.process import BadUsage

if TYPE_CHECKING:
    from proxy.settings import Loaded

T = TypeVar("T")


def _formatter(*, prog: str) -> argparse.HelpFormatter:
    """As wide as the terminal; argparse would ask shutil, at each flag, which costs `health` a quarter of its time."""
    with contextlib.suppress(OSError, ValueError):
        width = int(os.environ.get("COLUMNS") or os.get_terminal_size().columns)
        return argparse.RawDescriptionHelpFormatter(prog, width=max(width, 40) - 2)
    return argparse.RawDescriptionHelpFormatter(prog, width=100)


class Parser(argparse.ArgumentParser):
    """One line per fault, without the usage around it."""

    def __init__(self, **about: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_formatter, **about)
        #: What its one word may be, if it takes one.
        self.words: tuple[str, ...] = ()
        #: Raises `BadUsage` with what else is wrong, where words are: of the options only those that can be used are set.
        self.check: Callable[[argparse.Namespace], object] = lambda _: None
        self._faults: list[str] = []

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the words, flags in any of their spellings. Raises `BadUsage` with all faults, those of `check` too."""
        options = argparse.Namespace()
        words = self._without_needless_values(spelt(words))
        try:
            _, rest = self.parse_known_args(words, options)
        except BadUsage as bad:
            self._faults += bad.args
            known = {flag for action in self._actions for flag in action.option_strings}
            rest = [word for word in words if _is_flag(word) and word.partition("=")[0] not in known]
        if rest:
            self._faults += self._unknown(rest)
        if self._faults:
            try:
                self.check(options)
            except BadUsage as bad:
                self._faults += bad.args
            raise BadUsage(*self._faults)
        return options

    def add_word(self, name: str, known: Iterable[str], text: str) -> None:
        """Add a word that is one of those that are known."""
        self.words = tuple(known)

        def checked(word: str) -> str:
            if word not in self.words:
                self.refuse_word(name, word, self.words)
            return word

        self.add_argument(name, metavar=name.upper(), type=checked, help=text)

    def flags(self) -> list[argparse.Action]:
        """List what begins with a dash and may be used."""
        return [action for action in self._actions if action.option_strings and action.help is not argparse.SUPPRESS]

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong."""
        raise BadUsage(f"{message}; see {self.prog} --help")

    def refuse_word(self, kind: str, word: str, known: Iterable[str]) -> NoReturn:
        """Raise that a word is none of those that are known; it may be a secret, so it is not repeated."""
        from proxy.core.spelling import did_you_mean

        self.error(f"there is no such {kind}" + (did_you_mean(word, known) or f"; there are {', '.join(known)}"))

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse does, but a help text that is lost is not passed over."""
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def _match_argument(self, action: argparse.Action, arg_strings_pattern: str) -> int:
        """As argparse does, but a flag that lacks its value does not hide what else is wrong."""
        try:
            return super()._match_argument(action, arg_strings_pattern)
        except argparse.ArgumentError as error:
            self._note(str(error))
            return 0

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """As argparse does, but what cannot be used is left out, and does not hide what else is wrong."""
        if not arg_strings and action.nargs is None:
            return argparse.SUPPRESS
        try:
            return super()._get_values(action, arg_strings)
        except argparse.ArgumentError as error:
            self._note(str(error))
        except BadUsage as bad:
            self._faults += bad.args
        return argparse.SUPPRESS

    def _note(self, fault: str) -> None:
        self._faults.append(f"{fault}; see {self.prog} --help")

    def _without_needless_values(self, words: Sequence[str]) -> list[str]:
        """Leave out `--json=…`, as a fault: argparse would stop there, and repeat what may be a secret."""
        left = list(words)
        for flag in [flag for action in self._actions if action.nargs == 0 for flag in action.option_strings]:
            valued = f"{flag}=" if flag.startswith("--") else flag
            for word in words:
                if word.startswith(valued) and word != flag:
                    left.remove(word)
                    self._note(f"argument {flag}: takes no value")
        return left

    def _unknown(self, words: Sequence[str]) -> list[str]:
        """Name the flags that are slips of the pen; what is like no flag, and any value, may be a secret."""
        from proxy.core.spelling import unknown

        known = [flag for action in self.flags() for flag in action.option_strings]
        said = []
        too_many = takes_value = False
        for word in words:
            flag, equals, _ = word.partition("=")
            if not _is_flag(word):
                too_many |= not takes_value  # what follows an unknown flag may be its value
            else:
                called, hint = unknown(flag, known, "a flag")
                said.append(f"{called} is unknown{hint}")
            takes_value = _is_flag(word) and not equals
        return [f"{fault}; see {self.prog} --help" for fault in said + ["an argument too many"] * too_many]


def _is_flag(word: str) -> bool:
    """Tell whether argparse takes a word for a flag: a negative number, and what has a blank in it, is a value."""
    return bool(re.match("--?[^-0-9]", word)) and " " not in word.partition("=")[0]


def spelt(words: Sequence[str]) -> list[str]:
    """Spell flags in the one way there is: who types the path of a setting, `--admin.listen`, means `--admin-listen`."""
    return [re.sub(r"^--[^=]+", lambda flag: re.sub("[._]", "-", flag[0]), word) for word in words]


def value_of(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Make a parser of values that argparse knows how to tell the faults of."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except Bad as bad:
            raise argparse.ArgumentTypeError(str(bad)) from None

    return parsed


seconds = value_of(duration)


@value_of
def host_port(text: str) -> ListenAddress:
    """Take HOST:PORT."""
    address = listen_address(text)
    if address.kind != "tcp":
        raise Bad(f"{shown(text)} is not HOST:PORT")
    return address


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names the configuration file."""
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML file (default: $CARDCASH_CONFIG)")


def add_settings(parser: Parser) -> None:
    """Add a flag for each setting; those of secrets are there to be refused, with the other faults."""
    from proxy.settings.describe import help_of
    from proxy.settings.model import leaves

    add_config(parser)
    group = parser.add_argument_group("settings", "each also as an environment variable, say CARDCASH_UPSTREAM__ORIGIN")
    for leaf in leaves().values():
        text = argparse.SUPPRESS if leaf.hidden else help_of(leaf).replace("%", "%%")
        group.add_argument(leaf.flag, metavar="VALUE", dest=leaf.path, help=text)
    parser.check = partial(load, whole=False)


def load(options: argparse.Namespace, *, whole: bool = True) -> Loaded:
    """Load the settings. Raises `BadUsage` with all faults. `whole`: the options are all that was meant to be given."""
    from proxy.settings import SettingsError, load
    from proxy.settings.model import leaves

    given = {name: text for name, text in vars(options).items() if name in leaves() and text is not None}
    try:
        return load(config=options.config, flags=given, whole=whole)
    except SettingsError as error:
        raise BadUsage(*error.faults) from None
