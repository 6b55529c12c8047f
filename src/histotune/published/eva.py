"""eva's offline classification (kaiko-eva 0.4.5): all runs of a linear layer trained together.

Read in kaiko-eva 0.4.5 and its configurations: AdamW, cross-entropy (one logit and BCE in binary tasks), the epoch with
the best balanced accuracy on the valid part is kept. No scheduler is configured, so that torch's ConstantLR holds the
learning rate at a third for the first five epochs.
"""

# N tiles, n scored tiles, D columns, K classes

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from histotune.heads.config import Hold, SgdSettings, Stopping
from histotune.heads.head import BLOCK_ROWS, softmax
from histotune.heads.neighbours import draw_shots
from histotune.heads.sgd.jobs import TrainData, TrainJob, TrainOptions, TrainSplit
from histotune.heads.sgd.train import head_logits, train_heads
from histotune.published.protocols import ProtocolArm, ProtocolRun, metric_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.heads.sgd.jobs import TrainedHead
    from histotune.published.protocols import EvaConfig, ProtocolData, ProtocolMetric


METRIC: Final = "balanced_accuracy"


def eva(data: ProtocolData, config: EvaConfig, device: Literal["cpu", "cuda"]) -> tuple[ProtocolArm, ...]:
    """Train all runs of eva's linear head in one batch."""
    splits = _splits(data, config)
    settings = eva_settings(config, one_logit=data.n_classes == 2)
    jobs = [TrainJob(settings, run % len(splits), config.seed + run) for run in range(config.runs)]
    options = TrainOptions(
        metrics=(METRIC,),
        stopping=Stopping(
            monitor=METRIC, patience=config.patience, min_delta=config.min_delta, check_every=config.check_every
        ),
        device=device,
    )
    trained = train_heads(TrainData(data.x_ND, data.y_N, data.n_classes, splits, standardise=False), jobs, options)
    runs = tuple(
        linear_run(data, head, METRIC, f"epoch {head.kept_epoch} of {head.n_epochs}, {head.n_steps:,} steps")
        for head in trained
    )
    spread = "training tiles, initial weights" if config.shots else "initial weights and batch order"
    return (ProtocolArm("linear layer", METRIC, runs, spread),)


def eva_settings(config: EvaConfig, *, one_logit: bool) -> SgdSettings:
    """Return eva's optimiser, schedule and loss."""
    return SgdSettings(
        optimizer="AdamW",
        lr=config.lr,
        weight_decay=config.weight_decay,
        batch_size=config.batch_size,
        max_steps=config.max_steps,
        schedule=(Hold(factor=1.0 / 3.0, length=config.slow_epochs, unit="epoch"),),
        one_logit=one_logit,
    )


def _splits(data: ProtocolData, config: EvaConfig) -> tuple[TrainSplit, ...]:
    """Return the split of all runs, or one per run where each draws its training tiles."""
    if config.shots is None:
        return (TrainSplit(data.train_rows, data.valid_rows),)
    y_n = data.y_N[data.train_rows]
    drawn = [draw_shots(y_n, config.shots, 1, np.random.default_rng(config.seed + run)) for run in range(config.runs)]
    return tuple(TrainSplit(data.train_rows[rows[0].ravel()], data.valid_rows) for rows in drawn)


# ------------------------------------------------------------------------------
# A trained linear layer on the scored tiles


def linear_run(data: ProtocolData, head: TrainedHead, metric: ProtocolMetric, chosen: str) -> ProtocolRun:
    """Score a trained layer."""
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
