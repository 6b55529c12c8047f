"""A trained linear layer on the scored tiles."""

# n scored tiles, D columns, K classes

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.head import BLOCK_ROWS, softmax
from histotune.heads.sgd.train import head_logits
from histotune.published.records import ProtocolRun, metric_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.heads.sgd.data import TrainedHead
    from histotune.published.records import ProtocolData, ProtocolMetric


def linear_run(data: ProtocolData, head: TrainedHead, metric: ProtocolMetric, chosen: str) -> ProtocolRun:
    """Score a trained layer.

    Args:
        data: Labels and scored tiles.
        head: Of one linear layer; a single output is the logit of class 1.
        metric: What the protocol reports.
        chosen: What the protocol chose, in words.

    Returns:
        The run; NaN where the head diverged.
    """
    if head.diverged:
        nothing_nK = np.full((len(data.scored_rows), data.n_classes), np.nan)
        return ProtocolRun(float("nan"), nothing_nK, f"diverged after {head.n_steps:,} steps")
    logit_nK = linear_logits(data, head)
    value = metric_value(metric, data.y_N[data.scored_rows], logit_nK.argmax(axis=1), data.n_classes)
    return ProtocolRun(value, softmax(logit_nK), chosen)


def linear_logits(data: ProtocolData, head: TrainedHead) -> NDArray[np.float64]:
    """Return logits (n, K) of the scored tiles; 0 for class 0 where the layer has a single output."""
    rows = data.scored_rows
    parts = [
        head_logits(head, data.take(rows[start : start + BLOCK_ROWS])) for start in range(0, len(rows), BLOCK_ROWS)
    ]
    logit_nO = np.concatenate(parts)
    return np.pad(logit_nO, ((0, 0), (1, 0))) if logit_nO.shape[1] == 1 else logit_nO
