"""A room imports the rooms before it, never the ones after it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "histotune"
ROOMS = (
    "tools", "datasets", "statistics", "images", "backbones", "embeddings", "audit", "heads", "finetune", "slides",
    "evaluation", "transfer", "published", "report", "deploy", "studies", "cluster", "cli", "__main__",
)  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported_rooms(path: Path) -> set[str]:
    """Return the first name below histotune of every import in a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("histotune."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "histotune":
            found |= {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("histotune.")}
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.add("<relative>")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_room_order(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    imports = imported_rooms(path)
    if room == "__init__":
        assert not imports
    else:
        allowed = set(ROOMS[: ROOMS.index(room) + 1])
        assert imports <= allowed, f"{room} imports rooms after it: {imports - allowed}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pandas_is_never_imported(path: Path) -> None:
    names = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "pandas" not in names


def test_the_root_of_the_package_holds_its_face_alone() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} <= {
        "__init__.py", "__init__.pyi", "__main__.py", "py.typed",
    }  # fmt: skip
