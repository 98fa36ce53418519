"""The list of what the proxy runs with (SBOM): valid CycloneDX, and what the lock says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import cyclonedx
from jsonschema import Draft7Validator, FormatChecker
from referencing import Registry, Resource

import proxy
from tests.house.pages import ROOT, text_of

SCHEMAS = Path(cyclonedx.__path__[0]) / "schema/_res"


@cache
def sbom() -> dict[str, Any]:
    words = [sys.executable, "requirements/sbom.py", proxy.__version__]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def test_it_is_valid_cyclonedx() -> None:
    schemas = [json.loads(path.read_text()) for path in SCHEMAS.glob("*.schema.json") if "strict" not in path.name]
    known = Registry().with_resources((schema["$id"], Resource.from_contents(schema)) for schema in schemas)
    (schema,) = [schema for schema in schemas if schema["$id"] == sbom()["$schema"]]
    faults = Draft7Validator(schema, registry=known, format_checker=FormatChecker()).iter_errors(sbom())
    assert [f"{'/'.join(map(str, fault.path))}: {fault.message}" for fault in faults] == []


def test_it_has_all_that_the_lock_has_and_nothing_else() -> None:
    locked = set(re.findall(r"^([\w-]+)==([^\s;]+)", text_of("requirements/runtime.txt"), re.MULTILINE))
    assert {(component["name"], component["version"]) for component in sbom()["components"]} == locked


def test_every_hash_of_the_lock_is_in_it() -> None:
    locked = re.findall(r"sha256:([0-9a-f]{64})", text_of("requirements/runtime.txt"))
    listed = [part["hashes"] for component in sbom()["components"] for part in component["externalReferences"]]
    assert [one["content"] for hashes in listed for one in hashes] == locked


def test_the_proxy_needs_what_its_project_names() -> None:
    named = {
        re.split(r"[^\w.-]", line, maxsplit=1)[0].lower().replace(".", "-")
        for line in metadata.requires("cardcash-proxy") or []
    }
    (needs,) = [one["dependsOn"] for one in sbom()["dependencies"] if "/cardcash-proxy@" in one["ref"]]
    assert {ref.removeprefix("pkg:pypi/").partition("@")[0] for ref in needs} == named


def test_whatever_is_needed_is_listed() -> None:
    listed = {component["bom-ref"] for component in sbom()["components"]}
    assert {ref for one in sbom()["dependencies"] for ref in one["dependsOn"]} <= listed


def test_the_licence_of_what_is_installed_stands_in_it() -> None:
    for component in sbom()["components"]:
        marked = "properties" in component  # not installed on every Python
        assert marked or component["licenses"], component["name"]


def test_the_same_lock_gives_the_same_list() -> None:
    assert sbom() == sbom.__wrapped__()
