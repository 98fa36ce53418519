"""Owns what a YAML file says, whatever it is about: mappings, lists and the texts that stand there, each with its line.

Scalars stay the text as written, so that `app_id: 0123`, `listen: 22:30` and `1e3` are not what YAML 1.1 makes of them.
No message repeats the file's content; PyYAML's own ones quote it, so they are told in our words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import yaml

from proxy.settings.files import Unreadable, read

LARGEST_FILE: Final = 1024 * 1024

_NEVER_CLOSED: Final = "found unexpected end of stream"
#: How PyYAML's problems begin, and what is meant.
_PROBLEMS: Final = (
    ("mapping values are not allowed", "mapping values are not allowed here: a colon stands where no key can"),
    ("found undefined alias", "found undefined alias"),
    ("found character '\\t'", "a tab stands where blanks must"),
    ("found character", "a value begins with a character that YAML keeps for itself"),
    ("could not find expected ':'", "a key has no colon after it"),
    ("expected ',' or", "a list or group in brackets is not closed, or a comma is missing"),
    ("expected <block end>", "the line is not indented like those above it, or does not belong there"),
    (_NEVER_CLOSED, "a quote is opened and never closed"),
    ("expected a single document", "a second document begins"),
    ("but found another document", "a second document begins"),
)


def read_yaml(path: Path) -> yaml.MappingNode | None:
    """Read a file; None when nothing is in it. Raises `Unreadable`."""
    try:
        text = read(path, most=LARGEST_FILE).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("is not UTF-8 text") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        said = error.problem or ""
        # A quote is noticed at the end of the file, and meant is where it is opened.
        marks = (
            (error.context_mark, error.problem_mark)
            if said == _NEVER_CLOSED
            else (error.problem_mark, error.context_mark)
        )
        line = next((f", line {mark.line + 1}" for mark in marks if mark), "")
        problem = next((ours for theirs, ours in _PROBLEMS if said.startswith(theirs)), "it cannot be understood")
        raise Unreadable(f"is not valid YAML{line}: {problem}; put texts with special characters in quotes") from None
    except yaml.YAMLError:
        raise Unreadable("is not valid YAML: it has characters that YAML does not allow") from None
    except RecursionError:
        raise Unreadable("is nested too deeply") from None
    if root is None or is_null(root):
        return None
    if not isinstance(root, yaml.MappingNode):
        raise Unreadable(f"line {line_of(root)}: must be a mapping of settings, such as `app_id: …`")
    return root


def line_of(node: yaml.Node) -> int:
    """Return the line in which it begins."""
    return int(node.start_mark.line) + 1


def is_null(node: yaml.Node) -> bool:
    """Say whether no value stands there."""
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


class Values:
    """Turns nodes into values; `fault` hears of keys that are none, `names` are those that may be repeated."""

    def __init__(self, fault: Callable[[str], None], names: frozenset[str]) -> None:
        self._fault = fault
        self._names = names
        #: Characters and nodes of all values, each as often as it is meant.
        self._unfolded = 0

    def keys(self, node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """Yield the keys of a mapping; one that stands there twice is a fault."""
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._fault(f"line {line_of(key)}: a key must be a plain word")
            elif key.value in lines:
                what, first = key.value if key.value in self._names else "a key", lines[key.value]
                self._fault(
                    f"line {line_of(key)}: {what} stands here a second time (first in line {first}); remove one"
                )
            else:
                lines[key.value] = line_of(key)
                yield key.value, key, value

    def of(self, node: yaml.Node) -> object:
        """Return a text, a bool, None, or a list or mapping of such. Raises `Unreadable`, and RecursionError."""
        # What stands in the file once may be meant a billion times, by aliases of aliases.
        self._unfolded += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self._unfolded > LARGEST_FILE:
            raise Unreadable("its aliases unfold to more than a file may hold")
        if isinstance(node, yaml.SequenceNode):
            return [self.of(item) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            return {name: self.of(value) for name, _, value in self.keys(node)}
        if not node.tag.startswith("tag:yaml.org,2002:"):
            # A password such as !abc would silently become an empty text.
            raise Unreadable("a value that begins with ! must be put in quotes")
        if is_null(node):
            return None
        if node.tag == "tag:yaml.org,2002:bool":
            return str(node.value).lower() in {"true", "yes", "on"}
        return str(node.value)
