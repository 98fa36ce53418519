"""Owns the three places settings come from: the YAML file, environment variables, flags. Each becomes a Layer.

Names that are no settings' are repeated only where they are a slip of the pen: anything else may be a secret gone astray.
A layer holds what was given under dotted paths, still unparsed: scalars as the text that stands there (so that
`app_id: 0123`, `listen: 22:30` and `1e3` are not what YAML 1.1 makes of them), lists and mappings of such texts.
Unknown names and broken files become faults, never exceptions, so that all faults can be reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxy.settings import files
from proxy.settings.catalogue import CONFIG_VARIABLE, PREFIX, Leaf, flag_name, groups, leaves
from proxy.settings.model import Kind
from proxy.settings.parsing import did_you_mean, repeatable

if TYPE_CHECKING:
    import yaml

LARGEST_FILE: Final = 1024 * 1024

#: What Kubernetes puts into every container for a Service called cardcash or cardcash-…
_KUBERNETES = re.compile(
    r"CARDCASH_(?:[A-Z0-9]+_)*"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
#: CARDCASH_PORT=8080 is a user who is about to wonder; Kubernetes' own is tcp://10.0.0.1:80.
_KUBERNETES_PORT = re.compile(r"CARDCASH_(?:[A-Z0-9]+_)*PORT=(?:tcp|udp|sctp)://[^\s]*")


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


def merged(layers: Iterable[Layer]) -> dict[str, Any]:
    """Merge layers, the highest first, into nested mappings, the shape pydantic validates."""
    flat: dict[str, object] = {}
    for layer in layers:
        for path, given in layer.given.items():
            flat.setdefault(path, given.value)
    root: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split(".")
        target = root
        for parent in parents:
            target = target.setdefault(parent, {})
        target[name] = value
    return root


def from_environment(environ: Mapping[str, str]) -> Layer:
    """Read CARDCASH_* variables (upper-case exactly).

    An empty variable counts as not set, since `${NAME:-}` in compose files and manifests makes empty ones; only where
    empty is a value (lists, upstream.base_path) it is that value.
    """
    layer = Layer()
    known = {leaf.variable: leaf for leaf in leaves().values()}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE or _is_from_kubernetes(name, environ[name]):
            continue
        leaf = known.get(name)
        if leaf is None:
            path = name.removeprefix(PREFIX).lower().replace("__", ".")
            hint = "; it is a group, set its members" if path in groups() else _did_you_mean_variable(name, known)
            shown = (
                name if repeatable(name.removeprefix(PREFIX), [*_names(known), *groups()]) else f"{PREFIX}… ({_HIDDEN})"
            )
            layer.faults.append(f"environment variable {shown} is not a setting{hint}")
        elif environ[name].strip() or leaf.kinds & {Kind.LIST, Kind.EMPTY}:
            layer.given[leaf.path] = Given(environ[name], f"environment variable {name}")
        else:
            layer.empty.add(leaf.path)
    return layer


#: Why a name is not repeated.
_HIDDEN: Final = "its name is not repeated, since it is like no setting and may be a secret"


def _names(variables: Iterable[str]) -> list[str]:
    return [name.removeprefix(PREFIX) for name in variables]


def _is_from_kubernetes(name: str, value: str) -> bool:
    return bool(_KUBERNETES.fullmatch(name) or _KUBERNETES_PORT.fullmatch(f"{name}={value}"))


def from_flags(flags: Mapping[str, str]) -> Layer:
    """Read flags given as dotted path -> text. Secrets are refused: every user of a machine can read command lines."""
    layer = Layer()
    for path, text in flags.items():
        leaf = leaves().get(path)
        flag = f"flag {flag_name(path)}"
        if leaf is None:
            flag = flag if repeatable(path, leaves()) else f"a flag ({_HIDDEN})"
            layer.faults.append(f"{flag} is not a setting{did_you_mean(path, leaves())}")
        elif leaf.secret:
            layer.faults.append(
                f"{path} ({flag}): a secret on a command line can be read by others; "
                f"use {flag_name(path)}-file or the environment variable {leaf.variable}"
            )
            layer.broken.add(path)
        elif Kind.HEADER in leaf.kinds and not text.partition(":")[2].lstrip().startswith(("/", "file:")):
            layer.faults.append(
                f"{path} ({flag}): a secret on a command line can be read by others; "
                f'use "Name: /path/of/a/file" or the environment variable {leaf.variable}'
            )
            layer.broken.add(path)
        else:
            layer.given[path] = Given(text, flag)
    return layer


def from_file(path: Path, named_by: str) -> Layer:
    """Read a YAML file; keys without a value count as not given. `named_by` tells who named the file."""
    layer = Layer()
    what = f"configuration file {path} ({named_by})"
    layer.unusable = True
    try:
        text = files.read(path, most=LARGEST_FILE).decode("utf-8-sig")
    except files.Unreadable as error:
        layer.faults.append(f"{what} {error}")
        return layer
    except UnicodeDecodeError:
        layer.faults.append(f"{what} is not UTF-8 text")
        return layer
    layer.unusable = False
    _Yaml(path, what, layer).read(text)
    return layer


class _Yaml:
    """Turn a YAML document into a layer, from its node graph: that has lines, duplicates and the texts as written.

    PyYAML's own messages quote the file, so only their first words are used.
    """

    def __init__(self, path: Path, what: str, layer: Layer) -> None:
        import yaml  # noqa: PLC0415 - 30 ms that only a file costs

        self._yaml = yaml
        self._path = path
        self._what = what
        self._layer = layer
        #: Characters and nodes of all values, each as often as it is meant.
        self._unfolded = 0

    def read(self, text: str) -> None:
        yaml = self._yaml
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f" line {mark.line + 1}" if mark else ""
            # `found undefined alias 'hunter2'`: everything from the first quote on is the file's content.
            problem = (error.problem or "").partition("'")[0].partition('"')[0].strip()
            self._unusable(f"is not valid YAML{line}: {problem}; put texts with special characters in quotes")
            return
        except yaml.YAMLError:
            self._unusable("is not valid YAML: it has characters that YAML does not allow")
            return
        except RecursionError:
            self._unusable("is nested too deeply")
            return
        if root is None or self._is_null(root):
            return
        if not isinstance(root, yaml.MappingNode):
            self._unusable(f"line {root.start_mark.line + 1}: must be a mapping of settings, such as `app_id: …`")
            return
        self._group(root, "")

    def _fault(self, problem: str) -> None:
        self._layer.faults.append(f"{self._what} {problem}")

    def _unusable(self, problem: str) -> None:
        self._fault(problem)
        self._layer.unusable = True

    def _where(self, node: yaml.Node) -> str:
        return f"{self._path} line {node.start_mark.line + 1}"

    def _is_null(self, node: yaml.Node) -> bool:
        return isinstance(node, self._yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"

    def _keys(self, node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """Yield the keys of a mapping; one that stands there twice is a fault."""
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, self._yaml.ScalarNode):
                self._fault(f"line {key.start_mark.line + 1}: a key must be a plain word")
                continue
            name, line = key.value, key.start_mark.line + 1
            if name in lines:
                what = name if name in _WORDS else "a key"
                self._fault(f"line {line}: {what} stands here a second time (first in line {lines[name]}); remove one")
                continue
            lines[name] = line
            yield name, key, value

    def _group(self, node: yaml.MappingNode, prefix: str) -> None:
        for name, key, value in self._keys(node):
            path = prefix + name
            where = self._where(key)
            if path in leaves():
                self._leaf(path, where, value)
            elif path not in groups():
                known = [*leaves(), *groups()]
                shown = path if name.replace("-", "_") in _WORDS or repeatable(path, known) else _a_key(prefix)
                self._layer.faults.append(f"{shown} ({where}) is not a setting{_did_you_mean_path(name, prefix)}")
            elif isinstance(value, self._yaml.MappingNode):
                self._group(value, f"{path}.")
            elif not self._is_null(value):
                self._layer.faults.append(f"{path} ({where}) is a group: write its settings indented below it")

    def _leaf(self, path: str, where: str, node: yaml.Node) -> None:
        try:
            value = self._value(node)
        except _UnsupportedError as error:
            self._layer.faults.append(f"{path} ({where}): {error}")
            self._layer.broken.add(path)
        except RecursionError:
            self._layer.faults.append(f"{path} ({where}): is nested too deeply")
            self._layer.broken.add(path)
        else:
            if value is not None:
                self._layer.given[path] = Given(value, where)
            elif _is_forgotten(leaves()[path], node):
                self._layer.faults.append(f"{path} ({where}): has no value; write one, or leave the setting out")
                self._layer.broken.add(path)

    def _value(self, node: yaml.Node) -> object:
        yaml = self._yaml
        # What stands in the file once may be meant a billion times, by aliases of aliases.
        self._unfolded += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self._unfolded > LARGEST_FILE:
            raise _UnsupportedError("its aliases unfold to more than a file may hold")
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            return {name: self._value(value) for name, _, value in self._keys(node)}
        if not node.tag.startswith("tag:yaml.org,2002:"):
            # A password such as !abc would silently become an empty text.
            raise _UnsupportedError("a value that begins with ! must be put in quotes")
        if node.tag == "tag:yaml.org,2002:null":
            return None
        if node.tag == "tag:yaml.org,2002:bool":
            return str(node.value).lower() in {"true", "yes", "on"}
        return str(node.value)


#: All words that the names of settings are made of, and those of rules.
_WORDS: Final = frozenset(word for path in leaves() for word in path.split(".")) | {"allow", "deny", "methods", "path"}


class _UnsupportedError(Exception):
    """A value that YAML allows and settings do not."""


def _a_key(prefix: str) -> str:
    return f"a key of {prefix[:-1]}" if prefix else "a key"


def _is_forgotten(leaf: Leaf, node: yaml.Node) -> bool:
    """Tell whether nothing stands where a list or a guard should: who meant to close a door must not leave it open.

    The word null is fine where it is the default.
    """
    return bool(leaf.kinds & {Kind.LIST, Kind.HEADER}) and (leaf.default is not None or node.value == "")


def _did_you_mean_path(name: str, prefix: str) -> str:
    """Suggest a neighbour, or a setting of that name elsewhere."""
    name = name.replace("-", "_")
    elsewhere = [path for path in leaves() if path.rpartition(".")[2] == name]
    if elsewhere:
        return f'; did you mean "{elsewhere[0]}"?'
    neighbours = {p.removeprefix(prefix).split(".")[0] for p in leaves() if p.startswith(prefix)}
    return did_you_mean(name, sorted(neighbours)).replace('"', f'"{prefix}', 1) or did_you_mean(prefix + name, leaves())


def _did_you_mean_variable(name: str, known: Iterable[str]) -> str:
    # Without the prefix, which would make every name look alike.
    return did_you_mean(name.removeprefix(PREFIX), _names(known)).replace('"', f'"{PREFIX}', 1)
