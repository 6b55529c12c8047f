"""Which metrics there are, and each as a function of arrays: ties counted correctly, NaN where undefined."""

# N tiles, K classes (or codes), B resamples, M sums, R ratios, b bins, P patients, U distinct scores; x any axes in
# front: all functions look at the last ones

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]


ECE_BINS = 15
EPSILON = float(np.finfo(np.float64).eps)
SLACK = 1e-9
"""Relative room for rounding where a rate is compared with the one asked for."""


# ------------------------------------------------------------------------------
# Metrics that are a function of a few sums over tiles, with their derivatives: :class:`TileSums` holds what each tile
# adds, so that a weighted metric, a bootstrap over tiles and one over groups are the same matrix product


@dataclass(frozen=True)
class TileSums:
    """A metric that is a function of sums over tiles.

    Attributes:
        addend_NM: What each tile adds to each sum.
        finish: Maps sums (..., M) to values (...); NaN where undefined.
        gradient: Maps sums (..., M) to the derivative of the value by each sum (..., M); None where the metric has
            kinks.
    """

    addend_NM: Float
    finish: Callable[[Float], Float]
    gradient: Callable[[Float], Float] | None = None

    def value(self, weights_BN: Float | None = None) -> Float:
        """Return the metric per row of weights; one value without weights."""
        sums = self.addend_NM.sum(axis=0)[None, :] if weights_BN is None else weights_BN @ self.addend_NM
        return self.finish(sums)


@dataclass(frozen=True)
class MeanOfRatios:
    """The mean of ratios of linear functions of the sums.

    Attributes:
        numerator_MR: Weights of the sums in each numerator.
        denominator_MR: Weights of the sums in each denominator.
        needed_MR: Sums that must be positive for a ratio to be defined; the denominators where left out.
    """

    numerator_MR: Float
    denominator_MR: Float
    needed_MR: Float | None = None

    def finish(self, sums_xM: Float) -> Float:
        """Return the values; NaN where a ratio is undefined."""
        ratio_xR = ratio(sums_xM @ self.numerator_MR, sums_xM @ self.denominator_MR)
        if self.needed_MR is not None:
            ratio_xR = np.where(sums_xM @ self.needed_MR > 0, ratio_xR, np.nan)
        return np.asarray(ratio_xR.mean(axis=-1))

    def gradient(self, sums_xM: Float) -> Float:
        """Return the derivative of the values by each sum."""
        over_xR = ratio(np.ones(()), sums_xM @ self.denominator_MR)
        ratio_xR = (sums_xM @ self.numerator_MR) * over_xR
        slope_xM = over_xR @ self.numerator_MR.T - (ratio_xR * over_xR) @ self.denominator_MR.T
        return np.asarray(slope_xM / self.numerator_MR.shape[1])

    def of(self, addend_NM: Float) -> TileSums:
        """Return the metric for tiles with these addends."""
        return TileSums(addend_NM, self.finish, self.gradient)


def mean_sums(value_N: NDArray[np.float64] | NDArray[np.bool_]) -> TileSums:
    """Mean of a value over tiles."""
    return _ratio_of_sums(value_N.astype(np.float64), np.ones(len(value_N)))


def accuracy_sums(y_N: Int, predicted_N: Int, _n_classes: int = 2) -> TileSums:
    """Share of correct tiles."""
    return mean_sums(predicted_N == y_N)


def balanced_accuracy_sums(y_N: Int, predicted_N: Int, n_classes: int) -> TileSums:
    """Mean recall over all classes; undefined where a class has no tile."""
    class_NK = one_hot(y_N, n_classes)
    hit_NK = class_NK * (predicted_N == y_N)[:, None]
    eye, zero = np.eye(n_classes), np.zeros((n_classes, n_classes))
    return MeanOfRatios(np.vstack([eye, zero]), np.vstack([zero, eye])).of(np.hstack([hit_NK, class_NK]))


def macro_f1_sums(y_N: Int, predicted_N: Int, n_classes: int) -> TileSums:
    """Mean F1 over all classes; undefined where a class has no tile."""
    # F1 of class k is 2 hits / (tiles of k + decisions for k); the sums are hits, tiles and decisions, K of each.
    class_NK, guess_NK = one_hot(y_N, n_classes), one_hot(predicted_N, n_classes)
    eye, zero = np.eye(n_classes), np.zeros((n_classes, n_classes))
    f1 = MeanOfRatios(
        np.vstack([2.0 * eye, zero, zero]), np.vstack([zero, eye, eye]), needed_MR=np.vstack([zero, eye, zero])
    )
    return f1.of(np.hstack([class_NK * guess_NK, class_NK, guess_NK]))


def mcc_sums(y_N: Int, predicted_N: Int, n_classes: int) -> TileSums:
    """Matthews correlation of labels and decisions (Gorodkin, Comput. Biol. Chem. 2004); NaN where either is constant.

    With c correct of s tiles, t_k of class k and p_k decided as k:
    (c s - sum t_k p_k) / sqrt((s^2 - sum p_k^2)(s^2 - sum t_k^2)).
    """
    hit_N1 = (predicted_N == y_N).astype(np.float64)[:, None]
    true, guessed = slice(1, 1 + n_classes), slice(1 + n_classes, 1 + 2 * n_classes)

    def parts(sums_xM: Float) -> tuple[Float, Float, Float, Float]:
        """Return the number of tiles, the covariance and both spreads."""
        n_x = sums_xM[..., true].sum(axis=-1)
        covariance_x = sums_xM[..., 0] * n_x - (sums_xM[..., true] * sums_xM[..., guessed]).sum(axis=-1)
        spread_true_x = n_x**2 - (sums_xM[..., true] ** 2).sum(axis=-1)
        spread_guessed_x = n_x**2 - (sums_xM[..., guessed] ** 2).sum(axis=-1)
        return n_x, covariance_x, spread_true_x, spread_guessed_x

    def finish(sums_xM: Float) -> Float:
        """Return the correlation."""
        _, covariance_x, true_x, guessed_x = parts(sums_xM)
        return ratio(covariance_x, np.sqrt(true_x * guessed_x))

    def gradient(sums_xM: Float) -> Float:
        """Return the derivative of the correlation by every sum."""
        n_x, covariance_x, true_x, guessed_x = (part[..., None] for part in parts(sums_xM))
        root_x = np.sqrt(true_x * guessed_x)
        value_x = ratio(covariance_x, root_x)
        correct_x1, t_xK, p_xK = sums_xM[..., :1], sums_xM[..., true], sums_xM[..., guessed]
        by_true_xK = ratio(correct_x1 - p_xK, root_x) - value_x * (ratio(n_x - t_xK, true_x) + ratio(n_x, guessed_x))
        by_guessed_xK = -ratio(t_xK, root_x) + value_x * ratio(p_xK, guessed_x)
        return np.concatenate([ratio(n_x, root_x), by_true_xK, by_guessed_xK], axis=-1)

    return TileSums(np.hstack([hit_N1, one_hot(y_N, n_classes), one_hot(predicted_N, n_classes)]), finish, gradient)


def log_loss_sums(y_N: Int, probability_NK: Float) -> TileSums:
    """Mean negative log-probability of the true class, nats; probabilities are clipped as scikit-learn clips them."""
    p_N = probability_NK[np.arange(len(y_N)), y_N]
    return mean_sums(-np.log(np.clip(p_N, EPSILON, 1.0 - EPSILON)))


def brier_sums(y_N: Int, probability_NK: Float) -> TileSums:
    """Mean squared error of the probabilities: of class 1 in binary tasks, summed over classes otherwise."""
    n_classes = probability_NK.shape[1]
    error_NK = (probability_NK - one_hot(y_N, n_classes)) ** 2
    return mean_sums(error_NK[:, 1] if n_classes == 2 else error_NK.sum(axis=1))


def ece_sums(y_N: Int, probability_NK: Float, n_bins: int = ECE_BINS) -> TileSums:
    """Expected calibration error over equal bins: of class 1 in binary tasks, of the top class otherwise.

    Not debiased: with few tiles it lies above zero even for calibrated heads; see :func:`ece_debiased_sums`.
    """
    confidence_N, hit_N = _confidence(y_N, probability_NK)
    gap_Nb = _bins(confidence_N, n_bins) * (confidence_N - hit_N)[:, None]

    def finish(sums_xM: Float) -> Float:
        """Return the mean gap between confidence and hits."""
        return ratio(np.abs(sums_xM[..., :-1]).sum(axis=-1), sums_xM[..., -1])

    return TileSums(np.hstack([gap_Nb, np.ones((len(y_N), 1))]), finish)


def ece_debiased_sums(y_N: Int, probability_NK: Float, n_bins: int = ECE_BINS) -> TileSums:
    """Expected calibration error less the part that chance alone would add; never below 0.

    A bin's observed gap d differs from the true one by noise of variance s^2 = q (1 - q) / n, q being the share of
    hits among its n tiles, so |d| is too large by about E|d + noise| - |d|. Kumar et al. ("Verified uncertainty
    calibration", NeurIPS 2019) draw that noise; its mean has a closed form, the folded normal's. Tiles count as
    independent here: where those of a group err together, part of the bias stays.
    """
    erf = np.vectorize(math.erf, otypes=[float])  # importing scipy for it takes longer than all intervals of a run
    confidence_N, hit_N = _confidence(y_N, probability_NK)
    bin_Nb = _bins(confidence_N, n_bins)
    addend_NM = np.hstack([bin_Nb * (confidence_N - hit_N)[:, None], bin_Nb * hit_N[:, None], bin_Nb])

    def finish(sums_xM: Float) -> Float:
        """Return the mean gap less what chance alone would show."""
        # Per bin, in tiles: gap d, noise s = sqrt(n q (1 - q)) and E|N(d, s^2)| = s sqrt(2 / pi) exp(-d^2 / 2 s^2) +
        # |d| erf(|d| / s sqrt 2), the folded normal's mean; the bin adds |d| less the excess of that mean over |d|.
        gap_xb, hits_xb, n_xb = np.split(sums_xM, 3, axis=-1)
        share_xb = hits_xb / np.maximum(n_xb, 1e-300)
        noise_xb = np.sqrt(np.maximum(n_xb * share_xb * (1.0 - share_xb), 1e-300))
        z_xb = np.abs(gap_xb) / noise_xb
        folded_xb = noise_xb * np.sqrt(2.0 / np.pi) * np.exp(-0.5 * np.minimum(z_xb, 38.0) ** 2)
        folded_xb += np.abs(gap_xb) * erf(z_xb / np.sqrt(2.0))
        corrected_x = (2.0 * np.abs(gap_xb) - folded_xb).sum(axis=-1)
        return np.maximum(ratio(corrected_x, n_xb.sum(axis=-1)), 0.0)

    return TileSums(addend_NM, finish)


def patient_recognition_sums(y_N: Int, predicted_N: Int, patient_N: Int) -> TileSums:
    """Mean over patients of the share of a patient's tiles that are correct (Spanhol et al., IEEE TBME 2016).

    A patient's rate stands at its first tile: weights must be equal within a patient, as they are when whole groups
    are resampled.
    """
    # The first tile of a patient carries its rate and counts 1, the others nothing: the mean over patients is a ratio
    # of two sums.
    total_P = np.bincount(patient_N)
    rate_P = np.bincount(patient_N, weights=predicted_N == y_N) / np.maximum(total_P, 1)
    first_N = np.zeros(len(y_N))
    first_N[np.unique(patient_N, return_index=True)[1]] = 1.0
    return _ratio_of_sums(rate_P[patient_N] * first_N, first_N)


def _ratio_of_sums(part_N: Float, whole_N: Float) -> TileSums:
    return MeanOfRatios(np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])).of(np.stack([part_N, whole_N], axis=1))


def _confidence(y_N: Int, probability_NK: Float) -> tuple[Float, Float]:
    """Return the probability that is judged, and whether it came true."""
    if probability_NK.shape[1] == 2:
        return probability_NK[:, 1], (y_N == 1).astype(np.float64)
    return probability_NK.max(axis=1), (probability_NK.argmax(axis=1) == y_N).astype(np.float64)


def _bins(confidence_N: Float, n_bins: int) -> Float:
    return one_hot(np.minimum((confidence_N * n_bins).astype(np.int64), n_bins - 1), n_bins)


OF_DECISIONS: dict[str, Callable[[Int, Int, int], TileSums]] = {
    "accuracy": accuracy_sums, "balanced_accuracy": balanced_accuracy_sums, "macro_f1": macro_f1_sums, "mcc": mcc_sums,
}  # fmt: skip
OF_PROBABILITIES: dict[str, Callable[[Int, Float], TileSums]] = {
    "log_loss": log_loss_sums, "brier": brier_sums, "ece": ece_sums, "ece_debiased": ece_debiased_sums,
}  # fmt: skip
"""Metrics that are sums over tiles, by what they look at."""
MetricName = Literal[
    "accuracy", "balanced_accuracy", "macro_f1", "mcc", "auroc", "auprc", "sensitivity_at_95_specificity",
    "specificity_at_95_sensitivity", "log_loss", "brier", "ece", "ece_debiased", "patient_recognition_rate",
]  # fmt: skip
METRIC_NAMES: tuple[MetricName, ...] = get_args(MetricName)
LOWER_IS_BETTER: tuple[MetricName, ...] = ("log_loss", "brier", "ece", "ece_debiased")
OPERATING_POINTS: tuple[MetricName, ...] = ("sensitivity_at_95_specificity", "specificity_at_95_sensitivity")
FIXED_RATE = 0.95
"""The rate held by ``sensitivity_at_95_specificity`` and its reverse."""


@dataclass(frozen=True)
class MetricKind:
    """What the statistics must know of a metric.

    Attributes:
        low: Least value.
        high: Largest value; infinite where there is none.
        needs_every_class: It is undefined where a class has no tile.
        binary_only: It is defined for two classes.
    """

    low: float = 0.0
    high: float = 1.0
    needs_every_class: bool = False
    binary_only: bool = False


KINDS: dict[str, MetricKind] = {
    **dict.fromkeys(("balanced_accuracy", "macro_f1", "auroc", "auprc"), MetricKind(needs_every_class=True)),
    **dict.fromkeys(OPERATING_POINTS, MetricKind(needs_every_class=True, binary_only=True)),
    "mcc": MetricKind(low=-1.0),
    "log_loss": MetricKind(high=float("inf")),
}
"""The kind of every metric that is not a plain one."""


def metric_kind(name: MetricName, n_classes: int = 2) -> MetricKind:
    """Return a metric's range and needs."""
    return MetricKind(high=2.0) if name == "brier" and n_classes > 2 else KINDS.get(name, MetricKind())


def balanced_accuracy(y_N: Int, predicted_N: Int, n_classes: int) -> float:
    """Return the mean recall over classes: 1/K sum_k (correct tiles of class k) / (tiles of class k).

    Args:
        y_N: Labels 0..K-1, one per tile.
        predicted_N: Predicted labels.
        n_classes: K.

    Returns:
        The mean recall; NaN where a class has no tile.
    """
    return float(balanced_accuracy_sums(y_N, predicted_N, n_classes).value()[0])


def macro_f1(y_N: Int, predicted_N: Int, n_classes: int) -> float:
    """Return the mean F1 over classes; NaN where a class has no tile."""
    return float(macro_f1_sums(y_N, predicted_N, n_classes).value()[0])


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


# ------------------------------------------------------------------------------
# Metrics that rank tiles: AUROC, average precision, operating points; ties counted correctly, weighted


def ranking_tasks(y_N: Int, score_NK: Float) -> list[tuple[Bool, Float]]:
    """Return (positive, score) of the binary rankings behind a metric: one, or one per class against the rest."""
    n_classes = score_NK.shape[1]
    if n_classes == 2:
        return [(y_N == 1, score_NK[:, 1] - score_NK[:, 0])]
    return [(y_N == label, score_NK[:, label]) for label in range(n_classes)]


def weighted_auroc(y_N: Int, score_NK: Float, weights_BN: Float, fold_N: Int | None = None) -> Float:
    """Return AUROC for every row of weights (counts of a resample, or real weights)."""
    values = []
    for positive_N, score_N in ranking_tasks(y_N, score_NK):
        wins_B, pairs_B = np.zeros(len(weights_BN)), np.zeros(len(weights_BN))
        for rows in fold_rows(fold_N, len(y_N)):
            wins, pairs = _weighted_wins(positive_N[rows], score_N[rows], weights_BN[:, rows])
            wins_B, pairs_B = wins_B + wins, pairs_B + pairs
        values.append(ratio(wins_B, pairs_B))
    return np.asarray(np.mean(values, axis=0))


class ThresholdWalk:
    """Average precision, or the sensitivity at a specificity, gathered along thresholds from the best score down."""

    def __init__(self, negatives_B: Float, specificity: float | None) -> None:
        """Begin above the best score."""
        self._negatives_B = np.asarray(negatives_B, dtype=np.float64)
        self._specificity = specificity
        self._gathered_B = np.zeros(len(negatives_B))
        self._positives_B = np.zeros(len(negatives_B))

    def step(self, positives_above_BU: NDArray[np.floating], above_BU: NDArray[np.floating]) -> None:
        """Pass some thresholds."""
        # Average precision adds gained positives times the precision there; a sensitivity keeps the most positives of
        # the thresholds that let at most 1 - specificity of the negatives through.
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


def walk_down(positive_N: Bool, score_N: Float, weights_BN: Float, specificity: float | None = None) -> Float:
    """Return, for every row of weights, the average precision; with a specificity, the best sensitivity that keeps it.

    NaN without positive weight.
    """
    # Weights are summed over each run of equal scores, best first, and cumulated: what lies at a threshold or above.
    order, starts = tie_blocks(-score_N)
    weights_BN = weights_BN[:, order]
    positive_BU = np.add.reduceat(weights_BN * positive_N[order], starts, axis=1)
    all_BU = np.add.reduceat(weights_BN, starts, axis=1)
    walk = ThresholdWalk((all_BU - positive_BU).sum(axis=1), specificity)
    walk.step(np.cumsum(positive_BU, axis=1), np.cumsum(all_BU, axis=1))
    return walk.value()


def _weighted_wins(positive_N: Bool, score_N: Float, weights_BN: Float) -> tuple[Float, Float]:
    """Return the weight of (positive above negative) pairs, ties half, and of all pairs."""
    # Positive weight at each distinct score times the negative weight below it and half of that at it.
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


# ------------------------------------------------------------------------------
# Small array helpers of this room


def one_hot(code_N: Int, n_codes: int) -> Float:
    """Return a 1 in the column of each row's code."""
    out_NK = np.zeros((len(code_N), n_codes))
    out_NK[np.arange(len(code_N)), code_N] = 1.0
    return out_NK


def ratio(numerator: Float, denominator: Float) -> Float:
    """Divide; NaN where the denominator is not positive."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    out = np.full(shape, np.nan)
    return np.asarray(np.divide(numerator, denominator, out=out, where=denominator > 0))
