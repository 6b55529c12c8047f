"""Metrics as array kernels: ties counted correctly, weights for many resamples at once, NaN where undefined.

Most metrics are a function of a few sums over tiles; :class:`TileSums` holds the addends, so that a weighted metric, a
bootstrap over tiles and one over groups are the same matrix product. AUROC and average precision need ranks.
"""

# N tiles, K classes, B resamples, M sums, U distinct scores

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]

MetricName = Literal[
    "accuracy", "balanced_accuracy", "macro_f1", "auroc", "auprc", "log_loss", "brier", "ece",
    "patient_recognition_rate",
]  # fmt: skip
METRIC_NAMES: tuple[MetricName, ...] = get_args(MetricName)
ECE_BINS = 15
EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class TileSums:
    """A metric that is a function of sums over tiles.

    Attributes:
        addend_NM: What each tile adds to each sum.
        finish: Maps sums (B, M) to values (B,); NaN where undefined.
    """

    addend_NM: Float
    finish: Callable[[Float], Float]

    def value(self, weights_BN: Float | None = None) -> Float:
        """Return the metric per row of weights; one value without weights."""
        sums = self.addend_NM.sum(axis=0)[None, :] if weights_BN is None else weights_BN @ self.addend_NM
        return self.finish(sums)


def accuracy_sums(y_N: Int, predicted_N: Int) -> TileSums:
    """Share of correct tiles."""
    return TileSums(_with_one((predicted_N == y_N)[:, None]), lambda s: _ratio(s[:, 0], s[:, 1]))


def balanced_accuracy_sums(y_N: Int, predicted_N: Int, n_classes: int) -> TileSums:
    """Mean recall over all classes; undefined where a class has no tile."""
    class_NK = _one_hot(y_N, n_classes)
    hit_NK = class_NK * (predicted_N == y_N)[:, None]

    def finish(sums_BM: Float) -> Float:
        return np.asarray(_ratio(sums_BM[:, :n_classes], sums_BM[:, n_classes:]).mean(axis=1))

    return TileSums(np.hstack([hit_NK, class_NK]), finish)


def macro_f1_sums(y_N: Int, predicted_N: Int, n_classes: int) -> TileSums:
    """Mean F1 over all classes; undefined where a class has no tile."""
    class_NK = _one_hot(y_N, n_classes)
    guess_NK = _one_hot(predicted_N, n_classes)

    def finish(sums_BM: Float) -> Float:
        hit, true, guessed = np.split(sums_BM, 3, axis=1)
        f1_BK = _ratio(2.0 * hit, true + guessed)
        return np.asarray(np.where(true > 0, f1_BK, np.nan).mean(axis=1))

    return TileSums(np.hstack([class_NK * guess_NK, class_NK, guess_NK]), finish)


def log_loss_sums(y_N: Int, probability_NK: Float) -> TileSums:
    """Mean negative log-probability of the true class, nats; probabilities are clipped as scikit-learn clips them."""
    p_N = probability_NK[np.arange(len(y_N)), y_N]
    loss_N = -np.log(np.clip(p_N, EPSILON, 1.0 - EPSILON))
    return TileSums(_with_one(loss_N[:, None]), lambda s: _ratio(s[:, 0], s[:, 1]))


def brier_sums(y_N: Int, probability_NK: Float) -> TileSums:
    """Mean squared error of the probabilities: of class 1 in binary tasks, summed over classes otherwise."""
    n_classes = probability_NK.shape[1]
    error_NK = (probability_NK - _one_hot(y_N, n_classes)) ** 2
    square_N = error_NK[:, 1] if n_classes == 2 else error_NK.sum(axis=1)
    return TileSums(_with_one(square_N[:, None]), lambda s: _ratio(s[:, 0], s[:, 1]))


def ece_sums(y_N: Int, probability_NK: Float, n_bins: int = ECE_BINS) -> TileSums:
    """Expected calibration error over equal bins: of class 1 in binary tasks, of the top class otherwise.

    Not debiased: with few tiles it lies above zero even for calibrated heads.
    """
    if probability_NK.shape[1] == 2:
        confidence_N, hit_N = probability_NK[:, 1], (y_N == 1).astype(np.float64)
    else:
        confidence_N = probability_NK.max(axis=1)
        hit_N = (probability_NK.argmax(axis=1) == y_N).astype(np.float64)
    bin_N = np.minimum((confidence_N * n_bins).astype(np.int64), n_bins - 1)
    gap_Nb = _one_hot(bin_N, n_bins) * (confidence_N - hit_N)[:, None]

    def finish(sums_BM: Float) -> Float:
        return _ratio(np.abs(sums_BM[:, :-1]).sum(axis=1), sums_BM[:, -1])

    return TileSums(_with_one(gap_Nb), finish)


def patient_recognition_sums(y_N: Int, predicted_N: Int, patient_N: Int) -> TileSums:
    """Mean over patients of the share of a patient's tiles that are correct (Spanhol et al., IEEE TBME 2016).

    A patient's rate stands at its first tile: weights must be equal within a patient, as they are when whole groups
    are resampled.
    """
    total_P = np.bincount(patient_N)
    rate_P = np.bincount(patient_N, weights=predicted_N == y_N) / np.maximum(total_P, 1)
    first_N = np.zeros(len(y_N))
    first_N[np.unique(patient_N, return_index=True)[1]] = 1.0
    addend_N2 = np.stack([rate_P[patient_N] * first_N, first_N], axis=1)
    return TileSums(addend_N2, lambda s: _ratio(s[:, 0], s[:, 1]))


def accuracy(y_N: Int, predicted_N: Int) -> float:
    """Return the share of correct tiles."""
    return float(accuracy_sums(y_N, predicted_N).value()[0])


def balanced_accuracy(y_N: Int, predicted_N: Int, n_classes: int) -> float:
    """Return the mean recall over classes; NaN where a class has no tile."""
    return float(balanced_accuracy_sums(y_N, predicted_N, n_classes).value()[0])


def macro_f1(y_N: Int, predicted_N: Int, n_classes: int) -> float:
    """Return the mean F1 over classes; NaN where a class has no tile."""
    return float(macro_f1_sums(y_N, predicted_N, n_classes).value()[0])


def log_loss(y_N: Int, probability_NK: Float) -> float:
    """Return the mean negative log-probability of the true class, nats."""
    return float(log_loss_sums(y_N, probability_NK).value()[0])


def brier(y_N: Int, probability_NK: Float) -> float:
    """Return the Brier score."""
    return float(brier_sums(y_N, probability_NK).value()[0])


def ece(y_N: Int, probability_NK: Float, n_bins: int = ECE_BINS) -> float:
    """Return the expected calibration error."""
    return float(ece_sums(y_N, probability_NK, n_bins).value()[0])


def auroc(y_N: Int, score_NK: Float, fold_N: Int | None = None) -> float:
    """Return the area under the ROC curve, ties counted half.

    Args:
        y_N: Labels.
        score_NK: Ranking score per class; binary tasks use column 1 minus column 0, others the mean over classes of
            one-vs-rest.
        fold_N: Compare only tiles of one fold (which one head scored).

    Returns:
        The value; NaN where a class has no pair to compare.

    Example:
        >>> auroc(np.array([0, 1, 1]), np.array([[0.0, 0.2], [0.0, 0.2], [0.0, 0.9]]))
        0.75
    """
    return float(weighted_auroc(y_N, score_NK, np.ones((1, len(y_N))), fold_N)[0])


def auprc(positive_N: Bool, score_N: Float) -> float:
    """Return the average precision (step-wise, as scikit-learn's); NaN without positive tiles."""
    return float(weighted_average_precision(positive_N, score_N, np.ones((1, len(score_N))))[0])


def ranking_tasks(y_N: Int, score_NK: Float) -> list[tuple[Bool, Float]]:
    """Return (positive, score) of the binary rankings behind an AUROC: one, or one per class against the rest."""
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
        values.append(_ratio(wins_B, pairs_B))
    return np.asarray(np.mean(values, axis=0))


def weighted_average_precision(positive_N: Bool, score_N: Float, weights_BN: Float) -> Float:
    """Return the average precision for every row of weights (B,); NaN without positive weight."""
    order, starts = _tie_blocks(-score_N)
    weights_BN = weights_BN[:, order]
    positive_BU = np.add.reduceat(weights_BN * positive_N[order], starts, axis=1)
    all_BU = np.add.reduceat(weights_BN, starts, axis=1)
    return average_precision_from_blocks(positive_BU, np.cumsum(positive_BU, axis=1), np.cumsum(all_BU, axis=1))


def average_precision_from_blocks(positive_BU: Float, positives_above_BU: Float, above_BU: Float) -> Float:
    """Return sum over thresholds of precision times the recall gained.

    Args:
        positive_BU: Positive weight at each distinct score, best score first.
        positives_above_BU: Positive weight at this score or better.
        above_BU: Weight at this score or better.

    Returns:
        Values (B,).
    """
    precision_BU = np.divide(positives_above_BU, above_BU, out=np.zeros_like(above_BU), where=above_BU > 0)
    return _ratio(np.einsum("bu,bu->b", positive_BU, precision_BU), positive_BU.sum(axis=1))


def fold_rows(fold_N: Int | None, n_tiles: int) -> list[Int]:
    """Return the rows of each fold; all rows at once without folds."""
    if fold_N is None:
        return [np.arange(n_tiles)]
    return [np.flatnonzero(fold_N == fold) for fold in np.unique(fold_N)]


def _weighted_wins(positive_N: Bool, score_N: Float, weights_BN: Float) -> tuple[Float, Float]:
    """Return the weight of (positive above negative) pairs, ties half, and of all pairs."""
    order, starts = _tie_blocks(score_N)
    weights_BN = weights_BN[:, order]
    positive_BU = np.add.reduceat(weights_BN * positive_N[order], starts, axis=1)
    negative_BU = np.add.reduceat(weights_BN * ~positive_N[order], starts, axis=1)
    below_BU = np.cumsum(negative_BU, axis=1) - 0.5 * negative_BU
    return np.einsum("bu,bu->b", positive_BU, below_BU), positive_BU.sum(axis=1) * negative_BU.sum(axis=1)


def _tie_blocks(score_N: Float) -> tuple[Int, Int]:
    """Return the ascending order and where each block of equal scores starts in it."""
    order = np.argsort(score_N, kind="stable")
    ranked = score_N[order]
    return order, np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])


def _one_hot(code_N: Int, n_codes: int) -> Float:
    out = np.zeros((len(code_N), n_codes))
    out[np.arange(len(code_N)), code_N] = 1.0
    return out


def _with_one(addend_NM: NDArray[np.float64] | Bool) -> Float:
    return np.hstack([addend_NM.astype(np.float64), np.ones((len(addend_NM), 1))])


def _ratio(numerator: Float, denominator: Float) -> Float:
    """Divide; NaN where the denominator is 0."""
    return np.asarray(
        np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)
    )
