"""The functions of a package and their statements, each with the text that it is known by."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
SIMPLE = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Raise)


@dataclass(frozen=True)
class Function:
    """A function or method.

    Attributes:
        file: Its module, relative to the package.
        name: Qualified name: classes and outer functions before it, with dots.
        node: The definition.
        statements: Statements of its own, in order; those of inner functions belong to these.
    """

    file: str
    name: str
    node: FunctionNode
    statements: tuple[ast.stmt, ...]


def text_of(statement: ast.stmt) -> str | None:
    """Return the text of a statement (of a compound one, its first line), or None for kinds that are never changed."""
    if isinstance(statement, ast.If):
        return f"if {ast.unparse(statement.test)}:"
    if isinstance(statement, ast.While):
        return f"while {ast.unparse(statement.test)}:"
    if isinstance(statement, ast.For):
        return f"for {ast.unparse(statement.target)} in {ast.unparse(statement.iter)}:"
    return ast.unparse(statement) if isinstance(statement, SIMPLE) else None


def parse_statement(text: str) -> ast.stmt:
    """Read a statement's text back; a compound one gets a body that does nothing."""
    inside = ast.parse(f"def function():\n  {text}{' pass' if text.endswith(':') else ''}").body[0]
    assert isinstance(inside, ast.FunctionDef)
    if len(inside.body) != 1:
        raise ValueError(f"not one statement: {text}")
    return inside.body[0]


@cache
def normal(text: str) -> str:
    """Return a statement's text as this Python writes it (quotes and brackets differ between versions)."""
    return text if text == "pass" else str(text_of(parse_statement(text)))


def functions_in(tree: ast.Module, file: str) -> Iterator[Function]:
    """Yield every function of a module, inner ones after the ones around them."""
    yield from _functions(tree.body, file, "")


def read_package(package: Path) -> dict[str, ast.Module]:
    """Parse every module of a package, by its path relative to it."""
    return {
        path.relative_to(package).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(package.rglob("*.py"))
    }


def _functions(body: list[ast.stmt], file: str, prefix: str) -> Iterator[Function]:
    for node in body:
        if isinstance(node, FunctionNode):
            name = prefix + node.name
            yield Function(file, name, node, tuple(_own_statements(node.body)))
            yield from _functions(node.body, file, name + ".")
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body, file, f"{prefix}{node.name}.")
        elif not _only_for_types(node):
            for block in _blocks(node):
                yield from _functions(block, file, prefix)


def _own_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, FunctionNode | ast.ClassDef) or _only_for_types(node):
            continue
        yield node
        for block in _blocks(node):
            yield from _own_statements(block)


def _blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        yield getattr(node, name, [])
    for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
        yield part.body


def _only_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
