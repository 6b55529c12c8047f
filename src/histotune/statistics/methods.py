"""The candidate methods of an interval, side by side: what each needs and the bounds it gives."""

# G units, B resamples; x any axes in front

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from histotune.statistics import bounds as b
from histotune.statistics.evaluators import PairsEvaluator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.statistics.evaluators import Evaluator

    Float = NDArray[np.float64]

Method = Literal["percentile", "bca", "studentised", "jackknife-t", "obuchowski-t"]
METHODS: tuple[Method, ...] = get_args(Method)
BOOTSTRAPS: tuple[Method, ...] = ("percentile", "bca", "studentised")


@dataclass(frozen=True)
class Evidence:
    """What intervals are made from.

    Attributes:
        point_x: The value.
        without_xG: The value without each unit; None where only resamples count.
        drawn: Values, and errors for the studentised bootstrap, on resamples; None where none were drawn.
        obuchowski_x: Clustered DeLong variance; None where the metric has none.
    """

    point_x: Float
    without_xG: Float | None = None
    drawn: b.Resampled | None = None
    obuchowski_x: Float | None = None


def method_bounds(
    method: Method, evidence: Evidence, strata: b.Strata, scale: b.Scale, level: float
) -> tuple[Float, Float]:
    """Return the bounds that a method gives; equal bounds where all units agree.

    Args:
        method: One of :data:`METHODS`; without a clustered variance ``obuchowski-t`` falls back on the jackknife.
        evidence: What the method needs of it.
        strata: Kinds of units.
        scale: Range of the value, and the scale of its t intervals.
        level: Nominal coverage.

    Returns:
        Lower and upper bounds.

    Raises:
        ValueError: The evidence lacks what the method needs.
    """
    if method == "percentile" and evidence.drawn is not None:
        return b.percentile_bounds(evidence.drawn.values_xB, level)
    if evidence.without_xG is None:
        raise ValueError(f"{method} needs the value without each unit")
    if method == "bca" and evidence.drawn is not None:
        return b.bca_bounds(evidence.drawn.values_xB, evidence.point_x, evidence.without_xG, strata, level)
    variance_x, df_x = b.jackknife_variance(evidence.without_xG, strata)
    if method == "studentised" and evidence.drawn is not None:
        return b.studentised_bounds(evidence.point_x, np.sqrt(variance_x), evidence.drawn, scale, level)
    if method == "obuchowski-t" and evidence.obuchowski_x is not None:
        variance_x, df_x = evidence.obuchowski_x, b.degrees_of_freedom(strata, evidence.obuchowski_x)
    elif method not in ("jackknife-t", "obuchowski-t"):
        raise ValueError(f"{method} needs resamples")
    return _t_bounds(evidence.point_x, np.sqrt(variance_x), df_x, scale, level)


def _t_bounds(point_x: Float, se_x: Float, df_x: Float, scale: b.Scale, level: float) -> tuple[Float, Float]:
    """Return t bounds; at an end of the range, where the scale is infinite, on the value's own scale."""
    low_x, high_x = b.t_bounds(point_x, se_x, df_x, scale, level)
    at_end_x = (point_x <= scale.low) | (point_x >= scale.high)
    if at_end_x.any():
        plain = b.t_bounds(point_x, se_x, df_x, b.Scale(scale.low, scale.high, linear=True), level)
        low_x, high_x = np.where(at_end_x, plain[0], low_x), np.where(at_end_x, plain[1], high_x)
    return low_x, high_x


def clustered_variance(evaluator: Evaluator, strata: b.Strata) -> Float | None:
    """Return Obuchowski's variance of an AUROC of two classes; None for any other metric."""
    if not isinstance(evaluator, PairsEvaluator) or len(evaluator.wins_TxGG) != 1:
        return None
    positive_x1G, negative_x1G = evaluator.components(np.ones((1, len(strata.stratum_G))))
    return b.obuchowski_variance(positive_x1G[..., 0, :], negative_x1G[..., 0, :], strata)
