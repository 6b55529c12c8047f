"""The difference between two heads on the same tiles, with the groups resampled together."""

# N tiles, K classes, G groups, P permutations, C comparisons

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.statistics.bounds import Scale
from histotune.statistics.evaluators import SumEvaluator, make_evaluator
from histotune.statistics.intervals import SMALL_TILES, PointEstimate, make_intervals, resampling_units
from histotune.statistics.metrics import fold_rows, metric_kind
from histotune.statistics.predictions import Score
from histotune.statistics.sample import read_sample
from histotune.statistics.scores import RANKING, check_metric, point_value, refusal, undefined_reason
from histotune.tools.devices import one_blas_thread
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.intervals import Units
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import ComparisonConfig, IntervalConfig, Predictions, Weighting
    from histotune.statistics.sample import Sample

    Float = NDArray[np.float64]
    Bool = NDArray[np.bool_]


Correction = Literal["none", "max-T", "Holm"]
EQUAL = 1e-12
"""Statistics closer than this tie; a tie counts against the difference."""
CHUNK = 512


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
    check_metric(metric)
    samples = read_sample(a), read_sample(b)
    check_same_tiles(a, b, *samples)
    units = resampling_units(samples[0], interval)
    reason = undefined_reason(metric, samples[0]) or undefined_reason(metric, samples[1])
    arms = [
        make_evaluator(metric, one, units.unit_N, units.n_units, within_folds=within_folds)
        for one in (() if reason else samples)
    ]
    return contrast(metric, tuple(zip((1.0, -1.0), arms, strict=False)), units, reason)


def contrast(metric: MetricName, terms: tuple[tuple[float, Evaluator], ...], units: Units, reason: str = "") -> Score:
    """Return a weighted sum of one metric over arms with its paired interval, or NaN and the reason."""
    sample = units.sample
    weighting: Weighting = "group" if metric == "patient_recognition_rate" and not reason else "tile"
    plain = Score(f"{metric} difference", math.nan, None, len(sample.y_N), sample.n_groups, weighting, reason, 0.0)
    if reason:
        return plain
    # A weighted sum of metrics can reach half the sum of the weights' sizes times their range, on either side.
    evaluator, kind = SumEvaluator(terms), metric_kind(metric, sample.n_classes)
    width = (kind.high - kind.low) * sum(abs(weight) for weight, _ in terms) / 2.0
    value, found = point_value(evaluator, units), None
    reason = refusal(metric, value, units)
    if not reason:
        estimate = PointEstimate(metric, evaluator, value, Scale(-width, width, linear=True))
        found, reason = make_intervals([estimate], units)[0]
    return replace(plain, value=value, interval=found, reason=reason)


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
        p_value: Two-sided permutation p of this comparison alone; NaN with the reason in ``difference``.
        smallest_p: The least p that these groups can give.
        p_adjusted: Adjusted for the family.
        correction: How.
        n_family: Comparisons in the family.
        n_permutations: Assignments listed or drawn.
        exact: All assignments were listed.
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

    def in_words(self) -> str:
        """Return the p value with the smallest attainable one, and how it was adjusted."""
        if np.isnan(self.p_value):
            return f"no p value: {self.difference.reason}"
        how = "all swaps listed" if self.exact else f"{self.n_permutations:,} swaps drawn"
        text = f"p = {self.p_value:.2g} (smallest attainable {self.smallest_p:.2g}; {how})"
        if self.correction == "none":
            return text
        return f"{text}; adjusted by {self.correction} over {self.n_family} comparisons: p = {self.p_adjusted:.2g}"


@dataclass(frozen=True)
class _Pair:
    names: tuple[str, str]
    samples: tuple[Sample, Sample]
    units: Units
    difference: Score


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
    pairs = [_pair(arms, names, metric, interval, within_folds=within_folds) for names in family_of(arms, config)]
    tested = [
        number for number, pair in enumerate(pairs) if np.isfinite(pair.difference.value) and pair.units.refusal == ""
    ]
    results, swaps = _permute([pairs[number] for number in tested], metric, config, within_folds=within_folds)
    correction, adjusted = _adjust(results, swaps)
    by_pair = {number: (results[k], adjusted[k], swaps[k]) for k, number in enumerate(tested)}
    return tuple(_comparison(pair, by_pair.get(number), correction, len(pairs)) for number, pair in enumerate(pairs))


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
    arms: Mapping[str, Predictions],
    names: tuple[str, str],
    metric: MetricName,
    interval: IntervalConfig,
    *,
    within_folds: bool,
) -> _Pair:
    a, b = arms[names[0]], arms[names[1]]
    samples = read_sample(a), read_sample(b)
    check_same_tiles(a, b, *samples)
    difference = paired_difference(a, b, metric, interval, within_folds=within_folds)
    return _Pair(names, samples, resampling_units(samples[0], interval), difference)


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


def _adjust(results: list[PermutationResult], swaps: list[Swaps]) -> tuple[Correction, list[float]]:
    p_values = [result.p_value for result in results]
    if len(results) < 2:
        return "none", p_values
    if all(swap is swaps[0] for swap in swaps):
        return "max-T", max_t(results, swaps[0])
    return "Holm", holm(p_values)


def _comparison(
    pair: _Pair, found: tuple[PermutationResult, float, Swaps] | None, correction: Correction, n_family: int
) -> Comparison:
    nan = float("nan")
    if found is None:
        return Comparison(*pair.names, pair.difference, nan, nan, nan, correction, n_family, 0, exact=False)
    result, adjusted, swaps = found
    return Comparison(
        *pair.names,
        pair.difference,
        p_value=result.p_value,
        smallest_p=result.smallest_p,
        p_adjusted=adjusted,
        correction=correction,
        n_family=n_family,
        n_permutations=len(swaps.swapped_PG),
        exact=swaps.exact,
    )


# ------------------------------------------------------------------------------
# Tests that swap all of a group's predictions together: what a difference between two heads is worth


@dataclass(frozen=True)
class Swaps:
    """Which groups change arms in each permutation.

    Attributes:
        swapped_PG: True where a group's predictions change arms.
        exact: Every assignment is listed once, the one observed among them.
    """

    swapped_PG: Bool
    exact: bool


@dataclass(frozen=True)
class PermutationResult:
    """A difference and its distribution where the arms are alike.

    Attributes:
        difference: Metric of the first arm less metric of the second.
        permuted_P: The difference under every permutation.
        p_value: Two-sided.
        smallest_p: The least p that these groups and this many permutations can give.
        exact: All assignments were listed.
    """

    difference: float
    permuted_P: Float
    p_value: float
    smallest_p: float
    exact: bool


def moved_groups(first: Sample, second: Sample, units: Units) -> Bool:
    """Return the groups in which the arms differ at all: swapping others changes nothing."""
    differs_N = (first.score_NK != second.score_NK).any(axis=1) | (first.predicted_N != second.predicted_N)
    differs_N |= (first.probability_NK != second.probability_NK).any(axis=1)
    return np.bincount(units.unit_N[differs_N], minlength=units.n_units) > 0


def draw_swaps(moved_G: Bool, n_permutations: int, rng: np.random.Generator) -> Swaps:
    """List every assignment where there are few enough, or draw."""
    n_moved = int(moved_G.sum())
    exact = n_moved < 31 and 2**n_moved <= n_permutations
    if exact:
        drawn = (np.arange(2**n_moved)[:, None] >> np.arange(n_moved)) & 1 == 1
    else:
        drawn = rng.random((n_permutations, n_moved)) < 0.5
    swapped_PG = np.zeros((len(drawn), len(moved_G)), bool)
    swapped_PG[:, moved_G] = drawn
    return Swaps(swapped_PG, exact)


def permute(
    metric: MetricName, arms: tuple[Sample, Sample], units: Units, swaps: Swaps, *, within_folds: bool = False
) -> PermutationResult:
    """Test a difference by swapping the arms' predictions in whole groups.

    Where the heads are alike, the predictions of a group could as well have come from the other arm; tiles of a group
    move together because they are not independent. Ranking metrics compare ranks within each arm, because two heads'
    scores share no scale (Bandos, Rockette & Gur, Stat. Med. 2005). Ranks depend on their whole arm, so the test is
    exact for the other metrics and approximate for these: p values are slightly too small with few groups.
    """
    both = _stack(metric, arms, within_folds=within_folds)
    unit_N = np.concatenate([units.unit_N, units.unit_N + units.n_units])
    with one_blas_thread(len(unit_N) <= SMALL_TILES):
        evaluate = make_evaluator(metric, both, unit_N, 2 * units.n_units, within_folds=within_folds)

        def difference(swapped_PG: Bool) -> Float:
            z_PG = swapped_PG.astype(np.float64)
            stays = np.hstack([1.0 - z_PG, z_PG])
            goes = np.hstack([z_PG, 1.0 - z_PG])
            return np.asarray(evaluate(stays) - evaluate(goes))

        observed = float(difference(np.zeros((1, units.n_units), bool))[0])
        chunks = [
            difference(swaps.swapped_PG[start : start + CHUNK]) for start in range(0, len(swaps.swapped_PG), CHUNK)
        ]
    permuted_P = np.concatenate(chunks)
    n_moved = int(moved_groups(*arms, units).sum())
    smallest = least_p(n_moved, swaps)
    return PermutationResult(
        observed, permuted_P, p_value(abs(observed), np.abs(permuted_P), swaps), smallest, swaps.exact
    )


def p_value(observed: float, permuted_P: Float, swaps: Swaps) -> float:
    """Return the share of permutations at least as extreme; drawn ones count the observed assignment as one more."""
    n_extreme = int((permuted_P >= observed - EQUAL).sum())
    if swaps.exact:
        return n_extreme / len(permuted_P)
    return (n_extreme + 1) / (len(permuted_P) + 1)


def least_p(n_moved: int, swaps: Swaps) -> float:
    """Return the least attainable p: an assignment and its mirror image give the same absolute difference."""
    listed = min(1.0, 2.0 ** (1 - n_moved))
    return listed if swaps.exact else max(listed, 1.0 / (len(swaps.swapped_PG) + 1))


def max_t(results: Sequence[PermutationResult], swaps: Swaps) -> list[float]:
    """Return p values adjusted for a family by the step-down maximum of |difference| / its permutation SD.

    All comparisons are permuted by the same swaps, so that the maximum knows how they hang together (Westfall & Young,
    Resampling-Based Multiple Testing, 1993, algorithm 4.1).
    """
    # t_c = |difference| / s_c with s_c the root mean square of the permuted differences; from the largest t down, p is
    # the share of permutations whose largest t among the comparisons not yet passed reaches it, and p never falls.
    permuted_CP = np.abs(np.stack([result.permuted_P for result in results]))
    spread_C = np.sqrt((permuted_CP**2).mean(axis=1))
    unit_C = np.where(spread_C > EQUAL, spread_C, np.inf)
    t_CP = permuted_CP / unit_C[:, None]
    t_C = np.abs([result.difference for result in results]) / unit_C
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


def _stack(metric: MetricName, arms: tuple[Sample, Sample], *, within_folds: bool) -> Sample:
    """Return both arms' tiles as one sample, scores as ranks within their arm where the metric ranks."""
    first, second = arms
    scores = [arm.score_NK for arm in arms]
    if metric in RANKING:
        folds = fold_rows(first.fold_N if within_folds and metric == "auroc" else None, len(first.y_N))
        scores = [_ranks(arm.score_NK, folds) for arm in arms]
    patient_N = None
    if first.patient_N is not None and second.patient_N is not None:
        patient_N = np.concatenate([first.patient_N, second.patient_N + first.patient_N.max() + 1])
    # Rows 0..N-1 are the first arm's tiles and N..2N-1 the second's, so that the units of the second arm are numbered
    # behind those of the first and a swap exchanges two weights.
    return replace(
        first,
        y_N=np.tile(first.y_N, 2),
        probability_NK=np.concatenate([arm.probability_NK for arm in arms]),
        score_NK=np.concatenate(scores),
        predicted_N=np.concatenate([arm.predicted_N for arm in arms]),
        fold_N=np.tile(first.fold_N, 2),
        patient_N=patient_N,
        group_N=None,
        order=np.tile(first.order, 2),
    )


def _ranks(score_NK: Float, folds: list[NDArray[np.int64]]) -> Float:
    from scipy.stats import rankdata

    rank_NK = np.zeros_like(score_NK)
    for rows in folds:
        rank_NK[rows] = rankdata(score_NK[rows], axis=0)
    if score_NK.shape[1] == 2:
        rank_NK[:, 0] = 0.0  # a binary ranking is the difference of the columns
    return rank_NK
