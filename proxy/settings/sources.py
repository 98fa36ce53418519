"""Owns the three places settings come from: the YAML file, environment variables, flags. Each becomes a Layer.

Names that are no settings' are repeated only where they are a slip of the pen: anything else may be a secret gone astray.
A layer holds what was given under dotted paths, still unparsed. Unknown names and broken files become faults, never
exceptions, so that all faults can be reported at once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.core.spelling import did_you_mean, repeatable
from proxy.core.values import Bad, shown_file
from proxy.settings.files import Unreadable
from proxy.settings.guards import is_file
from proxy.settings.model import CONFIG_VARIABLE, PREFIX, groups, leaves

if TYPE_CHECKING:
    import yaml

#: What Kubernetes puts into every container for a Service called cardcash or cardcash-…, with its value, since
#: CARDCASH_PORT=8080 is a user who is about to wonder; Kubernetes' own is tcp://10.0.0.1:80.
_KUBERNETES: Final = re.compile(
    r"CARDCASH_(?:[A-Z0-9]+_)*(?:PORT=(?:tcp|udp|sctp)://\S*|"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)=(?s:.*))"
)

#: All words that the names of settings are made of, and those of rules.
_WORDS: Final = frozenset(word for path in leaves() for word in path.split(".")) | {"allow", "deny", "methods", "path"}

_READABLE: Final = "a secret on a command line can be read by others"


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was given, and where, in words for a message."""

    value: object
    where: str


@dataclass(slots=True)
class Layer:
    """What one source gives, and the faults found while reading it."""

    given: dict[str, Given] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    #: Paths whose value is a fault already, so that nobody calls them missing.
    broken: set[str] = field(default_factory=set)
    #: Paths of empty environment variables, which count as not set.
    empty: set[str] = field(default_factory=set)
    #: The source as a whole could not be read.
    unusable: bool = False

    def refuse(self, path: str, where: str, problem: str) -> None:
        """Note that what was given for a setting cannot be used."""
        self.faults.append(f"{path} ({where}): {problem}")
        self.broken.add(path)


def from_environment(environ: Mapping[str, str]) -> Layer:
    """Read CARDCASH_* variables (upper-case exactly).

    An empty variable counts as not set, since `${NAME:-}` in compose files and manifests makes empty ones; only where
    empty is a value (lists, upstream.base_path) it is that value.
    """
    layer = Layer()
    known = {leaf.variable: leaf for leaf in leaves().values()}
    unknown: Counter[tuple[str, str]] = Counter()
    for name in sorted(environ):
        value = environ[name]
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE or _KUBERNETES.fullmatch(f"{name}={value}"):
            continue
        leaf = known.get(name)
        if leaf is None:
            unknown[_unknown_variable(name, known)] += 1
        elif value.strip() or leaf.empty_counts:
            layer.given[leaf.path] = Given(value, f"environment variable {name}")
        else:
            layer.empty.add(leaf.path)
    for (said, hint), number in unknown.items():
        if said:
            layer.faults.append(f"environment variable {said} is not a setting{hint}")
        else:
            layer.faults.append(_hidden(number, hint))
    return layer


def _hidden(number: int, hint: str) -> str:
    """Say that variables are no settings, and why they are not named."""
    why = "may be a secret" if hint else "is like no setting and may be a secret"
    if number == 1:
        return f"environment variable {PREFIX}… (its name is not repeated, since it {why}) is not a setting{hint}"
    whose = f"{number} environment variables {PREFIX}… (their names are not repeated, since each {why})"
    return f"{whose} are not settings{hint}"


def _unknown_variable(name: str, known: Iterable[str]) -> tuple[str, str]:
    """Return the name of a variable that is no setting, empty if it may be a secret, and what may be meant."""
    # Without the prefix, which would make every name look alike.
    short, others = name.removeprefix(PREFIX), [other.removeprefix(PREFIX) for other in known]
    hint = did_you_mean(short, others).replace('"', f'"{PREFIX}', 1)
    if short.lower().replace("__", ".") in groups():
        hint = "; it is a group, set its members"
    return name if repeatable(short, [*others, *groups()]) else "", hint


def from_flags(flags: Mapping[str, str]) -> Layer:
    """Read flags given as path of a setting -> text. Secrets are refused: who uses a machine can read command lines."""
    layer = Layer()
    for path, text in flags.items():
        leaf = leaves()[path]
        where, variable = f"flag {leaf.flag}", f"the environment variable {leaf.variable}"
        if leaf.hidden:
            layer.refuse(path, where, f"{_READABLE}; use {leaf.flag}-file or {variable}")
        elif leaf.may_hide and "@" in text:
            layer.refuse(
                path, where, f"{_READABLE}; leave user and password out, or use {leaf.flag}-file or {variable}"
            )
        elif leaf.secret and not is_file(text.partition(":")[2].lstrip()):
            layer.refuse(path, where, f'{_READABLE}; use "Name: /path/of/a/file" or {variable}')
        else:
            layer.given[path] = Given(text, where)
    return layer


def from_file(path: Path, named_by: str) -> Layer:
    """Read a YAML file; keys without a value count as not given. `named_by` tells who named the file."""
    import yaml  # noqa: PLC0415 - 30 ms that only a file costs

    from proxy.settings import yaml_file  # noqa: PLC0415

    layer, what = Layer(), f"configuration file {shown_file(str(path))} ({named_by})"

    def fault(problem: str) -> None:
        layer.faults.append(f"{what} {problem}")

    def read_group(node: yaml.MappingNode, prefix: str) -> None:
        for name, key, value in values.keys(node):
            known, where = prefix + name, f"{path} line {yaml_file.line_of(key)}"
            if known in leaves():
                read_leaf(known, where, value)
            elif known not in groups():
                layer.faults.append(_unknown_key(name, prefix, where))
            elif isinstance(value, yaml.MappingNode):
                read_group(value, f"{known}.")
            elif not yaml_file.is_null(value):
                layer.faults.append(f"{known} ({where}) is a group: write its settings indented below it")

    def read_leaf(name: str, where: str, node: yaml.Node) -> None:
        leaf = leaves()[name]
        try:
            value = values.of(node)
        except Unreadable as error:
            layer.refuse(name, where, str(error))
            return
        if value is not None:
            layer.given[name] = Given(value, where)
        # The word null is fine where it is the default.
        elif leaf.guards and (leaf.default is not None or node.value == ""):
            layer.refuse(name, where, "has no value; write one, or leave the setting out")

    values = yaml_file.Values(fault, _WORDS)
    try:
        root = yaml_file.read_yaml(path)
    except Unreadable as error:
        fault(str(error))
        layer.unusable = True
    else:
        if root is not None:
            read_group(root, "")
    return layer


def admin_listen(path: Path, named_by: str) -> tuple[str, object]:
    """Return where `admin.listen` stands in a file, and its value; None where it is not set. Raises `Bad`."""
    layer = from_file(path, named_by)
    if layer.unusable or "admin.listen" in layer.broken:
        raise Bad(*(fault for fault in layer.faults if layer.unusable or fault.startswith("admin.listen")))
    given = layer.given.get("admin.listen", Given(None, ""))
    return given.where, given.value


def _unknown_key(name: str, prefix: str, where: str) -> str:
    """Say that a key is none, with a neighbour that may be meant, or a setting of that name elsewhere."""
    plain = name.replace("-", "_")
    shown = f"a key of {prefix[:-1]}" if prefix else "a key"
    if plain in _WORDS or repeatable(prefix + name, [*leaves(), *groups()]):
        shown = prefix + name
    elsewhere = [path for path in leaves() if path.rpartition(".")[2] == plain]
    neighbours = {path.removeprefix(prefix).split(".")[0] for path in leaves() if path.startswith(prefix)}
    hint = (
        (f'; did you mean "{elsewhere[0]}"?' if elsewhere else "")
        or did_you_mean(plain, sorted(neighbours)).replace('"', f'"{prefix}', 1)
        or ("" if prefix else did_you_mean(plain, leaves()))
    )
    return f"{shown} ({where}) is not a setting{hint}"
