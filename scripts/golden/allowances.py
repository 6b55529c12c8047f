"""Differences that are meant: a short list in a file, each with a reason, so that nothing else passes with them."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from .masks import key_matches

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .differences import Difference

LIST = Path(__file__).with_name("allowed.toml")


@dataclass(frozen=True)
class Allowance:
    """Differences that are meant.

    Attributes:
        reason: Why the new value is right.
        commands: ``SCENE/STEP`` with wildcards.
        files: The file's name with wildcards.
        keys: The key path, cell or line with wildcards.
        old: A regular expression that the whole old value fits.
        new: The same of the new value.
    """

    reason: str
    commands: str = "*"
    files: str = "*"
    keys: str = "*"
    old: str = ".*"
    new: str = ".*"

    def fits(self, difference: Difference) -> bool:
        """Return whether a difference is one of these."""
        return (
            fnmatchcase(difference.command, self.commands)
            and fnmatchcase(difference.file, self.files)
            and key_matches(difference.key, self.keys)
            and re.fullmatch(self.old, difference.old, re.DOTALL) is not None
            and re.fullmatch(self.new, difference.new, re.DOTALL) is not None
        )

    def __str__(self) -> str:
        """Return it as one line."""
        told = [f"{one.name} = {getattr(self, one.name)!r}" for one in fields(self)
                if one.name != "reason" and getattr(self, one.name) != one.default]  # fmt: skip
        return f"{', '.join(told)} ({self.reason})"


def read_allowances(path: Path = LIST) -> tuple[Allowance, ...]:
    """Return the allowances of a TOML file, each an ``[[allowed]]`` table.

    Args:
        path: The file; where it is missing nothing is allowed.

    Raises:
        ValueError: An entry without a reason, without any pattern, or with an unknown word.
    """
    if not path.is_file():
        return ()
    read = tomllib.loads(path.read_text(encoding="utf-8"))
    strange = set(read) - {"allowed"}
    if strange:
        raise ValueError(f"{path.name} holds {', '.join(sorted(strange))}; it takes [[allowed]] tables only")
    return tuple(_read(entry, path) for entry in read.get("allowed", []))


def _read(entry: dict[str, str], path: Path) -> Allowance:
    known = {one.name for one in fields(Allowance)}
    strange = set(entry) - known
    if strange:
        raise ValueError(f"{path.name}: an allowance knows no {', '.join(sorted(strange))}; "
                         f"it takes {', '.join(sorted(known))}")  # fmt: skip
    if not entry.get("reason", "").strip():
        raise ValueError(f"{path.name}: an allowance needs a reason: {entry}")
    if set(entry) == {"reason"}:
        raise ValueError(f"{path.name}: this allowance would pass everything; name commands, files or keys: {entry}")
    return Allowance(**entry)


@dataclass(frozen=True)
class Judged:
    """Differences, parted by whether they are meant.

    Attributes:
        found: Those that are not.
        n_allowed: How many are.
        unused: Allowances that fitted nothing.
    """

    found: tuple[Difference, ...]
    n_allowed: int
    unused: tuple[Allowance, ...]


def judge(differences: Iterable[Difference], allowances: tuple[Allowance, ...]) -> Judged:
    """Part differences by whether they are meant.

    Args:
        differences: All of them.
        allowances: What is meant.
    """
    found, used, n_allowed = [], set(), 0
    for difference in differences:
        fitting = [allowance for allowance in allowances if allowance.fits(difference)]
        used.update(fitting)
        n_allowed += bool(fitting)
        if not fitting:
            found.append(difference)
    return Judged(tuple(found), n_allowed, tuple(one for one in allowances if one not in used))
