"""From predictions to a row of a finding: which metrics, which marks, which intervals."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.disk import name_some
from histotune.evaluation.findings import UNIT, PartTable, ScoredArm, domain_order
from histotune.evaluation.seen import with_leaky
from histotune.statistics.evaluators import make_evaluator
from histotune.statistics.sample import read_sample
from histotune.statistics.scores import COLUMNS, aggregate, score_by, score_predictions
from histotune.tools.errors import UserError
from histotune.tools.marks import TOO_NARROW

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.config import Aggregation
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import IntervalConfig, Predictions
    from histotune.statistics.scores import Level


def metrics_for(predictions: Predictions) -> tuple[MetricName, ...]:
    """Return the metrics that these predictions allow, AUROC first."""
    metrics: list[MetricName] = ["auroc", "balanced_accuracy", "accuracy", "macro_f1", "mcc"]
    binary = len(predictions.class_names) == 2
    if binary:
        metrics.insert(1, "auprc")
    if predictions.table["source_patient_id"].null_count() == 0:
        metrics.append("patient_recognition_rate")
    points: tuple[MetricName, ...] = ("sensitivity_at_95_specificity", "specificity_at_95_sensitivity")
    return (*metrics, "log_loss", "brier", "ece_debiased", *(points if binary else ()))


def score_domains(
    arm: str, predictions: Predictions, trained_on: str, interval: IntervalConfig, marks: tuple[str, ...]
) -> tuple[ScoredArm, ...]:
    """Score an arm on each of its domains."""
    if interval.cluster == "tile":
        marks = (*marks, TOO_NARROW)
    within_folds = predictions.table["fold"].n_unique() > 1
    rows = []
    for domain in sorted(predictions.table["domain"].unique(), key=domain_order):
        part = predictions.where(pl.col("domain") == domain)
        scores = score_predictions(part, metrics_for(part), interval, within_folds=within_folds)
        rows.append(ScoredArm(arm, domain, trained_on, median_mpp(part), scores, marks))
    return tuple(rows)


def over_present(predictions: Predictions) -> tuple[Predictions, str]:
    """Return predictions for the classes that have tiles, where they are two or more, and what that means in words.

    Ranking and probabilities are those among these classes; a decision for another class stays a wrong one.
    """
    names, y_N = predictions.class_names, predictions.y_true_N
    present = [label for label in range(len(names)) if (y_N == label).any()]
    if len(present) == len(names) or len(present) < 2:
        return predictions, ""
    place = {label: number for number, label in enumerate(present)}
    kept_NK = predictions.probability_NK[:, present]
    total_N1 = kept_NK.sum(axis=1, keepdims=True)
    shares_NK = np.where(total_N1 > 0, kept_NK / np.where(total_N1 > 0, total_N1, 1.0), 1.0 / len(present))
    elsewhere_N = ~np.isin(predictions.predicted_N, present)
    own_N = np.array([place[label] for label in y_N.tolist()])
    said_N = np.array([place.get(label, -1) for label in predictions.predicted_N.tolist()])
    said_N = np.where(elsewhere_N, np.where(own_N == 0, 1, 0), said_N)  # any class but the tile's own
    shape = pl.Array(pl.Float64, len(present))
    table = predictions.table.with_columns(
        pl.Series("y_true", own_N, dtype=pl.Int32),
        pl.Series("logit", predictions.logit_NK[:, present], dtype=shape),
        pl.Series("probability", shares_NK, dtype=shape),
        pl.lit(0.5).alias("threshold"),
        pl.Series("predicted", said_N, dtype=pl.Int32),
    )
    absent = name_some([name for label, name in enumerate(names) if label not in place], 20)
    note = (
        f"Scored over the classes that have tiles ({name_some([names[label] for label in present], 20)}): ranking and "
        f"probabilities are those among them; {int(elsewhere_N.sum()):,} of {len(y_N):,} tiles are said to be of a "
        f"class that has none ({absent}), and count as wrong."
    )
    return replace(predictions, table=table, class_names=tuple(names[label] for label in present)), note


def plain_value(predictions: Predictions, name: MetricName) -> float:
    """Return a metric's value alone, without an interval; AUROC within folds."""
    sample = read_sample(predictions)
    evaluator = make_evaluator(name, sample, np.zeros(len(sample.y_N), np.int64), 1, within_folds=True)
    return float(evaluator(np.ones((1, 1)))[0])


def median_mpp(predictions: Predictions) -> float:
    """Return the median input_mpp, um/px; NaN where no tile's scale is known."""
    values = predictions.table["input_mpp"].drop_nulls().drop_nans()
    return float(np.round(values.median(), 4)) if len(values) else float("nan")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------
# One head, scored on whole slides and groups beside its tiles.


LEVELS: tuple[Level, ...] = ("slide", "group")
HOW = {
    "mean": "the mean probability of its tiles",
    "max": "its most positive tile; any positive tile makes it positive",
}


def score_units(
    predictions: Predictions, how: Aggregation, interval: IntervalConfig, rows: Sequence[ScoredArm]
) -> tuple[PartTable, ...]:
    """Score slides and groups, one row each."""
    if how == "none":
        return ()
    made: list[ScoredArm] = []
    notes: list[str] = []
    for row in rows:
        here = predictions.where(pl.col("domain") == row.domain)
        here = replace(here, table=here.table.drop("predicted", strict=False))  # a tile's decision is none of its slide
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


# ------------------------------------------------------------------------------
# One head, each site, scanner or stain on its own, where the tile table knows them.


PART_COLUMNS = ("site", "scanner", "stain")
MAX_PARTS = 30


def score_parts(
    predictions: Predictions,
    tiles: TileSet,
    interval: IntervalConfig,
    rows: Sequence[ScoredArm],
    seen_ids: frozenset[str] = frozenset(),
) -> tuple[PartTable, ...]:
    """Score each site, scanner and stain on its own; parts that hold a seen tile are marked LEAKY."""
    kept = predictions.where(pl.col("domain").is_in([row.domain for row in rows]))
    facts = kept.table.select("tile_id").join(
        tiles.table.select("tile_id", *PART_COLUMNS), on="tile_id", how="left", maintain_order="left"
    )
    within_folds = predictions.table["fold"].n_unique() > 1
    tables = []
    for column in PART_COLUMNS:
        n_values = facts[column].drop_nulls().n_unique()
        if n_values < 2:
            continue
        note = f"{n_values} values are too many for a table." if n_values > MAX_PARTS else ""
        parts = (
            []
            if note
            else [
                part
                for row in rows
                for part in _parts(
                    row, (kept, facts[column], seen_ids), interval, within_folds=within_folds, several=len(rows) > 1
                )
            ]
        )
        tables.append(PartTable(column, tuple(parts), note))
    return tuple(tables)


def _parts(
    row: ScoredArm,
    kept: tuple[Predictions, pl.Series, frozenset[str]],
    interval: IntervalConfig,
    *,
    within_folds: bool,
    several: bool,
) -> Iterator[ScoredArm]:
    """Yield the parts of one domain; the domain's name before them where there are several."""
    predictions, part_of, seen_ids = kept
    inside = predictions.table["domain"] == row.domain
    here, parts = predictions.where(pl.col("domain") == row.domain), part_of.filter(inside)
    for found in score_by(here, parts, metrics_for(here), interval, within_folds=within_folds):
        name = f"{row.domain}, {found.part}" if several else found.part
        made = ScoredArm(row.arm, name, row.trained_on, median_mpp(found.predictions), found.scores, row.marks)
        leaky = not seen_ids.isdisjoint(found.predictions.table["tile_id"])
        yield with_leaky(made) if leaky else made
