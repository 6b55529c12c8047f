"""Bands around ROC and precision-recall curves: an interval at each of many fixed places."""

# N tiles, G units (groups, or tiles where asked), B resamples or units left out, T thresholds, M places on the grid,
# P points of a curve

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from histotune.statistics.bounds import (
    IntervalEvidence,
    Resampled,
    Scale,
    all_agree,
    flat_bounds,
    independent_units,
    method_bounds,
)
from histotune.statistics.intervals import ERROR_RESAMPLES, mix_words, resampling_units, simulated_band_coverage
from histotune.statistics.metrics import SLACK, ranking_tasks, ratio, tie_blocks
from histotune.statistics.sample import draw_counts, read_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

    from histotune.statistics.bounds import Method, Strata
    from histotune.statistics.intervals import BandCoverage, Units
    from histotune.statistics.predictions import IntervalConfig, Predictions

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]
    Weights = NDArray[np.floating]


FPR_GRID_M: Final = tuple(step / 100 for step in range(101))
RECALL_GRID_M: Final = tuple(step / 100 for step in range(1, 101))
MAX_RESAMPLES = 1000  # more move a pointwise 95 % limit by less than a pixel
ROWS = 256
MAX_THRESHOLDS = 1024
END_THRESHOLDS = 128  # never thinned at either end: a precision at low recall hangs on single tiles
MAX_TABLE = 2**22


@dataclass(frozen=True)
class Band:
    """Limits of a curve at fixed places, each place for itself.

    Attributes:
        x_M: False positive rates, or recalls.
        low_M: Lower limit of the sensitivity, or the precision.
        high_M: Upper limit.
    """

    x_M: Float
    low_M: Float
    high_M: Float


@dataclass(frozen=True)
class ClassBands:
    """The bands of one binary ranking.

    Attributes:
        label: The positive class.
        roc: Sensitivity by false positive rate.
        precision_recall: Precision by recall.
    """

    label: int
    roc: Band
    precision_recall: Band


@dataclass(frozen=True)
class CurveBands:
    """Bands of every ranking behind some predictions.

    Attributes:
        classes: One for binary tasks (of class 1), one per class against the rest otherwise; empty where refused.
        method: How they were made, in words; empty where refused.
        reason: Why there are none; empty where there are.
        coverage: What was simulated of such bands; None where nothing was, as for several classes.
    """

    classes: tuple[ClassBands, ...]
    method: str
    reason: str
    coverage: BandCoverage | None = None

    def of_class(self, label: int) -> ClassBands | None:
        """Return the bands of a class; None where there are none."""
        return next((one for one in self.classes if one.label == label), None)


def curve_bands(predictions: Predictions, config: IntervalConfig) -> CurveBands:
    """Return pointwise bands of the ROC and the precision-recall curves.

    At each false positive rate the sensitivity is read off the curve (linear between thresholds, the upper end of a
    vertical step), at each recall the precision of the highest threshold that reaches it, so that the area under the
    steps is the average precision. Around every value stands the t interval on the logit scale that the operating
    points get, its error from resamples of whole groups; its simulated coverage is in docs/intervals.md. Where no group
    changes a value, the exact bound takes its place; limits of the sensitivity rise with the false positive rate, as
    the curve does. A band holds for one place at a time, not for the whole curve.
    Tiles as units (``cluster="tile"``) get the central quantiles of their resamples.

    Args:
        predictions: The scored tiles, all labelled.
        config: Level, cluster, least number of groups per class, seed, and the number of resamples (400 at most; of
            tiles 1,000).

    Returns:
        The bands, refused where intervals are.

    Raises:
        UserError: An unlabelled tile, or a probability that is not finite.

    Example:
        >>> bands = curve_bands(predictions, IntervalConfig())  # doctest: +SKIP
        >>> bands.classes[0].roc.low_M[10]  # least sensitivity at a false positive rate of 0.1  # doctest: +SKIP
        0.62
    """
    sample = read_sample(predictions)
    units = resampling_units(sample, config)
    if units.refusal:
        return CurveBands((), "", units.refusal)
    by_tile = config.cluster == "tile"
    # Each ranking is read at all places on the same resamples of whole groups (or of tiles).
    method: Method = "percentile" if by_tile else "resampled-t"
    n_resamples = min(config.n_resamples, MAX_RESAMPLES if by_tile else ERROR_RESAMPLES)
    counts = list(draw_counts(units.strata.stratum_G, n_resamples, config.seed))
    tasks = ranking_tasks(sample.y_N, sample.score_NK)
    labels = [1] if len(tasks) == 1 else range(len(tasks))
    classes = tuple(
        _class_bands(label, Thresholds.of(*task, units.unit_N, units.n_units), counts, method, units)
        for label, task in zip(labels, tasks, strict=True)
    )
    studied = sample.n_classes == 2 and not by_tile and config.level == 0.95
    coverage = simulated_band_coverage(units.strata.holds_GK) if studied else None
    return CurveBands(classes, _method_text(config, n_resamples), "", coverage)


def _method_text(config: IntervalConfig, n_resamples: int) -> str:
    at = f"pointwise {config.level * 100:g} %"
    if config.cluster == "tile":
        return (
            f"{at} percentile bands, {n_resamples:,} resamples of tiles; TOO NARROW: tiles of one case are not "
            "independent"
        )
    return f"{at} t intervals, error from {n_resamples:,} resamples of whole groups{mix_words(config)}"


@dataclass(frozen=True)
class Places:
    """Where curves are read off: the sensitivity at false positive rates, then the precision at recalls."""

    fpr_M: Float
    recall_M: Float

    def read(self, true_BT: Weights, false_BT: Weights) -> Float:
        """Return the values of many curves, (B, places); NaN where a resample drew one class only."""
        values_BM = np.full((len(true_BT), len(self.fpr_M) + len(self.recall_M)), np.nan)
        whole_B = (true_BT[:, -1] > 0) & (false_BT[:, -1] > 0)
        true_BT, false_BT = true_BT[whole_B], false_BT[whole_B]
        roc_BM = sensitivity_at(true_BT, false_BT, self.fpr_M)
        values_BM[whole_B] = np.concatenate([roc_BM, precision_at(true_BT, false_BT, self.recall_M)], axis=1)
        return values_BM


@dataclass(frozen=True)
class Thresholds:
    """How many tiles of each unit lie at or above each threshold, from the highest threshold down."""

    positive_GT: NDArray[np.float32]  # counts, exact up to 2**24
    negative_GT: NDArray[np.float32]

    @classmethod
    def of(cls, positive_N: Bool, score_N: Float, unit_N: Int, n_units: int) -> Thresholds:
        """Count; where there are very many distinct scores, thresholds evenly spaced in both classes stand for them."""
        # Distinct scores become blocks, best first, blocks become columns, and every unit gets its cumulative count.
        order, starts = tie_blocks(-score_N)
        block_N = np.empty(len(order), np.int64)
        block_N[order] = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(order)]))
        n_most = int(np.clip(MAX_TABLE // n_units, 4 * END_THRESHOLDS, MAX_THRESHOLDS))
        column_N, n_columns = _thinned(block_N, positive_N, len(starts), n_most)
        cell_N = unit_N * n_columns + column_N

        def above(tiles_N: Bool) -> NDArray[np.float32]:
            """Count, per unit, the tiles that score at or above each threshold."""
            table = np.bincount(cell_N[tiles_N], minlength=n_units * n_columns)
            return table.reshape(n_units, n_columns).cumsum(axis=1).astype(np.float32)

        return cls(above(positive_N), above(~positive_N))

    def read(self, places: Places, counts: Sequence[Float], *, without_each: bool) -> IntervalEvidence:
        """Read curves off: as they are, on every resample, and without each unit."""
        # A resample's counts times the table are its curve; the whole less a unit's row is the curve without it.
        positive_GT, negative_GT = self.positive_GT, self.negative_GT
        true_1T, false_1T = positive_GT.sum(axis=0, keepdims=True), negative_GT.sum(axis=0, keepdims=True)
        single = [counts_BG.astype(np.float32) for counts_BG in counts]  # whole numbers: exact
        values_MB = np.concatenate([places.read(c_BG @ positive_GT, c_BG @ negative_GT) for c_BG in single]).T
        without_MG = None
        if without_each:
            chunks = [slice(start, start + ROWS) for start in range(0, len(positive_GT), ROWS)]
            left = [places.read(true_1T - positive_GT[c], false_1T - negative_GT[c]) for c in chunks]
            without_MG = np.concatenate(left).T
        errors_MB = np.full(values_MB.shape, np.nan)
        return IntervalEvidence(places.read(true_1T, false_1T)[0], without_MG, Resampled(values_MB, errors_MB))


def _thinned(block_N: Int, positive_N: Bool, n_blocks: int, n_most: int) -> tuple[Int, int]:
    """Return the column of each tile among at most ``n_most`` thresholds, and how many there are."""
    if n_blocks <= n_most:
        return block_N, n_blocks
    # Both ends stay whole; between them thresholds at equal steps of the positive and of the negative tiles passed.
    kept = [np.arange(END_THRESHOLDS), np.arange(n_blocks - END_THRESHOLDS, n_blocks)]
    for tiles_N in (positive_N, ~positive_N):
        passed_U = np.bincount(block_N[tiles_N], minlength=n_blocks).cumsum()
        wanted = np.linspace(1, passed_U[-1], (n_most - 2 * END_THRESHOLDS) // 2)
        kept.append(np.searchsorted(passed_U, wanted))
    thresholds = np.unique(np.concatenate(kept))
    return np.searchsorted(thresholds, block_N).astype(np.int64), len(thresholds)


def place_bounds(method: Method, evidence: IntervalEvidence, strata: Strata, level: float) -> tuple[Float, Float]:
    """Return the interval of a sensitivity or a precision at every place."""
    low_M, high_M = method_bounds(method, evidence, strata, Scale(), level)
    if method == "percentile":
        return low_M, high_M
    exact = flat_bounds(evidence.point_x, independent_units("auroc", strata), Scale(), level)
    agree_M = all_agree(evidence)
    return np.where(agree_M, exact[0], low_M), np.where(agree_M, exact[1], high_M)


def _class_bands(label: int, table: Thresholds, counts: Sequence[Float], method: Method, units: Units) -> ClassBands:
    places = Places(np.array(FPR_GRID_M), np.array(RECALL_GRID_M))
    evidence = table.read(places, counts, without_each=method != "percentile")
    low_M, high_M = place_bounds(method, evidence, units.strata, units.config.level)
    roc, precision = slice(len(FPR_GRID_M)), slice(len(FPR_GRID_M), None)
    return ClassBands(
        label,
        Band(places.fpr_M, *rising_limits(low_M[roc], high_M[roc])),
        Band(places.recall_M, low_M[precision], high_M[precision]),
    )


def rising_limits(low_M: Float, high_M: Float) -> tuple[Float, Float]:
    """Return limits of a curve that never falls: what holds at one place holds at every later, and the reverse.

    Where a sensitivity is nearly 1 its logit turns a small error into a deep lower limit; the limits further left know
    better.
    """
    return np.fmax.accumulate(low_M), np.fmin.accumulate(high_M[::-1])[::-1]


def sensitivity_at(true_BT: Weights, false_BT: Weights, fpr_M: Float) -> Float:
    """Return the sensitivity of many ROC curves at given false positive rates."""
    # Linear between the last point whose false positive rate is not above the wanted one and the next point: at a
    # vertical step that is its upper end.
    x_BT, y_BT = (np.pad(_shares(part), ((0, 0), (1, 0))) for part in (false_BT, true_BT))
    left_BM = _positions(x_BT, fpr_M + SLACK, "right") - 1
    right_BM = np.minimum(left_BM + 1, x_BT.shape[1] - 1)
    x0_BM, x1_BM = (np.take_along_axis(x_BT, at_BM, axis=1) for at_BM in (left_BM, right_BM))
    y0_BM, y1_BM = (np.take_along_axis(y_BT, at_BM, axis=1) for at_BM in (left_BM, right_BM))
    way_BM = np.clip(np.nan_to_num(ratio(fpr_M - x0_BM, x1_BM - x0_BM)), 0.0, 1.0)
    return np.asarray(y0_BM + way_BM * (y1_BM - y0_BM))


def precision_at(true_BT: Weights, false_BT: Weights, recall_M: Float) -> Float:
    """Return the precision of many curves at the highest threshold that reaches given recalls."""
    at_BM = _positions(_shares(true_BT), recall_M - SLACK, "left")
    true_BM, false_BM = (np.take_along_axis(part, at_BM, axis=1).astype(np.float64) for part in (true_BT, false_BT))
    return ratio(true_BM, true_BM + false_BM)


def _shares(above_BT: Weights) -> Float:
    """Return what lies at or above each threshold as a share of all."""
    wide_BT = above_BT.astype(np.float64)
    return wide_BT / wide_BT[:, -1:]


def _positions(rising_BT: Float, wanted_M: Float, side: Literal["left", "right"]) -> Int:
    """Return where the wanted values stand in each row of shares that rise to 1, for all rows in one search."""
    n_rows, n_columns = rising_BT.shape
    row_B1 = 2.0 * np.arange(n_rows)[:, None]  # rows lie one after another on one rising line
    at = np.searchsorted((rising_BT + row_B1).ravel(), (wanted_M + row_B1).ravel(), side=side)
    return np.asarray(at.reshape(n_rows, -1) - n_columns * np.arange(n_rows)[:, None])


# ------------------------------------------------------------------------------
# The numbers behind the curves: ROC and precision-recall points, reliability bins


@dataclass(frozen=True)
class ReliabilityBin:
    """The tiles whose predicted probability falls into one bin.

    Attributes:
        low: Lower edge.
        high: Upper edge.
        n_tiles: Tiles within.
        mean_probability: Mean predicted probability of these tiles.
        observed: Share of these tiles for which the event happened.
    """

    low: float
    high: float
    n_tiles: int
    mean_probability: float
    observed: float


def roc_points(
    event_N: NDArray[np.bool_], score_N: NDArray[np.float64], max_points: int = 300
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ROC curve, tied scores joined by one straight step."""
    n_positive, n_negative = int(event_N.sum()), int((~event_N).sum())
    if n_positive == 0 or n_negative == 0:
        raise ValueError("a ROC curve needs both classes")
    # Counts of positive and negative tiles at or above the last tile of each tie, from (0, 0) on; a long curve keeps
    # corners at even steps.
    true_P, passed_P = _passed(event_N, score_N)
    true_P, false_P = np.concatenate([[0], true_P]), np.concatenate([[0], passed_P - true_P])
    keep = _corners(false_P, true_P)
    if len(keep) > max_points:
        keep = keep[np.unique(np.linspace(0, len(keep) - 1, max_points).round().astype(np.int64))]
    return false_P[keep] / n_negative, true_P[keep] / n_positive


def precision_points(
    event_N: NDArray[np.bool_], score_N: NDArray[np.float64], max_points: int = 300
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the precision-recall curve as the steps whose area is the average precision."""
    if not event_N.any():
        raise ValueError("a precision-recall curve needs positive tiles")
    # Precision at the last tile of each tie where recall rises; the left sixth of a long curve stays whole, the rest is
    # thinned at even steps. Each recall stands twice: where its step ends and where the next begins.
    true_P, passed_P = _passed(event_N, score_N)
    precision_P = true_P / passed_P
    rises = np.flatnonzero(np.diff(true_P, prepend=0))  # elsewhere recall stands still: a step without width
    if len(rises) > max_points // 2:
        spaced = np.linspace(0, len(rises) - 1, max_points // 3).round().astype(np.int64)
        rises = rises[np.unique(np.concatenate([np.arange(max_points // 6), spaced]))]
    recall_P = true_P[rises] / true_P[-1]
    edges_P = np.concatenate([[0.0], np.repeat(recall_P, 2)[:-1]])
    return edges_P, np.repeat(precision_P[rises], 2)


def _passed(event_N: Bool, score_N: Float) -> tuple[Int, Int]:
    """Return how many positive tiles, and how many in all, lie at or above the last tile of each tie."""
    order = np.argsort(-score_N, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(score_N[order])), len(order) - 1)
    return np.cumsum(event_N[order])[last_of_tie], last_of_tie + 1


def reliability_bins(
    event_N: NDArray[np.bool_], probability_N: NDArray[np.float64], n_bins: int = 10
) -> tuple[ReliabilityBin, ...]:
    """Sort tiles into bins of equal width by predicted probability."""
    index_N = np.clip((probability_N * n_bins).astype(np.int64), 0, n_bins - 1)
    bins = []
    for index in np.unique(index_N):
        inside_N = index_N == index
        mean, observed = float(probability_N[inside_N].mean()), float(event_N[inside_N].mean())
        bins.append(ReliabilityBin(index / n_bins, (index + 1) / n_bins, int(inside_N.sum()), mean, observed))
    return tuple(bins)


def class_matrix(table: pl.DataFrame, column: str) -> NDArray[np.float64]:
    """Return a column of per-class numbers as a matrix."""
    values = table[column].explode().to_numpy().astype(np.float64, copy=False)
    return values.reshape(len(table), -1)


def _corners(x_P: NDArray[np.int64], y_P: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the points where a staircase turns; points on a straight piece add nothing."""
    dx, dy = np.diff(x_P), np.diff(y_P)
    turns = dx[1:] * dy[:-1] != dx[:-1] * dy[1:]
    return np.concatenate([[0], np.flatnonzero(turns) + 1, [len(x_P) - 1]])
