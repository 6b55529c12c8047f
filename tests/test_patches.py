"""What a test patches is read by the package: a patched name that nobody reads any more would test nothing."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "src" / "histotune"


@dataclass(frozen=True)
class Patch:
    """One call of ``monkeypatch.setattr`` on something of the package."""

    place: str
    owner: str  # dotted name of a module, or of a class in one
    name: str


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module of the package, parsed."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def patches_in(text: str, place: str) -> Iterator[Patch]:
    """Yield the patches of one test file, whether they name their target as an object or as a string."""
    tree = ast.parse(text)
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "histotune":
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr"):
            continue
        first, *rest = node.args
        if isinstance(first, ast.Constant) and str(first.value).startswith("histotune."):
            owner, _, name = first.value.rpartition(".")
            yield Patch(f"{place}:{node.lineno}", owner, name)
        elif rest and isinstance(rest[0], ast.Constant):
            parts = ast.unparse(first).split(".")
            if parts[0] in known:
                yield Patch(f"{place}:{node.lineno}", ".".join([known[parts[0]], *parts[1:]]), rest[0].value)


@cache
def reads() -> frozenset[tuple[str, str]]:
    """Return (module, name) for each global name that code of the package looks up while it runs, or any attribute."""
    found = set()
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                found.add((module, node.id))
            elif isinstance(node, ast.Attribute):
                found.add(("", node.attr))
            elif isinstance(node, ast.ImportFrom) and node not in tree.body:  # looked up when the function runs
                found |= {(node.module or "", alias.name) for alias in node.names}
    return frozenset(found)


def bites(patch: Patch) -> bool:
    """Return whether code of the package reads what a test puts there."""
    if patch.owner in modules():
        outside = importlib.import_module(patch.owner).__dict__.get(patch.name)
        module_attribute = inspect.ismodule(outside) and ("", patch.name) in reads()
        return (patch.owner, patch.name) in reads() or module_attribute
    return ("", patch.name) in reads()


PATCHES = [
    patch
    for path in sorted(TESTS.rglob("*.py"))
    for patch in patches_in(path.read_text(encoding="utf-8"), str(path.relative_to(TESTS)))
]


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: f"{patch.place}-{patch.name}")
def test_a_patched_name_is_read_by_the_package(patch: Patch) -> None:
    assert bites(patch), f"{patch.owner} holds {patch.name} for nobody"


def test_a_patch_that_bites_nothing_is_found() -> None:
    text = 'from histotune.heads import sweep\nmonkeypatch.setattr(sweep, "ast", None)\n'
    (patch,) = patches_in(text, "made.py")
    assert (patch.owner, patch.name) == ("histotune.heads.sweep", "ast")
    assert not bites(patch)
    (patch,) = patches_in('monkeypatch.setattr("histotune.heads.sweep.ast", None)\n', "made.py")
    assert not bites(patch)
    (patch,) = patches_in(
        "from histotune.heads import sweep\nmonkeypatch.setattr(sweep, 'make_family', 1)\n", "made.py"
    )
    assert bites(patch)


def test_all_patches_are_looked_at() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(TESTS.rglob("*.py")))
    assert len(PATCHES) > text.count("monkeypatch.setattr") / 2
