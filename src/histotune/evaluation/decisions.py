"""What a head decides, class by class: the confusion matrix, sensitivity and specificity, and the threshold used."""

# N tiles, K classes

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.evaluation.findings import ClassRates, Decisions
from histotune.statistics.predictions import Predictions, Score
from histotune.statistics.scores import score_predictions
from histotune.tools.marks import PROBE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from histotune.evaluation.findings import ScoredArm
    from histotune.statistics.predictions import IntervalConfig


def find_decisions(predictions: Predictions, interval: IntervalConfig) -> Decisions:
    """Count what was decided, class by class, with intervals over groups.

    Args:
        predictions: One row per tile, every one labelled.
        interval: How intervals are made.

    Returns:
        The matrix, the rates and the thresholds.
    """
    names, y_N, said_N = predictions.class_names, predictions.y_true_N, predictions.predicted_N
    n_classes = len(names)
    counts_KK = np.bincount(y_N * n_classes + said_N, minlength=n_classes**2).reshape(n_classes, n_classes)
    rates = []
    for label, name in enumerate(names):
        own_N = y_N == label
        sensitivity = _share(predictions, own_N, said_N == label, ("sensitivity", name), interval)
        specificity = _share(predictions, ~own_N, said_N != label, ("specificity", f"not {name}"), interval)
        rates.append(ClassRates(name, sensitivity, specificity))
    return Decisions(names, tuple(tuple(row) for row in counts_KK.tolist()), _thresholds(predictions), tuple(rates))


def _thresholds(predictions: Predictions) -> tuple[float, ...]:
    if len(predictions.class_names) != 2:
        return ()
    if "threshold" not in predictions.table.columns:
        return (predictions.threshold,)
    return tuple(float(value) for value in predictions.table["threshold"].unique().sort())


def _share(
    predictions: Predictions,
    of_N: NDArray[np.bool_],
    hit_N: NDArray[np.bool_],
    names: tuple[str, str],
    interval: IntervalConfig,
) -> Score:
    """Return the share of hits among some tiles, with an interval over their groups."""
    # Accuracy of one class alone: a tile is right where it is a hit.
    if not of_N.any():
        return Score(names[0], float("nan"), None, 0, 0, reason=f"no tile of class {names[1]!r}")
    shape = pl.Array(pl.Float64, 1)
    table = predictions.table.filter(pl.Series(of_N))
    alone = pl.Series([[1.0]] * len(table), dtype=shape)
    table = table.with_columns(
        pl.lit(0, pl.Int32).alias("y_true"),
        alone.alias("logit"),
        alone.alias("probability"),
        pl.Series("predicted", np.where(hit_N[of_N], 0, 1), dtype=pl.Int32),
    )
    (score,) = score_predictions(Predictions(table, (names[1],)), ["accuracy"], interval)
    reason = score.reason
    if score.interval is None and score.value in (0.0, 1.0) and len(set(hit_N[of_N].tolist())) == 1 and score.n_groups:
        reason = f"all {score.n_tiles:,} tiles of {score.n_groups} groups are decided alike, and groups do not differ"
    return replace(score, name=names[0], reason=reason, chance=float("nan"))


def with_decisions(
    rows: Iterable[ScoredArm], predictions: Predictions, interval: IntervalConfig
) -> tuple[ScoredArm, ...]:
    """Return a finding's rows, those of the probe with what it decides on their domain.

    Args:
        rows: The scored arms.
        predictions: The probe's, all classes of its head.
        interval: How intervals are made.

    Returns:
        The rows.
    """
    found = {
        str(domain): find_decisions(predictions.where(pl.col("domain") == domain), interval)
        for domain in predictions.table["domain"].unique(maintain_order=True)
    }
    return tuple(replace(row, decisions=found.get(row.domain)) if row.arm == PROBE else row for row in rows)
