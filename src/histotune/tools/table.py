"""Tables in plain text, for the terminal and for files that people read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def align_columns(title: str, cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Write a table with columns as wide as their content, numbers to the right.

    Example:
        >>> print(align_columns("Tiles", [["class", "n"], ["benign", "10"]], [False, True]))
        Tiles
          class    n
          benign  10
    """
    widths = [max(len(row[column]) for row in cells) for column in range(len(numeric))]
    lines = [
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join([title, *(f"  {line}" for line in lines)])
