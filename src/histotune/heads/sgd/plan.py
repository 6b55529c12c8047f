"""Which jobs step together: equal shapes and optimisers, equal lengths of an epoch, few enough to stay in cache."""

# J jobs of a chunk, S streams, T jobs per stream

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.sgd.config import Cosine
from histotune.heads.sgd.rows import padded_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.heads.sgd.config import SgdSettings
    from histotune.heads.sgd.data import Job, TrainData

    Int = NDArray[np.int64]

CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 2**29}
"""Weights of one chunk: on a CPU they, their gradients and moments stay near the cores from step to step."""
MAX_STREAMS = 64


@dataclass(frozen=True)
class Chunk:
    """Jobs that step together.

    Attributes:
        job_ST: Job numbers; the jobs of a row share split and seed, and so their batches.
    """

    job_ST: Int


def plan_chunks(data: TrainData, jobs: Sequence[Job], device: str) -> list[Chunk]:
    """Deal all jobs into chunks.

    Args:
        data: Splits and columns.
        jobs: What to train.
        device: ``cpu`` or ``cuda``.

    Returns:
        Chunks, those of one split one after another.
    """
    streams: dict[tuple[SgdSettings, int, int, int], list[int]] = {}
    for number, job in enumerate(jobs):
        n_rows = len(data.splits[job.split].train_rows)
        streams.setdefault((_stepping(job.settings), n_rows, job.split, job.seed), []).append(number)
    chunks: list[Chunk] = []
    by_shape: dict[tuple[SgdSettings, int, int, int], list[list[int]]] = {}
    for key, members in streams.items():
        limit = max(1, CHUNK_BYTES[device] // _job_bytes(data, jobs[members[0]].settings))
        for start in range(0, len(members), limit):
            part = members[start : start + limit]
            together = min(max(1, limit // len(part)), MAX_STREAMS)
            by_shape.setdefault((key[0], key[1], len(part), together), []).append(part)
    for (_, _, _, together), parts in by_shape.items():
        chunks += [
            Chunk(np.array(parts[start : start + together], np.int64)) for start in range(0, len(parts), together)
        ]
    return sorted(chunks, key=lambda chunk: jobs[chunk.job_ST[0, 0]].split)


def n_outputs(settings: SgdSettings, n_classes: int) -> int:
    """Return the rows of the output layer."""
    return 1 if settings.one_logit else n_classes


def batches_per_epoch(settings: SgdSettings, n_rows: int) -> int:
    """Return how many steps an epoch takes; a set smaller than one batch is one step."""
    whole, rest = divmod(n_rows, settings.batch_size)
    return max(whole + (1 if rest and not settings.drop_last else 0), 1)


def training_steps(settings: SgdSettings, n_rows: int) -> int:
    """Return how many steps a training takes in all."""
    return settings.max_steps or settings.epochs * batches_per_epoch(settings, n_rows)


def training_epochs(settings: SgdSettings, n_rows: int) -> int:
    """Return how many epochs a training begins."""
    return -(-training_steps(settings, n_rows) // batches_per_epoch(settings, n_rows))


def _stepping(settings: SgdSettings) -> SgdSettings:
    """Return the settings with everything that may differ between jobs of a chunk taken out."""
    neutral: dict[str, object] = {"lr": 1.0, "weight_decay": 0.0, "label_smoothing": 0.0, "class_weight": "none"}
    if settings.optimizer != "SGD":
        neutral |= {"momentum": 0.9, "nesterov": False}
    if not any(isinstance(piece, Cosine) for piece in settings.schedule) and settings.max_steps is None:
        neutral["epochs"] = 1
    return settings.model_copy(update=neutral)


def _job_bytes(data: TrainData, settings: SgdSettings) -> int:
    width, hidden = padded_width(data.x_ND.shape[1]), settings.hidden_units
    outputs = n_outputs(settings, data.n_classes)
    return 4 * (hidden * width + outputs * (hidden + 1) if hidden else outputs * width)
