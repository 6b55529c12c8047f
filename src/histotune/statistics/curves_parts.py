"""The numbers behind the curves: ROC and precision-recall points, reliability bins, from predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray
# N tiles, K classes, P points of a curve


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
    """Return the ROC curve, tied scores joined by one straight step.

    Args:
        event_N: Whether the tile is of the positive class.
        score_N: Higher means more likely positive.
        max_points: Longer curves keep evenly spaced corners; invisible at figure size.

    Returns:
        False positive rate (P,) and true positive rate (P,), from (0, 0) to (1, 1).

    Raises:
        ValueError: One class only.
    """
    n_positive, n_negative = int(event_N.sum()), int((~event_N).sum())
    if n_positive == 0 or n_negative == 0:
        raise ValueError("a ROC curve needs both classes")
    order = np.argsort(-score_N, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(score_N[order])), len(order) - 1)
    true_P = np.concatenate([[0], np.cumsum(event_N[order])[last_of_tie]])
    false_P = np.concatenate([[0], np.cumsum(~event_N[order])[last_of_tie]])
    keep = _corners(false_P, true_P)
    if len(keep) > max_points:
        keep = keep[np.unique(np.linspace(0, len(keep) - 1, max_points).round().astype(np.int64))]
    return false_P[keep] / n_negative, true_P[keep] / n_positive


def precision_points(
    event_N: NDArray[np.bool_], score_N: NDArray[np.float64], max_points: int = 300
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the precision-recall curve as the steps whose area is the average precision.

    Args:
        event_N: Whether the tile is of the positive class.
        score_N: Higher means more likely positive.
        max_points: Longer curves keep their first steps and evenly spaced ones; invisible at figure size.

    Returns:
        Recall (P,) and precision (P,): each step runs from the recall before a threshold to its own, at its precision.

    Raises:
        ValueError: No positive tile.
    """
    if not event_N.any():
        raise ValueError("a precision-recall curve needs positive tiles")
    order = np.argsort(-score_N, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(score_N[order])), len(order) - 1)
    true_P = np.cumsum(event_N[order])[last_of_tie]
    precision_P = true_P / (last_of_tie + 1)
    rises = np.flatnonzero(np.diff(true_P, prepend=0))  # elsewhere recall stands still: a step without width
    if len(rises) > max_points // 2:
        spaced = np.linspace(0, len(rises) - 1, max_points // 3).round().astype(np.int64)
        rises = rises[np.unique(np.concatenate([np.arange(max_points // 6), spaced]))]
    recall_P = true_P[rises] / true_P[-1]
    edges_P = np.concatenate([[0.0], np.repeat(recall_P, 2)[:-1]])
    return edges_P, np.repeat(precision_P[rises], 2)


def reliability_bins(
    event_N: NDArray[np.bool_], probability_N: NDArray[np.float64], n_bins: int = 10
) -> tuple[ReliabilityBin, ...]:
    """Sort tiles into bins of equal width by predicted probability.

    Args:
        event_N: Whether the event happened.
        probability_N: Its predicted probability.
        n_bins: Bins between 0 and 1.

    Returns:
        The bins that hold tiles, in increasing order.
    """
    index_N = np.clip((probability_N * n_bins).astype(np.int64), 0, n_bins - 1)
    bins = []
    for index in np.unique(index_N):
        inside_N = index_N == index
        mean, observed = float(probability_N[inside_N].mean()), float(event_N[inside_N].mean())
        bins.append(ReliabilityBin(index / n_bins, (index + 1) / n_bins, int(inside_N.sum()), mean, observed))
    return tuple(bins)


def class_matrix(table: pl.DataFrame, column: str) -> NDArray[np.float64]:
    """Return a column of per-class numbers as a matrix.

    Args:
        table: Predictions with at least one row.
        column: ``logit`` or ``probability``, a list or array of K numbers per row.

    Returns:
        float64 (N, K).
    """
    values = table[column].explode().to_numpy().astype(np.float64, copy=False)
    return values.reshape(len(table), -1)


def _corners(x_P: NDArray[np.int64], y_P: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the points where a staircase turns; points on a straight piece add nothing."""
    dx, dy = np.diff(x_P), np.diff(y_P)
    turns = dx[1:] * dy[:-1] != dx[:-1] * dy[1:]
    return np.concatenate([[0], np.flatnonzero(turns) + 1, [len(x_P) - 1]])
