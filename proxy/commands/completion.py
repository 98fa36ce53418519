"""`cardcash-proxy completion`: what makes a shell complete commands, flags and file names, made from the parsers."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from proxy.commands import COMMANDS, parser_of
from proxy.commands.flags import Parser
from proxy.process import OK


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of a command."""

    names: tuple[str, ...]
    text: str
    #: It takes a value; it may do without; that is the name of a file.
    takes_value: bool
    may_lack_value: bool
    takes_file: bool


@dataclass(frozen=True, slots=True)
class Command:
    """One command, the words it takes, and its flags."""

    name: str
    text: str
    words: tuple[str, ...]
    flags: tuple[Flag, ...]


def add_flags(parser: Parser) -> None:
    """Add what `completion` takes."""
    parser.add_word(
        "shell", _SHELLS, "bash, zsh or fish; `eval` what it prints, or put it where the shell looks for it"
    )


def run(options: argparse.Namespace) -> int:
    """Print it."""
    print(_SHELLS[options.shell]([_described(name) for name in COMMANDS]), end="")
    return OK


def _described(name: str) -> Command:
    _, parser = parser_of(name)
    return Command(name, COMMANDS[name], parser.words, tuple(_flags(parser)))


def _flags(parser: Parser) -> Iterator[Flag]:
    for action in parser.flags():
        is_file = action.metavar == "FILE" or any(re.search("[_-]file$", name) for name in action.option_strings)
        text = re.sub(r"\s+", " ", (action.help or "").replace("%%", "%"))
        yield Flag(tuple(action.option_strings), text, action.nargs != 0, action.nargs == "?", is_file)


def _bash(commands: list[Command]) -> str:
    cases = []
    for command in commands:
        names = " ".join(name for flag in command.flags for name in flag.names)
        files = "|".join(name for flag in command.flags if flag.takes_file for name in flag.names) or "-"
        values = "|".join(name for flag in command.flags if flag.takes_value for name in flag.names) or "-"
        cases.append(
            f"    {command.name}) words={shlex.quote(' '.join(command.words))} flags={shlex.quote(names)}\n"
            f"      case $prev in {files}) files=1 ;; {values}) value=1 ;; esac ;;\n"
        )
    return f"""# bash completion of cardcash-proxy: eval "$(cardcash-proxy completion bash)"
_cardcash_proxy() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} words= flags= files= value=
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W {shlex.quote(" ".join([*(one.name for one in commands), "--help", "--version"]))} -- "$cur"))
    return
  fi
  case ${{COMP_WORDS[1]}} in
{"".join(cases)}  esac
  if [ -n "$files" ]; then
    compopt -o filenames 2>/dev/null
    local IFS=$'\\n'
    COMPREPLY=($(compgen -f -- "$cur"))
  elif [ -n "$value" ]; then
    return
  elif [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$cur"))
  else
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
  fi
}}
complete -F _cardcash_proxy cardcash-proxy
"""


def _zsh(commands: list[Command]) -> str:
    described = " ".join(shlex.quote(f"{one.name}:{one.text}") for one in commands)
    cases = []
    for command in commands:
        specs = [_zsh_flag(flag) for flag in command.flags]
        if command.words:
            specs.append(shlex.quote(f"1:word:({' '.join(command.words)})"))
        cases.append(f"    {command.name}) _arguments -s " + " ".join(specs) + " ;;\n")
    return f"""#compdef cardcash-proxy
# zsh completion of cardcash-proxy: eval "$(cardcash-proxy completion zsh)" after compinit
_cardcash-proxy() {{
  local -a commands=({described})
  if (( CURRENT == 2 )); then
    if [[ $PREFIX == -* ]]; then compadd -- --help --version; else _describe command commands; fi
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
{"".join(cases)}  esac
}}
if [[ $funcstack[1] == _cardcash-proxy ]]; then _cardcash-proxy "$@"; else compdef _cardcash-proxy cardcash-proxy; fi
"""


def _zsh_flag(flag: Flag) -> str:
    text = re.sub(r"([\\\[\]:])", r"\\\1", flag.text)
    colon = "::" if flag.may_lack_value else ":"
    value = "" if not flag.takes_value else f"{colon}file:_files" if flag.takes_file else f"{colon}value: "
    return " ".join(shlex.quote(f"{name}[{text}]{value}") for name in flag.names)


def _fish(commands: list[Command]) -> str:
    names = " ".join(command.name for command in commands)
    none_yet = f'-n "not __fish_seen_subcommand_from {names}"'
    lines = [
        "# fish completion of cardcash-proxy: cardcash-proxy completion fish | source",
        "complete -c cardcash-proxy -f",
        f"complete -c cardcash-proxy {none_yet} -s h -l help -d 'show help'",
        f"complete -c cardcash-proxy {none_yet} -l version -d 'show the version'",
    ]
    for command in commands:
        lines.append(f"complete -c cardcash-proxy {none_yet} -a {command.name} -d {_fish_text(command.text)}")
        seen = f'-n "__fish_seen_subcommand_from {command.name}"'
        if command.words:
            lines.append(f"complete -c cardcash-proxy {seen} -a {_fish_text(' '.join(command.words))}")
        for flag in command.flags:
            spelt = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
            value = (" -r -F" if flag.takes_file else " -x") if flag.takes_value else ""
            lines.append(f"complete -c cardcash-proxy {seen} {spelt}{value} -d {_fish_text(flag.text)}")
    return "\n".join(lines) + "\n"


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS: Final[dict[str, Callable[[list[Command]], str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
