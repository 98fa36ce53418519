"""`cardcash-proxy completion`: what makes a shell complete commands, flags and file names, made from the parsers."""

from __future__ import annotations

import argparse
import re
import shlex
from argparse import Action
from collections.abc import Callable, Iterable
from typing import Final

from proxy.commands import COMMANDS, parser_of
from proxy.commands.flags import Parser
from proxy.process import OK

Parsers = dict[str, Parser]


def add_flags(parser: Parser) -> None:
    """Add what `completion` takes."""
    parser.add_word(
        "shell", _SHELLS, "bash, zsh or fish; `eval` what it prints, or put it where the shell looks for it"
    )


def run(options: argparse.Namespace) -> int:
    """Print it."""
    print(_SHELLS[options.shell]({name: parser_of(name)[1] for name in COMMANDS}), end="")
    return OK


def _names(flags: Iterable[Action]) -> list[str]:
    return [name for flag in flags for name in flag.option_strings]


def _text(flag: Action) -> str:
    return re.sub(r"\s+", " ", (flag.help or "").replace("%%", "%"))


def _takes_file(flag: Action) -> bool:
    return flag.metavar == "FILE" or any(re.search("[_-]file$", name) for name in flag.option_strings)


def _bash(parsers: Parsers) -> str:
    cases = []
    for name, parser in parsers.items():
        flags = parser.flags()
        files = "|".join(_names(filter(_takes_file, flags))) or "-"
        values = "|".join(_names(flag for flag in flags if flag.nargs != 0)) or "-"
        cases.append(
            f"    {name}) words={shlex.quote(' '.join(parser.words))} flags={shlex.quote(' '.join(_names(flags)))}\n"
            f"      case $prev in {files}) files=1 ;; {values}) value=1 ;; esac ;;\n"
        )
    return f"""# bash completion of cardcash-proxy: eval "$(cardcash-proxy completion bash)"
_cardcash_proxy() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} words= flags= files= value=
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W {shlex.quote(" ".join([*parsers, "--help", "--version"]))} -- "$cur"))
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


def _zsh(parsers: Parsers) -> str:
    described = " ".join(shlex.quote(f"{name}:{COMMANDS[name]}") for name in parsers)
    cases = []
    for name, parser in parsers.items():
        specs = [_zsh_flag(flag) for flag in parser.flags()]
        if parser.words:
            specs.append(shlex.quote(f"1:word:({' '.join(parser.words)})"))
        cases.append(f"    {name}) _arguments -s " + " ".join(specs) + " ;;\n")
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


def _zsh_flag(flag: Action) -> str:
    text = re.sub(r"([\\\[\]:])", r"\\\1", _text(flag))
    colon = "::" if flag.nargs == "?" else ":"
    value = "" if flag.nargs == 0 else f"{colon}file:_files" if _takes_file(flag) else f"{colon}value: "
    return " ".join(shlex.quote(f"{name}[{text}]{value}") for name in flag.option_strings)


def _fish(parsers: Parsers) -> str:
    none_yet = f'-n "not __fish_seen_subcommand_from {" ".join(parsers)}"'
    lines = [
        "# fish completion of cardcash-proxy: cardcash-proxy completion fish | source",
        "complete -c cardcash-proxy -f",
        f"complete -c cardcash-proxy {none_yet} -s h -l help -d 'show help'",
        f"complete -c cardcash-proxy {none_yet} -l version -d 'show the version'",
    ]
    for command, parser in parsers.items():
        lines.append(f"complete -c cardcash-proxy {none_yet} -a {command} -d {_fish_text(COMMANDS[command])}")
        seen = f'complete -c cardcash-proxy -n "__fish_seen_subcommand_from {command}"'
        if parser.words:
            lines.append(f"{seen} -a {_fish_text(' '.join(parser.words))}")
        for flag in parser.flags():
            spelt = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in flag.option_strings)
            value = (" -r -F" if _takes_file(flag) else " -x") if flag.nargs != 0 else ""
            lines.append(f"{seen} {spelt}{value} -d {_fish_text(_text(flag))}")
    return "\n".join(lines) + "\n"


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS: Final[dict[str, Callable[[Parsers], str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
