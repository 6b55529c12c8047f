"""The draw: mutants over all rooms in proportion to their code, at most two in a function, every kind."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from .changes import Change, changes_of
from .locate import Index, Place
from .records import Mutant
from .source import Function, functions_in, parse_statement, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PER_FUNCTION = 2
LEAST_PER_ROOM = 2
LONGEST, LONGEST_RAISE = 160, 250
INNER_ROOMS = {"evaluation/audit": "audit", "evaluation/transfer": "transfer", "evaluation/leaderboard": "published"}
TOOLS = {"errors.py", "files.py", "devices.py", "provenance.py", "tracking.py", "doctor.py", "run_log.py"}
LEFT_OUT_FILES = re.compile(r"progress\.py|cli(_\w+)?\.py|cli/.*|recipes/.*")
"""Bars on a screen, declarations of options, and data."""
LEFT_OUT_FUNCTIONS = re.compile(r"__(repr|str|rich)__|_repr_html_|_?print_\w+")
ON_THEIR_WAY_OUT = {
    "stated_figures", "measure_shape", "check_disjoint", "verify_space", "nearest_class_mean", "read_tile_bytes",
    "bootstrap_values", "specificity_at", "majority_Q", "too_small",
}  # fmt: skip
"""Functions that only tests call, which will leave the package."""
MEASURES_TIME = re.compile(r"perf_counter|monotonic|time\.time")
DRAWS = re.compile(r"\b(text|line|rect|circle|polyline|path|mark|band)\(")
"""Calls that put a mark on a drawing: where exactly, only an eye can tell."""
NEEDS_A_GPU = re.compile(r"cuda|triton|nvidia", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """A fault that could be drawn."""

    function: Function
    statement: ast.stmt
    change: Change
    occurrence: int


def room_of(file: str) -> str:
    """Return the part of the package that a module belongs to."""
    for start, room in INNER_ROOMS.items():
        if file.startswith(start + "/"):
            return room
    parts = PurePosixPath(file).parts
    if len(parts) > 1:
        return parts[0]
    if file in TOOLS:
        return "tools"
    return "commands" if file.endswith("_commands.py") or file == "commands.py" else "studies"


def choose(modules: Mapping[str, ast.Module], seed: int, n_mutants: int) -> tuple[Mutant, ...]:
    """Draw mutants.

    Args:
        modules: Parsed modules of the package, by path.
        seed: Seed of the draw; the same seed and modules give the same mutants.
        n_mutants: How many.

    Returns:
        The mutants, in the order of the files.
    """
    functions = [one for file, tree in modules.items() for one in functions_in(tree, file) if _is_eligible(one)]
    by_room: dict[str, list[Function]] = defaultdict(list)
    for one in functions:
        by_room[room_of(one.file)].append(one)
    rng = np.random.default_rng(seed)
    has_default = Defaults.of(modules)
    index = Index.of(modules)
    drawn: list[Mutant] = []
    kinds: Counter[str] = Counter()
    sizes = {room: sum(len(one.statements) for one in by_room[room]) for room in sorted(by_room)}
    for room, quota in shares(sizes, n_mutants).items():
        drawn += _draw_room(by_room[room], quota, kinds, _Draw(rng, has_default, index))
    ordered = sorted(drawn, key=lambda one: (one.room, one.file, one.function, one.before, one.after))
    return tuple(Mutant(**{**vars(one), "id": f"m{number:03d}"}) for number, one in enumerate(ordered, 1))


def shares(sizes: Mapping[str, int], n_mutants: int) -> dict[str, int]:
    """Return how many mutants each room gets: in proportion to its statements, by largest remainder, at least two."""
    free = n_mutants - LEAST_PER_ROOM * len(sizes)
    exact = {room: free * size / sum(sizes.values()) for room, size in sizes.items()}
    whole = {room: int(value) for room, value in exact.items()}
    largest = sorted(sizes, key=lambda room: (whole[room] - exact[room], room))[: free - sum(whole.values())]
    return {room: LEAST_PER_ROOM + whole[room] + (room in largest) for room in sizes}


@dataclass(frozen=True)
class Defaults:
    """Which parameters of the package's own functions and records have defaults."""

    known: Mapping[str, list[set[str]]]

    @classmethod
    def of(cls, modules: Mapping[str, ast.Module]) -> Defaults:
        """Read every definition of the modules."""
        known: dict[str, list[set[str]]] = defaultdict(list)
        for tree in modules.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    known[node.name].append(_with_default(node.args))
                elif isinstance(node, ast.ClassDef):
                    fields = [part for part in node.body if isinstance(part, ast.AnnAssign) and part.value is not None]
                    known[node.name].append({ast.unparse(part.target) for part in fields})
        return cls(known)

    def __call__(self, function: str, parameter: str) -> bool:
        """Return whether the function is known, once, and the parameter has a default."""
        definitions = self.known.get(function, [])
        return len(definitions) == 1 and parameter in definitions[0]


@dataclass(frozen=True)
class _Draw:
    rng: np.random.Generator
    has_default: Defaults
    index: Index


def _with_default(arguments: ast.arguments) -> set[str]:
    plain = [*arguments.posonlyargs, *arguments.args]
    named = [one for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default]
    return {one.arg for one in [*plain[len(plain) - len(arguments.defaults) :], *named]}


def _is_eligible(function: Function) -> bool:
    name = function.name.rsplit(".", 1)[-1]
    return not (
        LEFT_OUT_FILES.fullmatch(function.file)
        or LEFT_OUT_FUNCTIONS.fullmatch(name)
        or name in ON_THEIR_WAY_OUT
        or NEEDS_A_GPU.search(ast.unparse(function.node))
    )


def _draw_room(functions: list[Function], quota: int, kinds: Counter[str], draw: _Draw) -> Iterator[Mutant]:
    candidates = [one for function in functions for one in _candidates(function, draw)]
    taken: Counter[tuple[str, str]] = Counter()
    statements: set[ast.stmt] = set()
    for _ in range(quota):
        free = [
            one
            for one in candidates
            if taken[one.function.file, one.function.name] < PER_FUNCTION and one.statement not in statements
        ]
        kind = min({one.change.kind for one in free}, key=lambda name: (kinds[name], draw.rng.random()))
        of_kind = [one for one in free if one.change.kind == kind]
        one = of_kind[int(draw.rng.integers(len(of_kind)))]
        taken[one.function.file, one.function.name] += 1
        statements.add(one.statement)
        kinds[kind] += 1
        before = str(text_of(one.statement))
        yield Mutant("", room_of(one.function.file), kind, one.function.file, one.function.name, before,
                     one.change.after, one.occurrence)  # fmt: skip


def _candidates(function: Function, draw: _Draw) -> Iterator[Candidate]:
    seen: Counter[str] = Counter()
    for statement in function.statements:
        text = text_of(statement)
        if text is None:
            continue
        occurrence = seen[text]
        seen[text] += 1
        if not _is_lasting(statement, text) or not _is_found_again(function, text, statement, draw.index, occurrence):
            continue
        on_a_drawing = function.file.startswith("report/")
        if on_a_drawing and DRAWS.search(text):
            continue
        for change in changes_of(statement, function.node, draw.has_default):
            if not (on_a_drawing and change.kind == "constant"):
                yield Candidate(function, statement, change, occurrence)


def _is_lasting(statement: ast.stmt, text: str) -> bool:
    """Return whether a statement is short and without wording, and so likely to outlive a rebuild as it is."""
    if isinstance(statement, ast.Raise):
        return len(text) <= LONGEST_RAISE
    if MEASURES_TIME.search(text):
        return False
    return len(text) <= LONGEST and not any(isinstance(node, ast.JoinedStr) for node in ast.walk(parse_statement(text)))


def _is_found_again(function: Function, text: str, statement: ast.stmt, index: Index, occurrence: int) -> bool:
    """Return whether the statement would be found without knowing its file."""
    found = index.find(Mutant("", "", "", "", function.name, text, text, occurrence))
    return isinstance(found, Place) and found.statement is statement
