"""Tests that swap all of a group's predictions together: what a difference between two heads is worth."""

# N tiles, K classes, G groups, P permutations, C comparisons

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.statistics.intervals import SMALL_TILES
from histotune.statistics.ranking import fold_rows
from histotune.statistics.scores import RANKING
from histotune.statistics.tables import make_evaluator
from histotune.tools.devices import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.statistics.intervals import Units
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.resampling import Sample

    Float = NDArray[np.float64]
    Bool = NDArray[np.bool_]

EQUAL = 1e-12
"""Statistics closer than this tie; a tie counts against the difference."""
CHUNK = 512


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
    """List every assignment where there are few enough, or draw.

    Args:
        moved_G: Groups whose swap changes something in at least one comparison.
        n_permutations: Most permutations.
        rng: Source of randomness.

    Returns:
        The swaps.
    """
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

    Args:
        metric: What is compared.
        arms: The same tiles in the same order under both heads.
        units: The groups.
        swaps: Which groups change arms.
        within_folds: AUROC compares only tiles of one fold.

    Returns:
        The result.
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

    Args:
        results: The family; permuted by the same swaps.
        swaps: Those swaps.

    Returns:
        Adjusted p values in the order of ``results``.
    """
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
