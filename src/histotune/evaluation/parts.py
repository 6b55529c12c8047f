"""One head, each site, scanner or stain on its own, where the tile table knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from histotune.evaluation.findings import PartTable, ScoredArm
from histotune.evaluation.scoring import median_mpp, metrics_for
from histotune.statistics.scores import score_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from histotune.datasets.tileset import TileSet
    from histotune.statistics.predictions import IntervalConfig, Predictions

PART_COLUMNS = ("site", "scanner", "stain")
MAX_PARTS = 30


def score_parts(
    predictions: Predictions, tiles: TileSet, interval: IntervalConfig, rows: Sequence[ScoredArm]
) -> tuple[PartTable, ...]:
    """Score each site, scanner and stain on its own.

    Args:
        predictions: Of one arm.
        tiles: Where the sites, scanners and stains of its tiles are recorded.
        interval: How intervals are made.
        rows: The arm's rows, one per domain, as :func:`~histotune.evaluation.scoring.score_domains` gave them: their
            domains are taken apart, and their marks hold for every part.

    Returns:
        A table for each of the three that has at least two values among the scored tiles; unknown ones stand last.
    """
    kept = predictions.where(pl.col("domain").is_in([row.domain for row in rows]))
    facts = kept.table.select("tile_id").join(tiles.table.select("tile_id", *PART_COLUMNS), on="tile_id", how="left",
                                              maintain_order="left")  # fmt: skip
    within_folds = predictions.table["fold"].n_unique() > 1
    tables = []
    for column in PART_COLUMNS:
        n_values = facts[column].drop_nulls().n_unique()
        if n_values < 2:
            continue
        note = f"{n_values} values are too many for a table." if n_values > MAX_PARTS else ""
        parts = [] if note else [part for row in rows
                                 for part in _parts(row, (kept, facts[column]), interval, within_folds=within_folds,
                                                    several=len(rows) > 1)]  # fmt: skip
        tables.append(PartTable(column, tuple(parts), note))
    return tuple(tables)


def _parts(
    row: ScoredArm,
    kept: tuple[Predictions, pl.Series],
    interval: IntervalConfig,
    *,
    within_folds: bool,
    several: bool,
) -> Iterator[ScoredArm]:
    """Yield the parts of one domain; the domain's name before them where there are several."""
    predictions, part_of = kept
    inside = predictions.table["domain"] == row.domain
    here, parts = predictions.where(pl.col("domain") == row.domain), part_of.filter(inside)
    for found in score_by(here, parts, metrics_for(here), interval, within_folds=within_folds):
        tile_ids = here.table["tile_id"].filter(_is_part(parts, found.part))
        mpp = median_mpp(here.where(pl.col("tile_id").is_in(tile_ids.to_list())))
        name = f"{row.domain}, {found.part}" if several else found.part
        yield ScoredArm(row.arm, name, row.trained_on, mpp, found.scores, row.marks)


def _is_part(parts: pl.Series, name: str) -> pl.Series:
    """Return which rows belong to a part as :func:`score_by` names it."""
    return parts.cast(pl.String).fill_null("unknown") == name
