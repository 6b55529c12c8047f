"""Where a mutant's statement is now: by its text, in the function of its name or the only one that holds it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .source import Function, functions_in, normal, text_of

if TYPE_CHECKING:
    import ast
    from collections.abc import Iterable, Mapping

    from .records import Mutant

ADVICE = (
    "a line that a recorded mutant changes is not where it was: give its entry in scripts/mutants.toml a"
    ' moved = { before = "the statement now", after = "the same fault in it" } (or the function or file that now'
    " holds it), and see with `python -m scripts.mutants run --only ID` that it still dies"
)


@dataclass(frozen=True)
class Place:
    """The statement that a mutant changes.

    Attributes:
        mutant: The mutant, its place as it is now.
        function: The function around the statement.
        statement: The statement in the module's tree.
    """

    mutant: Mutant
    function: Function
    statement: ast.stmt


@dataclass(frozen=True)
class Index:
    """Every statement of a package by its text."""

    by_text: Mapping[str, list[Function]]

    @classmethod
    def of(cls, modules: Mapping[str, ast.Module]) -> Index:
        """Read all functions of the modules."""
        by_text: dict[str, list[Function]] = {}
        for file, tree in modules.items():
            for function in functions_in(tree, file):
                for text in dict.fromkeys(map(text_of, function.statements)):
                    if text is not None:
                        by_text.setdefault(text, []).append(function)
        return cls(by_text)

    def find(self, mutant: Mutant) -> Place | str:
        """Return where a mutant's statement is, or why that cannot be told.

        Args:
            mutant: The mutant.

        Returns:
            The place; a message where no function holds the statement, or several do.
        """
        here = mutant.now()
        before = normal(here.before)
        holders = self.by_text.get(before, [])
        if not holders:
            closest = difflib.get_close_matches(before, self.by_text, n=1, cutoff=0.6)
            where = [f"; closest: {text} in {_names(self.by_text[text])}" for text in closest]
            return f"{here.id}: no function holds the statement {before}{''.join(where)}"
        for fitting in (
            [one for one in holders if (one.name, one.file) == (here.function, here.file)],
            [one for one in holders if one.name == here.function],
            [one for one in holders if _last(one.name) == _last(here.function)],
            holders,
        ):
            if len(fitting) == 1:
                return _place(here, fitting[0], before)
        return f"{here.id}: several functions hold the statement {before}: {_names(holders)}"


def find_all(mutants: Iterable[Mutant], modules: Mapping[str, ast.Module]) -> tuple[list[Place], list[str]]:
    """Find every mutant in a package.

    Args:
        mutants: What to find.
        modules: Parsed modules by their path.

    Returns:
        The places of those that were found, and a message for each of the others.
    """
    index = Index.of(modules)
    found = [index.find(mutant) for mutant in mutants]
    return [one for one in found if isinstance(one, Place)], [one for one in found if isinstance(one, str)]


def _place(mutant: Mutant, function: Function, before: str) -> Place | str:
    same = [statement for statement in function.statements if text_of(statement) == before]
    if mutant.occurrence >= len(same):
        return f"{mutant.id}: {function.name} holds {before} only {len(same)} times, not {mutant.occurrence + 1}"
    return Place(mutant, function, same[mutant.occurrence])


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _names(functions: Iterable[Function]) -> str:
    return ", ".join(f"{one.name} ({one.file})" for one in functions)
