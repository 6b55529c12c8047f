"""Tests and intervals that swap all of a group's predictions between two arms: what a difference is worth."""

# N tiles, G groups, P swaps

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.statistics.evaluators import make_evaluator
from histotune.statistics.intervals import SMALL_TILES
from histotune.statistics.metrics import fold_rows
from histotune.statistics.scores import RANKING
from histotune.tools.devices import one_blas_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.intervals import Units
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.sample import Sample

    Float = NDArray[np.float64]
    Bool = NDArray[np.bool_]


EQUAL = 1e-12
"""Statistics closer than this tie; a tie counts against the difference."""
CHUNK = 512
STUDENTISED_UNITS = 400
"""Up to so many groups a difference is divided by its error; with more, the error hardly differs between swaps."""
TINY = 1e-10


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
        error: Its standard error; 1 where differences are compared as they are.
        permuted_P: The difference under every swap.
        t_P: Its size over the error under that swap: what is compared with the observed one.
        p_value: Two-sided.
        smallest_p: The least p that these groups and this many swaps can give.
        exact: All assignments were listed.
    """

    difference: float
    error: float
    permuted_P: Float
    t_P: Float
    p_value: float
    smallest_p: float
    exact: bool

    @property
    def t(self) -> float:
        """The observed size over its error."""
        return abs(self.difference) / self.error

    def reach(self, level: float) -> tuple[float, bool]:
        """Return how far the interval reaches to either side, and whether these groups allow the level at all.

        The reach is the error times the largest t that swaps call usual. The interval leaves 0 out exactly where p is
        at most 1 - level, because both compare the observed t with the same swaps. Where even the most extreme swaps
        are too common for the level, it reaches as far as they do, so that it holds 0, as p says.
        """
        # p <= alpha where at most k swaps reach the observed t: the k+1-th largest of theirs is the last that doesn't.
        n, alpha = len(self.t_P), 1.0 - level
        k = math.floor(alpha * n + TINY) if self.exact else math.floor(alpha * (n + 1) + TINY) - 1
        ordered_P = np.sort(self.t_P)
        usual = float(ordered_P[n - 1 - min(max(k, 0), n - 1)])
        allowed = k >= 0 and usual < ordered_P[-1] - EQUAL
        return (usual + EQUAL) * self.error, allowed


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
    move together because they are not independent. What is compared is the difference over its standard error, so that
    the test also holds where only the difference is null and the arms are otherwise unlike (Janssen, Statistics and
    Probability Letters 36, 1997; Chung & Romano, Ann. Statist. 2013), and so that it has an interval
    (:meth:`PermutationResult.reach`). Metrics with kinks have no slope, and are compared as they are.
    Ranking metrics compare ranks within each arm, because two heads' scores share no scale (Bandos, Rockette & Gur,
    Stat. Med. 2005). Ranks depend on their whole arm, so the test is exact for the other metrics and approximate for
    these.
    """
    both = _stack(metric, arms, within_folds=within_folds)
    unit_N = np.concatenate([units.unit_N, units.unit_N + units.n_units])
    with one_blas_thread(len(unit_N) <= SMALL_TILES):
        evaluator = make_evaluator(metric, both, unit_N, 2 * units.n_units, within_folds=within_folds)
        observed, error = _differences(evaluator, np.zeros((1, units.n_units), bool), units)
        chunks = [
            _differences(evaluator, swaps.swapped_PG[start : start + CHUNK], units)
            for start in range(0, len(swaps.swapped_PG), CHUNK)
        ]
    permuted_P, error_P = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    # A swap under which the metric is undefined counts as far out as any.
    scale = max(float(error[0]), TINY)
    t_P = np.nan_to_num(np.abs(permuted_P) / np.maximum(error_P, TINY), nan=np.inf)
    smallest = least_p(int(moved_groups(*arms, units).sum()), swaps)
    p = p_value(abs(float(observed[0])) / scale, t_P, swaps)
    return PermutationResult(float(observed[0]), scale, permuted_P, t_P, p, smallest, swaps.exact)


def _differences(evaluator: Evaluator, swapped_PG: Bool, units: Units) -> tuple[Float, Float]:
    """Return the differences under some swaps, and their standard errors (1 where there are no slopes)."""
    z_PG = swapped_PG.astype(np.float64)
    stays, goes = np.hstack([1.0 - z_PG, z_PG]), np.hstack([z_PG, 1.0 - z_PG])
    value_P = np.asarray(evaluator(stays) - evaluator(goes))
    if not evaluator.smooth or units.n_units > STUDENTISED_UNITS:
        return value_P, np.ones(len(value_P))
    # A group's pull on the difference: the slopes by its weight in either arm, of whichever predictions stand there
    # (infinitesimal jackknife).
    both_P2G = evaluator.slope(stays) * stays - evaluator.slope(goes) * goes
    pull_PG = both_P2G[:, : units.n_units] + both_P2G[:, units.n_units :]
    pull_PG = pull_PG - units.strata.centres(pull_PG)
    factor_G = (units.strata.others_G + 1.0) / units.strata.others_G
    return value_P, np.asarray(np.sqrt((factor_G * pull_PG**2).sum(axis=1)))


def p_value(observed: float, permuted_P: Float, swaps: Swaps) -> float:
    """Return the share of swaps at least as extreme; drawn ones count the observed assignment as one more."""
    n_extreme = int((permuted_P >= observed - EQUAL).sum())
    if swaps.exact:
        return n_extreme / len(permuted_P)
    return (n_extreme + 1) / (len(permuted_P) + 1)


def least_p(n_moved: int, swaps: Swaps) -> float:
    """Return the least attainable p: an assignment and its mirror image give the same absolute difference."""
    listed = min(1.0, 2.0 ** (1 - n_moved))
    return listed if swaps.exact else max(listed, 1.0 / (len(swaps.swapped_PG) + 1))


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
