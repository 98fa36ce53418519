"""The tree itself: import contracts, sizes, locks, and what must never be committed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.house.pages import ROOT, module_names, modules, project_files, text_of

PYPROJECT: dict[str, Any] = tomllib.loads(text_of("pyproject.toml"))
LONGEST = 400
#: The product and its measuring instruments.
MODULES = [*module_names(), *module_names("bench")]
LOCKS = ("requirements/runtime.txt", "requirements/dev.txt")


def test_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _imports() -> dict[str, set[str]]:
    """List, for each module of the product, the others that it imports anywhere, by their dotted names."""
    trees = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): tree for name, tree in modules().items()
    }
    found: dict[str, set[str]] = {}
    for module, tree in trees.items():
        named: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= {name if name in trees else str(node.module) for name in whole}
        found[module] = named & trees.keys() - {module}
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter(_imports()).prepare()


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_short_enough_to_be_read(name: str) -> None:
    assert text_of(name).count("\n") <= LONGEST


@pytest.mark.parametrize("name", MODULES)
def test_modules_say_what_they_own(name: str) -> None:
    assert len(ast.get_docstring(modules(name.partition("/")[0])[name]) or "") > 20


def _texts() -> dict[str, str]:
    texts = {}
    for name in project_files():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content:
            texts[name] = content.decode("utf-8", "replace")
    return texts


#: Written in two parts, so that this file does not hold them.
REGISTRIES = [
    "py" + "pi.org",
    "pythonhosted" + ".org",
    "registry." + "npmjs",
    "--index" + "-url ",
    "--extra" + "-index-url",
    "--find" + "-links",
]


def test_no_file_has_the_address_of_a_package_registry() -> None:
    assert [(name, word) for name, text in _texts().items() for word in REGISTRIES if word in text] == []


def test_no_file_has_a_path_of_one_machine() -> None:
    # A home of "/" or a checkout right below the root would be found in any path.
    here = [re.escape(f"{path}{os.sep}") for path in (ROOT, Path.home()) if len(path.parts) > 1]
    paths = re.compile(rf"(?<![\w.])(?:{'|'.join([*here, '/(?:home|Users)/[a-z]+/'])})")
    assert [(name, found[0]) for name, text in _texts().items() if (found := paths.search(text))] == []


def _pins(lock: str) -> dict[str, str]:
    return {name.lower(): version for name, version in re.findall(r"^([\w.-]+)==([\w.!+]+)", text_of(lock), re.M)}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_of_a_lock_has_a_hash(lock: str) -> None:
    entries = re.split(r"^(?=[\w])", text_of(lock), flags=re.MULTILINE)[1:]
    assert len(entries) > 10
    assert [entry.partition(" ")[0] for entry in entries if "--hash=sha256:" not in entry or "==" not in entry] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_hold_pins_hashes_and_reasons_only(lock: str) -> None:
    odd = [
        line
        for line in text_of(lock).splitlines()
        if not re.match(r"[\w.-]+==[\w.!+]+( ; .*)? \\$|    --hash=sha256:[0-9a-f]{64}( \\)?$|    #", line)
    ]
    assert odd == []


def _requirements() -> list[tuple[str, str]]:
    groups = PYPROJECT["dependency-groups"]
    runtime = [(lock, line) for lock in LOCKS for line in PYPROJECT["project"]["dependencies"]]
    return runtime + [("requirements/dev.txt", line) for line in groups["dev"]]


@pytest.mark.parametrize(("lock", "line"), _requirements())
def test_the_lock_has_a_version_that_pyproject_allows(lock: str, line: str) -> None:
    requirement = Requirement(line)
    name = requirement.name.lower().replace(".", "-").replace("_", "-")
    assert requirement.specifier.contains(_pins(lock)[name])


def test_both_locks_agree() -> None:
    runtime, dev = (_pins(lock) for lock in LOCKS)
    assert {name: version for name, version in runtime.items() if dev.get(name) != version} == {}


def test_what_ci_runs_is_a_valid_script_that_can_be_run() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)
    assert "set -euo pipefail" in text_of(".ci/run")


@pytest.mark.parametrize("target", ["test", "check"])
def test_ci_runs_what_a_newcomer_runs(target: str) -> None:
    assert re.search(rf"^within [^#]*\bmake .*\b{target}$", text_of(".ci/run"), re.MULTILINE)
    assert re.search(rf"^{target}:", text_of("Makefile"), re.MULTILINE)
