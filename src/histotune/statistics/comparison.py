"""The difference between two heads on the same tiles, with the groups resampled together."""

# N tiles, K classes, G groups, P permutations, C comparisons

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.statistics.bounds import FLAT, Scale, Strata
from histotune.statistics.evaluators import SumEvaluator, make_evaluator
from histotune.statistics.intervals import (
    PointEstimate,
    make_intervals,
    mix_words,
    narrow_words,
    p_against,
    resampling_units,
)
from histotune.statistics.metrics import MetricName, fold_rows, metric_kind
from histotune.statistics.predictions import Interval, Score
from histotune.statistics.sample import read_sample
from histotune.statistics.scores import (
    chance_level,
    check_metric,
    estimate_or_reason,
    point_value,
    refusal,
    undefined_reason,
)
from histotune.statistics.swaps import EQUAL, draw_swaps, moved_groups, p_value, permute
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.intervals import Units
    from histotune.statistics.predictions import ComparisonConfig, IntervalConfig, Predictions, Weighting
    from histotune.statistics.sample import Sample
    from histotune.statistics.swaps import PermutationResult, Swaps

    Bool = NDArray[np.bool_]


Correction = Literal["none", "max-T", "Holm"]
KNOWN_OF_CONSTANT: tuple[MetricName, ...] = ("auroc", "balanced_accuracy", "mcc")
"""Metrics whose value is known for an arm that says the same of every tile: their chance level."""
N_SWAPS = 1999
"""Swaps behind the interval of a difference that stands alone."""


def paired_difference(
    a: Predictions, b: Predictions, metric: MetricName, interval: IntervalConfig, *, within_folds: bool = False
) -> Score:
    """Return metric(a) - metric(b) with an interval over the same groups for both.

    Args:
        a: Predictions of the first head.
        b: Predictions of the second head, for the same tiles, in any order.
        metric: What to compare.
        interval: How the interval is made.
        within_folds: Both are cross-fitted; AUROC compares only tiles of one fold, each arm by its own folds.

    Returns:
        The difference, named such as "auroc difference".

    Raises:
        UserError: The tiles, labels, groups or classes of the two arms differ, or the metric is unknown.
    """
    pair = _pair((a, b), ("a", "b"), metric, interval, within_folds=within_folds)
    if pair.kind == "swaps":
        rng = np.random.Generator(np.random.PCG64(interval.seed))
        swaps = draw_swaps(moved_groups(*pair.samples, pair.units), N_SWAPS, rng)
        return _with_reach(pair, permute(metric, pair.samples, pair.units, swaps, within_folds=within_folds))
    return pair.difference


def contrast(metric: MetricName, terms: tuple[tuple[float, Evaluator], ...], units: Units, reason: str = "") -> Score:
    """Return a weighted sum of one metric over arms with its paired interval, or NaN and the reason."""
    sample = units.sample
    weighting: Weighting = "group" if metric == "patient_recognition_rate" and not reason else "tile"
    plain = Score(f"{metric} difference", math.nan, None, len(sample.y_N), sample.n_groups, weighting, reason, 0.0)
    if reason:
        return plain
    estimate, found = _contrast_estimate(metric, terms, units), None
    reason = refusal(metric, estimate.value, units)
    if not reason:
        found, reason = make_intervals([estimate], units)[0]
    return replace(plain, value=estimate.value, interval=found, reason=reason)


def _contrast_estimate(metric: MetricName, terms: tuple[tuple[float, Evaluator], ...], units: Units) -> PointEstimate:
    # A weighted sum of metrics can reach half the sum of the weights' sizes times their range, on either side.
    evaluator, kind = SumEvaluator(terms), metric_kind(metric, units.sample.n_classes)
    width = (kind.high - kind.low) * sum(abs(weight) for weight, _ in terms) / 2.0
    return PointEstimate(metric, evaluator, point_value(evaluator, units), Scale(-width, width, linear=True))


def check_same_tiles(a: Predictions, b: Predictions, sample_a: Sample, sample_b: Sample) -> None:
    """Refuse arms that do not describe the same tiles."""
    ids_a, ids_b = a.table["tile_id"].gather(sample_a.order), b.table["tile_id"].gather(sample_b.order)
    if ids_a.n_unique() != len(ids_a) or ids_b.n_unique() != len(ids_b):
        raise UserError("a paired comparison needs each tile once per arm", fix="compare one seed or draw at a time")
    if a.class_names != b.class_names or ids_a.to_list() != ids_b.to_list():
        only = len(set(ids_a) ^ set(ids_b))
        raise UserError(
            "a paired comparison needs the same tiles and classes in both arms",
            value=f"{only} tiles lie in one arm only; classes {a.class_names} and {b.class_names}",
            fix="score both heads on the same tiles",
        )
    same_groups = a.table["group_id"].gather(sample_a.order).equals(b.table["group_id"].gather(sample_b.order))
    if not (sample_a.y_N == sample_b.y_N).all() or not same_groups:
        raise UserError(
            "labels or groups of the same tiles differ between the two arms",
            fix="score both heads against one tile table",
        )


# ------------------------------------------------------------------------------
# Several comparisons at once: paired intervals, permutation tests, and p values adjusted for the whole family


@dataclass(frozen=True)
class Comparison:
    """Two arms of a family, compared.

    Attributes:
        first: Name of the first arm.
        second: Name of the second arm.
        difference: First less second, with its paired interval.
        p_value: Two-sided p of this comparison alone, at most 1 - level exactly where the interval of ``difference``
            leaves 0 out; NaN with the reason there.
        smallest_p: The least p that these groups can give by swaps; NaN where none were made.
        p_adjusted: Adjusted for the family.
        correction: How.
        n_family: Comparisons in the family.
        n_permutations: Assignments listed or drawn.
        exact: All assignments were listed.
        known: The known value of a constant arm, with which the other was compared; None elsewhere.
    """

    first: str
    second: str
    difference: Score
    p_value: float
    smallest_p: float
    p_adjusted: float
    correction: Correction
    n_family: int
    n_permutations: int
    exact: bool
    known: float | None = None

    def in_words(self) -> str:
        """Return the p value with the smallest attainable one, and how it was adjusted."""
        if np.isnan(self.p_value):
            return f"no p value: {self.difference.reason}"
        how = "all swaps listed" if self.exact else f"{self.n_permutations:,} swaps drawn"
        text = f"p = {self.p_value:.2g} (smallest attainable {self.smallest_p:.2g}; {how})"
        if not self.n_permutations:
            text = f"p = {self.p_value:.2g} (of its interval)"
        if self.known is not None:
            text = f"p = {self.p_value:.2g} (of its interval, against the known {self.known:g} of a constant arm)"
        if self.correction == "none":
            return text
        return f"{text}; adjusted by {self.correction} over {self.n_family} comparisons: p = {self.p_adjusted:.2g}"


@dataclass(frozen=True)
class _Pair:
    """Two arms and how they are compared.

    Attributes:
        names: Their names.
        samples: Their tiles.
        units: What is swapped or left out.
        metric: What is compared.
        kind: ``swaps``; ``known``: against the known value of a constant arm; ``t``: their folds differ, so that no
            prediction could have come from the other arm, or all groups agree; ``none``: there is no interval.
        difference: With its interval, but for ``swaps``, where it comes with them.
        p_value: Of ``known`` and ``t``.
        known: The known value, and NaN elsewhere.
    """

    names: tuple[str, str]
    samples: tuple[Sample, Sample]
    units: Units
    metric: MetricName
    kind: Literal["swaps", "known", "t", "none"]
    difference: Score
    p_value: float = math.nan
    known: float = math.nan


def compare_arms(
    arms: Mapping[str, Predictions],
    metric: MetricName,
    config: ComparisonConfig,
    interval: IntervalConfig,
    *,
    within_folds: bool = False,
) -> tuple[Comparison, ...]:
    """Compare the pairs of a declared family on their shared groups.

    Args:
        arms: Predictions by the name of head, backbone or protocol; the two of a pair describe the same tiles.
        metric: What is compared.
        config: The family and the number of permutations.
        interval: How intervals of differences are made.
        within_folds: All arms are cross-fitted; AUROC compares only tiles of one fold.

    Returns:
        A comparison per pair, in the family's order. Where all pairs speak of the same tiles, p values are adjusted by
        max-T over shared permutations, otherwise by Holm.

    Raises:
        UserError: A pair names an unknown arm, or its arms differ in tiles, labels, groups or classes.

    Example:
        >>> arms = {"probe": a, "LoRA": b}  # doctest: +SKIP
        >>> found = compare_arms(arms, "auroc", ComparisonConfig(), IntervalConfig())  # doctest: +SKIP
        >>> found[0].p_adjusted, found[0].smallest_p  # doctest: +SKIP
        (0.0312, 0.0001)
    """
    pairs = [
        _pair((arms[one], arms[other]), (one, other), metric, interval, within_folds=within_folds)
        for one, other in family_of(arms, config)
    ]
    swapped = [number for number, pair in enumerate(pairs) if pair.kind == "swaps"]
    results, swaps = _permute([pairs[number] for number in swapped], metric, config, within_folds=within_folds)
    by_pair = dict(zip(swapped, zip(results, swaps, strict=True), strict=True))
    p_values = {number: result.p_value for number, (result, _) in by_pair.items()}
    p_values |= {number: pair.p_value for number, pair in enumerate(pairs) if math.isfinite(pair.p_value)}
    correction, adjusted = _adjust(p_values, by_pair)
    return tuple(
        _comparison(
            replace(pair, p_value=p_values.get(number, math.nan)),
            by_pair.get(number),
            adjusted.get(number, math.nan),
            (correction, len(pairs)),
        )
        for number, pair in enumerate(pairs)
    )


def family_of(arms: Mapping[str, Predictions], config: ComparisonConfig) -> tuple[tuple[str, str], ...]:
    """Return the pairs that a family declares."""
    names = tuple(arms)
    if config.family == "all pairs":
        return tuple(combinations(names, 2))
    if config.family == "against the first":
        return tuple((name, names[0]) for name in names[1:])
    for pair in config.family:
        for name in pair:
            if name not in arms:
                raise UserError(
                    "a comparison names an unknown arm",
                    value=name,
                    allowed=", ".join(names),
                    closest=closest_name(name, names),
                )
        if pair[0] == pair[1]:
            raise UserError("an arm can't be compared with itself", value=pair[0], fix="name two arms")
    return config.family


def _pair(
    arms: tuple[Predictions, Predictions],
    names: tuple[str, str],
    metric: MetricName,
    interval: IntervalConfig,
    *,
    within_folds: bool,
) -> _Pair:
    """Read two arms, and compare them unless swaps are to."""
    check_metric(metric)
    samples = read_sample(arms[0]), read_sample(arms[1])
    check_same_tiles(*arms, *samples)
    units = resampling_units(samples[0], interval)
    reason = undefined_reason(metric, samples[0]) or undefined_reason(metric, samples[1])
    known = () if reason else tuple(known_value(metric, one, within_folds=within_folds) for one in samples)
    if known and (math.isnan(known[0]) != math.isnan(known[1])):
        return _against_known(metric, (samples, units, names), known, within_folds=within_folds)
    tables = [
        make_evaluator(metric, one, units.unit_N, units.n_units, within_folds=within_folds)
        for one in (() if reason else samples)
    ]
    terms = tuple(zip((1.0, -1.0), tables, strict=False))
    difference = contrast(metric, terms, units, reason)
    same_folds = bool((samples[0].fold_N == samples[1].fold_N).all())
    if not reason and same_folds and not moved_groups(*samples, units).any():
        # scores and decisions are equal to the last bit: this is one head, and nothing is left to chance
        nothing = Interval(0.0, 0.0, interval.level, "both arms say the same of every tile")
        same = replace(difference, value=0.0, interval=nothing, reason="")
        return _Pair(names, samples, units, metric, "t", same, 1.0)
    if difference.interval is None:
        return _Pair(names, samples, units, metric, "none", difference)
    evaluator = SumEvaluator(terms)
    agree = bool((np.abs(evaluator.without_each() - difference.value) <= FLAT).all())
    other_folds = within_folds and metric == "auroc" and not same_folds
    if not other_folds and (not agree or difference.value == 0.0):
        return _Pair(names, samples, units, metric, "swaps", difference)
    if not agree:
        # The error of a difference is known as well as there are groups, not as groups of the rarer class.
        alike = Strata(units.strata.stratum_G, np.ones((units.n_units, 1), bool))
        units = replace(units, strata=alike)
        difference = contrast(metric, terms, units)
    p = p_against(_contrast_estimate(metric, terms, units), 0.0, units)
    return _Pair(names, samples, units, metric, "t", difference, p)


def known_value(metric: MetricName, sample: Sample, *, within_folds: bool) -> float:
    """Return what a metric is for an arm that tells no two tiles (of a fold) apart; NaN for other arms and metrics.

    Such a head ranks nothing (AUROC 0.5), says one class (balanced accuracy 1 / K), and is uncorrelated with the labels
    (MCC 0) whatever tiles it meets; over folds that say different classes its measured value differs by chance.
    """
    value = chance_level(metric, sample) if metric in KNOWN_OF_CONSTANT else math.nan
    folds = fold_rows(sample.fold_N if within_folds else None, len(sample.y_N))
    constant = all(bool((sample.probability_NK[rows] == sample.probability_NK[rows[0]]).all()) for rows in folds)
    return value if constant else math.nan


def _against_known(
    metric: MetricName,
    pair: tuple[tuple[Sample, Sample], Units, tuple[str, str]],
    known: tuple[float, ...],
    *,
    within_folds: bool,
) -> _Pair:
    """Compare an arm with the known value of a constant one: its own interval, moved, and that interval's p."""
    samples, units, names = pair
    place = 0 if math.isnan(known[0]) else 1
    value, sign = known[1 - place], 1.0 - 2.0 * place
    estimate, reason = estimate_or_reason(metric, replace(units, sample=samples[place]), within_folds=within_folds)
    plain = Score(f"{metric} difference", math.nan, None, len(samples[0].y_N), samples[0].n_groups, reason=reason)
    plain = replace(plain, chance=0.0)
    if estimate is None:
        return _Pair(names, samples, units, metric, "none", plain)
    plain = replace(plain, value=sign * (estimate.value - value))
    found, why = (None, reason) if reason else make_intervals([estimate], units)[0]
    if found is None:
        return _Pair(names, samples, units, metric, "none", replace(plain, reason=why))
    ends = sorted(sign * (end - value) for end in (found.low, found.high))
    words = f"{found.method}; against the known value {value:g} of a constant arm"
    moved = replace(found, low=ends[0], high=ends[1], method=words)
    p = p_against(estimate, value, units)
    return _Pair(names, samples, units, metric, "known", replace(plain, interval=moved), p, value)


def _with_reach(pair: _Pair, result: PermutationResult) -> Score:
    """Return a difference with the interval that its swaps give."""
    config, plain = pair.units.config, pair.difference
    if not result.t_P.any():
        return plain  # no group tells the arms apart: the exact bound stands
    reach, allowed = result.reach(config.level)
    if not allowed and plain.interval is not None:  # too few groups differ: no narrower than a t interval would be
        reach = max(reach, plain.value - plain.interval.low, plain.interval.high - plain.value)
    kind = metric_kind(pair.metric, pair.samples[0].n_classes)
    widest = kind.high - kind.low
    low, high = (float(np.clip(plain.value + way * reach, -widest, widest)) for way in (-1.0, 1.0))
    n = len(result.t_P)
    how = f"all {n:,} swaps" if result.exact else f"{n:,} swaps"
    text = f"interval of the test that swaps whole {config.cluster}s between the arms, {how}{mix_words(config)}"
    text += narrow_words(config)
    return replace(plain, interval=Interval(low, high, config.level, text), reason="")


def _permute(
    pairs: list[_Pair], metric: MetricName, config: ComparisonConfig, *, within_folds: bool
) -> tuple[list[PermutationResult], list[Swaps]]:
    """Test every pair; pairs over the same tiles share one set of swaps."""
    if not pairs:
        return [], []
    rng = np.random.Generator(np.random.PCG64(config.seed))
    moved = [moved_groups(*pair.samples, pair.units) for pair in pairs]
    if _same_tiles(pairs):
        swaps = [draw_swaps(np.any(moved, axis=0), config.n_permutations, rng)] * len(pairs)
    else:
        swaps = [draw_swaps(moved_G, config.n_permutations, rng) for moved_G in moved]
    results = [
        permute(metric, pair.samples, pair.units, swap, within_folds=within_folds)
        for pair, swap in zip(pairs, swaps, strict=True)
    ]
    return results, swaps


def _same_tiles(pairs: list[_Pair]) -> bool:
    """Whether all pairs describe the same tiles in the same groups."""
    first = pairs[0]
    return all(
        np.array_equal(pair.units.unit_N, first.units.unit_N)
        and pair.samples[0].tile_ids.equals(first.samples[0].tile_ids)
        for pair in pairs[1:]
    )


def _adjust(
    p_values: dict[int, float], by_pair: dict[int, tuple[PermutationResult, Swaps]]
) -> tuple[Correction, dict[int, float]]:
    """Adjust the p values of a family: by max-T where all come from one set of swaps, else by Holm."""
    numbers = sorted(p_values)
    if len(numbers) < 2:
        return "none", p_values
    swaps = [by_pair[number][1] for number in numbers if number in by_pair]
    if len(swaps) == len(numbers) and all(one is swaps[0] for one in swaps):
        return "max-T", dict(zip(numbers, max_t([by_pair[number][0] for number in numbers], swaps[0]), strict=True))
    return "Holm", dict(zip(numbers, holm([p_values[number] for number in numbers]), strict=True))


def _comparison(
    pair: _Pair, found: tuple[PermutationResult, Swaps] | None, adjusted: float, family: tuple[Correction, int]
) -> Comparison:
    plain = Comparison(*pair.names, pair.difference, pair.p_value, math.nan, adjusted, *family, 0, exact=False)
    if found is None:
        return replace(plain, known=None if math.isnan(pair.known) else pair.known)
    result, swaps = found
    return replace(
        plain,
        difference=_with_reach(pair, result),
        smallest_p=result.smallest_p,
        n_permutations=len(swaps.swapped_PG),
        exact=swaps.exact,
    )


def max_t(results: Sequence[PermutationResult], swaps: Swaps) -> list[float]:
    """Return p values adjusted for a family by the step-down maximum of t.

    All comparisons are permuted by the same swaps, so that the maximum knows how they hang together (Westfall & Young,
    Resampling-Based Multiple Testing, 1993, algorithm 4.1).
    """
    # Each comparison's t over the root mean square of its t under swaps, so that those without an error count alike;
    # from the largest down, p is the share of swaps whose largest among the comparisons not yet passed reaches it, and
    # p never falls.
    t_CP = np.stack([result.t_P for result in results])
    spread_C = np.sqrt((t_CP**2).mean(axis=1))
    unit_C = np.where(spread_C > EQUAL, spread_C, np.inf)
    t_CP = t_CP / unit_C[:, None]
    t_C = np.array([result.t for result in results]) / unit_C
    order = np.argsort(-t_C, kind="stable")
    adjusted, least = [1.0] * len(results), 0.0
    for step, number in enumerate(order):
        largest_P = t_CP[order[step:]].max(axis=0)
        least = max(least, p_value(float(t_C[number]), largest_P, swaps))
        adjusted[number] = least
    return adjusted


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p values (Scand. J. Statist. 1979)."""
    order = np.argsort(p_values, kind="stable")
    adjusted, least = [1.0] * len(p_values), 0.0
    for step, number in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - step) * p_values[number]))
        adjusted[number] = least
    return adjusted
