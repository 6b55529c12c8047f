"""Correct log-odds for another prevalence, another cut, another spread."""

# n tiles

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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
    """A correction of log-odds: ``scale * margin + shift``."""

    scale: float
    shift: float

    def __call__(self, margin_n: Float) -> Float:
        """Return the corrected log-odds."""
        return np.asarray(self.scale * margin_n + self.shift)


def sigmoid(margin_n: Float) -> Float:
    """Return probabilities of log-odds."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * margin_n)))


def log_odds(share: float) -> float:
    """Return the log-odds of a share, kept off 0 and 1."""
    kept = min(max(share, EDGE), 1.0 - EDGE)
    return float(np.log(kept / (1.0 - kept)))


def estimate_prevalence(margin_n: Float, source: float) -> float:
    """Return the prevalence of class 1 without labels, by expectation maximisation.

    Saerens, Latinne and Decaestecker, Neural Computation 14(1), 2002: only the prevalence differs, and the
    probabilities are calibrated at the source's. The source's prevalence counts as one more tile, since a head that
    says nearly the same of every tile would otherwise let the estimate run to 0 or 1.

    Args:
        margin_n: Log-odds of class 1 of unlabelled tiles.
        source: Prevalence at which the head was trained.

    Returns:
        The prevalence, within 0.001 and 0.999.

    Example:
        >>> margins = np.repeat([-9.0, 9.0], [80, 20])
        >>> round(estimate_prevalence(margins, 0.5), 2)
        0.2
    """
    share = source
    for _ in range(1000):
        said_n = sigmoid(margin_n + log_odds(share) - log_odds(source))
        new = float((said_n.sum() + PRIOR * source) / (len(said_n) + PRIOR))
        new = min(max(new, EDGE), 1.0 - EDGE)
        if abs(new - share) < 1e-7:
            break
        share = new
    return share


def fit_affine(margin_n: Float, y_n: Int, *, scale: bool) -> Affine:
    """Fit a shift, and a scale where asked for, by log-loss with Newton's method.

    Args:
        margin_n: Log-odds.
        y_n: Labels.
        scale: Fit the scale too; 1 otherwise. A scale is at least 0.01, as it never turns the ranking around.

    Returns:
        The correction, pulled towards none with the weight of one tile.

    Example:
        >>> margins, labels = np.zeros(100), np.repeat([0, 1], [80, 20])
        >>> round(fit_affine(margins, labels, scale=False).shift, 1)  # log-odds of 0.2
        -1.4
    """
    design_n2 = np.stack([margin_n, np.ones_like(margin_n)], axis=1)
    free = np.array([scale, True])
    theta_2 = np.array([1.0, 0.0])
    value = _objective(design_n2, y_n, theta_2)
    for _ in range(MAX_STEPS):
        p_n = sigmoid(design_n2 @ theta_2)
        slope_2 = design_n2.T @ (p_n - y_n) + PRIOR * (theta_2 - [1.0, 0.0])
        bend_22 = (design_n2.T * (p_n * (1.0 - p_n))) @ design_n2 + PRIOR * np.eye(2)
        step_2 = np.zeros(2)
        step_2[free] = np.linalg.solve(bend_22[np.ix_(free, free)], slope_2[free])
        size = 1.0
        while size > 1e-8 and _objective(design_n2, y_n, theta_2 - size * step_2) > value:
            size *= 0.5
        theta_2 = theta_2 - size * step_2
        value = _objective(design_n2, y_n, theta_2)
        if np.abs(size * step_2).max() < 1e-10:
            break
    return Affine(max(float(theta_2[0]), 0.01), float(theta_2[1]))


def _objective(design_n2: Float, y_n: Int, theta_2: Float) -> float:
    signed_n = np.where(y_n == 1, -1.0, 1.0) * (design_n2 @ theta_2)
    pull = theta_2 - np.array([1.0, 0.0])
    return float(np.logaddexp(0.0, signed_n).sum() + 0.5 * PRIOR * (pull @ pull))
