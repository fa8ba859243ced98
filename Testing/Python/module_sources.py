"""Reading the sources of the Slicer module as syntax trees: shared by the tests of its code and of its texts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

MODULE = Path(__file__).resolve().parents[2] / "DeepDiffReg"
MAIN = MODULE / "DeepDiffReg.py"
FILES = sorted(path for path in MODULE.rglob("*.py") if "__pycache__" not in path.parts)


def name_of(path: Path) -> str:
    return path.relative_to(MODULE).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def called(node: ast.Call) -> str:
    """Last part of the name that is called."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def calls(top: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(top) if isinstance(node, ast.Call))


def where(path: Path, node: ast.AST) -> str:
    return f"{name_of(path)}:{node.lineno}: {ast.unparse(node)[:110]}"


def imported(node: ast.stmt) -> list[str]:
    """Dotted names of an import statement; relative ones start with a dot."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    start = "." * node.level + (node.module or "")
    return [start if node.level or node.module else alias.name for alias in node.names][:1]


def imports(top: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    for node in ast.walk(top):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node, name) for name in imported(node))


def outside_functions(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the file is imported, those of class bodies included."""
    for node in body:
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from outside_functions(getattr(node, part, None) or [])
        for handler in getattr(node, "handlers", []):
            yield from outside_functions(handler.body)
