"""Owns the three places settings come from: the YAML file, environment variables, flags. Each becomes a Layer.

Names that are no settings' are repeated only where they are a slip of the pen: anything else may be a secret gone astray.
A layer holds what was given under dotted paths, still unparsed. Unknown names and broken files become faults, never
exceptions, so that all faults can be reported at once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.core.spelling import unknown
from proxy.core.values import Bad, shown_file
from proxy.settings.files import Unreadable
from proxy.settings.model import CONFIG_VARIABLE, PREFIX, groups, leaves
from proxy.settings.parsing import is_file

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
    #: The source as a whole could not be read.
    unusable: bool = False

    def refuse(self, path: str, where: str, problem: str) -> None:
        """Note that what was given for a setting cannot be used."""
        self.faults.append(f"{path} ({where}): {problem}")
        self.broken.add(path)


def from_environment(environ: Mapping[str, str]) -> Layer:
    """Read CARDCASH_* variables (upper-case exactly).

    An empty variable counts as not set, since `${NAME:-}` in compose files and manifests makes empty ones; only
    upstream.base_path is none then.
    """
    layer = Layer()
    known = {leaf.variable.removeprefix(PREFIX): leaf for leaf in leaves().values()}
    nameless = f"{PREFIX}… (its name is not repeated, since it may be a secret)"
    strangers: Counter[str] = Counter()
    for variable in sorted(environ):
        name, value = variable.removeprefix(PREFIX), environ[variable]
        if variable in (name, CONFIG_VARIABLE) or _KUBERNETES.fullmatch(f"{variable}={value}"):
            continue
        leaf = known.get(name)
        if leaf is None:
            called, hint = unknown(name, known, nameless, prefix=PREFIX)
            if name.lower().replace("__", ".") in groups():
                called, hint = variable, "; it is a group, set its members"
            strangers[f"environment variable {called} is not a setting{hint}"] += 1
        elif value.strip() or leaf.empty_counts:
            layer.given[leaf.path] = Given(value, f"environment variable {variable}")
    layer.faults += [said + (f" ({number} such variables)" if number > 1 else "") for said, number in strangers.items()]
    return layer


def from_flags(flags: Mapping[str, str]) -> Layer:
    """Read flags given as path of a setting -> text. Secrets are refused: who uses a machine can read command lines."""
    layer = Layer()
    for path, text in flags.items():
        leaf = leaves()[path]
        where, variable = f"flag {leaf.flag}", f"the environment variable {leaf.variable}"
        advice = ""
        if leaf.hidden:
            advice = f"use {leaf.flag}-file or {variable}"
        elif leaf.secret and leaf.file:
            advice = f"leave user and password out, or use {leaf.flag}-file or {variable}" if "@" in text else ""
        elif leaf.secret and not is_file(text.partition(":")[2].lstrip()):
            advice = f'use "Name: /path/of/a/file" or {variable}'
        if advice:
            layer.refuse(path, where, f"a secret on a command line can be read by others; {advice}")
        else:
            layer.given[path] = Given(text, where)
    return layer


def from_file(path: Path, named_by: str) -> Layer:
    """Read a YAML file; keys without a value count as not given. `named_by` tells who named the file."""
    import yaml  # noqa: PLC0415 - 30 ms that only a file costs

    from proxy.settings import yaml_file  # noqa: PLC0415

    layer, named = Layer(), shown_file(str(path))

    def fault(problem: str) -> None:
        layer.faults.append(f"configuration file {named} ({named_by}) {problem}")

    def read_group(node: yaml.MappingNode, prefix: str) -> None:
        for name, key, value in values.keys(node):
            known, where = prefix + name, f"{named} line {yaml_file.line_of(key)}"
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
        except (Unreadable, RecursionError) as error:
            layer.refuse(name, where, str(error) if isinstance(error, Unreadable) else "is nested too deeply")
            return
        if value is not None:
            layer.given[name] = Given(value, where)
        # The word null is fine where it is the default.
        elif leaf.needs_value and (leaf.default is not None or node.value == ""):
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
    neighbours = sorted({path.removeprefix(prefix).split(".")[0] for path in leaves() if path.startswith(prefix)})
    nameless = f"a key of {prefix[:-1]}" if prefix else "a key"
    called, hint = unknown(name, neighbours if prefix else [*neighbours, *leaves()], nameless, prefix=prefix)
    word = name.replace("-", "_")
    elsewhere = next((path for path in leaves() if path.rpartition(".")[2] == word), None)
    if word in _WORDS:
        called = prefix + name
    if elsewhere:
        hint = f'; did you mean "{elsewhere}"?'
    return f"{called} ({where}) is not a setting{hint}"
