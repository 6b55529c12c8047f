"""From tiles to group tables: the evaluator of every metric."""

# N tiles, R tiles of two classes, G units (groups, or tiles where asked), U distinct scores, K classes

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from histotune.statistics import ranking, sums
from histotune.statistics.evaluators import (
    MeanEvaluator,
    PairsEvaluator,
    SumsEvaluator,
    ThresholdEvaluator,
    TileEvaluator,
)
from histotune.statistics.metrics import FIXED_RATE
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.resampling import Sample

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]

MAX_DENSE = 4_000_000
"""Entries of a groups-by-scores table up to which resamples are scored from group tables, not tile by tile."""
MAX_PAIRS = 2**24
"""Entries of all tables of wins; there are as many of pairs."""
PAIRS_PER_TILE = 512
"""A row of weights costs about as much for so many entries of a table of wins as for one tile."""
WIN_BLOCK = 2**20


def make_evaluator(name: MetricName, sample: Sample, unit_N: Int, n_units: int, *, within_folds: bool) -> Evaluator:
    """Return a metric as a function of unit weights.

    Args:
        name: The metric.
        sample: The tiles.
        unit_N: Resampling unit per tile.
        n_units: Number of units.
        within_folds: AUROC compares only tiles of one fold.

    Returns:
        The metric as a function of how often each unit was drawn.

    Raises:
        UserError: The metric can't be computed from these predictions.
    """
    if name == "auroc":
        return _auroc_evaluator(sample, unit_N, n_units, sample.fold_N if within_folds else None)
    score_NK = sample.score_NK if sample.n_classes == 2 else sample.probability_NK
    tasks = ranking.ranking_tasks(sample.y_N, score_NK)
    if name == "auprc":
        parts = tuple(threshold_evaluator(positive_N, score_N, unit_N, n_units) for positive_N, score_N in tasks)
        return parts[0] if len(parts) == 1 else MeanEvaluator(parts)
    if name in ("sensitivity_at_95_specificity", "specificity_at_95_sensitivity"):
        if sample.n_classes != 2:
            raise UserError("this metric is defined for two classes", value=f"{name}, {sample.n_classes} classes",
                            fix="leave it out of the metrics")  # fmt: skip
        positive_N, score_N = tasks[0]
        if name == "specificity_at_95_sensitivity":
            positive_N, score_N = ~positive_N, -score_N
        return threshold_evaluator(positive_N, score_N, unit_N, n_units, FIXED_RATE)
    return sums_evaluator(tile_sums(name, sample), unit_N, n_units)


def sums_evaluator(tiles: sums.TileSums, unit_N: Int, n_units: int) -> SumsEvaluator:
    """Sum a metric's addends by unit.

    Args:
        tiles: The addends of tiles.
        unit_N: Unit per tile.
        n_units: Number of units.

    Returns:
        The metric as a function of unit weights.
    """
    columns = [np.bincount(unit_N, weights=column, minlength=n_units) for column in tiles.addend_NM.T]
    return SumsEvaluator(np.stack(columns, axis=1), tiles.finish, tiles.gradient)


def tile_sums(name: MetricName, sample: Sample) -> sums.TileSums:
    """Return the addends of a metric that is a function of sums.

    Raises:
        UserError: It is none, or lacks what it needs.
    """
    y_N, predicted_N, p_NK = sample.y_N, sample.predicted_N, sample.probability_NK
    if name == "patient_recognition_rate" and sample.patient_N is not None:
        return sums.patient_recognition_sums(y_N, predicted_N, sample.patient_N)
    makers: dict[str, Callable[[], sums.TileSums]] = {
        "accuracy": lambda: sums.accuracy_sums(y_N, predicted_N),
        "balanced_accuracy": lambda: sums.balanced_accuracy_sums(y_N, predicted_N, sample.n_classes),
        "macro_f1": lambda: sums.macro_f1_sums(y_N, predicted_N, sample.n_classes),
        "mcc": lambda: sums.mcc_sums(y_N, predicted_N, sample.n_classes),
        "log_loss": lambda: sums.log_loss_sums(y_N, p_NK),
        "brier": lambda: sums.brier_sums(y_N, p_NK),
        "ece": lambda: sums.ece_sums(y_N, p_NK),
        "ece_debiased": lambda: sums.ece_debiased_sums(y_N, p_NK),
    }
    if name not in makers:
        raise UserError("this metric can't be computed from these predictions", value=name, allowed=", ".join(makers))
    return makers[name]()


def win_matrix(
    positive_N: Bool, score_N: Float, unit_N: Int, n_units: int, fold_N: Int | None = None
) -> tuple[Float, Float]:
    """Return wins and comparable pairs between every two units.

    Args:
        positive_N: Which tiles are positive.
        score_N: Ranking score.
        unit_N: Unit (group) per tile.
        n_units: Number of units G.
        fold_N: Compare only tiles of one fold.

    Returns:
        (wins, pairs), each (G, G): entry (g, h) counts the pairs of a positive tile of g and a negative tile of h,
        wins those where the positive scores higher, ties half.
    """
    wins_GG, pairs_GG = np.zeros((n_units, n_units)), np.zeros((n_units, n_units))
    for rows in ranking.fold_rows(fold_N, len(score_N)):
        positive, unit, score = positive_N[rows], unit_N[rows], score_N[rows]
        wins_GG += _wins(score[positive], unit[positive], score[~positive], unit[~positive], n_units)
        counts = [np.bincount(unit[which], minlength=n_units).astype(np.float64) for which in (positive, ~positive)]
        pairs_GG += np.outer(*counts)
    return wins_GG, pairs_GG


def _wins(score_P: Float, unit_P: Int, score_Q: Float, unit_Q: Int, n_units: int) -> Float:
    """Count wins of positive tiles (P) of each unit over negative tiles (Q) of each unit, ties half."""
    wins_GG = np.zeros((n_units, n_units))
    if not len(score_P) or not len(score_Q):
        return wins_GG
    distinct, rank_P = np.unique(score_P, return_inverse=True)
    # half from the first score not below it, half from the first above: a tie counts half
    from_2Q = np.concatenate([np.searchsorted(distinct, score_Q, side=side) for side in ("left", "right")])
    unit_2Q = np.tile(unit_Q, 2)
    below_G, n_scores = np.zeros(n_units), max(1, WIN_BLOCK // n_units)
    for start in range(0, len(distinct), n_scores):
        stop = min(start + n_scores, len(distinct))
        new = (from_2Q >= start) & (from_2Q < stop)
        cell = (from_2Q[new] - start) * n_units + unit_2Q[new]
        cells_UG = np.bincount(cell, minlength=(stop - start) * n_units).reshape(-1, n_units)
        below_UG = below_G + 0.5 * np.cumsum(cells_UG, axis=0)
        here = np.flatnonzero((rank_P >= start) & (rank_P < stop))
        here = here[np.argsort(unit_P[here], kind="stable")]
        present, starts = np.unique(unit_P[here], return_index=True)
        wins_GG[present] += np.add.reduceat(below_UG[rank_P[here] - start], starts, axis=0)
        below_G = below_UG[-1]
    return wins_GG


def threshold_evaluator(
    positive_N: Bool, score_N: Float, unit_N: Int, n_units: int, specificity: float | None = None
) -> Evaluator:
    """Return the average precision, or the sensitivity at a specificity, as a function of unit weights.

    Args:
        positive_N: Which tiles are positive.
        score_N: Ranking score.
        unit_N: Unit per tile.
        n_units: Number of units.
        specificity: Least specificity; None for the average precision.

    Returns:
        The metric.
    """
    if n_units * len(unit_N) > MAX_DENSE:
        if specificity is None:
            return TileEvaluator(
                unit_N, n_units, lambda weights: ranking.weighted_average_precision(positive_N, score_N, weights)
            )
        return TileEvaluator(
            unit_N, n_units, lambda weights: ranking.weighted_sensitivity(positive_N, score_N, weights, specificity)
        )
    distinct, rank_P = np.unique(-score_N[positive_N], return_inverse=True)
    if not len(distinct):
        distinct = np.zeros(1)
    gained_GU = _counts(unit_N[positive_N], rank_P, n_units, len(distinct))
    first_Q = np.searchsorted(distinct, -score_N[~positive_N])
    negatives_above_GU = np.cumsum(_counts(unit_N[~positive_N], first_Q, n_units, len(distinct) + 1), axis=1)
    positives_above_GU = np.cumsum(gained_GU, axis=1)
    above_GU = positives_above_GU + negatives_above_GU[:, :-1]
    return ThresholdEvaluator(
        gained_GU.astype(np.float32),
        positives_above_GU.astype(np.float32),
        above_GU.astype(np.float32),
        negatives_above_GU[:, -1],
        specificity,
    )


def _auroc_evaluator(sample: Sample, unit_N: Int, n_units: int, fold_N: Int | None, n_pairs: int = 1) -> Evaluator:
    """AUROC from pair counts between units, or tile by tile where there are too many units for all pairs of classes."""
    if sample.ranking == "pairs" and sample.n_classes > 2:
        return _pairwise_evaluator(sample, unit_N, n_units, fold_N)
    tasks = ranking.ranking_tasks(sample.y_N, sample.score_NK)
    small = n_units * max(n_units, len(unit_N)) <= MAX_DENSE
    if not small and n_units**2 > min(PAIRS_PER_TILE * len(unit_N), MAX_PAIRS // (len(tasks) * n_pairs)):
        return TileEvaluator(
            unit_N, n_units, lambda weights: ranking.weighted_auroc(sample.y_N, sample.score_NK, weights, fold_N)
        )
    tables = [win_matrix(positive_N, score_N, unit_N, n_units, fold_N) for positive_N, score_N in tasks]
    return PairsEvaluator(tuple(wins for wins, _ in tables), tuple(pairs for _, pairs in tables))


def _pairwise_evaluator(sample: Sample, unit_N: Int, n_units: int, fold_N: Int | None) -> Evaluator:
    """Return the mean over pairs of classes of the AUROC that tells the two apart."""
    parts, pairs = [], list(combinations(range(sample.n_classes), 2))
    for pair in pairs:
        rows = np.flatnonzero(np.isin(sample.y_N, pair))
        two = replace(
            sample,
            y_N=(sample.y_N[rows] == pair[1]).astype(np.int64),
            score_NK=sample.score_NK[rows][:, list(pair)],
            class_names=tuple(sample.class_names[label] for label in pair),
        )
        fold_R = None if fold_N is None else fold_N[rows]
        parts.append(_auroc_evaluator(two, unit_N[rows], n_units, fold_R, len(pairs)))
    return MeanEvaluator(tuple(parts))


def _counts(unit_N: Int, place_N: Int, n_units: int, n_places: int) -> Float:
    """Count tiles by unit and place."""
    cells = np.bincount(unit_N * n_places + place_N, minlength=n_units * n_places)
    return cells.reshape(n_units, n_places).astype(np.float64)
