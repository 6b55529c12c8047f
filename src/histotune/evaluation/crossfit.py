"""Cross-fitting: every tile is scored by a head whose training and selection never saw its group."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.splits.folds import fold_per_tile, grouped_folds
from histotune.datasets.splits.split import tile_groups
from histotune.evaluation.material import ScoredRows, build_predictions
from histotune.evaluation.scoring import plain_value
from histotune.heads.family import SweepTask
from histotune.heads.head import class_probabilities, head_logits
from histotune.heads.sweep import sweep
from histotune.statistics.predictions import Interval, Score
from histotune.tools.devices import SMALL_ROWS, map_small
from histotune.tools.errors import UserError
from histotune.tools.marks import REPEATED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.config import EvaluationConfig
    from histotune.evaluation.findings import ScoredArm
    from histotune.evaluation.material import Material
    from histotune.evaluation.plan import CrossFitPlan
    from histotune.heads.config import SweepConfig
    from histotune.heads.family import FoldLabels, SweepSupport
    from histotune.heads.head import SweepResult
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import Predictions


@dataclass(frozen=True)
class CrossFit:
    """Cross-fitted predictions and the head trained on everything.

    Attributes:
        predictions: A row per scored tile.
        final: Sweep over all training tiles; its head is what gets saved and carried to other data sets. Where a
            part is scored, it is the head that scored it.
        folds: Sweep of every outer fold, in order; the final one where a part is scored.
        sweep_s: Seconds for all sweeps, solved together.
        task: What was swept; its last training set is the final one.
    """

    predictions: Predictions
    final: SweepResult
    folds: tuple[SweepResult, ...]
    sweep_s: float
    task: SweepTask


def cross_fit(
    material: Material, plan: CrossFitPlan, config: SweepConfig, support: SweepSupport | None = None
) -> CrossFit:
    """Sweep once per outer fold and once on all training tiles, all in one batch, and score every tile."""
    labelled_N, folds = material.tiles.labels_N >= 0, _folds(plan)
    task = replace(cross_fit_task(material.tiles, plan), default_pooling=material.default_pooling)
    start = time.perf_counter()
    results = sweep(material.embeddings, task, config, support)
    sweep_s = time.perf_counter() - start
    fold_results, final = list(results[: len(folds)]), results[-1]
    rows_by_fold = [np.flatnonzero((plan.fold_N == fold) & labelled_N) for fold in folds]
    predictions = score_folds(material, plan, fold_results, rows_by_fold)
    return CrossFit(predictions, final, tuple(fold_results), sweep_s, task)


def _folds(plan: CrossFitPlan) -> list[int]:
    return sorted({int(fold) for fold in plan.fold_N[plan.fold_N >= 0]})


def cross_fit_task(tiles: TileSet, plan: CrossFitPlan) -> SweepTask:
    """Return what a cross-fit learns from: all training tiles without each outer fold, and all of them last."""
    train_N = plan.train_N & (tiles.labels_N >= 0)
    train_sets = [train_N & (plan.fold_N != fold) for fold in _folds(plan)]
    if len(train_sets) > 1 or not np.array_equal(train_sets[0], train_N):
        train_sets.append(train_N)
    estimated = (len(train_sets) - 1,)  # the heads of the folds are scored on tiles held out
    groups, sets_SN = tuple(tile_groups(tiles)), np.stack(train_sets)
    return SweepTask(
        tiles.labels_N, groups, tiles.class_names, sets_SN, plan.fold_labels, nested_estimate_sets=estimated
    )


def sweep_task(
    material: Material,
    train_sets: Sequence[NDArray[np.bool_]],
    estimated: tuple[int, ...] | None = None,
    fold_labels: FoldLabels = "grouped",
) -> SweepTask:
    """Return what to learn from a material; the procedure of the sets ``estimated`` is itself estimated."""
    tiles, groups, default = material.tiles, tuple(tile_groups(material.tiles)), material.default_pooling
    sets_SN = np.stack(train_sets)
    return SweepTask(tiles.labels_N, groups, tiles.class_names, sets_SN, fold_labels, default, estimated)


def score_folds(
    material: Material, plan: CrossFitPlan, results: list[SweepResult], rows_by_fold: list[NDArray[np.int64]]
) -> Predictions:
    """Score each fold's tiles with the head that excluded them."""
    # every tile once, in the order of the folds; the head and the threshold that scored it go with its row
    logits, probabilities, head_ids, thresholds = [], [], [], []
    for result, rows in zip(results, rows_by_fold, strict=True):
        logit_NK = head_logits(result.head, material.embeddings.take(rows))
        logits.append(logit_NK)
        probabilities.append(class_probabilities(result.head, logit_NK))
        head_ids += [result.head.head_id] * len(rows)
        thresholds.append(np.full(len(rows), result.head.threshold))
    rows = np.concatenate(rows_by_fold)
    scored = ScoredRows(
        rows,
        np.concatenate(logits),
        np.concatenate(probabilities),
        head_ids,
        plan.fold_N[rows],
        plan.seed,
        plan.split_hash,
        np.concatenate(thresholds),
    )
    return build_predictions(material, scored)


# ------------------------------------------------------------------------------
# Training-set variability: the whole cross-fit again over other folds, so that every case is scored by other heads.
#
# A hold-out interval, and that of one cross-fit, is conditional on the heads that were trained. How much the number
# moves when other cases train is another question, answered apart: the same cases are scored, only who trained their
# head changes.
#
# N tiles, R repeats


METRICS: tuple[MetricName, ...] = ("auroc", "balanced_accuracy", "accuracy")


def repeat_plans(material: Material, plan: CrossFitPlan, evaluation: EvaluationConfig) -> tuple[CrossFitPlan, ...]:
    """Return the same cross-fit over other folds of the groups."""
    plans = [plan]
    for number in range(1, evaluation.repeats + 1):
        split = grouped_folds(material.tiles, evaluation.outer_folds, evaluation.seed + number)
        fold_N = np.where(plan.fold_N >= 0, fold_per_tile(material.tiles, split), -1)
        plans.append(replace(plan, fold_N=fold_N, split_hash=split.split_hash, seed=evaluation.seed + number))
    return tuple(plans)


def repeated_arm(
    material: Material, plans: tuple[CrossFitPlan, ...], how: tuple[SweepConfig, SweepSupport], like: ScoredArm
) -> ScoredArm | None:
    """Repeat a cross-fit and tell how its scores move."""
    small = int(plans[0].train_N.sum()) <= SMALL_ROWS
    domain = pl.col("domain") == like.domain
    found = map_small(lambda plan: plain_scores(material, plan, how, domain, METRICS), plans, small)
    values_RM = np.array([values for values in found if values is not None])
    if len(values_RM) < 2:
        return None
    words = f"one SD over {len(values_RM)} repeats with other folds, training-set variability, no confidence interval"
    scores = []
    for metric, value_R in zip(METRICS, values_RM.T, strict=True):
        mean, sd = float(value_R.mean()), float(value_R.std(ddof=1))
        scores.append(spread_score(metric, like, (mean - sd, mean, mean + sd), words))
    trained_on = f"the same cross-fit over {len(values_RM)} draws of the folds"
    return replace(like, arm=REPEATED, trained_on=trained_on, scores=tuple(scores))


def plain_scores(
    material: Material,
    plan: CrossFitPlan,
    how: tuple[SweepConfig, SweepSupport],
    where: pl.Expr,
    metrics: Sequence[MetricName],
) -> tuple[float, ...] | None:
    """Return metrics of one more cross-fit; None where its folds leave one without a class."""
    try:
        predictions = cross_fit(material, plan, *how).predictions.where(where)
    except UserError:
        return None
    return tuple(plain_value(predictions, name) for name in metrics)


def spread_score(name: str, like: ScoredArm, spread: tuple[float, float, float], words: str) -> Score:
    """Return a score over repeats: low, middle and high, no confidence interval."""
    low, middle, high = spread
    first = like.score(name)
    n_tiles, n_groups = (0, 0) if first is None else (first.n_tiles, first.n_groups)
    return Score(name, middle, Interval(low, high, 1.0, words), n_tiles, n_groups)
