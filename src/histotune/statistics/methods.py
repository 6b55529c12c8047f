"""The candidate methods of an interval, side by side: what each needs and the bounds it gives."""

# G units, B resamples; x any axes in front

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from histotune.statistics import bounds as b
from histotune.statistics.evaluators import PairsEvaluator
from histotune.statistics.exact import flat_average_precision, flat_bounds
from histotune.statistics.metrics import metric_kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.metrics import MetricName

    Float = NDArray[np.float64]

Method = Literal["percentile", "bca", "studentised", "jackknife-t", "skewed-t", "resampled-t", "obuchowski-t"]
METHODS: tuple[Method, ...] = get_args(Method)
BOOTSTRAPS: tuple[Method, ...] = ("percentile", "bca", "studentised", "resampled-t")


@dataclass(frozen=True)
class Evidence:
    """What intervals are made from.

    Attributes:
        point_x: The value.
        without_xG: The value without each unit; None where only resamples count.
        drawn: Values, and errors for the studentised bootstrap, on resamples; None where none were drawn.
        components_xG: DeLong's structural components of an AUROC, centred and summed by unit, of positive and of
            negative tiles; None where the metric has none.
    """

    point_x: Float
    without_xG: Float | None = None
    drawn: b.Resampled | None = None
    components_xG: tuple[Float, Float] | None = None


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
    skewness_x = np.zeros_like(variance_x)
    if method == "obuchowski-t" and evidence.components_xG is not None:
        variance_x = b.obuchowski_variance(*evidence.components_xG, strata)
        df_x = b.degrees_of_freedom(np.add(*evidence.components_xG), strata)
    elif method == "resampled-t" and evidence.drawn is not None:
        variance_x = b.resampled_variance(evidence.drawn.values_xB, evidence.without_xG, strata)
    elif method == "skewed-t":
        skewness_x = b.jackknife_skewness(evidence.without_xG, strata)
    elif method not in ("jackknife-t", "obuchowski-t"):
        raise ValueError(f"{method} needs resamples")
    return _t_bounds(evidence.point_x, (np.sqrt(variance_x), df_x, skewness_x), scale, level)


def _t_bounds(point_x: Float, error: tuple[Float, Float, Float], scale: b.Scale, level: float) -> tuple[Float, Float]:
    """Return t bounds; at an end of the range, where the scale is infinite, on the value's own scale."""
    se_x, df_x, skewness_x = error
    low_x, high_x = b.t_bounds(point_x, se_x, df_x, scale, level, skewness_x)
    at_end_x = (point_x <= scale.low) | (point_x >= scale.high)
    if at_end_x.any():
        plain = b.t_bounds(point_x, se_x, df_x, b.Scale(scale.low, scale.high, linear=True), level, skewness_x)
        low_x, high_x = np.where(at_end_x, plain[0], low_x), np.where(at_end_x, plain[1], high_x)
    return low_x, high_x


def structural_components(evaluator: Evaluator, n_units: int) -> tuple[Float, Float] | None:
    """Return DeLong's components of an AUROC of two classes, summed by unit; None for any other metric."""
    if not isinstance(evaluator, PairsEvaluator) or len(evaluator.wins_TxGG) != 1:
        return None
    positive_x1G, negative_x1G = evaluator.components(np.ones((1, n_units)))
    return positive_x1G[..., 0, :], negative_x1G[..., 0, :]


def metric_scale(name: MetricName, n_classes: int = 2) -> b.Scale:
    """Return the range of a metric and the scale of its t intervals."""
    kind = metric_kind(name, n_classes)
    return b.Scale(kind.low, kind.high, root=name in ("ece", "ece_debiased"))


def all_agree(evidence: Evidence) -> NDArray[np.bool_]:
    """Return where no unit changes the value, and no resample does: its error can't be read off its spread."""
    if evidence.without_xG is not None:
        return np.asarray((np.abs(evidence.without_xG - evidence.point_x[..., None]) <= b.FLAT).all(axis=-1))
    if evidence.drawn is None:
        raise ValueError("neither resamples nor values without each unit")
    spread_x = np.nanmax(evidence.drawn.values_xB, axis=-1) - np.nanmin(evidence.drawn.values_xB, axis=-1)
    return np.asarray(spread_x <= b.FLAT)


def independent_units(name: MetricName, strata: b.Strata) -> int:
    """Return how many independent units speak for a metric where all agree.

    A metric that sets classes against one another needs a unit of every class at a time: disjoint tuples count.

    Args:
        name: The metric.
        strata: Kinds of units.

    Returns:
        Units, or tuples of units.
    """
    n_units, n_classes = len(strata.stratum_G), len(strata.per_class_K)
    if metric_kind(name).needs_every_class or name == "mcc":
        return min(int(strata.per_class_K.min()), n_units // n_classes)
    return n_units


def agreed_bounds(
    name: MetricName, point_x: Float, strata: b.Strata, level: float, prevalence_x: Float, scale: b.Scale
) -> tuple[Float, Float]:
    """Return the exact bounds where all units agree.

    Args:
        name: The metric.
        point_x: The value that all units share.
        strata: Kinds of units.
        level: Coverage.
        prevalence_x: Share of positive tiles, for the AUPRC.
        scale: Range of the value.

    Returns:
        Lower and upper bounds.
    """
    n = independent_units(name, strata)
    low_x, high_x = flat_bounds(point_x, n, scale, level)
    if name == "auprc" and scale.low == 0.0:
        lost = flat_average_precision(1.0 - (1.0 - level) ** (1.0 / n), prevalence_x)
        low_x = np.where(point_x >= 1.0, lost, low_x)
    return np.asarray(low_x), np.asarray(high_x)
