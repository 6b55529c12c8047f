"""Metrics that are a function of a few sums over tiles, with their derivatives.

:class:`TileSums` holds what each tile adds, so that a weighted metric, a bootstrap over tiles and one over groups are
the same matrix product. Arrays may have further axes in front: all functions look at the last one.
"""

# N tiles, K classes, B resamples, M sums, R ratios, b bins; x any axes in front

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.statistics.arrays import one_hot, ratio

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

ECE_BINS = 15
EPSILON = float(np.finfo(np.float64).eps)


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
    addend_N2 = np.stack([value_N.astype(np.float64), np.ones(len(value_N))], axis=1)
    return MeanOfRatios(np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])).of(addend_N2)


def accuracy_sums(y_N: Int, predicted_N: Int) -> TileSums:
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
        n_x = sums_xM[..., true].sum(axis=-1)
        covariance_x = sums_xM[..., 0] * n_x - (sums_xM[..., true] * sums_xM[..., guessed]).sum(axis=-1)
        spread_true_x = n_x**2 - (sums_xM[..., true] ** 2).sum(axis=-1)
        spread_guessed_x = n_x**2 - (sums_xM[..., guessed] ** 2).sum(axis=-1)
        return n_x, covariance_x, spread_true_x, spread_guessed_x

    def finish(sums_xM: Float) -> Float:
        _, covariance_x, true_x, guessed_x = parts(sums_xM)
        return ratio(covariance_x, np.sqrt(true_x * guessed_x))

    def gradient(sums_xM: Float) -> Float:
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
    total_P = np.bincount(patient_N)
    rate_P = np.bincount(patient_N, weights=predicted_N == y_N) / np.maximum(total_P, 1)
    first_N = np.zeros(len(y_N))
    first_N[np.unique(patient_N, return_index=True)[1]] = 1.0
    addend_N2 = np.stack([rate_P[patient_N] * first_N, first_N], axis=1)
    return MeanOfRatios(np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])).of(addend_N2)


def _confidence(y_N: Int, probability_NK: Float) -> tuple[Float, Float]:
    """Return the probability that is judged, and whether it came true."""
    if probability_NK.shape[1] == 2:
        return probability_NK[:, 1], (y_N == 1).astype(np.float64)
    return probability_NK.max(axis=1), (probability_NK.argmax(axis=1) == y_N).astype(np.float64)


def _bins(confidence_N: Float, n_bins: int) -> Float:
    return one_hot(np.minimum((confidence_N * n_bins).astype(np.int64), n_bins - 1), n_bins)
