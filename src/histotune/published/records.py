"""What a protocol is given and what it gives back."""

# N tiles, n scored tiles, D columns, K classes, R runs

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

ProtocolMetric = Literal["balanced_accuracy", "macro_f1"]
TIE = 1e-9


@dataclass(frozen=True)
class ProtocolData:
    """Embeddings of a data set with the protocol's own parts.

    Attributes:
        x_ND: Embeddings of one pooling, float16 or float32; may be memory-mapped.
        y_N: Labels.
        n_classes: Number of classes.
        train_rows: What heads learn from.
        valid_rows: What chooses epochs, heads and k.
        scored_rows: What the numbers are reported on; in eva's BreakHis the same tiles as ``valid_rows``.
    """

    x_ND: NDArray[np.floating[Any]]
    y_N: Int
    n_classes: int
    train_rows: Int
    valid_rows: Int
    scored_rows: Int

    def take(self, rows: Int) -> NDArray[np.floating[Any]]:
        """Return embeddings of some rows: a view where they lie together, so that a mapped file stays on disk."""
        together = len(rows) > 0 and bool((np.diff(rows) == 1).all())
        return self.x_ND[rows[0] : rows[-1] + 1] if together else self.x_ND[rows]


@dataclass(frozen=True)
class ProtocolRun:
    """One run of one head: its number as the protocol counts it, and its predictions.

    Attributes:
        value: The protocol's metric on the scored tiles; NaN where the head diverged.
        probability_nK: Probability (or share of the vote) per scored tile and class; NaN where it diverged.
        chosen: What the protocol chose, in words, such as "epoch 57 of 557" or "k = 5".
    """

    value: float
    probability_nK: Float
    chosen: str = ""


@dataclass(frozen=True)
class ProtocolArm:
    """One row of a protocol's table.

    Attributes:
        name: Such as "linear probe", "kNN" or "SimpleShot, 16 shots".
        metric: What the protocol reports.
        runs: One or several.
        spread_over: What the runs differ in, such as "initial weights and batch order"; empty for a single run.
        value_B: Further values that the protocol averages (one per draw); empty where the runs are all there is.
        note: What a reader must know about this row.
    """

    name: str
    metric: ProtocolMetric
    runs: tuple[ProtocolRun, ...]
    spread_over: str = ""
    value_B: tuple[float, ...] = ()
    note: str = ""

    @property
    def values(self) -> tuple[float, ...]:
        """The values whose mean and spread are reported."""
        return self.value_B or tuple(run.value for run in self.runs)

    @property
    def mean(self) -> float:
        """Mean value; NaN where a run diverged."""
        return float(np.mean(self.values))

    @property
    def sd(self) -> float:
        """Standard deviation over the values (n - 1); NaN for a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else float("nan")


def decided(share_nK: Float) -> Float:
    """Return shares whose ties go to the lower class, as the argmax of a vote does, whatever reads them later."""
    n_classes = share_nK.shape[1]
    shifted_nK = share_nK + TIE * np.arange(n_classes, 0, -1)
    return np.asarray(shifted_nK / shifted_nK.sum(axis=1, keepdims=True))


def metric_value(metric: ProtocolMetric, y_n: Int, predicted_n: Int, n_classes: int) -> float:
    """Return the protocol's metric of one set of predictions.

    Args:
        metric: Which.
        y_n: Labels.
        predicted_n: Predicted classes.
        n_classes: Number of classes.

    Returns:
        The value; NaN where a class has no tile.
    """
    from histotune.statistics.metrics import balanced_accuracy, macro_f1

    return (balanced_accuracy if metric == "balanced_accuracy" else macro_f1)(y_n, predicted_n, n_classes)


def metric_of_counts(metric: ProtocolMetric, confusion_BKK: Int) -> Float:
    """Return the metric of many confusion matrices (true by predicted) at once; NaN where a class has no tile."""
    hit_BK = np.diagonal(confusion_BKK, axis1=1, axis2=2).astype(np.float64)
    true_BK, guessed_BK = confusion_BKK.sum(axis=2), confusion_BKK.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall_BK = hit_BK / true_BK
        f1_BK = np.where(true_BK > 0, 2.0 * hit_BK / (true_BK + guessed_BK), np.nan)
    return np.asarray((recall_BK if metric == "balanced_accuracy" else f1_BK).mean(axis=1))
