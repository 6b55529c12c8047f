"""Differences between arms on the same tiles, of two or more terms, and between independent data sets."""

# N tiles, n tiles of a half, D columns, G groups, R principal components, B rows of weights

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.splits.folds import assign_group_folds
from histotune.heads.solver.logistic import fit_batch
from histotune.heads.solver.problems import FitProblems
from histotune.statistics.bounds import FLAT, jackknife_variance, t_quantile
from histotune.statistics.comparison import contrast
from histotune.statistics.evaluators import SumEvaluator, make_evaluator
from histotune.statistics.intervals import resampling_units
from histotune.statistics.predictions import Interval, Score
from histotune.statistics.sample import read_sample
from histotune.statistics.scores import point_value, refusal, score_predictions, undefined_reason
from histotune.transfer.case import HeadMap, Shift, Side
from histotune.transfer.corrections import side_predictions, two_class_margins

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.intervals import Units
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import IntervalConfig, Predictions
    from histotune.statistics.sample import Sample
    from histotune.transfer.case import RemedyArm, TransferConfig

    Float = NDArray[np.float64]
    Bool = NDArray[np.bool_]


N_DIRECT_HALVES = 19
"""Halvings of the source: a target beyond all of them is so by chance in about one case of twenty."""
TILES_PER_COMPONENT = 10
"""Fewer tiles than this per component leave the smallest variances to chance."""
N_HALVES = 10
DOMAIN_PENALTY = 0.1
UNCHANGED = "unchanged: with or without any group the arms give the same"


class Contrasts:
    """Contrasts between arms on the target's tiles; every arm's table is made once.

    Args:
        interval: How intervals are made; their level counts for what is printed.
    """

    def __init__(self, interval: IntervalConfig) -> None:
        self._interval = interval
        self._samples: dict[int, Sample] = {}
        self._tables: dict[tuple[int, str, bool], Evaluator] = {}
        self._keep: list[RemedyArm] = []  # ids stay unique while the arms live

    def score(self, metric: MetricName, terms: Sequence[tuple[float, RemedyArm]], level: float | None = None) -> Score:
        """Return a weighted sum of one metric over arms, with a paired interval over the groups."""
        config = self._interval if level is None else self._interval.model_copy(update={"level": level})
        first = self._sample(terms[0][1])
        units = resampling_units(first, config)
        if reason := undefined_reason(metric, first):
            return contrast(metric, (), units, reason)
        folded = metric == "auroc" and any(arm.fitted for _, arm in terms)
        parts = tuple((weight, self._table(arm, metric, units, folded=folded)) for weight, arm in terms)
        # Where nothing moves, no interval is asked for.
        evaluator = SumEvaluator(parts)
        same = np.abs(np.r_[point_value(evaluator, units), evaluator.without_each()]).max() <= FLAT
        found = contrast(metric, parts, units)
        return replace(found, interval=None, reason=UNCHANGED) if same and not units.refusal else found

    def _sample(self, arm: RemedyArm) -> Sample:
        if id(arm) not in self._samples:
            self._keep.append(arm)
            self._samples[id(arm)] = read_sample(arm.predictions)
        return self._samples[id(arm)]

    def _table(self, arm: RemedyArm, metric: MetricName, units: Units, *, folded: bool) -> Evaluator:
        key = (id(arm), metric, folded)
        if key not in self._tables:
            sample = self._sample(arm)
            self._tables[key] = make_evaluator(metric, sample, units.unit_N, units.n_units, within_folds=folded)
        return self._tables[key]


def independent_difference(
    a: Predictions, b: Predictions, metric: MetricName, interval: IntervalConfig, *, folds: tuple[bool, bool]
) -> Score:
    """Return metric(a) - metric(b) of two data sets that share no group."""
    value_a, variance_a, df_a, why_a = _one_side(a, metric, interval, folded=folds[0])
    value_b, variance_b, df_b, why_b = _one_side(b, metric, interval, folded=folds[1])
    plain = Score(f"{metric} difference", value_a - value_b, None, len(a) + len(b), 0, chance=0.0)
    if why_a or why_b:
        refused = a if why_a else b
        return replace(plain, reason=f"{refused.table['domain'][0]}: {why_a or why_b}")
    if variance_a + variance_b <= FLAT**2:
        return replace(plain, reason="degenerate: no group changes either value")
    reach = _welch_reach((variance_a, variance_b), (df_a, df_b), interval.level)
    text = f"Welch t interval from leaving out one {interval.cluster} at a time on each side"
    return replace(plain, interval=Interval(plain.value - reach, plain.value + reach, interval.level, text))


def _welch_reach(variances: tuple[float, float], dfs: tuple[float, float], level: float) -> float:
    """Return half the width of the interval of a difference between two independent values (Welch, Biometrika 1947)."""
    variance = variances[0] + variances[1]
    df = variance**2 / (variances[0] ** 2 / dfs[0] + variances[1] ** 2 / dfs[1])
    return float(t_quantile(np.asarray(df), (1.0 + level) / 2.0)) * math.sqrt(variance)


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
    if reason := refusal(metric, value, units):
        return value, math.nan, math.nan, reason
    without_G = evaluator.without_each()
    if not np.isfinite(without_G).all():
        return value, math.nan, math.nan, "undefined without one of the groups"
    variance, df = jackknife_variance(without_G, units.strata)
    return value, float(variance), float(max(float(df), 1.0)), ""


def losing(score: Score, least: float) -> bool:
    """Return whether a loss or recovery is both above 0 for sure and at least so large."""
    return surely_above(score) and score.value >= least


def surely_above(score: Score) -> bool:
    """Return whether a difference lies above 0 for sure."""
    return score.interval is not None and score.interval.low > 0


# ------------------------------------------------------------------------------
# What can be seen of a cause before any score: another share of a class, embeddings that spread unevenly


def prevalence_differs(source: Side, target: Side, n_classes: int, level: float) -> bool:
    """Return whether the share of any class differs for sure between two sets of groups."""
    if not (source.has_groups and target.has_groups):
        return False
    labels = (1,) if n_classes == 2 else range(n_classes)
    return any(_share_differs(source, target, label, 1.0 - (1.0 - level) / len(labels)) for label in labels)


def _share_differs(source: Side, target: Side, label: int, level: float) -> bool:
    (a, variance_a, n_a), (b, variance_b, n_b) = (_share(side, label) for side in (source, target))
    if variance_a + variance_b <= 0.0:
        return False
    return abs(a - b) > _welch_reach((variance_a, variance_b), (n_a - 1, n_b - 1), level)


def _share(side: Side, label: int) -> tuple[float, float, int]:
    """Return a class's share of tiles, its delete-one-group variance, and the number of groups."""
    # Share of a ratio of sums, and its delete-one-group variance (G - 1) / G sum (p_g - mean p)^2.
    codes = np.unique(np.array(side.groups), return_inverse=True)[1]
    tiles_G = np.bincount(codes).astype(np.float64)
    held_G = np.bincount(codes, weights=side.y_N == label)
    n_groups = len(tiles_G)
    without_G = (held_G.sum() - held_G) / (tiles_G.sum() - tiles_G)
    variance = (n_groups - 1) / n_groups * float(((without_G - without_G.mean()) ** 2).sum())
    return float(held_G.sum() / tiles_G.sum()), variance, n_groups


def changed_shape(source: Side, target: Side, components: int, rng: np.random.Generator) -> bool:
    """Return whether the covariances differ by more than a common factor."""
    n_least = min(len(source) // 2, len(target))
    components = min(components, source.x_ND.shape[1], n_least // TILES_PER_COMPONENT)
    if components < 2:
        return False
    source_NR, target_NR = principal_parts(source, target, components)
    between, within = [], []
    for half_N in _halves(source.groups, N_DIRECT_HALVES, rng):
        between.append(uneven_spread(source_NR[half_N], target_NR))
        within.append(uneven_spread(source_NR[half_N], source_NR[~half_N]))
    return float(np.median(between)) > max(within)


def _halves(groups: tuple[str, ...], n_halvings: int, rng: np.random.Generator) -> Iterator[Bool]:
    """Yield which tiles lie in one half of the groups, for so many random halvings."""
    codes = np.unique(np.array(groups), return_inverse=True)[1]
    n_groups = int(codes.max()) + 1
    for _ in range(n_halvings):
        yield np.isin(codes, rng.permutation(n_groups)[: n_groups // 2])


def principal_parts(source: Side, target: Side, components: int) -> tuple[Float, Float]:
    """Return both sides in the first principal components of the source."""
    centre_D = source.x_ND.mean(axis=0)
    axes_RD = np.linalg.svd(source.x_ND - centre_D, full_matrices=False)[2][:components]
    return (source.x_ND - centre_D) @ axes_RD.T, (target.x_ND - centre_D) @ axes_RD.T


def uneven_spread(a_nR: Float, b_nR: Float) -> float:
    """Return how unevenly b spreads where a spreads evenly.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(500, 3))
        >>> round(uneven_spread(x, 3.0 * x), 6)
        0.0
        >>> round(uneven_spread(x, x * [1.0, 1.0, np.e]), 2)  # variances 1, 1, e squared
        0.94
    """
    from scipy.linalg import eigh

    # Variances of b along the axes in which a's covariance is the identity: generalised eigenvalues of (B, A). A common
    # factor moves all their logarithms alike, so that these have no spread.
    cov_a, cov_b = (np.cov(x_nR, rowvar=False) for x_nR in (a_nR, b_nR))
    ridge = np.eye(len(cov_a)) * 1e-9
    eigen_R = eigh(cov_b + ridge * np.trace(cov_b), cov_a + ridge * np.trace(cov_a), eigvals_only=True)
    return float(np.log(np.maximum(eigen_R, np.finfo(np.float64).tiny)).std())


# ------------------------------------------------------------------------------
# How far apart source and target lie: Frechet distance, and how well a classifier tells them apart


def measure_shift(source: Side, target: Side, config: TransferConfig, interval: IntervalConfig) -> Shift:
    """Measure the shift between embeddings of source and target."""
    components = min(config.components, source.x_ND.shape[1], len(source) - 1)
    source_NR, target_NR = principal_parts(source, target, components)
    between, within = _frechet_pair(source_NR, source.groups, target_NR, np.random.default_rng(config.seed))
    domain = _domain_auroc(source, target, config, interval)
    return Shift(between, within, components, domain, source.input_mpp, target.input_mpp)


def frechet_distance(a_nR: Float, b_nR: Float) -> float:
    """Return the squared Frechet distance between two normal distributions fitted to embeddings.

    Dowson and Landau, J. Multivariate Analysis 12, 1982; known in this form from Heusel et al., NeurIPS 2017.
    """
    # |mean_a - mean_b|^2 + tr A + tr B - 2 tr (A^1/2 B A^1/2)^1/2.
    cov_a, cov_b = (np.atleast_2d(np.cov(x_nR, rowvar=False)) for x_nR in (a_nR, b_nR))
    eigen, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(np.maximum(eigen, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root_a @ cov_b @ root_a), 0.0)).sum()
    gap = a_nR.mean(axis=0) - b_nR.mean(axis=0)
    return float(max(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2.0 * cross, 0.0))


def _frechet_pair(
    source_NR: Float, groups: tuple[str, ...], target_NR: Float, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the distance to the target and within the source, over the same halves and numbers of tiles."""
    between, within = [], []
    for half_N in _halves(groups, N_HALVES, rng):
        n = min(int(half_N.sum()), int((~half_N).sum()), len(target_NR))
        if n < 2:
            continue
        first, second, other = (
            x[rng.permutation(len(x))[:n]] for x in (source_NR[half_N], source_NR[~half_N], target_NR)
        )
        between.append(frechet_distance(first, other))
        within.append(frechet_distance(first, second))
    return (float(np.mean(between)), float(np.mean(within))) if between else (float("nan"), float("nan"))


def _domain_auroc(source: Side, target: Side, config: TransferConfig, interval: IntervalConfig) -> Score:
    """Score a logistic classifier of the domain, cross-validated over groups of both sides."""
    # Groups of both sides carry the side's number, so that equal names stay apart; every tile is scored by the fit of
    # its fold, and AUROC compares tiles of one fold.
    sides = (source, target)
    groups = tuple(f"{number}:{group}" for number, side in enumerate(sides) for group in side.groups)
    y_N = np.repeat([0, 1], [len(side) for side in sides]).astype(np.int64)
    fewest = min(len(set(side.groups)) for side in sides)
    both = Side(
        domain="domains",
        x_ND=np.concatenate([side.x_ND for side in sides]),
        y_N=y_N,
        groups=groups,
        tile_ids=tuple(f"{number}:{tile}" for number, side in enumerate(sides) for tile in side.tile_ids),
        has_groups=source.has_groups and target.has_groups,
    )
    n_folds = max(min(config.folds, fewest), 2)
    fold_by_group = assign_group_folds(groups, y_N, 2, n_folds, config.seed)
    fold_N = np.array([fold_by_group[group] for group in groups], np.int64)
    problems = FitProblems(
        fold_N != np.arange(n_folds)[:, None], np.arange(n_folds), np.full(n_folds, DOMAIN_PENALTY), n_classes=2
    )
    found = fit_batch(both.x_ND, y_N, problems)
    margin_N = np.einsum("nd,nd->n", both.x_ND, found.weight_PKD[fold_N, 0]) + found.bias_PK[fold_N, 0]
    head = HeadMap(lambda x_ND: x_ND[:, :2], 0.5, DOMAIN_PENALTY, ("source", "target"), "domain classifier")
    predictions = side_predictions(both, head, two_class_margins(margin_N), fold_N, np.full(len(y_N), 0.5))
    return score_predictions(predictions, ["auroc"], interval, within_folds=True)[0]
