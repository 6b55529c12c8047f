"""Differences between arms on the same tiles, of two or more terms, and between independent data sets."""

# N tiles, G groups, B rows of weights

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.statistics import bounds as b
from histotune.statistics.evaluators import make_evaluator, read_sample
from histotune.statistics.intervals import Estimate, make_intervals, resampling_units
from histotune.statistics.metrics import metric_kind
from histotune.statistics.predictions import Interval, Score
from histotune.statistics.scores import interval_refusal, point_value, undefined_reason, undefined_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.statistics.evaluators import Evaluator, Sample
    from histotune.statistics.intervals import Units
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import IntervalConfig, Predictions
    from histotune.transfer.case import Arm

    Float = NDArray[np.float64]


UNCHANGED = "unchanged: with or without any group the arms give the same"


@dataclass(frozen=True)
class WeightedSum:
    """A weighted sum of evaluators over the same units."""

    terms: tuple[tuple[float, Evaluator], ...]

    @property
    def smooth(self) -> bool:
        """Whether there is a slope."""
        return all(evaluator.smooth for _, evaluator in self.terms)

    def __call__(self, weights_BG: Float) -> Float:
        """Return the sums."""
        return np.asarray(sum(weight * evaluator(weights_BG) for weight, evaluator in self.terms))

    def slope(self, weights_BG: Float) -> Float:
        """Return the derivative by each unit's weight."""
        return np.asarray(sum(weight * evaluator.slope(weights_BG) for weight, evaluator in self.terms))

    def without_each(self) -> Float:
        """Return the sum without each unit."""
        return np.asarray(sum(weight * evaluator.without_each() for weight, evaluator in self.terms))


class Contrasts:
    """Contrasts between arms on the target's tiles; every arm's table is made once.

    Args:
        interval: How intervals are made; their level counts for what is printed.
    """

    def __init__(self, interval: IntervalConfig) -> None:
        self._interval = interval
        self._samples: dict[int, Sample] = {}
        self._tables: dict[tuple[int, str, bool], Evaluator] = {}
        self._keep: list[Arm] = []  # ids stay unique while the arms live

    def score(self, metric: MetricName, terms: Sequence[tuple[float, Arm]], level: float | None = None) -> Score:
        """Return a weighted sum of one metric over arms, with a paired interval over the groups.

        Args:
            metric: The metric.
            terms: Weight and arm; weights that sum to 0 make a difference. AUROC compares tiles of one fold only where
                any of the arms was fitted per fold, in all arms alike.
            level: Nominal coverage; None takes the config's.

        Returns:
            The score, named such as "auroc difference".
        """
        config = self._interval if level is None else self._interval.model_copy(update={"level": level})
        samples = [self._sample(arm) for _, arm in terms]
        first = samples[0]
        name, n_tiles = f"{metric} difference", len(first.y_N)
        units = resampling_units(first, config)
        reason = undefined_reason(metric, first)
        if reason:
            return Score(name, math.nan, None, n_tiles, first.n_groups, reason=reason, chance=0.0)
        folded = metric == "auroc" and any(arm.fitted for _, arm in terms)
        parts = tuple((weight, self._table(arm, metric, units, folded=folded)) for weight, arm in terms)
        evaluator, kind = WeightedSum(parts), metric_kind(metric, first.n_classes)
        width = (kind.high - kind.low) * sum(abs(weight) for weight, _ in terms) / 2.0
        value, found = point_value(evaluator, units), None
        reason = undefined_value(metric) if math.isnan(value) else interval_refusal(metric, first, units, config)
        if not reason and np.abs(np.r_[value, evaluator.without_each()]).max() <= b.FLAT:
            reason = UNCHANGED
        if not reason:
            estimate = Estimate(metric, evaluator, value, b.Scale(-width, width, linear=True))
            found, reason = make_intervals([estimate], first, units, config)[0]
        return Score(name, value, found, n_tiles, first.n_groups, "tile", reason, chance=0.0)

    def _sample(self, arm: Arm) -> Sample:
        if id(arm) not in self._samples:
            self._keep.append(arm)
            self._samples[id(arm)] = read_sample(arm.predictions)
        return self._samples[id(arm)]

    def _table(self, arm: Arm, metric: MetricName, units: Units, *, folded: bool) -> Evaluator:
        key = (id(arm), metric, folded)
        if key not in self._tables:
            sample = self._sample(arm)
            self._tables[key] = make_evaluator(metric, sample, units.unit_N, units.n_units, within_folds=folded)
        return self._tables[key]


def independent_difference(
    a: Predictions, b_: Predictions, metric: MetricName, interval: IntervalConfig, *, folds: tuple[bool, bool]
) -> Score:
    """Return metric(a) - metric(b) of two data sets that share no group.

    Args:
        a: Predictions on the first data set.
        b_: Predictions on the second.
        metric: The metric.
        interval: Level and cluster; the method is a Welch t interval on the two jackknife variances.
        folds: Whether AUROC compares only tiles of one fold, in a and in b.

    Returns:
        The difference; without an interval where either side refuses one, and the reason.
    """
    sides = [_one_side(predictions, metric, interval, folded=folded)
             for predictions, folded in zip((a, b_), folds, strict=True)]  # fmt: skip
    (value_a, variance_a, df_a, why_a), (value_b, variance_b, df_b, why_b) = sides
    plain = Score(f"{metric} difference", value_a - value_b, None, len(a) + len(b_), 0, chance=0.0)
    if why_a or why_b:
        refused = a if why_a else b_
        return replace(plain, reason=f"{refused.table['domain'][0]}: {why_a or why_b}")
    variance = variance_a + variance_b
    if variance <= b.FLAT**2:
        return replace(plain, reason="degenerate: no group changes either value")
    df = variance**2 / (variance_a**2 / df_a + variance_b**2 / df_b)  # Welch, Biometrika 1947
    reach = float(b.t_quantile(np.asarray(df), (1.0 + interval.level) / 2.0)) * math.sqrt(variance)
    text = f"Welch t interval from leaving out one {interval.cluster} at a time on each side"
    return replace(plain, interval=Interval(plain.value - reach, plain.value + reach, interval.level, text))


def _one_side(
    predictions: Predictions, metric: MetricName, interval: IntervalConfig, *, folded: bool
) -> tuple[float, float, float, str]:
    """Return value, variance, degrees of freedom and why there is no variance."""
    sample = read_sample(predictions)
    units = resampling_units(sample, interval)
    reason = undefined_reason(metric, sample)
    if reason:
        return math.nan, math.nan, math.nan, reason
    evaluator = make_evaluator(metric, sample, units.unit_N, units.n_units, within_folds=folded)
    value = point_value(evaluator, units)
    if reason := undefined_value(metric) if math.isnan(value) else interval_refusal(metric, sample, units, interval):
        return value, math.nan, math.nan, reason
    without_G = evaluator.without_each()
    if not np.isfinite(without_G).all():
        return value, math.nan, math.nan, "undefined without one of the groups"
    variance, df = b.jackknife_variance(without_G, units.strata)
    return value, float(variance), float(max(float(df), 1.0)), ""


def losing(score: Score, least: float) -> bool:
    """Return whether a loss or recovery is both above 0 for sure and at least so large."""
    return score.interval is not None and score.interval.low > 0 and score.value >= least
