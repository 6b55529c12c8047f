"""What a room's face names is there, documented in full, and loaded when it is first asked for."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "histotune"
ROOMS = sorted(
    path.parent.name for path in PACKAGE.glob("*/__init__.py") if "FILES" in path.read_text(encoding="utf-8")
)
NAMES = [(room, name) for room in ROOMS for name in importlib.import_module(f"histotune.{room}").__all__]


def test_every_room_has_a_face() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == {*ROOMS, "cli"}


@pytest.mark.parametrize(("room", "name"), NAMES, ids=lambda text: text)
def test_a_face_gives_what_it_names_with_its_docstring(room: str, name: str) -> None:
    found = getattr(importlib.import_module(f"histotune.{room}"), name)
    assert found.__name__ == name
    text = inspect.getdoc(found) or ""
    assert text
    if inspect.isfunction(found) and inspect.signature(found).parameters:
        assert "Args:" in text
    if inspect.isfunction(found) and found.__annotations__.get("return") not in (None, "None"):
        assert "Returns:" in text or "Yields:" in text


@pytest.mark.parametrize("room", ROOMS)
def test_a_face_names_no_file_of_its_room(room: str) -> None:
    names = set(importlib.import_module(f"histotune.{room}").__all__)
    assert names.isdisjoint(path.stem for path in (PACKAGE / room).iterdir())


@pytest.mark.parametrize("room", ROOMS)
def test_a_name_that_a_face_does_not_have_is_an_attribute_error(room: str) -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        importlib.import_module(f"histotune.{room}").nothing  # noqa: B018


def test_faces_load_nothing_before_it_is_asked_for() -> None:
    rooms = ", ".join(f"histotune.{room}" for room in ROOMS)
    code = f"import {rooms}, sys; print({{'numpy', 'torch', 'polars', 'pydantic'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_nothing_in_the_package_imports_through_a_face() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("histotune"):
                module = importlib.import_module(node.module or "")
                names = set(getattr(module, "__all__", ())) if hasattr(module, "__path__") else set()
                found += [f"{path.name}: {alias.name}" for alias in node.names if alias.name in names - {"__version__"}]
    assert not found
