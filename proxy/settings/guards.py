"""Owns the two settings with a small language of their own: `rules` and `callers.require_header`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.core import target
from proxy.core.request_fields import is_ours
from proxy.core.rules import Rule
from proxy.core.secret import Secret
from proxy.core.spelling import did_you_mean, unknown
from proxy.core.values import Bad, as_text, json_value, shown
from proxy.settings.files import SecretForm, has_control_characters, read_secret_file
from proxy.settings.parsing import each

#: RFC 9110 5.6.2
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

#: All that are registered (RFC 9110 16.1.1): a rule for any other method would silently match nothing.
METHODS: Final = target.METHODS | {"CONNECT", "PRI"}

_ACTIONS: Final = ("allow", "deny")
_EXAMPLE: Final = "write {deny: /path/**, methods: [GET]} or {allow: …}"


@dataclass(frozen=True, slots=True)
class RequiredHeader:
    """A header every caller must send; `file` is where the value was read from, to be read again."""

    name: str
    value: Secret
    file: Path | None = None


def rules(value: object) -> tuple[Rule, ...]:
    """Parse the ordered list of rules; from text it is JSON."""
    if isinstance(value, str):
        if not value.strip():
            return ()
        if value.lstrip()[0] in "[{":
            value = json_value(value)
    return each(rule, value if isinstance(value, list) else [value])


def rule(value: object) -> Rule:
    """Parse one rule, `{deny: /path, methods: [GET]}`, also with its path beside or below (`{deny: true, path: /path}`).

    A part that is not there stands for all, one without a value is an error: it would match too much.
    """
    if not isinstance(value, Mapping):
        raise Bad(f"is not a rule; {_EXAMPLE}")
    given = _parts(value, "action", *_ACTIONS, "methods", "path")
    chosen = [key for key in ("action", *_ACTIONS) if key in given]
    if len(chosen) != 1:
        raise Bad(f"must have exactly one of allow and deny; {_EXAMPLE}")
    action: str = chosen[0]
    subject = given.pop(action)
    if action == "action":
        action = as_text(subject).lower()
        if action not in _ACTIONS:
            raise Bad(f"{shown(action)} is neither allow nor deny")
    elif isinstance(subject, Mapping):
        if given:
            raise Bad(f"methods and path stand either inside {action} or beside it, not both; {_EXAMPLE}")
        given = _parts(subject, "methods", "path")
    elif subject is False:
        raise Bad(f"{action}: false says nothing; {_EXAMPLE}")
    # `deny:` with its path below it instead of inside it says what is meant; without one nothing does.
    elif subject is not True and not (subject is None and "path" in given):
        if "path" in given:
            raise Bad(f"names two paths, one after {action} and one after path; {_EXAMPLE}")
        given["path"] = subject
    return Rule.of(
        allow=action == "allow",
        methods=_methods(given["methods"]) if "methods" in given else (),
        path=_glob(given["path"]) if "path" in given else "/**",
    )


def _parts(value: Mapping[object, object], *known: str) -> dict[str, object]:
    given = {str(key): part for key, part in value.items()}
    strangers = [unknown(key, known, "a key") for key in given if key not in known]
    if strangers:
        raise Bad(*(f"{called} is not known in a rule{hint}" for called, hint in strangers))
    return given


def _methods(value: object) -> Iterable[str]:
    if value is None:
        raise Bad("methods has no value; leave methods out to match any")
    names = value if isinstance(value, list | tuple) else re.split(r"[,\s]+", as_text(value))
    # A long s would become an S, so only ASCII is made upper case.
    methods = [text.upper() if text.isascii() else text for name in names if (text := as_text(name))]
    if "*" in methods:
        return ()
    for name in methods:
        if name not in METHODS:
            raise Bad(f"{shown(name)} is not an HTTP method{did_you_mean(name, sorted(METHODS))}")
    if not methods:
        raise Bad("has an empty list of methods, which would match nothing; leave methods out to match any")
    return methods


def _glob(value: object) -> str:
    text = "" if value is None else as_text(value)
    if not text:
        raise Bad("has no path; write /** for all paths")
    if text == "*":
        return "/**"
    if has_control_characters(text):
        raise Bad(f"the path {shown(text)} has control characters")
    # Without its slash a glob would match nothing, and what a deny should have denied would pass.
    return text if text.startswith(("/", "*")) else f"/{text}"


def required_header(value: object) -> RequiredHeader:
    """Parse `Name: value`, `Name: /file` or `Name: file:name`.

    Neither value nor file name is ever repeated: a value that begins with "/" by chance is taken for a file's name,
    and a fault must not print it.
    """
    if isinstance(value, bool | list | Mapping):
        raise Bad('must be one text; write it in quotes: "Name: value"')
    name, separator, rest = as_text(value).partition(":")
    rest = rest.strip()
    if not separator or not rest:
        raise Bad('must be a header and its value; write it in quotes: "Name: value" or "Name: /path/of/a/file"')
    if not _TOKEN.fullmatch(name):
        raise Bad('the part before the colon is not a header name; write "Name: value" with a name such as X-Proxy-Key')
    if is_ours(name.encode("ascii")):
        raise Bad(
            "the name before the colon stands for something that HTTP or the proxy itself needs; "
            "choose one of your own, such as X-Proxy-Key"
        )
    if is_file(rest):
        file = Path(re.sub(r"^file:(?://(?=/))?", "", rest))
        try:
            return RequiredHeader(name, read_secret_file(file, SecretForm.HEADER_VALUE), file)
        except Bad as bad:
            problem = f'{bad} (what begins with "/" or "file:" after the colon is the name of a file)'
        raise Bad(problem)
    if SecretForm.HEADER_VALUE.problem(rest):
        raise Bad("the value after the colon holds more than visible ASCII and blanks")
    return RequiredHeader(name, Secret(rest))


def is_file(rest: str) -> bool:
    """Say whether what stands after the name of a required header is the name of a file."""
    return rest.startswith(("/", "file:"))
