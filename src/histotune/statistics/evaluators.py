"""Every metric as a function of how often each group counts: its value, its slope, and its value without a group.

A bootstrap, a jackknife, a permutation and a clustered variance are the same few matrix products on tables of groups:
sums per group, or wins between every two groups. The tables may have further axes in front, so that a simulation
evaluates many data sets at once.
"""

# N tiles, G units (groups, or tiles where asked), B rows of weights, M sums, U distinct scores, T rankings; x any axes

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from histotune.statistics import ranking
from histotune.statistics.arrays import ratio

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

JACKKNIFE_CHUNK = 2**24
TILE_CHUNK = 2**21
COLUMNS = 1024
"""Thresholds of a block."""
EXACT_SINGLE = 2**24
"""Whole numbers up to here are exact in single precision."""


class Evaluator(Protocol):
    """A metric as a function of unit weights."""

    @property
    def smooth(self) -> bool:
        """Whether :meth:`slope` exists."""

    def __call__(self, weights_BG: Float) -> Float:
        """Return the metric for every row of weights, (..., B); NaN where undefined."""

    def slope(self, weights_BG: Float) -> Float:
        """Return the derivative of every value by each unit's weight, (..., B, G)."""

    def without_each(self) -> Float:
        """Return the metric without each unit in turn, (..., G)."""


@dataclass(frozen=True)
class SumsEvaluator:
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
            raise ValueError("this metric has kinks")
        return np.asarray(self.gradient(weights_BG @ self.addend_xGM) @ np.swapaxes(self.addend_xGM, -1, -2))

    def without_each(self) -> Float:
        """Return the values without each unit."""
        return self.finish(self.addend_xGM.sum(axis=-2, keepdims=True) - self.addend_xGM)


@dataclass(frozen=True)
class PairsEvaluator:
    """AUROC from wins and comparable pairs between units; the mean over rankings.

    Attributes:
        wins_TxGG: Entry (g, h): pairs of a positive tile of g and a negative tile of h where the positive scores
            higher, ties half; one table per ranking.
        pairs_TxGG: All such pairs.
    """

    wins_TxGG: tuple[Float, ...]
    pairs_TxGG: tuple[Float, ...]
    smooth: bool = True

    def __call__(self, weights_BG: Float) -> Float:
        """Return the values."""
        values = [
            ratio(_quadratic(weights_BG, wins_xGG), _quadratic(weights_BG, pairs_xGG))
            for wins_xGG, pairs_xGG in zip(self.wins_TxGG, self.pairs_TxGG, strict=True)
        ]
        return np.asarray(np.mean(values, axis=0))

    def slope(self, weights_BG: Float) -> Float:
        """Return the derivative by each unit's weight."""
        slopes = [np.add(*self.components(weights_BG, task)) for task in range(len(self.wins_TxGG))]
        return np.asarray(np.mean(slopes, axis=0))

    def components(self, weights_BG: Float, task: int = 0) -> tuple[Float, Float]:
        """Return the parts of the slope that a unit's positive and negative tiles make.

        These are DeLong's structural components, summed by unit and centred.

        Args:
            weights_BG: Unit weights.
            task: Which ranking.

        Returns:
            Two arrays (..., B, G).
        """
        wins_xGG, pairs_xGG = self.wins_TxGG[task], self.pairs_TxGG[task]
        pairs_xB1 = _quadratic(weights_BG, pairs_xGG)[..., None]
        value_xB1 = ratio(_quadratic(weights_BG, wins_xGG)[..., None], pairs_xB1)
        by_row, by_column = np.swapaxes(wins_xGG, -1, -2), wins_xGG
        pairs_row, pairs_column = np.swapaxes(pairs_xGG, -1, -2), pairs_xGG
        positive = ratio(weights_BG @ by_row - value_xB1 * (weights_BG @ pairs_row), pairs_xB1)
        negative = ratio(weights_BG @ by_column - value_xB1 * (weights_BG @ pairs_column), pairs_xB1)
        return positive, negative

    def without_each(self) -> Float:
        """Return the values without each unit."""
        values = [
            ratio(_without_each(wins_xGG), _without_each(pairs_xGG))
            for wins_xGG, pairs_xGG in zip(self.wins_TxGG, self.pairs_TxGG, strict=True)
        ]
        return np.asarray(np.mean(values, axis=0))


@dataclass(frozen=True)
class ThresholdEvaluator:
    """Metrics along the thresholds where positive tiles lie, from cumulative counts per unit.

    Counts and sums of counts below 2**24 are exact in single precision, so the tables and, for whole-number weights,
    their products are; everything after that is double.

    Attributes:
        gained_GU: Positive tiles of each unit at each score that a positive tile has, best score first; float32.
        positives_above_GU: Positive tiles at this score or better; float32.
        above_GU: Tiles at this score or better; float32.
        negatives_G: Negative tiles of each unit.
        specificity: None for average precision, else the least specificity of a sensitivity.
    """

    gained_GU: NDArray[np.float32]
    positives_above_GU: NDArray[np.float32]
    above_GU: NDArray[np.float32]
    negatives_G: Float
    specificity: float | None = None

    @property
    def smooth(self) -> bool:
        """Whether there is a slope."""
        return self.specificity is None

    def __call__(self, weights_BG: Float) -> Float:
        """Return the values; the thresholds pass in blocks that stay in the processor's cache."""
        weights_BG = self._precise(weights_BG)
        walk = ranking.ThresholdWalk(weights_BG @ self.negatives_G, self.specificity)
        for start in range(0, self.above_GU.shape[1], COLUMNS):
            columns = slice(start, start + COLUMNS)
            walk.step(weights_BG @ self.positives_above_GU[:, columns], weights_BG @ self.above_GU[:, columns])
        return walk.value()

    def slope(self, weights_BG: Float) -> Float:
        """Return the derivative of the average precision by each unit's weight."""
        if self.specificity is not None:
            raise ValueError("this metric has kinks")
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

    def without_each(self) -> Float:
        """Return the values without each unit."""
        return without_each_by_weights(self, len(self.negatives_G))

    def _precise(self, weights_BG: Float) -> Float:
        """Return the weights in single precision where the products with counts are exact in it, else in double."""
        largest = weights_BG.sum(axis=1).max(initial=0.0) * self.above_GU[:, -1].max(initial=0.0)
        if largest < EXACT_SINGLE and (weights_BG == np.rint(weights_BG)).all():
            return weights_BG.astype(np.float32)
        return weights_BG


@dataclass(frozen=True)
class MeanEvaluator:
    """The mean of several evaluators: one-vs-rest over classes."""

    parts: tuple[Evaluator, ...]

    @property
    def smooth(self) -> bool:
        """Whether there is a slope."""
        return all(part.smooth for part in self.parts)

    def __call__(self, weights_BG: Float) -> Float:
        """Return the values."""
        return np.asarray(np.mean([part(weights_BG) for part in self.parts], axis=0))

    def slope(self, weights_BG: Float) -> Float:
        """Return the derivative by each unit's weight."""
        return np.asarray(np.mean([part.slope(weights_BG) for part in self.parts], axis=0))

    def without_each(self) -> Float:
        """Return the values without each unit."""
        return np.asarray(np.mean([part.without_each() for part in self.parts], axis=0))


@dataclass(frozen=True)
class DifferenceEvaluator:
    """One evaluator less another over the same units: a paired difference."""

    first: Evaluator
    second: Evaluator

    @property
    def smooth(self) -> bool:
        """Whether there is a slope."""
        return self.first.smooth and self.second.smooth

    def __call__(self, weights_BG: Float) -> Float:
        """Return the differences."""
        return np.asarray(self.first(weights_BG) - self.second(weights_BG))

    def slope(self, weights_BG: Float) -> Float:
        """Return the derivative by each unit's weight."""
        return np.asarray(self.first.slope(weights_BG) - self.second.slope(weights_BG))

    def without_each(self) -> Float:
        """Return the differences without each unit."""
        return np.asarray(self.first.without_each() - self.second.without_each())


@dataclass(frozen=True)
class TileEvaluator:
    """A ranking metric scored tile by tile, where there are too many units for tables.

    Attributes:
        unit_N: Unit per tile.
        n_units: Number of units.
        score: From tile weights (B, N) to values (B,).
    """

    unit_N: Int
    n_units: int
    score: Callable[[Float], Float]
    smooth: bool = False

    def __call__(self, weights_BG: Float) -> Float:
        """Return the values, as many rows at a time as fit in memory."""
        rows = max(1, TILE_CHUNK // len(self.unit_N))
        parts = [weights_BG[start : start + rows] for start in range(0, len(weights_BG), rows)]
        return np.concatenate([self.score(part_BG[:, self.unit_N]) for part_BG in parts])

    def slope(self, weights_BG: Float) -> Float:
        """Refuse: tables of units hold what a slope needs."""
        raise ValueError("too many units for slopes")

    def without_each(self) -> Float:
        """Return the values without each unit."""
        return without_each_by_weights(self, self.n_units)


def without_each_by_weights(evaluate: Callable[[Float], Float], n_units: int) -> Float:
    """Return the metric without each unit in turn by giving it the weight 0.

    Args:
        evaluate: The metric.
        n_units: Number of units G.

    Returns:
        Values (G,).
    """
    chunk = max(1, JACKKNIFE_CHUNK // n_units)
    parts = []
    for start in range(0, n_units, chunk):
        units = np.arange(start, min(start + chunk, n_units))
        weights_BG = np.ones((len(units), n_units))
        weights_BG[np.arange(len(units)), units] = 0.0
        parts.append(evaluate(weights_BG))
    return np.concatenate(parts)


def _quadratic(weights_BG: Float, table_xGG: Float) -> Float:
    """Return w' A w for every row of weights, (..., B)."""
    return np.asarray(np.einsum("...bg,bg->...b", weights_BG @ table_xGG, weights_BG))


def _without_each(table_xGG: Float) -> Float:
    """Return the sum of a table without each unit's row and column, (..., G)."""
    rows, columns = table_xGG.sum(axis=-1), table_xGG.sum(axis=-2)
    diagonal = np.diagonal(table_xGG, axis1=-2, axis2=-1)
    return np.asarray(rows.sum(axis=-1, keepdims=True) - rows - columns + diagonal)
