"""A split as text for the terminal: name, hash, balance, what to beware of."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import polars as pl

from histotune.datasets.splits.balance import balance_table

if TYPE_CHECKING:
    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet


def render_split(split: Split, tiles: TileSet) -> str:
    """Write a split as plain text.

    Args:
        split: The split.
        tiles: The tiles that it was made over.

    Returns:
        Several lines, without colours.
    """
    mark = "LEAKY " if split.leaky else ""
    head = f"{mark}{split.name}: {len(split.sides)} {split.kind} by {split.unit}, hash {split.split_hash}"
    notes = [textwrap.fill(note, 108, initial_indent="  - ", subsequent_indent="    ") for note in split.notes]
    blocks = [head, _text_table(balance_table(tiles, split)), "\n".join(["Notes", *notes]) if notes else ""]
    return "\n\n".join(block for block in blocks if block)


def _text_table(table: pl.DataFrame) -> str:
    with pl.Config(
        tbl_rows=-1,
        tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True,
        tbl_formatting="NOTHING",
        tbl_cell_numeric_alignment="RIGHT",
        thousands_separator=",",
    ):
        return str(table).rstrip()
