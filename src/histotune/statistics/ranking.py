"""Metrics that rank tiles: AUROC, average precision, operating points; ties counted correctly, weighted."""

# N tiles, K classes, B resamples, U distinct scores

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.statistics.arrays import ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]

SLACK = 1e-9
"""Relative room for rounding where a rate is compared with the one asked for."""


def ranking_tasks(y_N: Int, score_NK: Float) -> list[tuple[Bool, Float]]:
    """Return (positive, score) of the binary rankings behind a metric: one, or one per class against the rest."""
    n_classes = score_NK.shape[1]
    if n_classes == 2:
        return [(y_N == 1, score_NK[:, 1] - score_NK[:, 0])]
    return [(y_N == label, score_NK[:, label]) for label in range(n_classes)]


def weighted_auroc(y_N: Int, score_NK: Float, weights_BN: Float, fold_N: Int | None = None) -> Float:
    """Return AUROC for every row of weights (counts of a resample, or real weights).

    Args:
        y_N: Labels.
        score_NK: Ranking score per class.
        weights_BN: Non-negative weights.
        fold_N: Compare only tiles of one fold.

    Returns:
        Values (B,); NaN where no pair can be compared.
    """
    values = []
    for positive_N, score_N in ranking_tasks(y_N, score_NK):
        wins_B, pairs_B = np.zeros(len(weights_BN)), np.zeros(len(weights_BN))
        for rows in fold_rows(fold_N, len(y_N)):
            wins, pairs = _weighted_wins(positive_N[rows], score_N[rows], weights_BN[:, rows])
            wins_B, pairs_B = wins_B + wins, pairs_B + pairs
        values.append(ratio(wins_B, pairs_B))
    return np.asarray(np.mean(values, axis=0))


def weighted_average_precision(positive_N: Bool, score_N: Float, weights_BN: Float) -> Float:
    """Return the average precision for every row of weights (B,); NaN without positive weight."""
    return average_precision_from_blocks(*_blocks(positive_N, score_N, weights_BN))


def average_precision_from_blocks(positives_above_BU: Float, above_BU: Float) -> Float:
    """Return sum over thresholds of precision times the recall gained.

    Args:
        positives_above_BU: Positive weight at this score or better, best score first, down to the last positive.
        above_BU: Weight at this score or better.

    Returns:
        Values (B,); NaN without positive weight.
    """
    precision_BU = np.divide(positives_above_BU, above_BU, out=np.zeros_like(above_BU), where=above_BU > 0)
    # Abel's summation: the gains of one row times its precision, without an array of gains
    last_B = positives_above_BU[:, -1]
    kept_B = np.einsum("bu,bu->b", positives_above_BU[:, :-1], precision_BU[:, :-1] - precision_BU[:, 1:])
    return ratio(kept_B + last_B * precision_BU[:, -1], last_B)


def weighted_sensitivity(positive_N: Bool, score_N: Float, weights_BN: Float, specificity: float) -> Float:
    """Return, for every row of weights, the best sensitivity of a threshold whose specificity is at least the given."""
    positives_above_BU, above_BU = _blocks(positive_N, score_N, weights_BN)
    negatives_B = above_BU[:, -1] - positives_above_BU[:, -1]
    return sensitivity_from_blocks(positives_above_BU, above_BU, negatives_B, specificity)


def sensitivity_from_blocks(
    positives_above_BU: Float, above_BU: Float, negatives_B: Float, specificity: float
) -> Float:
    """Return the best sensitivity among thresholds whose specificity is at least the given.

    Args:
        positives_above_BU: Positive weight at this score or better, best score first, down to the last positive.
        above_BU: Weight at this score or better.
        negatives_B: Weight of all negative tiles.
        specificity: Least specificity.

    Returns:
        Values (B,): 0 where even the best score lets too many negatives through; NaN without positive or negative
        weight.
    """
    allowed_B1 = (1.0 - specificity + SLACK) * negatives_B[:, None]
    kept_BU = np.where(above_BU - positives_above_BU <= allowed_B1, positives_above_BU, 0.0)
    value_B = ratio(kept_BU.max(axis=1), positives_above_BU[:, -1])
    return np.where(negatives_B > 0, value_B, np.nan)


def fold_rows(fold_N: Int | None, n_tiles: int) -> list[Int]:
    """Return the rows of each fold; all rows at once without folds."""
    if fold_N is None:
        return [np.arange(n_tiles)]
    return [np.flatnonzero(fold_N == fold) for fold in np.unique(fold_N)]


def _blocks(positive_N: Bool, score_N: Float, weights_BN: Float) -> tuple[Float, Float]:
    """Return positive and all weight down to each distinct score, best first."""
    order, starts = tie_blocks(-score_N)
    weights_BN = weights_BN[:, order]
    positive_BU = np.add.reduceat(weights_BN * positive_N[order], starts, axis=1)
    all_BU = np.add.reduceat(weights_BN, starts, axis=1)
    return np.cumsum(positive_BU, axis=1), np.cumsum(all_BU, axis=1)


def _weighted_wins(positive_N: Bool, score_N: Float, weights_BN: Float) -> tuple[Float, Float]:
    """Return the weight of (positive above negative) pairs, ties half, and of all pairs."""
    order, starts = tie_blocks(score_N)
    weights_BN = weights_BN[:, order]
    positive_BU = np.add.reduceat(weights_BN * positive_N[order], starts, axis=1)
    negative_BU = np.add.reduceat(weights_BN * ~positive_N[order], starts, axis=1)
    below_BU = np.cumsum(negative_BU, axis=1) - 0.5 * negative_BU
    return np.einsum("bu,bu->b", positive_BU, below_BU), positive_BU.sum(axis=1) * negative_BU.sum(axis=1)


def tie_blocks(score_N: Float) -> tuple[Int, Int]:
    """Return the ascending order and where each block of equal scores starts in it."""
    order = np.argsort(score_N, kind="stable")
    ranked = score_N[order]
    return order, np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
