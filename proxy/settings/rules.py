"""Owns how `rules` are written; what they mean is `core/rules.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from proxy.core import target
from proxy.core.rules import Rule
from proxy.core.spelling import did_you_mean, unknown
from proxy.core.values import Bad, as_text, json_value, shown
from proxy.settings.files import has_control_characters
from proxy.settings.parsing import each

#: All that are registered (RFC 9110 16.1.1): a rule for any other method would silently match nothing.
METHODS: Final = target.METHODS | {"CONNECT", "PRI"}

_ACTIONS: Final = ("allow", "deny")
_EXAMPLE: Final = "write {deny: /path/**, methods: [GET]} or {allow: …}"


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
    if has_control_characters(text):
        raise Bad(f"the path {shown(text)} has control characters")
    return text
