"""A module in which every mutant is present at once, and the environment says which one acts.

Two environment variables are read when the module is imported. ``HISTOTUNE_MUTANT`` holds the id of the one mutant
that acts; where it is empty the module behaves as written. ``HISTOTUNE_MUTANT_REACH`` names a file to which each
process adds a line per mutant and test the first time this test's code comes by. Child processes inherit both, and
the name of the running test, ``PYTEST_CURRENT_TEST``; while a file of tests is imported, ``HISTOTUNE_MUTANT_IMPORTS``
names it. The lines needed for that stand in the module itself, because some tests load a module alone.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from .source import parse_statement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .locate import Place

PRELUDE = """
import os as _mutant_os
_mutant_chosen = _mutant_os.environ.get("HISTOTUNE_MUTANT", "")
_mutant_reach = _mutant_os.environ.get("HISTOTUNE_MUTANT_REACH", "")
_mutant_seen = set()
_mutant_io = (_mutant_os.open, _mutant_os.write, _mutant_os.close)
def _mutant_acts(name):
    if _mutant_chosen:
        return name == _mutant_chosen
    if _mutant_reach:
        test = _mutant_os.environ.get("PYTEST_CURRENT_TEST") or _mutant_os.environ.get("HISTOTUNE_MUTANT_IMPORTS", "")
        line = name + "\\t" + test + "\\n"
        if line not in _mutant_seen:
            _mutant_seen.add(line)
            file = _mutant_io[0](_mutant_reach, _mutant_os.O_WRONLY | _mutant_os.O_APPEND | _mutant_os.O_CREAT)
            _mutant_io[1](file, line.encode("utf-8", "surrogateescape"))
            _mutant_io[2](file)
    return False
"""


def instrument(tree: ast.Module, places: Iterable[Place]) -> str:
    """Return the source of a module with mutants in it.

    Args:
        tree: The module; it is changed.
        places: Statements of this tree.

    Returns:
        Its source, without comments.

    Raises:
        ValueError: A mutant's new statement is of another kind than the old one, or the source does not read back.
    """
    simple: dict[ast.stmt, list[Place]] = {}
    for place in places:
        if isinstance(place.statement, ast.If | ast.While | ast.For):
            _change_first_line(place)
        else:
            simple.setdefault(place.statement, []).append(place)
    changed: ast.Module = _Statements(simple).visit(tree)
    start = next((number for number, node in enumerate(tree.body) if not _belongs_first(node)), len(tree.body))
    changed.body[start:start] = ast.parse(PRELUDE).body
    source = ast.unparse(ast.fix_missing_locations(changed))
    if ast.dump(ast.parse(source)) != ast.dump(changed):
        raise ValueError("the module with the mutants does not read back")
    return source


def _belongs_first(node: ast.stmt) -> bool:
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or (isinstance(node, ast.ImportFrom) and node.module == "__future__")


def _acts(place: Place) -> ast.expr:
    return ast.Call(ast.Name("_mutant_acts", ast.Load()), [ast.Constant(place.mutant.id)], [])


def _change_first_line(place: Place) -> None:
    old, new = place.statement, parse_statement(place.mutant.after)
    for name in ("test", "iter"):
        if type(old) is type(new) and hasattr(old, name):
            setattr(old, name, ast.IfExp(_acts(place), getattr(new, name), getattr(old, name)))
            return
    raise ValueError(f"{place.mutant.id}: {place.mutant.after} is not a first line like {place.mutant.before}")


class _Statements(ast.NodeTransformer):
    """Puts a choice between the old and the new statement where the old one was."""

    def __init__(self, places: dict[ast.stmt, list[Place]]) -> None:
        self._places = places

    def visit(self, node: ast.AST) -> Any:  # noqa: ANN401
        """Return the node, or the choice."""
        node = self.generic_visit(node)
        if isinstance(node, ast.stmt):
            for place in self._places.get(node, ()):
                node = ast.If(_acts(place), [parse_statement(place.mutant.after)], [node])
        return node
