"""Write what the proxy runs with as a CycloneDX 1.6 list (SBOM): `make sbom`, or `python requirements/sbom.py VERSION`.

From the lock alone: names, versions, hashes of all files a package may come from, and what needs what; licences as far as
the packages are installed here. The same lock gives the same list, so it has no date.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

_LOCK = Path(__file__).with_name("runtime.txt")
_NAME = "cardcash-proxy"
#: A block of the lock: `name==version ; marker \`, and its indented lines with hashes and "# via".
_BLOCK = re.compile(r"^([a-z0-9-]+)==([^\s;]+)(?:\s*;\s*([^\\\n]+?))?\s*\\\n((?: .*\n)*)", re.MULTILINE)


def sbom(version: str, lock: str) -> dict[str, Any]:
    """Describe the proxy of this version, and everything that the lock names."""
    own = f"pkg:pypi/{_NAME}@{version}"
    found = _BLOCK.findall(lock)
    refs = {name: f"pkg:pypi/{name}@{at}" for name, at, *_ in found} | {_NAME: own}
    needs: dict[str, list[str]] = {ref: [] for ref in refs.values()}
    components = []
    for name, at, marker, rest in found:
        for user in re.findall(r"^ +#(?: via |   )([a-z0-9-]+)", rest, re.MULTILINE):
            needs[refs[user]].append(refs[name])
        hashes = [{"alg": "SHA-256", "content": digest} for digest in re.findall(r"sha256:([0-9a-f]{64})", rest)]
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": refs[name],
            "name": name,
            "version": at,
            "purl": refs[name],
            # Of each file that the lock allows, for all systems and Pythons.
            "externalReferences": [{"type": "distribution", "url": refs[name], "hashes": hashes}],
        }
        if licences := _licences(name, at):
            component["licenses"] = licences
        if marker:
            component["properties"] = [{"name": f"{_NAME}:marker", "value": marker}]
        components.append(component)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, own + lock)}",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": own, "name": _NAME, "version": version, "purl": own}
        },
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": sorted(set(others))} for ref, others in needs.items()],
    }


def _licences(name: str, version: str) -> list[dict[str, Any]]:
    """Tell the licence of an installed package; nothing where it is not installed in this version."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return []
    if about["Version"] != version:
        return []
    if expression := about.get("License-Expression"):
        return [{"expression": expression}]
    named = about.get("License") or ""
    if not named or "\n" in named or len(named) > 60:  # the whole text, in some
        trove = [
            line.rpartition(" :: ")[2] for line in about.get_all("Classifier", []) if line.startswith("License ::")
        ]
        return [{"license": {"name": line}} for line in trove]
    return [{"license": {"name": named}}]


if __name__ == "__main__":
    json.dump(sbom(sys.argv[1], _LOCK.read_text(encoding="utf-8")), sys.stdout, indent=1)
    sys.stdout.write("\n")
