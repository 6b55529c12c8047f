"""Scores of slides and groups instead of tiles, of parts of a cohort, and over seeds."""

# N tiles, K classes, S seeds

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from histotune.statistics.predictions import Predictions, Score
from histotune.statistics.scores import score_predictions
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.statistics.config import IntervalConfig
    from histotune.statistics.metrics import MetricName

Level = Literal["slide", "group", "source_patient"]
Aggregation = Literal["mean", "max"]
COLUMNS: dict[Level, str] = {"slide": "slide_id", "group": "group_id", "source_patient": "source_patient_id"}


@dataclass(frozen=True)
class PartScores:
    """Scores of the tiles that share a site, scanner or stain.

    Attributes:
        part: The site, scanner or stain; "unknown" where it is not recorded.
        n_tiles: Its tiles.
        n_groups: Its groups; 0 where one is unknown.
        scores: One per metric.
    """

    part: str
    n_tiles: int
    n_groups: int
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class SeedScore:
    """A score over several seeds.

    Attributes:
        score: Of the probabilities averaged per tile, clustered by group; its interval is about cases, not seeds.
        seed_values: The metric of every seed, seeds ascending.
        seed_sd: Their standard deviation; NaN with one seed.
    """

    score: Score
    seed_values: tuple[float, ...]
    seed_sd: float


def aggregate(predictions: Predictions, level: Level, how: Aggregation = "mean") -> Predictions:
    """Return one row per slide, group or patient of the authors.

    Args:
        predictions: Scored tiles.
        level: What becomes a row.
        how: ``mean`` averages the probabilities of its tiles, and their labels must agree. ``max`` is for two classes:
            the most positive tile speaks for all, and one positive tile makes the label positive, as a slide with any
            tumour counts as tumour (Camelyon16).

    Returns:
        Predictions whose tile_id is the slide's, group's or patient's.

    Raises:
        UserError: An id is missing, the tiles of a row disagree in label under ``mean`` or lie in several groups, or
            ``max`` was asked for with more than two classes.
    """
    column = COLUMNS[level]
    if predictions.table[column].null_count():
        raise UserError(f"some tiles have no {column}", fix=f"score tiles, or complete {column}")
    if how == "max" and len(predictions.class_names) != 2:
        raise UserError("the most positive tile is defined for two classes", value=", ".join(predictions.class_names),
                        fix="aggregate by the mean")  # fmt: skip
    n_classes = len(predictions.class_names)
    keys = [column, "domain", "fold", "seed", "head_id"]
    keys = list(dict.fromkeys(keys))
    flat = predictions.table.with_columns(
        *(pl.col("probability").arr.get(k).alias(f"p{k}") for k in range(n_classes)),
    ).sort("tile_id")
    _check_rows(flat, keys, column, how)
    values = [f"p{k}" for k in range(n_classes)]
    wanted = [pl.col(name).mean() for name in values]
    if how == "max":
        wanted = [pl.col("p0").min(), pl.col("p1").max()]
    kept = [
        name for name in predictions.table.columns if name not in {*keys, "tile_id", "y_true", "logit", "probability"}
    ]
    rows = flat.group_by(keys, maintain_order=True).agg(
        *wanted, pl.col("y_true").max(), *(pl.col(name).first() for name in kept)
    )
    p_NK = rows.select(values).to_numpy()
    logit_NK = np.log(np.clip(p_NK, np.finfo(np.float64).tiny, None))
    logit_NK -= logit_NK[:, :1]
    table = rows.drop(values).with_columns(
        pl.col(column).alias("tile_id"),
        pl.Series("logit", logit_NK, dtype=pl.Array(pl.Float64, n_classes)),
        pl.Series("probability", p_NK, dtype=pl.Array(pl.Float64, n_classes)),
    )
    return replace(predictions, table=table.select(predictions.table.columns))


def score_by(
    predictions: Predictions,
    part_of: pl.Series,
    metrics: Sequence[MetricName],
    interval: IntervalConfig,
    *,
    within_folds: bool = False,
) -> tuple[PartScores, ...]:
    """Score each site, scanner or stain on its own.

    Args:
        predictions: Scored tiles.
        part_of: The site, scanner or stain of each row; null where unknown.
        metrics: What to compute.
        interval: How intervals are made.
        within_folds: AUROC compares only tiles of one fold.

    Returns:
        A row per part, by name; tiles of an unknown part last.

    Raises:
        UserError: There is not one value per row.
    """
    if len(part_of) != len(predictions):
        found = f"{len(part_of)} for {len(predictions)} tiles"
        raise UserError("a table by part needs the part of every tile", value=found,
                        fix="give one value, or null, per row")  # fmt: skip
    named = part_of.cast(pl.String)
    parts = []
    for name in [*sorted(named.drop_nulls().unique()), *([None] if named.null_count() else [])]:
        inside = named.is_null() if name is None else (named == name).fill_null(value=False)
        rows = replace(predictions, table=predictions.table.filter(inside))
        scores = score_predictions(rows, metrics, interval, within_folds=within_folds)
        n_groups = scores[0].n_groups if scores else 0
        parts.append(PartScores("unknown" if name is None else name, len(rows), n_groups, scores))
    return tuple(parts)


def average_seeds(predictions: Predictions) -> Predictions:
    """Return one row per tile: its probabilities averaged over seeds.

    Args:
        predictions: Every tile once per seed.

    Returns:
        Predictions with seed -1 and head id "mean of S seeds" where there are several; unchanged with one.

    Raises:
        UserError: A tile lacks a seed, or differs in label or group between seeds.
    """
    n_seeds = predictions.table["seed"].n_unique()
    if n_seeds < 2:
        return predictions
    n_classes = len(predictions.class_names)
    keys = ["tile_id", "domain"]
    per_tile = predictions.table.group_by(keys).agg(
        pl.len(), pl.col("seed").n_unique().alias("seeds"), pl.col("y_true").n_unique().alias("labels"),
        pl.col("group_id").n_unique().alias("groups"),
    )  # fmt: skip
    odd = per_tile.filter((pl.col("len") != n_seeds) | (pl.col("seeds") != n_seeds) | (pl.col("labels") > 1)
                          | (pl.col("groups") > 1))  # fmt: skip
    if len(odd):
        raise UserError("averaging over seeds needs every tile once per seed, with one label and group",
                        value=f"{len(odd)} tiles, such as {odd['tile_id'].sort()[0]}",
                        fix="score all seeds on the same tiles")  # fmt: skip
    ordered = predictions.table.sort([*keys, "seed"])
    p_NK = Predictions(ordered, predictions.class_names).probability_NK.reshape(-1, n_seeds, n_classes).mean(axis=1)
    logit_NK = Predictions(ordered, predictions.class_names).logit_NK.reshape(-1, n_seeds, n_classes).mean(axis=1)
    table = ordered[::n_seeds].with_columns(
        pl.lit(-1, dtype=pl.Int32).alias("seed"),
        pl.lit(f"mean of {n_seeds} seeds").alias("head_id"),
        pl.Series("logit", logit_NK, dtype=pl.Array(pl.Float64, n_classes)),
        pl.Series("probability", p_NK, dtype=pl.Array(pl.Float64, n_classes)),
    )
    return replace(predictions, table=table)


def score_seeds(
    predictions: Predictions, metrics: Sequence[MetricName], interval: IntervalConfig, *, within_folds: bool = False
) -> tuple[SeedScore, ...]:
    """Score several seeds: tiles averaged over seeds with intervals over groups, and the spread of seeds apart.

    Args:
        predictions: Every tile once per seed.
        metrics: What to compute.
        interval: How intervals are made.
        within_folds: AUROC compares only tiles of one fold.

    Returns:
        One per metric.
    """
    together = score_predictions(average_seeds(predictions), metrics, interval, within_folds=within_folds)
    no_interval = interval.model_copy(update={"min_groups_per_class": 2**31})
    by_seed = [
        score_predictions(predictions.where(pl.col("seed") == seed), metrics, no_interval, within_folds=within_folds)
        for seed in sorted(predictions.table["seed"].unique())
    ]
    values = [tuple(scores[number].value for scores in by_seed) for number in range(len(metrics))]
    return tuple(
        SeedScore(score, own, float(np.std(own, ddof=1)) if len(own) > 1 else float("nan"))
        for score, own in zip(together, values, strict=True)
    )


def _check_rows(flat: pl.DataFrame, keys: list[str], column: str, how: Aggregation) -> None:
    """Refuse rows whose tiles disagree."""
    found = flat.group_by(keys).agg(pl.col("y_true").n_unique().alias("labels"))
    mixed = found.filter(pl.col("labels") > 1)
    if how == "mean" and len(mixed):
        several = f"{len(mixed)} of {len(found)} rows by {column} hold several"
        raise UserError("the tiles of a row must share one label", value=several,
                        fix="aggregate by max, or score tiles")  # fmt: skip
    if column != "group_id":
        groups = flat.group_by(column).agg(pl.col("group_id").n_unique().alias("groups"))
        if (groups["groups"] > 1).any():
            first = groups.filter(pl.col("groups") > 1)[column].sort()[0]
            raise UserError(f"a {column} lies in several groups", value=str(first),
                            fix="aggregate by group")  # fmt: skip
