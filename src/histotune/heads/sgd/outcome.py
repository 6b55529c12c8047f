"""From stacked weights to heads on raw columns."""

# J jobs of a chunk, K output rows, V padded columns with the bias, D columns, O outputs, I inputs

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.apply import activated
from histotune.heads.sgd.data import Curve, Layer, TrainedHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.heads.sgd.chunk_record import ChunkRecord
    from histotune.heads.sgd.data import Job, TrainOptions
    from histotune.heads.sgd.rows import SplitRows

    Float = NDArray[np.float64]


def trained_heads(
    record: ChunkRecord, rows: dict[int, SplitRows], jobs: Sequence[Job], options: TrainOptions
) -> list[TrainedHead]:
    """Return the outcome of a chunk's jobs, standardisation folded in.

    Args:
        record: Their curves and kept weights.
        rows: Means and deviations by split.
        jobs: The chunk's jobs, stream by stream.
        options: Names of the metrics.
    """
    kept = [part.cpu().double().numpy() for part in record.kept]
    curve_EMJ = np.stack(record.curve_EMJ)
    names = ("train_loss", *options.measured())
    heads = []
    for j, job in enumerate(jobs):
        split = rows[job.split]
        n_epochs = int(record.n_epochs_J[j])
        layers = [_fold(kept[0][j], split.mean_D, split.std_D)]
        layers += [Layer(part[j][:, :-1].copy(), part[j][:, -1].copy()) for part in kept[1:]]
        if record.diverged_J[j]:
            layers = [Layer(np.full_like(part.weight_OI, np.nan), np.full_like(part.bias_O, np.nan)) for part in layers]
        curves = tuple(Curve(name, curve_EMJ[:n_epochs, m, j].copy()) for m, name in enumerate(names))
        heads.append(
            TrainedHead(tuple(layers), curves, int(record.kept_epoch_J[j]), n_epochs, int(record.n_steps_J[j]),
                        bool(record.diverged_J[j]))
        )  # fmt: skip
    return heads


def _fold(weight_KV: Float, mean_D: Float, std_D: Float) -> Layer:
    n_columns = len(mean_D)
    weight_KD = weight_KV[:, :n_columns] / std_D
    return Layer(weight_KD, weight_KV[:, n_columns] - weight_KD @ mean_D)


def head_logits(head: TrainedHead, x_nD: NDArray[np.floating], activation: str = "relu") -> Float:
    """Return the logits of one head on raw rows.

    Args:
        head: A trained head.
        x_nD: Raw columns.
        activation: Of the hidden layer, where it has one.

    Returns:
        float64 (n, outputs).
    """
    out = x_nD.astype(np.float64)
    for number, layer in enumerate(head.layers):
        if number:
            out = activated(out, activation)
        out = out @ layer.weight_OI.T + layer.bias_O
    return np.asarray(out)
