"""What the house tests read: the project's files, and the tables and code blocks of its pages."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


#: The documents: for users, operators, maintainers (the house, CardCash's API), for who writes a test, who measures.
PAGES = (
    "README.md",
    "config/README.md",
    "proxy/README.md",
    "proxy/core/README.md",
    "tests/README.md",
    "bench/README.md",
)


def documents() -> dict[str, str]:
    """Return the text of each page by its name."""
    return {name: text_of(name) for name in PAGES if (ROOT / name).is_file()}


@cache
def project_files() -> list[str]:
    """List the files that are, or are about to be, part of the project: tracked ones and new ones that are not ignored."""
    git = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(git, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):  # an archive without its history, or a machine without git
        paths = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        names = [str(path) for path in paths if not (path.parts[0].startswith(".") and path.parts[0] != ".ci")]
        names = [name for name in names if "__pycache__" not in name]
    return sorted(name for name in set(names) if (ROOT / name).is_file())


def module_names(folder: str = "proxy") -> list[str]:
    """List every module of the product, or of another folder, by its path."""
    return [name for name in project_files() if name.startswith(f"{folder}/") and name.endswith(".py")]


@cache
def modules(folder: str = "proxy") -> dict[str, ast.Module]:
    """Parse them."""
    return {name: ast.parse(text_of(name)) for name in module_names(folder)}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call in the product with the last name of what is called."""
    for tree in modules().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                yield node.func.id if isinstance(node.func, ast.Name) else node.func.attr, node


def values_of(key: str) -> Iterator[str]:
    """Yield the texts that the telemetry writes under a key of its own."""
    for tree in modules("proxy/telemetry").values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                for name, value in zip(node.keys, node.values, strict=True):
                    if isinstance(name, ast.Constant) and name.value == key and isinstance(value, ast.Constant):
                        yield str(value.value)


def literals(call: ast.Call) -> list[str]:
    return [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]


def table(first_cell: str) -> list[list[str]]:
    """Read the rows of the table, on whichever page, whose head begins with `first_cell`."""
    rows: list[list[str]] | None = None
    lines = "\n\n".join(documents().values()).splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")] if line.startswith("|") else None
        if rows is None:
            is_head = cells is not None and cells[0] == first_cell and following.startswith("|---")
            rows = [] if is_head else None
        elif cells is None:
            break
        elif not line.startswith("|---"):
            rows.append(cells)
    assert rows, f"no page has a table that begins with {first_cell!r}"
    return rows


def ticked(cell: str) -> list[str]:
    """List what stands in `code` in a cell."""
    return re.findall(r"`([^`]+)`", cell)


@dataclass(frozen=True)
class Block:
    """A fenced code block; `not_run` is the reason of `<!-- not run: … -->` before it, or None."""

    page: str
    language: str
    content: str
    line: int
    not_run: str | None


def blocks() -> list[Block]:
    return [block for name in documents() for block in _blocks_of(name)]


def _blocks_of(page: str) -> list[Block]:
    found: list[Block] = []
    lines = text_of(page).splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        before = lines[start - 1] if start else ""
        reason = re.fullmatch(r"<!-- not run: (.+) -->", before)
        content = "\n".join(lines[start + 1 : number])
        found.append(Block(page, lines[start][3:], content, start + 1, reason[1] if reason else None))
        start = None
    return found


def prose() -> str:
    """All pages without their console blocks, which show wrong settings on purpose and are run anyway."""
    return re.sub(r"^```console\n.*?^```$", "", "\n".join(documents().values()), flags=re.DOTALL | re.MULTILINE)
