"""One loop trains all heads: jobs that share shapes step together, finished and diverged ones leave the batch."""

# J jobs of a chunk, S streams (jobs of one split and seed), T jobs per stream, n training rows, B rows of a batch,
# V padded columns with the bias, C classes, M curves

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.sgd.checkpoint import Checkpoint, plan_key
from histotune.heads.sgd.chunk import ChunkRun
from histotune.heads.sgd.data import TrainOptions
from histotune.heads.sgd.outcome import trained_heads
from histotune.heads.sgd.plan import plan_chunks
from histotune.heads.sgd.rows import SplitRows
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.heads.sgd.chunk_record import ChunkRecord
    from histotune.heads.sgd.data import Job, TrainData, TrainedHead
    from histotune.heads.sgd.plan import Chunk


def train_heads(data: TrainData, jobs: Sequence[Job], options: TrainOptions | None = None) -> list[TrainedHead]:
    """Train every job; the outcome of one does not depend, beyond rounding, on the others beside it.

    Args:
        data: Columns, labels and splits.
        jobs: Heads to train.
        options: Metrics, stopping, device, where to keep the state.

    Returns:
        One outcome per job, in order. With a checkpoint folder an interrupted call goes on where it stopped, bit by
        bit on the same machine and number of threads.

    Raises:
        UserError: A one-logit head of more than two classes.
        ValueError: Shapes or split numbers that don't fit, or nothing held out to monitor.

    Example:
        >>> data = TrainData(x_ND, y_N, 2, (Split(train_rows, held_rows),))  # doctest: +SKIP
        >>> heads = train_heads(data, [Job(SgdSettings(lr=lr)) for lr in (1e-4, 1e-3)])  # doctest: +SKIP
    """
    options = options or TrainOptions()
    _check(data, jobs, options)
    checkpoint = None
    if options.checkpoint is not None:
        checkpoint = Checkpoint(options.checkpoint, plan_key(data, jobs, options), options.checkpoint_every_s)
    heads: dict[int, TrainedHead] = {}
    rows: dict[int, SplitRows] = {}
    for number, chunk in enumerate(plan_chunks(data, jobs, options.device)):
        needed = dict.fromkeys(jobs[int(job)].split for job in chunk.job_ST[:, 0])
        rows = {split: rows.get(split) or SplitRows(data, split, options.device) for split in needed}
        members = [[jobs[int(job)] for job in stream] for stream in chunk.job_ST]
        record = _train_chunk(number, ChunkRun(data, members, options, rows), checkpoint)
        heads |= _by_job(chunk, trained_heads(record, rows, [job for stream in members for job in stream], options))
    return [heads[job] for job in range(len(jobs))]


def _train_chunk(number: int, run: ChunkRun, checkpoint: Checkpoint | None) -> ChunkRecord:
    """Train one chunk to its end, or read that it was."""
    if checkpoint is None:
        while run.is_training():
            run.train_epoch()
        return run.record
    finished = checkpoint.finished(number)
    if finished is not None:
        return finished
    kept = checkpoint.running(number)
    if kept is not None:
        run.resume(*kept)
    while run.is_training():
        run.train_epoch()
        if checkpoint.is_due():
            checkpoint.keep(number, run.record, run.state())
    checkpoint.finish(number, run.record)
    return run.record


def _by_job(chunk: Chunk, heads: Sequence[TrainedHead]) -> dict[int, TrainedHead]:
    return dict(zip(chunk.job_ST.ravel().tolist(), heads, strict=True))


def _check(data: TrainData, jobs: Sequence[Job], options: TrainOptions) -> None:
    if data.y_N.shape != (len(data.x_ND),):
        raise ValueError(f"{len(data.x_ND)} rows and {data.y_N.shape} labels")
    for part in data.splits:
        labels = data.y_N[np.concatenate([part.train_rows, part.held_rows])]
        if not len(part.train_rows) or labels.min() < 0 or labels.max() >= data.n_classes:
            raise ValueError(f"a split needs training rows, and labels from 0 to {data.n_classes - 1}")
    for job in jobs:
        if not 0 <= job.split < len(data.splits):
            raise ValueError(f"there is no split {job.split}")
        if options.stopping.monitor is not None and not len(data.splits[job.split].held_rows):
            raise ValueError(f"split {job.split} has no held-out rows to monitor {options.stopping.monitor} on")
        if job.settings.one_logit and data.n_classes != 2:
            raise UserError("a head with one logit tells two classes apart", value=f"{data.n_classes} classes",
                            fix="leave one_logit out")  # fmt: skip
