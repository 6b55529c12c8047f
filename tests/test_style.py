"""The laws of style that a machine can check."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "histotune"
FILES = sorted(PACKAGE.rglob("*.py"))
FACES = {"__init__.py", "__main__.py"}
TABLES = (ast.Dict, ast.List, ast.Tuple, ast.Set, ast.Subscript, ast.Call)  # of data: literals, and Literal[...]
SHARED_NAMES = FACES | {"config.py"}
MANY = {
    "studies/verbs.py": 12,
    "studies/data_verbs.py": 12,
    "studies/tuning_verbs.py": 12,
    "studies/export_verbs.py": 12,
    "cli": 20,
}  # a verb has the command line's names, a command as many as options


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_has_sixty_to_six_hundred_lines(path: Path) -> None:
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= 600
    assert n_lines >= 60 or path.name in FACES


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_function_has_at_most_fifty_lines_and_eight_parameters(path: Path) -> None:
    most = MANY.get(name_of(path), MANY.get(name_of(path).split("/")[0], 8))
    for function in functions(path):
        given = [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
        n_given = len([one for one in given if one not in {"self", "cls"}])
        assert n_given <= most, f"{function.name} takes {n_given} parameters"
        first = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
        n_lines = (function.body[-1].end_lineno or 0) - first.lineno + 1
        assert n_lines <= 50, f"{function.name} has {n_lines} lines"


def test_a_files_name_is_unique() -> None:
    places = defaultdict(list)
    for path in FILES:
        places[path.name].append(name_of(path))
    assert not {name: found for name, found in places.items() if len(found) > 1 and name not in SHARED_NAMES}


def test_a_public_classs_name_is_unique() -> None:
    places = defaultdict(list)
    for path in FILES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name_of(path))
    rooms = {"Room"}  # the three rooms that can be called
    assert not {name: found for name, found in places.items() if len(found) > 1 and name not in rooms}


@pytest.mark.parametrize(
    "path", sorted((PACKAGE.parents[1] / "tests").glob("*/**/test_*.py")), ids=lambda path: path.stem
)
def test_a_file_of_tests_is_named_by_what_it_tests(path: Path) -> None:
    room = PACKAGE / path.relative_to(PACKAGE.parents[1] / "tests").parts[0]
    files = {one.stem for one in room.rglob("*.py")} | {one.name for one in room.iterdir() if one.is_dir()}
    name = path.stem.removeprefix("test_")
    assert any(name == file or name.startswith(f"{file}_") for file in files)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_code_is_laid_out_by_the_formatter_but_for_tables_of_data(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    tables = {
        number
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, TABLES)
        for number in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    odd = [number for number, line in enumerate(lines, 1) if "# fmt: skip" in line and number not in tables]
    assert not odd
