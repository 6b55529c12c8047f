"""No import closes a circle between files, be it at the top, for types only, or within a function."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "histotune"


def module_name(path: Path, package: Path) -> str:
    """Return the dotted name of a file of a package."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, package: Path, names: frozenset[str]) -> set[str]:
    """Return the modules of the package that a file imports anywhere in its text."""
    own = module_name(path, package)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = own.split(".") if path.name == "__init__.py" else own.split(".")[:-1]
            above = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # from package import module names a module; from module import name names what it holds
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in names else base for alias in node.names}
    return (found & names) - {own}


def find_circle(package: Path) -> list[str]:
    """Return the modules of one circle, the first of them again at the end; none gives an empty list."""
    files = sorted(package.rglob("*.py"))
    names = frozenset(module_name(path, package) for path in files)
    graph = {module_name(path, package): imports_of(path, package, names) for path in files}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_the_package_holds_no_circle() -> None:
    assert find_circle(PACKAGE) == []


CIRCLES = {
    "at the top": ("from made.two import x", "from made.one import y"),
    "for types only": (
        "from made.two import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from made.one import y",
    ),
    "within a function": ("def f():\n    from made.two import x", "from made.one import y"),
    "a module by its package": ("from made import two", "import made.one"),
    "relative": ("from .two import x", "from . import one"),
    "through a third": ("from made.two import x", "from made.three import y"),
}


@pytest.mark.parametrize("kind", CIRCLES)
def test_every_kind_of_circle_is_found(tmp_path: Path, kind: str) -> None:
    one, two = CIRCLES[kind]
    texts = {"__init__": "", "one": one, "two": two, "three": "from made.one import z" if "third" in kind else ""}
    package = tmp_path / "made"
    package.mkdir()
    for name, text in texts.items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    assert {"made.one", "made.two"} <= set(find_circle(package))


def test_a_chain_is_no_circle(tmp_path: Path) -> None:
    package = tmp_path / "made"
    package.mkdir()
    for name, text in {
        "__init__": "",
        "one": "from made.two import x",
        "two": "from made import three",
        "three": "",
    }.items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    assert find_circle(package) == []
