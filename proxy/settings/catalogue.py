"""Owns the list of all settings, derived from the model: paths, groups, kinds, names of variables and flags."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel

from proxy.settings.model import Kind, Settings
from proxy.settings.secret import SecretForm

PREFIX: Final = "CARDCASH_"

#: Names the configuration file; not a setting itself.
CONFIG_VARIABLE: Final = "CARDCASH_CONFIG"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting."""

    path: str
    description: str
    kinds: frozenset[Kind]
    default: Any
    #: What the secret in it may be made of.
    form: SecretForm = SecretForm.ANY

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return variable_name(self.path)

    @property
    def secret(self) -> bool:
        """Whether its value is a secret as a whole."""
        return Kind.SECRET in self.kinds


@dataclass(frozen=True, slots=True)
class FlagInfo:
    """What the command line needs to know of a setting. A secret has no flag; its `_file` form has."""

    path: str
    help: str
    secret: bool


def variable_name(path: str) -> str:
    """Return the environment variable of a dotted path."""
    return PREFIX + path.upper().replace(".", "__")


def flag_name(path: str) -> str:
    """Return the flag of a dotted path, as messages name it."""
    return "--" + path.replace(".", "-").replace("_", "-")


@lru_cache(maxsize=1)
def leaves() -> dict[str, Leaf]:
    """Return all settings by path, in the model's order."""
    return {leaf.path: leaf for leaf in _walk(Settings, "")}


@lru_cache(maxsize=1)
def groups() -> frozenset[str]:
    """Return the paths of all groups."""
    return frozenset(path.rpartition(".")[0] for path in leaves() if "." in path)


def _walk(model: type[BaseModel], prefix: str) -> list[Leaf]:
    found: list[Leaf] = []
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found += _walk(annotation, f"{prefix}{name}.")
        else:
            kinds = frozenset(mark for mark in field.metadata if isinstance(mark, Kind))
            form = next((mark for mark in field.metadata if isinstance(mark, SecretForm)), SecretForm.ANY)
            found.append(Leaf(prefix + name, field.description or "", kinds, field.default, form))
    return found
