"""The table that every finding is made from: a row per tile, sorted by id, with its class in words and its side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from histotune.audit.records import AuditedSplit, AuditTable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet

OFFICIAL = "official parts"
UNLABELLED = "unlabelled"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Facts:
    """A tile set as the audit sees it.

    Attributes:
        tiles: The tiles, sorted by tile_id.
        table: tile_id, group_id, slide_id, site, scanner, source_patient_id, magnification, width_px, height_px,
            label (class name as the tiles are labelled), class (its finest name), each "unlabelled" where there is
            none, side (null where a tile takes no part).
        class_names: Finest class names, in their own order.
        split: The split whose sides stand in ``side``; None where there is none.
    """

    tiles: TileSet
    table: pl.DataFrame
    class_names: tuple[str, ...]
    split: AuditedSplit | None

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that occur: train, valid, test, then the others by length and name."""
        order = {"train": 0, "valid": 1, "test": 2}
        present = self.table["side"].drop_nulls().unique().to_list()
        return tuple(sorted(present, key=lambda side: (order.get(side, 3), len(side), side)))


def audit_facts(tiles: TileSet, split: Split | None, finest: TileSet | None) -> Facts:
    """Lay out what is known about each tile without reading a pixel.

    Args:
        tiles: The tiles, in any order.
        split: The split to check; None takes the data set's own parts.
        finest: The same files under their finest labels, such as BreakHis's eight diagnoses; None uses the labels of
            ``tiles``.

    Returns:
        The facts, rows sorted by tile_id.
    """
    tiles = replace(tiles, table=tiles.table.sort("tile_id"))
    labels = finest if finest is not None else tiles
    classes = labels.table.select("tile_id", _in_words(labels).alias("class"))
    side = tiles.table["split"] if split is None else pl.Series(split.side_of_tiles(tiles), dtype=pl.String)
    named = tiles.table.with_columns(_in_words(tiles).alias("label"), side.alias("side"))
    table = named.join(classes, on="tile_id", how="left", maintain_order="left").with_columns(
        pl.col("class").fill_null(UNLABELLED), pl.col("magnification").fill_null(UNKNOWN)
    )
    kept = ("tile_id", "group_id", "slide_id", "site", "scanner", "source_patient_id", "magnification", "width_px",
            "height_px", "label", "class", "side")  # fmt: skip
    return Facts(tiles, table.select(kept), labels.class_names, _split_facts(split, side))


def frame_table(title: str, frame: pl.DataFrame) -> AuditTable:
    """Turn a data frame into a table of plain cells.

    Args:
        title: What it shows.
        frame: Its rows.

    Returns:
        The table; underscores in headers become spaces.
    """
    columns = tuple(name.replace("_", " ") for name in frame.columns)
    return AuditTable(title, columns, tuple(tuple(row) for row in frame.iter_rows()))


def natural(column: str) -> pl.Expr:
    """Return a sort key that puts 40X before 100X."""
    return pl.col(column).str.extract(r"^(\d+)").cast(pl.Int64).fill_null(10**9)


def some(names: Iterable[str], limit: int = 5) -> str:
    """Join names with commas; a long list is cut with a count of the rest."""
    listed = list(names)
    rest = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {rest:,} more" if rest > 0 else "")


def count(n: int, one: str, many: str = "") -> str:
    """Return a number with its word in the right form.

    Example:
        >>> count(1, "tile"), count(2000, "tile")
        ('1 tile', '2,000 tiles')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _in_words(tiles: TileSet) -> pl.Expr:
    names = dict(enumerate(tiles.class_names))
    return pl.col("label").replace_strict(names, default=None, return_dtype=pl.String).fill_null(UNLABELLED)


def _split_facts(split: Split | None, side: pl.Series) -> AuditedSplit | None:
    if split is not None:
        return AuditedSplit(split.name, split.split_hash, split.leaky, split.notes)
    return AuditedSplit(OFFICIAL) if side.drop_nulls().len() else None
