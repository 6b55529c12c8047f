"""Every metric as a function of how often each group counts: its value, its slope, and its value without a group.

A bootstrap, a jackknife, a permutation and a clustered variance are the same few matrix products on tables of groups:
sums per group, or wins between every two groups. The tables may have further axes in front, so that a simulation
evaluates many data sets at once.
"""

# N tiles, P positive and Q negative ones, R tiles of two classes, K classes, G units (groups, or tiles where asked),
# B rows of weights, M sums, U distinct scores, T rankings; x any axes in front

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from histotune.statistics import metrics
from histotune.statistics.metrics import FIXED_RATE, ratio
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from histotune.statistics.metrics import MetricName
    from histotune.statistics.sample import Sample

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]


JACKKNIFE_CHUNK = 2**24
TILE_CHUNK = 2**21
COLUMNS = 1024
"""Thresholds of a block."""
MAX_DENSE = 4_000_000
"""Entries of a groups-by-scores table up to which resamples are scored from group tables, not tile by tile."""
MAX_PAIRS = 2**24
"""Entries of all tables of wins; there are as many of pairs."""
PAIRS_PER_TILE = 512
"""A row of weights costs about as much for so many entries of a table of wins as for one tile."""
WIN_BLOCK = 2**20
EXACT_SINGLE = 2**24
"""Whole numbers up to here are exact in single precision."""


class Evaluator:
    """A metric as a function of unit weights.

    Attributes:
        n_units: Number of units; only what leaves units out by their weights needs to know it.
    """

    n_units: int

    @property
    def smooth(self) -> bool:
        """Whether :meth:`slope` exists."""
        return False

    def __call__(self, weights_BG: Float) -> Float:
        """Return the metric for every row of weights, (..., B); NaN where undefined."""
        raise NotImplementedError

    def slope(self, weights_BG: Float) -> Float:
        """Return the derivative of every value by each unit's weight, (..., B, G)."""
        raise ValueError("this metric has kinks")

    def without_each(self) -> Float:
        """Return the metric without each unit in turn, (..., G), here by giving it the weight 0."""
        chunk = max(1, JACKKNIFE_CHUNK // self.n_units)
        parts = []
        for start in range(0, self.n_units, chunk):
            units = np.arange(start, min(start + chunk, self.n_units))
            weights_BG = np.ones((len(units), self.n_units))
            weights_BG[np.arange(len(units)), units] = 0.0
            parts.append(self(weights_BG))
        return np.concatenate(parts)


@dataclass(frozen=True)
class SumsEvaluator(Evaluator):
    """A metric that is a function of sums.

    Attributes:
        addend_xGM: What each unit adds to each sum.
        finish: From sums to values.
        gradient: From sums to the derivative by each sum; None where there are kinks.
    """

    addend_xGM: Float
    finish: Callable[[Float], Float]
    gradient: Callable[[Float], Float] | None

    @property
    def smooth(self) -> bool:
        """Whether there is a slope."""
        return self.gradient is not None

    def __call__(self, weights_BG: Float) -> Float:
        """Return the values."""
        return self.finish(weights_BG @ self.addend_xGM)

    def slope(self, weights_BG: Float) -> Float:
        """Return the derivative by each unit's weight."""
        if self.gradient is None:
            return super().slope(weights_BG)
        return np.asarray(self.gradient(weights_BG @ self.addend_xGM) @ np.swapaxes(self.addend_xGM, -1, -2))

    def without_each(self) -> Float:
        """Return the values without each unit."""
        return self.finish(self.addend_xGM.sum(axis=-2, keepdims=True) - self.addend_xGM)


@dataclass(frozen=True)
class PairsEvaluator(Evaluator):
    """AUROC from wins and comparable pairs between units.

    Attributes:
        wins_xGG: Entry (g, h): pairs of a positive tile of g and a negative tile of h where the positive scores
            higher, ties half.
        pairs_xGG: All such pairs.
    """

    wins_xGG: Float
    pairs_xGG: Float

    @property
    def smooth(self) -> bool:
        """Whether there is a slope."""
        return True

    def __call__(self, weights_BG: Float) -> Float:
        """Return the values."""
        return ratio(_quadratic(weights_BG, self.wins_xGG), _quadratic(weights_BG, self.pairs_xGG))

    def slope(self, weights_BG: Float) -> Float:
        """Return the derivative by each unit's weight."""
        return np.asarray(np.add(*self.components(weights_BG)))

    def components(self, weights_BG: Float) -> tuple[Float, Float]:
        """Return the parts of the slope that a unit's positive and negative tiles make.

        These are DeLong's structural components, summed by unit and centred.
        """
        # AUROC = w' A w / w' P w with wins A and pairs P, so its derivative is (A w + A' w - AUROC (P w + P' w)) / w' P
        # w: a unit's rows hold its positive tiles, its columns its negative ones.
        wins_xGG, pairs_xGG = self.wins_xGG, self.pairs_xGG
        pairs_xB1 = _quadratic(weights_BG, pairs_xGG)[..., None]
        value_xB1 = ratio(_quadratic(weights_BG, wins_xGG)[..., None], pairs_xB1)
        by_row, by_column = np.swapaxes(wins_xGG, -1, -2), wins_xGG
        pairs_row, pairs_column = np.swapaxes(pairs_xGG, -1, -2), pairs_xGG
        positive = ratio(weights_BG @ by_row - value_xB1 * (weights_BG @ pairs_row), pairs_xB1)
        negative = ratio(weights_BG @ by_column - value_xB1 * (weights_BG @ pairs_column), pairs_xB1)
        return positive, negative

    def without_each(self) -> Float:
        """Return the values without each unit."""
        return ratio(_without_each(self.wins_xGG), _without_each(self.pairs_xGG))


@dataclass(frozen=True)
class ThresholdEvaluator(Evaluator):
    """Metrics along the thresholds where positive tiles lie, from cumulative counts per unit.

    Counts and sums of counts below 2**24 are exact in single precision, so the tables and, for whole-number weights,
    their products are; everything after that is double.

    Attributes:
        gained_GU: Positive tiles of each unit at each score that a positive tile has, best score first; float32.
        positives_above_GU: Positive tiles at this score or better; float32.
        above_GU: Tiles at this score or better; float32.
        negatives_G: Negative tiles of each unit.
        n_units: Number of units.
        specificity: None for average precision, else the least specificity of a sensitivity.
    """

    gained_GU: NDArray[np.float32]
    positives_above_GU: NDArray[np.float32]
    above_GU: NDArray[np.float32]
    negatives_G: Float
    n_units: int
    specificity: float | None = None

    @property
    def smooth(self) -> bool:
        """Whether there is a slope."""
        return self.specificity is None

    def __call__(self, weights_BG: Float) -> Float:
        """Return the values; the thresholds pass in blocks that stay in the processor's cache."""
        weights_BG = self._precise(weights_BG)
        walk = metrics.ThresholdWalk(weights_BG @ self.negatives_G, self.specificity)
        for start in range(0, self.above_GU.shape[1], COLUMNS):
            columns = slice(start, start + COLUMNS)
            walk.step(weights_BG @ self.positives_above_GU[:, columns], weights_BG @ self.above_GU[:, columns])
        return walk.value()

    def slope(self, weights_BG: Float) -> Float:
        """Return the derivative of the average precision by each unit's weight."""
        if not self.smooth:
            return super().slope(weights_BG)
        # AP = sum_u g p / a / sum_u g: gained g, positives p and tiles a at threshold u or above, linear in weights.
        # The derivative is p / a times a unit's g, g / a times its p and -g p / a^2 times its a, summed over u, less AP
        # times the sum of its g, all over the total of g.
        weights_BG = self._precise(weights_BG)
        by_unit_BG, total_B1 = np.zeros(weights_BG.shape), weights_BG @ self.gained_GU.sum(axis=1)[:, None]
        value_B1 = self(weights_BG)[:, None]
        for start in range(0, self.above_GU.shape[1], COLUMNS):
            gained_GU, positives_GU, above_GU = (
                table[:, start : start + COLUMNS] for table in (self.gained_GU, self.positives_above_GU, self.above_GU)
            )
            gained_BU, above_BU = weights_BG @ gained_GU, weights_BG @ above_GU
            over_BU = np.divide(1.0, above_BU, out=np.zeros_like(above_BU), where=above_BU > 0)
            precision_BU = (weights_BG @ positives_GU) * over_BU
            by_unit_BG += precision_BU @ gained_GU.T + (gained_BU * over_BU) @ positives_GU.T
            by_unit_BG -= (gained_BU * precision_BU * over_BU) @ above_GU.T
        return ratio(by_unit_BG - value_B1 * self.gained_GU.sum(axis=1), total_B1)

    def _precise(self, weights_BG: Float) -> Float:
        """Return the weights in single precision where the products with counts are exact in it, else in double."""
        largest = weights_BG.sum(axis=1).max(initial=0.0) * self.above_GU[:, -1].max(initial=0.0)
        if largest < EXACT_SINGLE and (weights_BG == np.rint(weights_BG)).all():
            return weights_BG.astype(np.float32)
        return weights_BG


@dataclass(frozen=True)
class SumEvaluator(Evaluator):
    """A weighted sum of evaluators over the same units: a paired difference, or a contrast of more terms.

    Attributes:
        terms: Weights and evaluators.
    """

    terms: tuple[tuple[float, Evaluator], ...]

    @property
    def smooth(self) -> bool:
        """Whether there is a slope."""
        return all(part.smooth for _, part in self.terms)

    def __call__(self, weights_BG: Float) -> Float:
        """Return the values."""
        return self._combine([part(weights_BG) for _, part in self.terms])

    def slope(self, weights_BG: Float) -> Float:
        """Return the derivative by each unit's weight."""
        return self._combine([part.slope(weights_BG) for _, part in self.terms])

    def without_each(self) -> Float:
        """Return the values without each unit."""
        return self._combine([part.without_each() for _, part in self.terms])

    def _combine(self, values: list[Float]) -> Float:
        return np.asarray(sum(weight * value for (weight, _), value in zip(self.terms, values, strict=True)))


class MeanEvaluator(SumEvaluator):
    """The mean of several evaluators: one-vs-rest over classes."""

    @classmethod
    def of(cls, parts: Sequence[Evaluator]) -> Evaluator:
        """Return the mean of some evaluators; one alone is its own."""
        return parts[0] if len(parts) == 1 else cls(tuple((1.0, part) for part in parts))

    def _combine(self, values: list[Float]) -> Float:
        return np.asarray(np.mean(values, axis=0))


@dataclass(frozen=True)
class TileEvaluator(Evaluator):
    """A ranking metric scored tile by tile, where there are too many units for tables.

    Attributes:
        unit_N: Unit per tile.
        n_units: Number of units.
        score: From tile weights (B, N) to values (B,).
    """

    unit_N: Int
    n_units: int
    score: Callable[[Float], Float]

    def __call__(self, weights_BG: Float) -> Float:
        """Return the values, as many rows at a time as fit in memory."""
        rows = max(1, TILE_CHUNK // len(self.unit_N))
        parts = [weights_BG[start : start + rows] for start in range(0, len(weights_BG), rows)]
        return np.concatenate([self.score(part_BG[:, self.unit_N]) for part_BG in parts])


def _quadratic(weights_BG: Float, table_xGG: Float) -> Float:
    """Return w' A w for every row of weights, (..., B)."""
    return np.asarray(np.einsum("...bg,bg->...b", weights_BG @ table_xGG, weights_BG))


def _without_each(table_xGG: Float) -> Float:
    """Return the sum of a table without each unit's row and column, (..., G)."""
    rows, columns = table_xGG.sum(axis=-1), table_xGG.sum(axis=-2)
    diagonal = np.diagonal(table_xGG, axis1=-2, axis2=-1)
    return np.asarray(rows.sum(axis=-1, keepdims=True) - rows - columns + diagonal)


# ------------------------------------------------------------------------------
# From tiles to group tables: the evaluator of every metric


def make_evaluator(name: MetricName, sample: Sample, unit_N: Int, n_units: int, *, within_folds: bool) -> Evaluator:
    """Return a metric as a function of unit weights."""
    if name == "auroc":
        return _auroc_evaluator(sample, unit_N, n_units, sample.fold_N if within_folds else None)
    score_NK = sample.score_NK if sample.n_classes == 2 else sample.probability_NK
    tasks = metrics.ranking_tasks(sample.y_N, score_NK)
    if name == "auprc":
        return MeanEvaluator.of([threshold_evaluator(*task, unit_N, n_units) for task in tasks])
    if name in metrics.OPERATING_POINTS:
        if sample.n_classes != 2:
            raise UserError(
                "this metric is defined for two classes",
                value=f"{name}, {sample.n_classes} classes",
                fix="leave it out of the metrics",
            )
        positive_N, score_N = tasks[0]
        if name == "specificity_at_95_sensitivity":
            positive_N, score_N = ~positive_N, -score_N
        return threshold_evaluator(positive_N, score_N, unit_N, n_units, FIXED_RATE)
    return sums_evaluator(tile_sums(name, sample), unit_N, n_units)


def sums_evaluator(tiles: metrics.TileSums, unit_N: Int, n_units: int) -> SumsEvaluator:
    """Sum a metric's addends by unit."""
    columns = [np.bincount(unit_N, weights=column, minlength=n_units) for column in tiles.addend_NM.T]
    return SumsEvaluator(np.stack(columns, axis=1), tiles.finish, tiles.gradient)


def tile_sums(name: MetricName, sample: Sample) -> metrics.TileSums:
    """Return the addends of a metric that is a function of sums."""
    y_N, predicted_N, p_NK = sample.y_N, sample.predicted_N, sample.probability_NK
    if name == "patient_recognition_rate" and sample.patient_N is not None:
        return metrics.patient_recognition_sums(y_N, predicted_N, sample.patient_N)
    if name in metrics.OF_DECISIONS:
        return metrics.OF_DECISIONS[name](y_N, predicted_N, sample.n_classes)
    if name in metrics.OF_PROBABILITIES:
        return metrics.OF_PROBABILITIES[name](y_N, p_NK)
    allowed = ", ".join((*metrics.OF_DECISIONS, *metrics.OF_PROBABILITIES))
    raise UserError("this metric can't be computed from these predictions", value=name, allowed=allowed)


def win_matrix(
    positive_N: Bool, score_N: Float, unit_N: Int, n_units: int, fold_N: Int | None = None
) -> tuple[Float, Float]:
    """Return wins and comparable pairs between every two units."""
    # Wins of every positive over every negative tile, summed by the units of both; all pairs of two units are their
    # product.
    wins_GG, pairs_GG = np.zeros((n_units, n_units)), np.zeros((n_units, n_units))
    for rows in metrics.fold_rows(fold_N, len(score_N)):
        positive, unit, score = positive_N[rows], unit_N[rows], score_N[rows]
        wins_GG += _wins(score[positive], unit[positive], score[~positive], unit[~positive], n_units)
        counts = [np.bincount(unit[which], minlength=n_units).astype(np.float64) for which in (positive, ~positive)]
        pairs_GG += np.outer(*counts)
    return wins_GG, pairs_GG


def _wins(score_P: Float, unit_P: Int, score_Q: Float, unit_Q: Int, n_units: int) -> Float:
    """Count wins of positive tiles (P) of each unit over negative tiles (Q) of each unit, ties half."""
    wins_GG = np.zeros((n_units, n_units))
    if not len(score_P) or not len(score_Q):
        return wins_GG
    distinct, rank_P = np.unique(score_P, return_inverse=True)
    # Score by score from the lowest: below_UG counts each unit's negative tiles below, half of the equal ones. To that
    # end a negative tile enters by halves, at the first score not below its own and at the first above.
    from_2Q = np.concatenate([np.searchsorted(distinct, score_Q, side=side) for side in ("left", "right")])
    unit_2Q = np.tile(unit_Q, 2)
    below_G, n_scores = np.zeros(n_units), max(1, WIN_BLOCK // n_units)
    for start in range(0, len(distinct), n_scores):
        stop = min(start + n_scores, len(distinct))
        new = (from_2Q >= start) & (from_2Q < stop)
        cell = (from_2Q[new] - start) * n_units + unit_2Q[new]
        cells_UG = np.bincount(cell, minlength=(stop - start) * n_units).reshape(-1, n_units)
        below_UG = below_G + 0.5 * np.cumsum(cells_UG, axis=0)
        here = np.flatnonzero((rank_P >= start) & (rank_P < stop))
        here = here[np.argsort(unit_P[here], kind="stable")]
        present, starts = np.unique(unit_P[here], return_index=True)
        wins_GG[present] += np.add.reduceat(below_UG[rank_P[here] - start], starts, axis=0)
        below_G = below_UG[-1]
    return wins_GG


def threshold_evaluator(
    positive_N: Bool, score_N: Float, unit_N: Int, n_units: int, specificity: float | None = None
) -> Evaluator:
    """Return the average precision, or the sensitivity at a specificity, as a function of unit weights."""
    if n_units * len(unit_N) > MAX_DENSE:
        return TileEvaluator(
            unit_N, n_units, lambda weights_BN: metrics.walk_down(positive_N, score_N, weights_BN, specificity)
        )
    # Cumulative counts per unit at the scores of positive tiles, best first; a negative tile counts from the first of
    # these that is not above it.
    distinct, rank_P = np.unique(-score_N[positive_N], return_inverse=True)
    if not len(distinct):
        distinct = np.zeros(1)
    gained_GU = _counts(unit_N[positive_N], rank_P, n_units, len(distinct))
    first_Q = np.searchsorted(distinct, -score_N[~positive_N])
    negatives_above_GU = np.cumsum(_counts(unit_N[~positive_N], first_Q, n_units, len(distinct) + 1), axis=1)
    positives_above_GU = np.cumsum(gained_GU, axis=1)
    above_GU = positives_above_GU + negatives_above_GU[:, :-1]
    return ThresholdEvaluator(
        gained_GU.astype(np.float32),
        positives_above_GU.astype(np.float32),
        above_GU.astype(np.float32),
        negatives_above_GU[:, -1],
        n_units,
        specificity,
    )


def _auroc_evaluator(sample: Sample, unit_N: Int, n_units: int, fold_N: Int | None, n_pairs: int = 1) -> Evaluator:
    """AUROC from pair counts between units, or tile by tile where there are too many units for all pairs of classes."""
    if sample.ranking == "pairs" and sample.n_classes > 2:
        return _pairwise_evaluator(sample, unit_N, n_units, fold_N)
    # Tables of units grow with their square: beyond the limits tiles are ranked anew for every row of weights.
    tasks = metrics.ranking_tasks(sample.y_N, sample.score_NK)
    small = n_units * max(n_units, len(unit_N)) <= MAX_DENSE
    if not small and n_units**2 > min(PAIRS_PER_TILE * len(unit_N), MAX_PAIRS // (len(tasks) * n_pairs)):
        return TileEvaluator(
            unit_N, n_units, lambda weights: metrics.weighted_auroc(sample.y_N, sample.score_NK, weights, fold_N)
        )
    return MeanEvaluator.of([PairsEvaluator(*win_matrix(*task, unit_N, n_units, fold_N)) for task in tasks])


def _pairwise_evaluator(sample: Sample, unit_N: Int, n_units: int, fold_N: Int | None) -> Evaluator:
    """Return the mean over pairs of classes of the AUROC that tells the two apart."""
    parts, pairs = [], list(combinations(range(sample.n_classes), 2))
    for pair in pairs:
        # The tiles of the two classes alone, ranked by the log-odds of the pair (Hand & Till, Machine Learning 45,
        # 2001).
        rows = np.flatnonzero(np.isin(sample.y_N, pair))
        two = replace(
            sample,
            y_N=(sample.y_N[rows] == pair[1]).astype(np.int64),
            score_NK=sample.score_NK[rows][:, list(pair)],
            class_names=tuple(sample.class_names[label] for label in pair),
        )
        fold_R = None if fold_N is None else fold_N[rows]
        parts.append(_auroc_evaluator(two, unit_N[rows], n_units, fold_R, len(pairs)))
    return MeanEvaluator.of(parts)


def _counts(unit_N: Int, place_N: Int, n_units: int, n_places: int) -> Float:
    """Count tiles by unit and place."""
    cells = np.bincount(unit_N * n_places + place_N, minlength=n_units * n_places)
    return cells.reshape(n_units, n_places).astype(np.float64)
