"""Builds what `kubectl kustomize` builds, for what config/kubernetes uses of it.

That is resources, components, strategic merges by path (with a target of kinds), and ConfigMaps from files.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

#: Lists that are merged by a key of their items; all others are replaced.
MERGED_BY = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
}


def build(folder: Path) -> list[Manifest]:
    """Build a kustomization, or the ConfigMaps of one that only generates."""
    return _applied(folder, [])


def _applied(folder: Path, above: list[Manifest]) -> list[Manifest]:
    text = (folder / "kustomization.yaml").read_text(encoding="utf-8")
    kustomization = yaml.safe_load(text)
    unknown = set(kustomization) - {
        *("apiVersion", "kind", "resources", "components", "patches", "configMapGenerator", "generatorOptions")
    }
    assert not unknown, f"this builder does not know {unknown}"
    found = above
    for name in kustomization.get("resources", []):
        place = folder / name
        if place.is_dir():
            found += build(place)
        else:
            found += [document for document in yaml.safe_load_all(place.read_text(encoding="utf-8")) if document]
    for name in kustomization.get("components", []):
        found = _applied(folder / name, found)
    options = kustomization.get("generatorOptions", {})
    for generator in kustomization.get("configMapGenerator", []):
        assert options["disableNameSuffixHash"], "this builder makes no hashes"
        data = {Path(name).name: (folder / name).read_text(encoding="utf-8") for name in generator["files"]}
        labels = {"labels": options["labels"]} if "labels" in options else {}
        metadata = {"name": generator["name"], **labels}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    for patch in kustomization.get("patches", []):
        change = yaml.safe_load((folder / patch["path"]).read_text(encoding="utf-8"))
        body = {key: value for key, value in change.items() if key not in ("apiVersion", "kind", "metadata")}
        found = [merged(each, body) if _meant(each, patch.get("target"), change) else each for each in found]
    return found


def _meant(manifest: Manifest, target: dict[str, str] | None, change: Manifest) -> bool:
    if target is not None:
        assert set(target) == {"kind"}
        return re.fullmatch(target["kind"], manifest["kind"]) is not None
    return bool(manifest["kind"] == change["kind"] and manifest["metadata"]["name"] == change["metadata"]["name"])


def merged(whole: Manifest, change: Manifest) -> Manifest:
    """Merge as the API server does: maps deeply, lists of named things by their names, new ones first."""
    result = copy.deepcopy(whole)
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        elif isinstance(value, list) and key in MERGED_BY and isinstance(result.get(key), list):
            result[key] = _merged_lists(result[key], value, MERGED_BY[key])
        else:
            result[key] = copy.deepcopy(value)
    return result


def _merged_lists(whole: list[Manifest], change: list[Manifest], key: str) -> list[Manifest]:
    there = {item[key]: item for item in whole}
    named = {item[key]: merged(there.get(item[key], {}), item) for item in change}
    # kubectl puts all that a patch names in front, in the patch's order.
    return list(named.values()) + [copy.deepcopy(item) for item in whole if item[key] not in named]
