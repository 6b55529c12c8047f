"""From diameters to one scale: medians over groups, their bootstrap, and one factor for all magnifications.

Legend: G groups, M magnifications, R resamples. Nuclei that are too small to measure enter as minus infinity: a median
stays right as long as fewer than half are, and says so when not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

Z95 = 1.96
METHOD_FACTOR = 1.25  # crowding, chromatin, texture: rendered tissue, also with stained stroma, measures 0.8 to 1.04
APPARENT = 0.92  # of their true diameter: drawn discs that cover 30 % of the plane, as nuclei do where cells are
BETWEEN_GROUPS = 0.15  # log deviation of typical diameters between cases: low to high grade is 7.5 to 9.6 um


@dataclass(frozen=True)
class Fit:
    """Medians with their uncertainty.

    Attributes:
        log_M: Log diameter in px; NaN without data, minus infinity where nuclei are too small.
        resampled_RM: The same for resampled groups.
        error_M: Standard error of ``log_M``; NaN where there is no finite value.
        log_unit: Log of um/px at 1X by the joint fit; NaN where no magnification was measured or ratios are unknown.
        unit_error: Its standard error by sampling of groups.
        used_M: Magnifications in the joint fit.
    """

    log_M: Doubles
    resampled_RM: Doubles
    error_M: Doubles
    log_unit: float
    unit_error: float
    used_M: NDArray[np.bool_]


def fit_scale(
    log_GM: Doubles, log_ratio_M: Doubles | None, prior_um: float, n_resamples: int, rng: np.random.Generator
) -> Fit:
    """Take medians over groups and, where ratios are known, fit one factor to all magnifications that agree.

    Blur and clumps make small nuclei look large, so the finest magnification is trusted first; a coarser one joins
    only where its nuclei stand in the known ratio to the finer ones within what sampling and method explain.

    Args:
        log_GM: Log diameter in px per group and magnification (G, M); NaN where a group has none.
        log_ratio_M: Log of um/px per magnification over that of 1X (M,); None where unknown.
        prior_um: True nuclear diameter; crowded nuclei measure :data:`APPARENT` times as much.
        n_resamples: Bootstrap resamples of groups.
        rng: Draws them.

    Returns:
        The fit.
    """
    log_M = _median(log_GM[None])[0]
    drawn_RG = rng.integers(0, len(log_GM), (n_resamples, len(log_GM)))
    resampled_RM = _median(log_GM[drawn_RG])
    error_M = np.array([
        _error(resampled_RM[:, column], int(np.sum(~np.isnan(log_GM[:, column]))))
        if np.isfinite(log_M[column]) else np.nan for column in range(len(log_M))
    ])  # fmt: skip
    finite_M = np.isfinite(log_M)
    if log_ratio_M is None or not finite_M.any():
        return Fit(log_M, resampled_RM, error_M, math.nan, math.nan, finite_M & False)
    units_M = math.log(APPARENT * prior_um) - log_M - log_ratio_M
    used_M = _agreeing(units_M, error_M, log_ratio_M)
    weighted_M = np.where(used_M, error_M, np.nan)
    log_unit = float(_weighted(units_M[None], weighted_M)[0])
    resampled_R = _weighted(math.log(APPARENT * prior_um) - resampled_RM - log_ratio_M, weighted_M)
    n_groups = int(np.sum(~np.isnan(log_GM[:, used_M]).all(axis=1)))
    return Fit(log_M, resampled_RM, error_M, log_unit, _error(resampled_R, n_groups), used_M)


def combined_factor(*parts: float) -> float:
    """Return the factor of a product of independent factors, each meant as a 95 % range.

    Args:
        parts: Multiplicative uncertainties, at least 1.

    Returns:
        The root of the sum of squares of their logarithms, as a factor.

    Example:
        >>> round(combined_factor(1.25, 1.0), 2)
        1.25
    """
    return math.exp(math.sqrt(sum(math.log(part) ** 2 for part in parts)))


def interval(values: Doubles) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of the finite values; NaN where there are none."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def _median(log_RGM: Doubles) -> Doubles:
    """Return the median over groups, NaN ignored; minus infinity counts as the smallest value."""
    ordered_RGM = np.sort(log_RGM, axis=1)  # NaN last
    n_RM = np.sum(~np.isnan(log_RGM), axis=1)
    low_RM, high_RM = (
        np.take_along_axis(ordered_RGM, np.maximum(rank_RM, 0)[:, None], axis=1)[:, 0]
        for rank_RM in ((n_RM - 1) // 2, n_RM // 2)
    )
    return np.asarray(np.where(n_RM > 0, (low_RM + high_RM) / 2, np.nan))


def _agreeing(units_M: Doubles, error_M: Doubles, log_ratio_M: Doubles) -> NDArray[np.bool_]:
    """Return which magnifications enter the joint fit, taken from the finest to the coarsest."""
    used_M = np.zeros(len(units_M), bool)
    for column in np.argsort(log_ratio_M):
        if not np.isfinite(error_M[column]):
            continue
        if used_M.any():
            so_far = float(_weighted(units_M[None], np.where(used_M, error_M, np.nan))[0])
            error = math.hypot(float(error_M[column]), float(np.sum(1 / error_M[used_M] ** 2)) ** -0.5)
            if abs(units_M[column] - so_far) > math.hypot(math.log(METHOD_FACTOR), Z95 * error):
                continue
        used_M[column] = True
    return used_M


def _error(resampled_R: Doubles, n_groups: int) -> float:
    """Return the bootstrap's standard error, but never less than what cases are known to differ by."""
    finite = resampled_R[np.isfinite(resampled_R)]
    spread = float(finite.std()) if len(finite) > 1 else 0.0
    return max(spread, BETWEEN_GROUPS / math.sqrt(max(n_groups, 1)))


def _weighted(units_RM: Doubles, error_M: Doubles) -> Doubles:
    """Return the mean over magnifications by precision; what is missing has no weight."""
    usable_RM = np.isfinite(units_RM) & np.isfinite(error_M)
    weight_RM = np.where(usable_RM, 1 / np.where(np.isfinite(error_M), error_M, 1.0) ** 2, 0.0)
    total_R = weight_RM.sum(axis=1)
    mean_R = (weight_RM * np.where(usable_RM, units_RM, 0.0)).sum(axis=1) / np.where(total_R > 0, total_R, 1.0)
    return np.asarray(np.where(total_R > 0, mean_R, np.nan))
