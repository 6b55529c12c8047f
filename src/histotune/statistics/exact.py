"""Exact bounds where every unit agrees, as for a perfect score: no spread says how wrong it is."""

# x any axes in front

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.statistics.bounds import Scale

    Float = NDArray[np.float64]


def flat_bounds(value_x: Float, n_units: int, scale: Scale, level: float) -> tuple[Float, Float]:
    """Return the exact bound where every unit agrees, such as for a perfect score.

    Let d be the share of units (or of disjoint tuples with a unit of every class) that would not agree. All n
    independent ones agree with probability (1 - d)^n, so d is below 1 - (1 - level)^(1/n), about 3 / n at 95 %: the
    one-sided bound of Clopper and Pearson (Biometrika 1934), the rule of three. A value that lies anywhere in its range
    on a share d of units, and at ``value`` on the others, lies within d times the room on each side. Units count as
    equally large.

    Args:
        value_x: The value that all units share.
        n_units: Independent units or tuples.
        scale: Gives the range, which must be finite.
        level: Coverage.

    Returns:
        Lower and upper bounds.
    """
    share = 1.0 - (1.0 - level) ** (1.0 / n_units)
    return value_x - share * (value_x - scale.low), value_x + share * (scale.high - value_x)


def flat_average_precision(share: float, prevalence_x: Float) -> Float:
    """Return the average precision of a perfect ranking but for a share of the negatives above every positive.

    Of all ways to lose that share of the pairs this costs the average precision most: at recall r the precision is
    r / (r + c) with c = share (1 - prevalence) / prevalence, whose mean over r is 1 - c log((1 + c) / c).
    """
    c_x = np.maximum(share * (1.0 - prevalence_x) / prevalence_x, 1e-12)
    return np.asarray(1.0 - c_x * np.log((1.0 + c_x) / c_x))
