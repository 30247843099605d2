"""docs/moving-parts.md names every private name of another library that is used, and where."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "spark_dlobd"
PAGE = (ROOT / "docs" / "moving-parts.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| `")]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.AST) -> Iterator[str]:
    """Names that this package gives itself: what has one of them is taken to be ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) in ("self", "cls")
        ):
            yield node.attr


def used_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("spark_dlobd"):
            for alias in node.names:
                if is_private(alias.name):
                    yield alias.name
                elif ".src" in str(node.module) or "tensorflow.python" in str(node.module):
                    yield f"{node.module}.{alias.name}"


@pytest.fixture(scope="module")
def found() -> dict[str, set[str]]:
    """Private name of another library -> files that use it."""
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    ours = {name for tree in trees.values() for name in own_names(tree)}
    used: dict[str, set[str]] = defaultdict(set)
    for path, tree in trees.items():
        for name in set(used_names(tree)) - ours:
            used[name].add(str(path.relative_to(PACKAGE)))
    return used


def test_the_page_names_them_all(found: dict[str, set[str]]) -> None:
    missing = {}
    for name, files in found.items():
        rows = [row for row in ROWS if re.search(rf"[`.]{re.escape(name)}`", row)]
        unnamed = [
            file
            for file in files
            if not any(f"`{file}`" in row or _folder(file) in row for row in rows)
        ]
        if unnamed:
            missing[name] = unnamed
    assert missing == {}


def _folder(file: str) -> str:
    return f"`{file.rpartition('/')[0]}/`"


def test_the_page_names_only_what_is_there(found: dict[str, set[str]]) -> None:
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    for row in ROWS:
        names, used_in, *_, noticed_by = (cell.strip() for cell in row.strip("|").split("|"))
        for name in re.findall(r"`([^`]+)`", names):
            assert name.rpartition(".")[2] in code, name
        for file in re.findall(r"`([\w/]+(?:\.py|/))`", used_in):
            assert (PACKAGE / file).exists(), file
        for file in re.findall(r"`(tests/[\w/.]+)`", noticed_by):
            assert (ROOT / file).exists(), file
