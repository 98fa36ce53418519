"""The corpora beside the project, and how much of them a run takes."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[3] / "shared/data"
#: CARDCASH_FUZZ=all: the whole corpora instead of the subset for CI.
ALL = os.environ.get("CARDCASH_FUZZ") == "all"
#: CARDCASH_FUZZ_SECONDS: so long for each mutation test instead of a bounded, repeatable run.
SECONDS = float(os.environ.get("CARDCASH_FUZZ_SECONDS", "0"))


def needs(name: str) -> pytest.MarkDecorator:
    """Skip a test where the corpus is not there."""
    return pytest.mark.skipif(not (DATA / name).is_file(), reason=f"the corpus {DATA / name} is not there")


def timeout() -> pytest.MarkDecorator:
    """Give a test the time that the environment asks for."""
    return pytest.mark.timeout(900 + 3 * SECONDS if ALL or SECONDS else 90)


@dataclass(frozen=True)
class Row:
    """One request of the corpus. `verdict` and `most` as its `about` explains them."""

    name: str
    category: str
    raw: bytes
    verdict: str
    most: int | None

    @property
    def hosts(self) -> set[str]:
        """The hosts it names."""
        found = re.findall(rb"(?im)^host[ \t]*:[ \t]*([a-z0-9._-]+)", self.raw)
        found += re.findall(rb"(?i)^\S+\s+https?://([a-z0-9._-]+)", self.raw)
        return {host.decode().lower() for host in found}


def _load(name: str) -> Any:
    return json.loads((DATA / name).read_text())


@cache
def requests() -> Sequence[Row]:
    content = _load("malformed-requests.json")
    verdicts = content["verdicts"]
    return [
        Row(name, categories[0], base64.b64decode(raw), verdicts[name][0], verdicts[name][3])
        for name, _, categories, raw in content["payloads"]
    ]


def sample(rows: Sequence[Row], every: int, *, always: Sequence[str] = ()) -> Sequence[Row]:
    """Take every n-th row of each category and verdict, the first ones too; all when all are asked for."""
    if ALL:
        return rows
    seen: dict[tuple[str, str], int] = {}
    taken = []
    for row in rows:
        key = row.category, row.verdict
        seen[key] = seen.get(key, -1) + 1
        if seen[key] % every == 0 or row.name in always:
            taken.append(row)
    return taken


@cache
def answers() -> Sequence[tuple[str, bytes]]:
    return [(name, base64.b64decode(raw)) for name, _, raw in _load("odd-responses.json")["answers"]]


def allowed(rows: Sequence[Row]) -> str:
    """Write the hosts of the rows as `callers.allowed_hosts`, those that can stand there."""
    name = re.compile(r"(?!-)[a-z0-9-]+(?<!-)(?:\.(?!-)[a-z0-9-]+(?<!-))*")
    address = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}")
    hosts = {host for row in rows for host in row.hosts if len(host) < 100}
    good = {h for h in hosts if (address if re.search(r"(?:\A|\.)[0-9][0-9a-fx]*\Z", h) else name).fullmatch(h)}
    return ",".join(sorted(good))
