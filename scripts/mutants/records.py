"""The committed list of mutants: what is changed where, and what the tests made of it."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = ROOT / "scripts" / "mutants.toml"
HEADER = """\
# Faults planted in the package one at a time, and whether the tests notice: `python -m scripts.mutants run`.
# Drawn by `python -m scripts.mutants choose`; results are written by `python -m scripts.mutants run --write`.
# A statement is found by its text, wherever its function lies. Where the text itself had to change, add to the entry
#     moved = { before = "the statement now", after = "the same fault in it" }
# (also `function` or `file`, where several functions hold the statement), and leave the other lines as they are.
"""
ORDER = ("id", "room", "kind", "file", "function", "occurrence", "before", "after", "moved", "result", "killer", "how",
         "reason")  # fmt: skip


@dataclass(frozen=True)
class Moved:
    """What a rebuild changed about a mutant's place; empty where nothing changed."""

    file: str = ""
    function: str = ""
    before: str = ""
    after: str = ""
    occurrence: int | None = None


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        id: Its name in the list.
        room: Part of the package that it was drawn from.
        kind: What sort of fault.
        file: Module below ``src/histotune`` where it was drawn; a hint only.
        function: Qualified name of the function.
        occurrence: Which of the function's statements with this text, from 0.
        before: The statement; of ``if``, ``while`` and ``for`` the first line only.
        after: The statement with the fault.
        moved: What has changed about the place since it was drawn.
        result: "killed" or "survived"; empty before it was judged.
        killer: The first test that failed.
        how: "failed", "timeout" or "crashed".
        reason: Why no test fails, in a few words.
    """

    id: str
    room: str
    kind: str
    file: str
    function: str
    before: str
    after: str
    occurrence: int = 0
    moved: Moved = Moved()
    result: str = ""
    killer: str = ""
    how: str = ""
    reason: str = ""

    def now(self) -> Mutant:
        """Return the mutant with its place as the hand-made ``moved`` entry says."""
        here = self.moved
        occurrence = self.occurrence if here.occurrence is None else here.occurrence
        return replace(self, file=here.file or self.file, function=here.function or self.function,
                       before=here.before or self.before, after=here.after or self.after,
                       occurrence=occurrence)  # fmt: skip


@dataclass(frozen=True)
class MutantList:
    """The committed list.

    Attributes:
        seed: Seed of the draw.
        commit: Commit that it was drawn from and judged at.
        mutants: The faults.
    """

    seed: int
    commit: str
    mutants: tuple[Mutant, ...]


def read_list(path: Path = LIST) -> MutantList:
    """Read the committed list."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    mutants = (Mutant(**{**entry, "moved": Moved(**entry.get("moved", {}))}) for entry in found.get("mutant", []))
    return MutantList(found["seed"], found["commit"], tuple(mutants))


def write_list(listed: MutantList, path: Path = LIST) -> None:
    """Write the committed list; the same list gives the same bytes."""
    lines = [HEADER, f"seed = {listed.seed}", f"commit = {json.dumps(listed.commit)}"]
    for mutant in listed.mutants:
        lines += ["", "[[mutant]]"]
        for name in ORDER:
            value = getattr(mutant, name)
            if value == Mutant.__dataclass_fields__[name].default:
                continue
            lines.append(f"{name} = {_inline(value) if isinstance(value, Moved) else json.dumps(value)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _inline(moved: Moved) -> str:
    stated = {name: value for name, value in vars(moved).items() if value not in ("", None)}
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in stated.items()) + " }"
