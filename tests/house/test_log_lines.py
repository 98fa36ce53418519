"""Log lines that wake somebody say what to do, or that nothing has to be done."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.house.pages import ROOT


def _warnings() -> Iterator[tuple[str, set[str | None]]]:
    """The warnings of the product, each with its place and the names of its fields."""
    for path in sorted((ROOT / "proxy").rglob("*.py")):
        if path.is_relative_to(ROOT / "proxy/simulator"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "log.warning":
                yield f"{path.relative_to(ROOT)}: {ast.unparse(node.args[0])}", {field.arg for field in node.keywords}


def test_every_warning_has_a_sentence() -> None:
    warnings = dict(_warnings())
    assert len(warnings) > 10
    assert [where for where, fields in warnings.items() if not fields & {"advice", "what", "sentence"}] == []
