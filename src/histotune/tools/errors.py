"""Errors for people: what happened, the value, what is allowed, the closest match, one command that fixes it."""

from __future__ import annotations

import difflib
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


LINE_OF_ITS_OWN = re.compile(r"\n(?! )")
"""A line that begins at the margin, as a name with a line feed in it would within a message."""


class UserError(Exception):
    """A mistake the user can mend; shown as one message without a traceback, exit code 2.

    Args:
        what: What happened, in one sentence.
        value: The offending value, shown as given.
        allowed: What would have been accepted.
        closest: The allowed name closest to the value (see :func:`closest_name`).
        fix: One command or action that mends it.

    Example:
        >>> print(UserError("unknown backbone", value="midnigth", closest="midnight", fix="use --backbone midnight"))
        unknown backbone: 'midnigth'
          did you mean: midnight?
          fix: use --backbone midnight
    """

    def __init__(
        self,
        what: str,
        *,
        value: object | None = None,
        allowed: str | None = None,
        closest: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.value = value
        self.allowed = allowed
        self.closest = closest
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        """Return the message as a person reads it."""
        head = self.what if self.value is None else f"{self.what}: {str(self.value)!r}"
        lines = [head]
        if self.closest is not None:
            lines.append(f"  did you mean: {self.closest}?")
        if self.allowed is not None:
            lines.append(f"  allowed: {self.allowed}")
        if self.fix is not None:
            lines.append(f"  fix: {self.fix}")
        return LINE_OF_ITS_OWN.sub("\n    ", "\n".join(lines))


class UserErrors(UserError):
    """Several mistakes reported together, so that one correction round is enough."""

    def __init__(self, errors: Sequence[UserError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))

    def __str__(self) -> str:
        """Return the messages one below the other."""
        return "\n".join(str(error) for error in self.errors)


def closest_name(name: str, names: Iterable[str]) -> str | None:
    """Return the known name most similar to ``name``, or None when nothing is near.

    Example:
        >>> closest_name("midnigth", ["midnight", "uni"])
        'midnight'
    """
    by_lower = {known.lower(): known for known in names}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[matches[0]] if matches else None


@contextmanager
def collect(errors: list[UserError]) -> Iterator[None]:
    """Keep a mistake for later instead of stopping at it.

    Example:
        >>> found: list[UserError] = []
        >>> with collect(found):
        ...     raise UserError("no such folder")
        >>> len(found)
        1
    """
    try:
        yield
    except UserError as error:
        errors.append(error)


def raise_together(errors: Sequence[UserError]) -> None:
    """Raise all collected errors as one; do nothing when there are none."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise UserErrors(errors)


# ---- Which setting a folder comes from, for messages that name the setting to change ----


DEFAULT_SETTING = "--out FOLDER"
SETTING_BY_FOLDER: dict[Path, str] = {}


def name_setting(folder: Path, setting: str) -> None:
    """Remember that a folder, and all below it, was chosen by a setting.

    Args:
        folder: The folder; it need not exist.
        setting: As a person types it, such as ``--cache FOLDER``.
    """
    SETTING_BY_FOLDER[_absolute(folder)] = setting


def setting_of(path: Path) -> str:
    """Return the setting that decides where a path lies; that of the nearest folder above it.

    Example:
        >>> name_setting(Path("/kept"), "--set ledger=FOLDER")
        >>> setting_of(Path("/kept/ledger.jsonl")), setting_of(Path("/else/run"))
        ('--set ledger=FOLDER', '--out FOLDER')
    """
    path = _absolute(path)
    return next((SETTING_BY_FOLDER[one] for one in (path, *path.parents) if one in SETTING_BY_FOLDER), DEFAULT_SETTING)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  (resolve() would follow links)
