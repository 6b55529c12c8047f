"""One head, scored on whole slides and groups beside its tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from histotune.evaluation.findings import UNIT, PartTable, ScoredArm
from histotune.evaluation.scoring import median_mpp, metrics_for
from histotune.statistics.scores import COLUMNS, aggregate, score_predictions
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.evaluation.config import Aggregation
    from histotune.statistics.predictions import IntervalConfig, Predictions
    from histotune.statistics.scores import Level

LEVELS: tuple[Level, ...] = ("slide", "group")
HOW = {
    "mean": "the mean probability of its tiles",
    "max": "its most positive tile; any positive tile makes it positive",
}


def score_units(
    predictions: Predictions, how: Aggregation, interval: IntervalConfig, rows: Sequence[ScoredArm]
) -> tuple[PartTable, ...]:
    """Score slides and groups, one row each.

    Args:
        predictions: Of one arm.
        how: How tiles become a slide or a group.
        interval: How intervals are made; their units stay the groups.
        rows: The arm's rows by tile, one per domain, as :func:`~histotune.evaluation.scoring.score_domains` gave them.

    Returns:
        A table whose rows are tile, slide and group of every domain; none where ``how`` is "none", or where no level
        says anything that the tiles don't (every slide and group is a single tile, or its id is missing).
    """
    if how == "none":
        return ()
    made: list[ScoredArm] = []
    notes: list[str] = []
    for row in rows:
        here = predictions.where(pl.col("domain") == row.domain)
        levels = _levels(here)
        prefix = f"{row.domain}, per " if len(rows) > 1 else "per "
        scored = [ScoredArm(row.arm, f"{prefix}tile", row.trained_on, row.input_mpp, row.scores, row.marks)]
        for level in levels:
            try:
                whole = aggregate(here, level, how)
            except UserError as error:
                notes.append(f"No row {prefix}{level}: {error.what} ({error.value}).")
                continue
            scored.append(_row(row, f"{prefix}{level}", whole, interval))
        made += scored if len(scored) > 1 else []
    if not made and not notes:
        return ()
    how_made = (
        f"A slide or group is scored by {HOW[how]}, at the head's threshold for tiles; in its row n tiles counts "
        "slides or groups."
    )
    return (PartTable(UNIT, tuple(made), " ".join([*([how_made] if made else []), *dict.fromkeys(notes)])),)


def _levels(predictions: Predictions) -> tuple[Level, ...]:
    """Return the levels whose ids are known and that gather tiles; the group only where it isn't the slide again."""
    kept: list[Level] = []
    for level in LEVELS:
        column = predictions.table[COLUMNS[level]]
        n_rows = column.n_unique()
        if column.null_count() or n_rows == len(column):
            continue
        again = kept and predictions.table.select(COLUMNS[kept[-1]], column.name).n_unique() == n_rows
        if not (again and predictions.table[COLUMNS[kept[-1]]].n_unique() == n_rows):
            kept.append(level)
    return tuple(kept)


def _row(row: ScoredArm, name: str, whole: Predictions, interval: IntervalConfig) -> ScoredArm:
    within_folds = whole.table["fold"].n_unique() > 1
    metrics = [metric for metric in metrics_for(whole) if metric != "patient_recognition_rate"]
    scores = score_predictions(whole, metrics, interval, within_folds=within_folds)
    return ScoredArm(row.arm, name, row.trained_on, median_mpp(whole), scores, row.marks)
