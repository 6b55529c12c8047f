"""Several comparisons at once: paired intervals, permutation tests, and p values adjusted for the whole family."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.statistics.comparison import check_same_tiles, paired_difference
from histotune.statistics.intervals import resampling_units
from histotune.statistics.permutation import draw_swaps, holm, max_t, moved_groups, permute
from histotune.statistics.resampling import read_sample
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from histotune.statistics.config import ComparisonConfig, IntervalConfig
    from histotune.statistics.intervals import Units
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.permutation import PermutationResult, Swaps
    from histotune.statistics.predictions import Predictions, Score
    from histotune.statistics.resampling import Sample

Correction = Literal["none", "max-T", "Holm"]


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
        """Return the p value with the smallest attainable one, and how it was adjusted.

        Example:
            >>> found.in_words()  # doctest: +SKIP
            'p = 0.031 (smallest attainable 0.0001; 9,999 swaps drawn); adjusted by max-T over 3 comparisons: p = 0.068'
        """
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
    """Return the pairs that a family declares.

    Args:
        arms: Predictions by name.
        config: The family.

    Returns:
        Pairs of names.

    Raises:
        UserError: An unknown name, with the closest one, or an arm paired with itself.
    """
    names = tuple(arms)
    if config.family == "all pairs":
        return tuple(combinations(names, 2))
    if config.family == "against the first":
        return tuple((name, names[0]) for name in names[1:])
    for pair in config.family:
        for name in pair:
            if name not in arms:
                raise UserError("a comparison names an unknown arm", value=name, allowed=", ".join(names),
                                closest=closest_name(name, names))  # fmt: skip
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
        *pair.names, pair.difference, result.p_value, result.smallest_p, adjusted, correction, n_family,
        len(swaps.swapped_PG), swaps.exact,
    )  # fmt: skip
