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
    return _walk(positive_N, score_N, weights_BN, None)


def weighted_sensitivity(positive_N: Bool, score_N: Float, weights_BN: Float, specificity: float) -> Float:
    """Return, for every row of weights, the best sensitivity of a threshold whose specificity is at least the given."""
    return _walk(positive_N, score_N, weights_BN, specificity)


class ThresholdWalk:
    """Average precision, or the sensitivity at a specificity, gathered along thresholds from the best score down."""

    def __init__(self, negatives_B: Float, specificity: float | None) -> None:
        """Begin above the best score.

        Args:
            negatives_B: Weight of all negative tiles.
            specificity: Least specificity of a sensitivity; None for the average precision.
        """
        self._negatives_B = np.asarray(negatives_B, dtype=np.float64)
        self._specificity = specificity
        self._gathered_B = np.zeros(len(negatives_B))
        self._positives_B = np.zeros(len(negatives_B))

    def step(self, positives_above_BU: NDArray[np.floating], above_BU: NDArray[np.floating]) -> None:
        """Pass some thresholds.

        Args:
            positives_above_BU: Positive weight at this score or better.
            above_BU: Weight at this score or better.
        """
        positives_BU = positives_above_BU.astype(np.float64, copy=False)
        all_BU = above_BU.astype(np.float64, copy=False)
        if self._specificity is None:
            gained_BU = np.diff(positives_BU, axis=1, prepend=self._positives_B[:, None])
            precision_BU = np.divide(positives_BU, all_BU, out=np.zeros_like(all_BU), where=all_BU > 0)
            self._gathered_B += np.einsum("bu,bu->b", gained_BU, precision_BU)
        else:
            allowed_B1 = (1.0 - self._specificity + SLACK) * self._negatives_B[:, None]
            kept_BU = np.where(all_BU - positives_BU <= allowed_B1, positives_BU, 0.0)
            self._gathered_B = np.maximum(self._gathered_B, kept_BU.max(axis=1))
        self._positives_B = positives_BU[:, -1].copy()

    def value(self) -> Float:
        """Return the values (B,); a sensitivity is 0 where even the best score lets too many negatives through."""
        value_B = ratio(self._gathered_B, self._positives_B)
        return value_B if self._specificity is None else np.where(self._negatives_B > 0, value_B, np.nan)


def fold_rows(fold_N: Int | None, n_tiles: int) -> list[Int]:
    """Return the rows of each fold; all rows at once without folds."""
    if fold_N is None:
        return [np.arange(n_tiles)]
    return [np.flatnonzero(fold_N == fold) for fold in np.unique(fold_N)]


def _walk(positive_N: Bool, score_N: Float, weights_BN: Float, specificity: float | None) -> Float:
    """Walk down the distinct scores, tile by tile."""
    order, starts = tie_blocks(-score_N)
    weights_BN = weights_BN[:, order]
    positive_BU = np.add.reduceat(weights_BN * positive_N[order], starts, axis=1)
    all_BU = np.add.reduceat(weights_BN, starts, axis=1)
    walk = ThresholdWalk((all_BU - positive_BU).sum(axis=1), specificity)
    walk.step(np.cumsum(positive_BU, axis=1), np.cumsum(all_BU, axis=1))
    return walk.value()


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
