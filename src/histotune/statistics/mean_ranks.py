"""Several arms over several independent data sets: mean ranks, and how far apart they must lie.

Demsar, JMLR 7, 2006: Friedman's test in Iman and Davenport's form, and Nemenyi's critical difference. Mean ranks of
two arms depend on who else takes part (Benavoli, Corani and Mangili, JMLR 17, 2016), so that every pair also gets
Wilcoxon's signed-rank test, adjusted by Holm.
"""

# S data sets, A arms

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from histotune.statistics.comparison import holm
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Float = NDArray[np.float64]


LEAST_DATA_SETS = 5


@dataclass(frozen=True)
class RankedPair:
    """Two arms over all data sets.

    Attributes:
        first: Name of the first arm.
        second: Name of the second arm.
        p_value: Wilcoxon's signed-rank test, two-sided, exact where no differences tie; NaN where all are 0.
        p_adjusted: By Holm over all pairs.
        within_critical_difference: Their mean ranks lie closer than the critical difference.
    """

    first: str
    second: str
    p_value: float
    p_adjusted: float
    within_critical_difference: bool


@dataclass(frozen=True)
class MeanRanks:
    """Arms by mean rank.

    Attributes:
        names: Arms, best first.
        mean_ranks: Mean rank of each over the data sets; 1 is best, ties share theirs.
        data_sets: The data sets, each counted once.
        p_value: Friedman's test that all arms are alike, as Iman and Davenport's F; NaN where all always tie.
        critical_difference: Nemenyi's: mean ranks closer than this can't be told apart.
        cliques: Largest runs of neighbouring arms that can't be told apart, each by its first and last place.
        smallest_p: The least p that Wilcoxon's test can give with so many data sets.
        pairs: All pairs.
    """

    names: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    data_sets: tuple[str, ...]
    p_value: float
    critical_difference: float
    cliques: tuple[tuple[int, int], ...]
    smallest_p: float
    pairs: tuple[RankedPair, ...]


def rank_arms(
    value_SA: Float,
    data_sets: Sequence[str],
    names: Sequence[str],
    *,
    higher_is_better: bool = True,
    level: float = 0.95,
) -> MeanRanks:
    """Rank arms over independent data sets.

    Args:
        value_SA: A score per data set and arm.
        data_sets: Names of the rows; independent of one another, so magnifications of the same slides are one.
        names: Names of the columns.
        higher_is_better: Whether the largest value ranks first.
        level: Nominal level of the critical difference.

    Returns:
        Mean ranks with their tests.

    Raises:
        UserError: Fewer than five data sets, fewer than two arms, or a value is missing.

    Example:
        >>> values = np.array([[0.9, 0.8], [0.7, 0.6], [0.8, 0.7], [0.9, 0.7], [0.6, 0.5]])
        >>> rank_arms(values, list("abcde"), ["LoRA", "probe"]).mean_ranks
        (1.0, 2.0)
    """
    from scipy import stats

    _check_values(value_SA)
    n_sets, n_arms = value_SA.shape
    # Each data set ranks the arms, ties sharing the mean of their ranks; arms are then ordered by the mean of their
    # ranks.
    rank_SA = stats.rankdata(-value_SA if higher_is_better else value_SA, axis=1)
    mean_A = rank_SA.mean(axis=0)
    order = np.argsort(mean_A, kind="stable")
    critical = _critical_difference(n_sets, n_arms, level)
    return MeanRanks(
        names=tuple(names[place] for place in order),
        mean_ranks=tuple(float(rank) for rank in mean_A[order]),
        data_sets=tuple(data_sets),
        p_value=_friedman(rank_SA),
        critical_difference=critical,
        cliques=_cliques(mean_A[order], critical),
        smallest_p=2.0 ** (1 - n_sets),
        pairs=_pairs(value_SA, names, mean_A, critical),
    )


def _check_values(value_SA: Float) -> None:
    """Refuse scores that no ranking can be made of."""
    n_sets, n_arms = value_SA.shape
    if n_sets < LEAST_DATA_SETS:
        raise UserError(
            "a ranking over data sets needs more of them", value=n_sets, allowed=f"{LEAST_DATA_SETS} or more"
        )
    if n_arms < 2 or not np.isfinite(value_SA).all():
        raise UserError("a ranking needs a value of two or more arms on every data set")


def _critical_difference(n_sets: int, n_arms: int, level: float) -> float:
    """Return Nemenyi's critical difference of mean ranks (Demsar, JMLR 7, 2006, 3.2.2)."""
    from scipy import stats

    spread = float(stats.studentized_range.ppf(level, n_arms, np.inf)) / math.sqrt(2.0)
    return spread * math.sqrt(n_arms * (n_arms + 1) / (6.0 * n_sets))


def _friedman(rank_SA: Float) -> float:
    """Return the p value of Iman and Davenport's F (Comm. Statist. A9, 1980), ties corrected for."""
    from scipy import stats

    n_sets, n_arms = rank_SA.shape
    between = float(((rank_SA.mean(axis=0) - (n_arms + 1) / 2.0) ** 2).sum()) * n_sets
    total = float(((rank_SA - (n_arms + 1) / 2.0) ** 2).sum())
    if total == 0.0:
        return math.nan
    chi2 = n_sets * (n_arms - 1) * between / total
    left = n_sets * (n_arms - 1) - chi2
    if left <= 0.0:  # the same order on every data set
        return math.pow(math.factorial(n_arms), 1 - n_sets)
    return float(stats.f.sf((n_sets - 1) * chi2 / left, n_arms - 1, (n_arms - 1) * (n_sets - 1)))


def _pairs(value_SA: Float, names: Sequence[str], mean_A: Float, critical: float) -> tuple[RankedPair, ...]:
    from scipy import stats

    chosen = list(combinations(range(len(names)), 2))
    p_values = []
    for a, b in chosen:
        # Wilcoxon's signed ranks of the differences; where all are 0 nothing tells the arms apart.
        difference_S = value_SA[:, a] - value_SA[:, b]
        p_values.append(float(stats.wilcoxon(difference_S).pvalue) if difference_S.any() else 1.0)
    return tuple(
        RankedPair(names[a], names[b], p, adjusted, bool(abs(mean_A[a] - mean_A[b]) < critical))
        for (a, b), p, adjusted in zip(chosen, p_values, holm(p_values), strict=True)
    )


def _cliques(sorted_A: Float, critical: float) -> tuple[tuple[int, int], ...]:
    """Return the longest runs of places whose ends lie within the critical difference."""
    found: list[tuple[int, int]] = []
    for first in range(len(sorted_A)):
        last = int(np.flatnonzero(sorted_A < sorted_A[first] + critical)[-1])
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return tuple(found)
