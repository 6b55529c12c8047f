"""The delete-one-group jackknife: intervals for what a head stores (Efron & Tibshirani 1993, chapter 11)."""

# G groups, B rows of weights

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.statistics.predictions import Interval

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Float = NDArray[np.float64]

LEVEL = 0.95
MIN_GROUPS = 5
"""Fewer groups (in a class, for thresholds) give no interval."""
CHUNK_VALUES = 4_000_000


def jackknife_se(left_out_G: Float) -> float:
    """Return the standard error of a statistic from its values with each group left out.

    Args:
        left_out_G: The statistic without group g, for every g.

    Returns:
        sqrt((G - 1) / G * sum of squared deviations from their mean).
    """
    n = len(left_out_G)
    return float(np.sqrt((n - 1) / n * ((left_out_G - left_out_G.mean()) ** 2).sum()))


def jackknife_interval(value: float, left_out_G: Float, level: float = LEVEL) -> tuple[float, float]:
    """Return value -+ t(G - 1) * standard error.

    Args:
        value: The statistic on all groups, on a scale where a symmetric interval makes sense.
        left_out_G: Its values with each group left out, on the same scale.
        level: Nominal coverage.

    Returns:
        Both ends, on that scale.
    """
    return t_interval(value, jackknife_se(left_out_G), len(left_out_G), level)


def t_interval(value: float, standard_error: float, n_groups: int, level: float = LEVEL) -> tuple[float, float]:
    """Return value -+ t(G - 1) * standard error.

    Args:
        value: A statistic.
        standard_error: Its standard error over groups.
        n_groups: Their number.
        level: Nominal coverage.

    Returns:
        Both ends.
    """
    from scipy.special import stdtrit

    half = float(stdtrit(n_groups - 1, 0.5 + level / 2.0)) * standard_error
    return value - half, value + half


def group_interval(ends: tuple[float, float], n_groups: int, level: float = LEVEL) -> Interval:
    """Return the record of a jackknife interval."""
    return Interval(float(ends[0]), float(ends[1]), level, f"jackknife over {n_groups} groups")


def group_chunks(n_groups: int, n_values: int) -> Iterator[NDArray[np.int64]]:
    """Yield runs of groups so small that a matrix (groups, values) stays within memory.

    Args:
        n_groups: Number of groups.
        n_values: Values per group.

    Yields:
        Group numbers.
    """
    size = max(1, CHUNK_VALUES // max(n_values, 1))
    for start in range(0, n_groups, size):
        yield np.arange(start, min(start + size, n_groups))
