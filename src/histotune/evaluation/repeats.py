"""Training-set variability: the whole cross-fit again over other folds, so that every case is scored by other heads.

A hold-out interval, and that of one cross-fit, is conditional on the heads that were trained. How much the number moves
when other cases train is another question, answered apart: the same cases are scored, only who trained their head
changes.
"""

# N tiles, R repeats

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.splits.folds import fold_per_tile, grouped_folds
from histotune.evaluation.crossfit import cross_fit
from histotune.evaluation.findings import ScoredArm
from histotune.evaluation.scoring import plain_value
from histotune.statistics.predictions import Interval, Score
from histotune.tools.devices import SMALL_ROWS, map_small
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.evaluation.config import EvaluationConfig
    from histotune.evaluation.plan import CrossFitPlan
    from histotune.evaluation.predict import Material
    from histotune.heads.config import SweepConfig
    from histotune.heads.family import SweepSupport
    from histotune.statistics.metrics import MetricName

REPEATED = "probe, other training cases"
METRICS: tuple[MetricName, ...] = ("auroc", "balanced_accuracy", "accuracy")


def repeat_plans(material: Material, plan: CrossFitPlan, evaluation: EvaluationConfig) -> tuple[CrossFitPlan, ...]:
    """Return the same cross-fit over other folds of the groups.

    Args:
        material: The tiles.
        plan: The cross-fit that is repeated; its own folds are the first.
        evaluation: Number of folds and repeats, and the seed, which counts up.

    Returns:
        The plan itself and ``evaluation.repeats`` others.
    """
    plans = [plan]
    for number in range(1, evaluation.repeats + 1):
        split = grouped_folds(material.tiles, evaluation.outer_folds, evaluation.seed + number)
        fold_N = np.where(plan.fold_N >= 0, fold_per_tile(material.tiles, split), -1)
        plans.append(replace(plan, fold_N=fold_N, split_hash=split.split_hash, seed=evaluation.seed + number))
    return tuple(plans)


def repeated_arm(
    material: Material, plans: tuple[CrossFitPlan, ...], how: tuple[SweepConfig, SweepSupport], like: ScoredArm
) -> ScoredArm | None:
    """Repeat a cross-fit and tell how its scores move.

    Args:
        material: Tiles and embeddings.
        plans: From :func:`repeat_plans`.
        how: The sweep, the same for all, and its support.
        like: The row of the first cross-fit: domain, scale, numbers of tiles and groups, marks.

    Returns:
        A row with the mean over repeats and, in the interval's place, one standard deviation to either side; None
        where fewer than two repeats could be trained.
    """
    small = int(plans[0].train_N.sum()) <= SMALL_ROWS
    found = map_small(lambda plan: _scores(material, plan, how, like), plans, small)
    values_RM = np.array([values for values in found if values is not None])
    if len(values_RM) < 2:
        return None
    words = f"one SD over {len(values_RM)} repeats with other folds, training-set variability, no confidence interval"
    scores = []
    for metric, value_R in zip(METRICS, values_RM.T, strict=True):
        mean, sd = float(value_R.mean()), float(value_R.std(ddof=1))
        first = like.score(metric)
        n_tiles, n_groups = (0, 0) if first is None else (first.n_tiles, first.n_groups)
        scores.append(Score(metric, mean, Interval(mean - sd, mean + sd, 1.0, words), n_tiles, n_groups))
    trained_on = f"the same cross-fit over {len(values_RM)} draws of the folds"
    return ScoredArm(REPEATED, like.domain, trained_on, like.input_mpp, tuple(scores), like.marks)


def _scores(
    material: Material, plan: CrossFitPlan, how: tuple[SweepConfig, SweepSupport], like: ScoredArm
) -> tuple[float, ...] | None:
    """Return the metrics of one repeat; None where its folds leave one without a class."""
    try:
        predictions = cross_fit(material, plan, *how).predictions
    except UserError:
        return None
    return tuple(plain_value(predictions.where(pl.col("domain") == like.domain), name) for name in METRICS)
