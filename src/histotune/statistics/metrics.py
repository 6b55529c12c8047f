"""Which metrics there are, and each as a function of arrays: ties counted correctly, NaN where undefined."""

# N tiles, K classes

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from histotune.statistics import sums
from histotune.statistics.ranking import weighted_auroc, weighted_average_precision, weighted_sensitivity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]

MetricName = Literal[
    "accuracy", "balanced_accuracy", "macro_f1", "mcc", "auroc", "auprc", "sensitivity_at_95_specificity",
    "specificity_at_95_sensitivity", "log_loss", "brier", "ece", "ece_debiased", "patient_recognition_rate",
]  # fmt: skip
METRIC_NAMES: tuple[MetricName, ...] = get_args(MetricName)
LOWER_IS_BETTER: tuple[MetricName, ...] = ("log_loss", "brier", "ece", "ece_debiased")
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


def metric_kind(name: MetricName, n_classes: int = 2) -> MetricKind:
    """Return a metric's range and needs.

    Args:
        name: The metric.
        n_classes: Number of classes; a Brier score summed over more than two reaches 2.

    Returns:
        Its kind.
    """
    if name in ("balanced_accuracy", "macro_f1", "auroc", "auprc"):
        return MetricKind(needs_every_class=True)
    if name in ("sensitivity_at_95_specificity", "specificity_at_95_sensitivity"):
        return MetricKind(needs_every_class=True, binary_only=True)
    if name == "mcc":
        return MetricKind(low=-1.0)
    if name == "log_loss":
        return MetricKind(high=float("inf"))
    if name == "brier" and n_classes > 2:
        return MetricKind(high=2.0)
    return MetricKind()


def accuracy(y_N: Int, predicted_N: Int) -> float:
    """Return the share of correct tiles."""
    return float(sums.accuracy_sums(y_N, predicted_N).value()[0])


def balanced_accuracy(y_N: Int, predicted_N: Int, n_classes: int) -> float:
    """Return the mean recall over classes; NaN where a class has no tile."""
    return float(sums.balanced_accuracy_sums(y_N, predicted_N, n_classes).value()[0])


def macro_f1(y_N: Int, predicted_N: Int, n_classes: int) -> float:
    """Return the mean F1 over classes; NaN where a class has no tile."""
    return float(sums.macro_f1_sums(y_N, predicted_N, n_classes).value()[0])


def mcc(y_N: Int, predicted_N: Int, n_classes: int) -> float:
    """Return the Matthews correlation; NaN where labels or decisions are all the same."""
    return float(sums.mcc_sums(y_N, predicted_N, n_classes).value()[0])


def log_loss(y_N: Int, probability_NK: Float) -> float:
    """Return the mean negative log-probability of the true class, nats."""
    return float(sums.log_loss_sums(y_N, probability_NK).value()[0])


def brier(y_N: Int, probability_NK: Float) -> float:
    """Return the Brier score."""
    return float(sums.brier_sums(y_N, probability_NK).value()[0])


def ece(y_N: Int, probability_NK: Float, n_bins: int = sums.ECE_BINS) -> float:
    """Return the expected calibration error."""
    return float(sums.ece_sums(y_N, probability_NK, n_bins).value()[0])


def ece_debiased(y_N: Int, probability_NK: Float, n_bins: int = sums.ECE_BINS) -> float:
    """Return the expected calibration error less what chance adds (Kumar et al., NeurIPS 2019)."""
    return float(sums.ece_debiased_sums(y_N, probability_NK, n_bins).value()[0])


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


def sensitivity_at(positive_N: Bool, score_N: Float, specificity: float = FIXED_RATE) -> float:
    """Return the best sensitivity of a threshold whose specificity is at least the given.

    Example:
        >>> sensitivity_at(np.array([True, True, False, False]), np.array([3.0, 1.0, 2.0, 0.0]), 0.9)
        0.5
    """
    return float(weighted_sensitivity(positive_N, score_N, np.ones((1, len(score_N))), specificity)[0])


def specificity_at(positive_N: Bool, score_N: Float, sensitivity: float = FIXED_RATE) -> float:
    """Return the best specificity of a threshold whose sensitivity is at least the given."""
    return sensitivity_at(~positive_N, -score_N, sensitivity)
