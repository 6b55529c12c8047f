"""Score predictions: values with their intervals, n and reasons."""

# N tiles, K classes

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from histotune.statistics.bounds import metric_scale
from histotune.statistics.evaluators import make_evaluator
from histotune.statistics.intervals import PointEstimate, make_intervals, resampling_units
from histotune.statistics.metrics import METRIC_NAMES, OPERATING_POINTS, MetricName, fold_rows, metric_kind
from histotune.statistics.predictions import Predictions, Score
from histotune.statistics.sample import read_sample
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.intervals import Units
    from histotune.statistics.predictions import Interval, IntervalConfig, Weighting
    from histotune.statistics.sample import Sample


RANKING = ("auroc", "auprc", *OPERATING_POINTS)
CLIPPED = "no more than chance alone adds, so it is cut off at 0, where leaving out groups tells nothing of its error"
DECIDING = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "patient_recognition_rate")


def score_predictions(
    predictions: Predictions,
    metrics: Sequence[MetricName],
    interval: IntervalConfig,
    *,
    within_folds: bool = False,
) -> tuple[Score, ...]:
    """Return one score per metric, with intervals over whole groups.

    An interval is conditional on the trained head: it says how the value varies with the groups that are scored, not
    with those that trained the head.

    Args:
        predictions: The scored tiles; every one labelled.
        metrics: What to compute.
        interval: How intervals are made.
        within_folds: The predictions are cross-fitted: AUROC compares only tiles that one head scored (same ``fold``),
            because scores of different heads share no scale; other metrics pool all tiles.

    Returns:
        Scores in the order of ``metrics``; NaN with a reason where undefined.

    Raises:
        UserError: Unknown metric, an unlabelled tile, or a probability that is not finite.

    Example:
        >>> auroc, = score_predictions(predictions, ["auroc"], IntervalConfig())  # doctest: +SKIP
        >>> f"{auroc.value:.3f} [{auroc.interval.low:.3f}, {auroc.interval.high:.3f}]"  # doctest: +SKIP
        '0.912 [0.861, 0.948]'
    """
    for name in metrics:
        check_metric(name)
    units = resampling_units(read_sample(predictions), interval)
    found = [estimate_or_reason(name, units, within_folds=within_folds) for name in metrics]
    made = iter(make_intervals([estimate for estimate, reason in found if estimate is not None and not reason], units))
    return tuple(
        _score(name, estimate, *((None, reason) if reason else next(made)), units.sample)
        for name, (estimate, reason) in zip(metrics, found, strict=True)
    )


def estimate_or_reason(name: MetricName, units: Units, *, within_folds: bool) -> tuple[PointEstimate | None, str]:
    """Return a metric's value, and why it or its interval is missing; empty where neither is."""
    sample = units.sample
    if reason := undefined_reason(name, sample):
        return None, reason
    evaluator = make_evaluator(name, sample, units.unit_N, units.n_units, within_folds=within_folds)
    scale, constant = metric_scale(name, sample.n_classes), _is_constant(name, sample, within_folds=within_folds)
    estimate = PointEstimate(name, evaluator, point_value(evaluator, units), scale, constant)
    if name == "ece_debiased" and estimate.value == 0.0:
        return estimate, CLIPPED
    return estimate, refusal(name, estimate.value, units)


def _is_constant(name: MetricName, sample: Sample, *, within_folds: bool) -> bool:
    """Whether every tile that is compared with another gets the same score or decision."""
    if name in DECIDING:
        return bool((sample.predicted_N == sample.predicted_N[0]).all())
    if name not in RANKING:
        return False
    folds = fold_rows(sample.fold_N if within_folds and name == "auroc" else None, len(sample.y_N))
    return all(bool((sample.score_NK[rows] == sample.score_NK[rows[0]]).all()) for rows in folds)


def check_metric(name: str) -> None:
    """Refuse an unknown metric."""
    if name not in METRIC_NAMES:
        raise UserError(
            "unknown metric", value=name, allowed=", ".join(METRIC_NAMES), closest=closest_name(name, METRIC_NAMES)
        )


def point_value(evaluator: Evaluator, units: Units) -> float:
    """Return the metric on the tiles as they are."""
    return float(evaluator(np.ones((1, units.n_units)))[0])


def undefined_reason(name: MetricName, sample: Sample) -> str:
    """Return why a metric has no value on these tiles; empty where it has one."""
    if not len(sample.y_N):
        return "no tiles"
    if name == "patient_recognition_rate" and sample.patient_N is None:
        return "the authors' patient ids are missing for some tiles"
    kind = metric_kind(name, sample.n_classes)
    if kind.binary_only and sample.n_classes != 2:
        return f"{name} is defined for two classes, not {sample.n_classes}"
    if kind.needs_every_class:
        counts = np.bincount(sample.y_N, minlength=sample.n_classes)
        missing = [label for label, count in zip(sample.class_names, counts, strict=True) if count == 0]
        if missing:
            return f"no tile of class {', '.join(repr(label) for label in missing)}"
    return ""


def refusal(name: MetricName, value: float, units: Units) -> str:
    """Return why a metric has no value although every class it needs is there, or no interval; empty where it has."""
    sample = units.sample
    if math.isnan(value):
        if name == "mcc":
            return "every tile has the same label, or gets the same decision"
        return "no positive and negative tile of one fold can be compared"
    if units.refusal:
        return units.refusal
    if name == "patient_recognition_rate" and sample.patient_N is not None:
        if units.config.cluster == "tile":
            return "a patient's rate can't be resampled tile by tile"
        pairs = np.unique(np.stack([sample.patient_N, units.unit_N]), axis=1)
        if pairs.shape[1] > len(np.unique(sample.patient_N)):
            return "a patient of the authors lies in several groups"
    return ""


def chance_level(name: MetricName, sample: Sample) -> float:
    """Return what a random ranking or a constant decision gets; NaN where there is no such level."""
    if not len(sample.y_N):
        return float("nan")
    if name in ("auroc", "mcc"):
        return 0.5 if name == "auroc" else 0.0
    if name == "auprc":
        return float((sample.y_N == 1).mean()) if sample.n_classes == 2 else 1.0 / sample.n_classes
    if name == "balanced_accuracy":
        return 1.0 / sample.n_classes
    if name == "accuracy":
        return float(np.bincount(sample.y_N).max() / len(sample.y_N))
    return float("nan")


def _score(
    name: MetricName, estimate: PointEstimate | None, interval: Interval | None, reason: str, sample: Sample
) -> Score:
    """Put a value, its interval (or the reason for none), n and chance level together."""
    value = float("nan") if estimate is None else estimate.value
    weighting: Weighting = "group" if name == "patient_recognition_rate" else "tile"
    return Score(name, value, interval, len(sample.y_N), sample.n_groups, weighting, reason, chance_level(name, sample))


# ------------------------------------------------------------------------------
# Scores of slides and groups instead of tiles, of parts of a cohort, and over seeds


Level = Literal["slide", "group", "source_patient"]
Aggregation = Literal["mean", "max"]
COLUMNS: dict[Level, str] = {"slide": "slide_id", "group": "group_id", "source_patient": "source_patient_id"}


@dataclass(frozen=True)
class PartScores:
    """Scores of the tiles that share a site, scanner or stain.

    Attributes:
        part: The site, scanner or stain; "unknown" where it is not recorded.
        predictions: Its tiles.
        scores: One per metric.
    """

    part: str
    predictions: Predictions
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
    """Return one row per slide, group or patient of the authors."""
    column = COLUMNS[level]
    if predictions.table[column].null_count():
        raise UserError(f"some tiles have no {column}", fix=f"score tiles, or complete {column}")
    if how == "max" and len(predictions.class_names) != 2:
        raise UserError(
            "the most positive tile is defined for two classes",
            value=", ".join(predictions.class_names),
            fix="aggregate by the mean",
        )
    n_classes = len(predictions.class_names)
    keys = [column, "domain", "fold", "seed", "head_id"]
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
    # Logits of a mean are log p less that of class 0, so that class 0 has logit 0.
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
    """Score each site, scanner or stain on its own."""
    if len(part_of) != len(predictions):
        found = f"{len(part_of)} for {len(predictions)} tiles"
        raise UserError(
            "a table by part needs the part of every tile", value=found, fix="give one value, or null, per row"
        )
    named = part_of.cast(pl.String)
    parts = []
    for name in [*sorted(named.drop_nulls().unique()), *([None] if named.null_count() else [])]:
        inside = named.is_null() if name is None else (named == name).fill_null(value=False)
        rows = replace(predictions, table=predictions.table.filter(inside))
        scores = score_predictions(rows, metrics, interval, within_folds=within_folds)
        parts.append(PartScores("unknown" if name is None else name, rows, scores))
    return tuple(parts)


def average_seeds(predictions: Predictions) -> Predictions:
    """Return one row per tile: its probabilities averaged over seeds."""
    n_seeds = predictions.table["seed"].n_unique()
    if n_seeds < 2:
        return predictions
    n_classes = len(predictions.class_names)
    keys = ["tile_id", "domain"]
    per_tile = predictions.table.group_by(keys).agg(
        pl.len(),
        pl.col("seed").n_unique().alias("seeds"),
        pl.col("y_true").n_unique().alias("labels"),
        pl.col("group_id").n_unique().alias("groups"),
    )
    odd = per_tile.filter(
        (pl.col("len") != n_seeds) | (pl.col("seeds") != n_seeds) | (pl.col("labels") > 1) | (pl.col("groups") > 1)
    )
    if len(odd):
        raise UserError(
            "averaging over seeds needs every tile once per seed, with one label and group",
            value=f"{len(odd)} tiles, such as {odd['tile_id'].sort()[0]}",
            fix="score all seeds on the same tiles",
        )
    # Sorted by tile and then seed, the rows of a tile are one block of the array: (tiles, seeds, K).
    ordered = predictions.table.sort([*keys, "seed"])
    by_seed = Predictions(ordered, predictions.class_names)
    p_NK = by_seed.probability_NK.reshape(-1, n_seeds, n_classes).mean(axis=1)
    logit_NK = by_seed.logit_NK.reshape(-1, n_seeds, n_classes).mean(axis=1)
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
    """Score several seeds: tiles averaged over seeds with intervals over groups, and the spread of seeds apart."""
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
        raise UserError(
            "the tiles of a row must share one label", value=several, fix="aggregate by max, or score tiles"
        )
    if column != "group_id":
        groups = flat.group_by(column).agg(pl.col("group_id").n_unique().alias("groups"))
        if (groups["groups"] > 1).any():
            first = groups.filter(pl.col("groups") > 1)[column].sort()[0]
            raise UserError(f"a {column} lies in several groups", value=str(first), fix="aggregate by group")
