"""Correct log-odds for another prevalence, another cut, another spread."""

# n tiles, K classes, M = K - 1 classes after the first; x any axes in front

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.head import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

EDGE = 1e-3
"""Prevalences stay this far from 0 and 1."""
PRIOR = 1.0
"""Weight, in tiles, of the pull towards no correction: keeps it finite where classes separate."""
MAX_STEPS = 100


@dataclass(frozen=True)
class Affine:
    """A correction of margins: ``scale * margin + shift``, with a shift per class that is 0 for class 0."""

    scale: float
    shift_K: Float

    def __call__(self, margin_nK: Float) -> Float:
        """Return the corrected margins."""
        return np.asarray(self.scale * margin_nK + self.shift_K)


def two_class_margins(margin_xn: Float) -> Float:
    """Return log-odds of class 1 as margins of two classes, (..., n, 2): class 0 lies at 0."""
    return np.stack([np.zeros_like(margin_xn), margin_xn], axis=-1)


def log_priors(share_K: Float) -> Float:
    """Return the log-odds of each class against class 0, shares kept off 0 and 1."""
    log_K = np.log(_kept(share_K))
    return np.asarray(log_K - log_K[0])


def estimate_prevalence(margin_nK: Float, source_K: Float) -> Float:
    """Return the share of each class without labels, by expectation maximisation.

    Saerens, Latinne and Decaestecker, Neural Computation 14(1), 2002: only the prevalence differs, and the
    probabilities are calibrated at the source's. The source's prevalence counts as one more tile, since a head that
    says nearly the same of every tile would otherwise let the estimate run to 0 or 1.

    Args:
        margin_nK: Log-odds of each class against class 0, of unlabelled tiles.
        source_K: Share of each class at which the head was trained.

    Returns:
        The shares, within 0.001 and 0.999.

    Example:
        >>> margins = two_class_margins(np.repeat([-9.0, 9.0], [80, 20]))
        >>> estimate_prevalence(margins, np.array([0.5, 0.5])).round(2)
        array([0.8, 0.2])
    """
    share_K = np.asarray(source_K, np.float64)
    for _ in range(1000):
        said_nK = softmax(margin_nK + log_priors(share_K) - log_priors(source_K))
        new_K = _kept((said_nK.sum(axis=0) + PRIOR * source_K) / (len(said_nK) + PRIOR))
        if np.abs(new_K - share_K).max() < 1e-7:
            break
        share_K = new_K
    return share_K


def fit_affine(margin_nK: Float, y_n: Int, *, scale: bool, weight_n: Float | None = None) -> Affine:
    """Fit a shift per class, and a common scale where asked for, by log-loss with Newton's method.

    Args:
        margin_nK: Log-odds of each class against class 0.
        y_n: Labels.
        scale: Fit the scale too; 1 otherwise. A scale is at least 0.01, as it never turns the ranking around.
        weight_n: Weight of every tile; 1 each without.

    Returns:
        The correction, pulled towards none with the weight of one tile, whichever class comes first.

    Example:
        >>> margins, labels = np.zeros((1000, 2)), np.repeat([0, 1], [800, 200])
        >>> fit_affine(margins, labels, scale=False).shift_K.round(1)  # log-odds of 0.2
        array([ 0. , -1.4])
    """
    n_classes = margin_nK.shape[1]
    loss = _Loss(margin_nK, y_n, np.ones(len(y_n)) if weight_n is None else weight_n)
    free_K = np.r_[scale, np.ones(n_classes - 1, bool)]
    theta_K = loss.start_K
    value = loss(theta_K)
    for _ in range(MAX_STEPS):
        slope_K, bend_KK = loss.derivatives(theta_K)
        step_K = np.zeros(n_classes)
        step_K[free_K] = np.linalg.solve(bend_KK[np.ix_(free_K, free_K)], slope_K[free_K])
        size = 1.0
        while size > 1e-8 and loss(theta_K - size * step_K) > value:
            size *= 0.5
        theta_K = theta_K - size * step_K
        value = loss(theta_K)
        if np.abs(size * step_K).max() < 1e-10:
            break
    return Affine(max(float(theta_K[0]), 0.01), np.r_[0.0, theta_K[1:]])


class _Loss:
    """Log-loss of a correction, summed over tiles, and its pull towards none; theta is the scale, then the shifts.

    The pull on the shifts is their spread over classes, so that it is the same whichever class lies at 0; with two
    classes it is half the square of the one shift.

    Args:
        margin_nK: Margins; class 0 lies at 0.
        y_n: Labels.
        weight_n: Weights.
    """

    def __init__(self, margin_nK: Float, y_n: Int, weight_n: Float) -> None:
        n_classes = margin_nK.shape[1]
        self.start_K = np.r_[1.0, np.zeros(n_classes - 1)]
        self._margin_nK, self._y_n, self._weight_n = margin_nK, y_n, weight_n
        self._hit_nM = (y_n[:, None] == np.arange(1, n_classes)).astype(np.float64)
        self._pull_KK = np.zeros((n_classes, n_classes))
        self._pull_KK[0, 0] = PRIOR
        self._pull_KK[1:, 1:] = 2.0 * PRIOR * (np.eye(n_classes - 1) - 1.0 / n_classes)

    def __call__(self, theta_K: Float) -> float:
        """Return the value."""
        z_nK = self._corrected(theta_K)
        top_n1 = z_nK.max(axis=1, keepdims=True)
        total_n = np.log(np.exp(z_nK - top_n1).sum(axis=1)) + top_n1[:, 0]
        lost_n = total_n - z_nK[np.arange(len(z_nK)), self._y_n]
        away_K = theta_K - self.start_K
        return float(self._weight_n @ lost_n + 0.5 * away_K @ self._pull_KK @ away_K)

    def derivatives(self, theta_K: Float) -> tuple[Float, Float]:
        """Return gradient and Hessian."""
        p_nM = softmax(self._corrected(theta_K))[:, 1:]
        margin_nM, weight_n1 = self._margin_nK[:, 1:], self._weight_n[:, None]
        said_nM = weight_n1 * p_nM
        miss_nM = said_nM - weight_n1 * self._hit_nM
        slope_K = np.r_[(miss_nM * margin_nM).sum(), miss_nM.sum(axis=0)] + self._pull_KK @ (theta_K - self.start_K)
        mean_n1 = (p_nM * margin_nM).sum(axis=1, keepdims=True)
        bend_KK = self._pull_KK.copy()
        bend_KK[0, 0] += (said_nM * margin_nM**2).sum() - (weight_n1 * mean_n1**2).sum()
        across_M = (said_nM * (margin_nM - mean_n1)).sum(axis=0)
        bend_KK[0, 1:] += across_M
        bend_KK[1:, 0] += across_M
        bend_KK[1:, 1:] += np.diag(said_nM.sum(axis=0)) - said_nM.T @ p_nM
        return slope_K, bend_KK

    def _corrected(self, theta_K: Float) -> Float:
        return np.asarray(theta_K[0] * self._margin_nK + np.r_[0.0, theta_K[1:]])


def _kept(share_K: Float) -> Float:
    kept_K = np.clip(share_K, EDGE, 1.0 - EDGE)
    return np.asarray(kept_K / kept_K.sum())
