"""One loop trains all heads: jobs that share shapes step together, finished and diverged ones leave the batch."""

# J jobs of a chunk, S streams (jobs of one split and seed), T jobs per stream, n training rows, B rows of a batch,
# D columns, V padded columns with the bias, C classes, L = C - 1 relative logits, E epochs, M curves, K output rows,
# O outputs, I inputs

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.head import activated
from histotune.heads.sgd.chunk_record import Checkpoint, ChunkRecord, plan_key
from histotune.heads.sgd.jobs import (
    HeldOut,
    Layer,
    LearningCurve,
    SplitRows,
    TrainedHead,
    TrainOptions,
    batches_per_epoch,
    measure,
    padded_width,
    plan_chunks,
    training_epochs,
    training_steps,
)
from histotune.heads.sgd.steps import (
    Clock,
    Decay,
    LossSettings,
    OptimiserState,
    linear_layers,
    loss_and_slope,
    lr_factor,
    make_stack,
    make_targets,
    new_state,
    shuffled_order,
    take_step,
)
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from histotune.heads.sgd.jobs import Chunk, TrainData, TrainJob
    from histotune.heads.sgd.steps import Stack

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


MAX_EPOCHS = 2**31


def train_heads(data: TrainData, jobs: Sequence[TrainJob], options: TrainOptions | None = None) -> list[TrainedHead]:
    """Train every job; the outcome of one does not depend, beyond rounding, on the others beside it."""
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


def _check(data: TrainData, jobs: Sequence[TrainJob], options: TrainOptions) -> None:
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
            raise UserError(
                "a head with one logit tells two classes apart",
                value=f"{data.n_classes} classes",
                fix="leave one_logit out",
            )


# ------------------------------------------------------------------------------
# The training of one chunk, epoch by epoch


@dataclass
class _Batch:
    """Buffers of a batch.

    Attributes:
        x_SBV: Rows.
        one_hot_SCB: Labels.
    """

    x_SBV: Tensor
    one_hot_SCB: Tensor


class ChunkRun:
    """One chunk's training; :attr:`record` holds what is known of its jobs.

    Args:
        data: Columns, labels, splits.
        jobs_ST: Jobs; those of a stream share split and seed.
        options: Metrics, stopping, device, order, initial weights.
        rows: Rows by split.
    """

    def __init__(
        self, data: TrainData, jobs_ST: Sequence[Sequence[TrainJob]], options: TrainOptions, rows: dict[int, SplitRows]
    ) -> None:
        self._data, self._options, self._rows = data, options, rows
        self._jobs = [job for stream in jobs_ST for job in stream]
        self._settings = self._jobs[0].settings
        self._alive_ST = np.arange(len(self._jobs)).reshape(len(jobs_ST), -1)
        self._n_rows = len(data.splits[self._jobs[0].split].train_rows)
        self._held = {split: _held_out(data, split, options.device) for split in rows}
        self._one_hot = {split: _one_hot(data, split, options.device) for split in rows}
        self._set_jobs(self._initial())
        end_epoch_J = np.array(
            [min(training_epochs(job.settings, self._n_rows), job.stop_after or MAX_EPOCHS) for job in self._jobs]
        )
        self.record = ChunkRecord.start(end_epoch_J, self._stack.scaled)
        self._moments = new_state(self._stack.scaled, self._settings)
        self._batch: _Batch | None = None

    def is_training(self) -> bool:
        """Return whether any job has epochs left."""
        return not self.record.done_J.all()

    def state(self) -> dict[str, Tensor]:
        """Return weights, moments and who is still in the batch, to be kept."""
        import torch

        parts = {"scaled": self._stack.scaled, "first": self._moments.first, "second": self._moments.second}
        tensors = {f"{name}.{layer}": part for name, layers in parts.items() for layer, part in enumerate(layers)}
        return tensors | {"alive": torch.from_numpy(self._alive_ST), "n_steps": torch.tensor(self._moments.n_steps)}

    def resume(self, record: ChunkRecord, state: dict[str, Tensor]) -> None:
        """Go on from what was kept."""
        device = self._options.device
        layers = {
            name: [state[f"{name}.{layer}"].to(device) for layer in range(2) if f"{name}.{layer}" in state]
            for name in ("scaled", "first", "second")
        }
        self.record = record
        self.record.kept = [part.to(device) for part in record.kept]
        self._alive_ST = state["alive"].numpy().copy()
        self._set_jobs(layers["scaled"])
        self._moments = OptimiserState(layers["first"], layers["second"], int(state["n_steps"]))

    def train_epoch(self) -> None:
        """Train one epoch, measure, keep the best weights, let finished jobs go."""
        epoch = len(self.record.curve_EMJ)
        per_epoch = batches_per_epoch(self._settings, self._n_rows)
        n_batches = min(per_epoch, training_steps(self._settings, self._n_rows) - epoch * per_epoch)
        if self._settings.max_steps is None:
            n_batches = per_epoch
        loss_ST = self._take_steps(epoch, n_batches)
        checks = n_batches == per_epoch and (epoch + 1) % self._options.stopping.check_every == 0
        metric_MST = self._measure() if checks else np.full(self._metric_shape(), np.nan)
        self._close(np.concatenate([loss_ST[None], metric_MST]), n_batches, checks)

    def _initial(self) -> list[Tensor]:
        """Return stacked initial weights; jobs of one seed and shape draw the same."""
        import torch

        drawn: dict[int, tuple[Layer, ...]] = {}
        make = self._options.initial
        parts: list[list[Float]] = []
        n_columns = self._data.x_ND.shape[1]
        for job in self._jobs:
            if make is None and job.seed not in drawn:
                drawn[job.seed] = linear_layers(job, n_columns, self._data.n_classes)
            layers = drawn[job.seed] if make is None else make(job)
            parts.append(
                [_with_bias(layer, padded_width(n_columns) if k == 0 else 0) for k, layer in enumerate(layers)]
            )
        shape = self._alive_ST.shape
        lr_ST = self._per_job([job.settings.lr for job in self._jobs])
        stacked = [torch.from_numpy(np.stack(layer)).to(self._options.device) for layer in zip(*parts, strict=True)]
        return [part.view(*shape, *part.shape[1:]) / lr_ST[:, :, None, None] for part in stacked]

    def _set_jobs(self, scaled: list[Tensor]) -> None:
        """Set everything that belongs to the jobs still in the batch."""
        jobs = [self._jobs[j] for j in self._alive_ST.ravel()]
        lr_ST = self._per_job([job.settings.lr for job in jobs])
        self._stack: Stack = make_stack(scaled, lr_ST, self._settings.activation)
        rate_ST = self._per_job([job.settings.lr * job.settings.weight_decay for job in jobs])
        kind = "decoupled" if self._settings.optimizer == "AdamW" else "gradient"
        self._decay = Decay(kind, rate_ST, bool((rate_ST > 0).any()))  # type: ignore[arg-type]
        weight_JC = np.stack([_class_weights(self._data, job) for job in jobs])
        plain = not any(job.settings.label_smoothing or job.settings.class_weight != "none" for job in jobs)
        self._loss = LossSettings(
            self._per_job([job.settings.label_smoothing for job in jobs]), self._per_job(weight_JC), plain
        )

    def _per_job(self, values: Sequence[float] | Float) -> Tensor:
        import torch

        array = np.asarray(values, np.float32)
        tensor = torch.from_numpy(array).to(self._options.device)
        return tensor.view(*self._alive_ST.shape, *array.shape[1:])

    def _streams(self) -> list[TrainJob]:
        """Return one job of every stream still in the batch."""
        return [self._jobs[j] for j in self._alive_ST[:, 0]]

    def _take_steps(self, epoch: int, n_batches: int) -> Float:
        """Take an epoch's steps and return the mean training loss (S, T)."""
        import torch

        order = self._options.order or shuffled_order
        order_Sn = torch.from_numpy(
            np.stack([order(job.seed, epoch, self._n_rows) for job in self._streams()]).astype(np.int64)
        ).to(self._options.device)
        per_epoch = batches_per_epoch(self._settings, self._n_rows)
        n_epochs = training_epochs(self._settings, self._n_rows)
        loss_ST = torch.zeros_like(self._stack.lr_ST)
        for number in range(n_batches):
            first = number * self._settings.batch_size
            index_SB = order_Sn[:, first : first + self._settings.batch_size]
            clock = Clock(epoch * per_epoch + number, epoch, n_epochs * per_epoch, n_epochs)
            if self._settings.max_steps is not None:
                clock = Clock(clock.step, epoch, self._settings.max_steps, n_epochs)
            loss_ST += self._step(self._gather(index_SB), lr_factor(self._settings.schedule, clock))
        return np.asarray((loss_ST / n_batches).double().cpu().numpy())

    def _step(self, batch: _Batch, factor: float) -> Tensor:
        stack = self._stack
        z_STLB = stack.logits(batch.x_SBV)
        loss_ST, slope_STLB = loss_and_slope(z_STLB, make_targets(batch.one_hot_SCB, self._loss))
        gradients = stack.gradients(slope_STLB, batch.x_SBV)
        self._decay.apply(stack.scaled, gradients, factor)
        take_step(stack.scaled, gradients, self._moments, self._settings, factor)
        return loss_ST

    def _gather(self, index_SB: Tensor) -> _Batch:
        """Read every stream's rows into the buffers."""
        import torch

        # The buffers serve every batch of the same shape; the last batch of an epoch may be shorter.
        n_streams, n_batch = index_SB.shape
        if self._batch is None or self._batch.x_SBV.shape[:2] != index_SB.shape:
            width = padded_width(self._data.x_ND.shape[1])
            self._batch = _Batch(
                torch.empty(n_streams, n_batch, width, device=self._options.device),
                torch.empty(n_streams, self._data.n_classes, n_batch, device=self._options.device),
            )
        for stream, job in enumerate(self._streams()):
            self._rows[job.split].batch(index_SB[stream], self._batch.x_SBV[stream])
            torch.index_select(self._one_hot[job.split], 1, index_SB[stream], out=self._batch.one_hot_SCB[stream])
        return self._batch

    def _metric_shape(self) -> tuple[int, int, int]:
        return (len(self._options.measured()), *self._alive_ST.shape)

    def _measure(self) -> Float:
        """Return the metrics (M, S, T) on every stream's held-out rows; NaN where there are none."""
        import torch

        values = np.full(self._metric_shape(), np.nan)
        metrics = self._options.measured()
        for stream, job in enumerate(self._streams()):
            if not metrics or not len(self._data.splits[job.split].held_rows):
                continue
            part = slice(stream, stream + 1)
            one = make_stack([w[part] for w in self._stack.scaled], self._stack.lr_ST[part], self._settings.activation)
            z_TLn = torch.cat([one.logits(block[None])[0] for block in self._rows[job.split].held_blocks()], dim=2)
            values[:, stream] = measure(z_TLn, self._held[job.split], metrics).double().cpu().numpy()
        return values

    def _close(self, curve_MST: Float, n_batches: int, checks: bool) -> None:
        """Note the epoch, keep weights that are the best or the last, and shrink the batch."""
        # Where a metric is monitored the best epoch's weights are kept; whoever ends without any keeps the last.
        active_ST = ~self.record.done_J[self._alive_ST]
        jobs = self._alive_ST[active_ST]
        largest_ST = self._largest_weights()
        self.record.close_epoch(jobs, curve_MST[:, active_ST], largest_ST[active_ST], n_batches)
        if checks and self._options.stopping.monitor is not None:
            number = 1 + self._options.measured().index(self._options.stopping.monitor)
            self._keep(self.record.judge(jobs, curve_MST[number][active_ST], self._options.stopping))
        self._keep(jobs[self.record.done_J[jobs] & (self.record.kept_epoch_J[jobs] == 0)])
        self._shrink()

    def _largest_weights(self) -> Float:
        import torch

        largest = [part.flatten(2).abs().amax(2) for part in self._stack.scaled]
        return np.asarray((torch.stack(largest).amax(0) * self._stack.lr_ST).cpu().double().numpy())

    def _keep(self, jobs: Int) -> None:
        """Keep some jobs' weights as they are now."""
        import torch

        if not len(jobs):
            return
        place = {int(j): divmod(at, self._alive_ST.shape[1]) for at, j in enumerate(self._alive_ST.ravel())}
        s, t = (torch.tensor([place[int(j)][axis] for j in jobs]).to(self._options.device) for axis in (0, 1))
        target = torch.from_numpy(np.asarray(jobs)).to(self._options.device)
        for kept, part in zip(self.record.kept, self._stack.scaled, strict=True):
            kept[target] = part[s, t] * self._stack.lr_ST[s, t][:, None, None]
        self.record.kept_epoch_J[jobs] = self.record.n_epochs_J[jobs]

    def _shrink(self) -> None:
        """Take finished jobs out; one that shares a row and a column with others stays along and is not recorded."""
        import torch

        # Rows (streams) and columns in which nobody trains any more are cut out of weights, moments and learning rates.
        busy_ST = ~self.record.done_J[self._alive_ST]
        rows, columns = busy_ST.any(axis=1), busy_ST.any(axis=0)
        if not busy_ST.any() or (rows.all() and columns.all()):
            return
        index = np.ix_(np.flatnonzero(rows), np.flatnonzero(columns))
        where = tuple(torch.from_numpy(axis).to(self._options.device) for axis in index)
        self._alive_ST = self._alive_ST[index]
        self._moments = OptimiserState(
            [part[where] for part in self._moments.first],
            [part[where] for part in self._moments.second],
            self._moments.n_steps,
        )
        self._batch = None
        self._set_jobs([part[where] for part in self._stack.scaled])


def _with_bias(layer: Layer, width: int) -> Float:
    """Return weights with the bias as the last of the real columns, zeros up to ``width``."""
    joined = np.concatenate([layer.weight_OI, layer.bias_O[:, None]], axis=1).astype(np.float32)
    return np.asarray(np.pad(joined, ((0, 0), (0, max(0, width - joined.shape[1])))))


def _class_weights(data: TrainData, job: TrainJob) -> Float:
    if job.settings.class_weight == "none":
        return np.ones(data.n_classes)
    counts = np.bincount(data.y_N[data.splits[job.split].train_rows], minlength=data.n_classes)
    return np.where(counts > 0, counts.sum() / np.maximum(counts, 1) / np.count_nonzero(counts), 0.0)


def _one_hot(data: TrainData, split: int, device: str) -> Tensor:
    """Return the labels of the training rows (C, n)."""
    import torch

    y_n = torch.from_numpy(data.y_N[data.splits[split].train_rows].astype(np.int64))
    return torch.nn.functional.one_hot(y_n, data.n_classes).T.contiguous().float().to(device)


def _held_out(data: TrainData, split: int, device: str) -> HeldOut:
    import torch

    part = data.splits[split]
    weight_n = np.ones(len(part.held_rows)) if part.held_weight_n is None else part.held_weight_n
    weight_n = weight_n / weight_n.sum() if len(weight_n) else weight_n
    return HeldOut(
        torch.from_numpy(data.y_N[part.held_rows].astype(np.int64)).to(device),
        torch.from_numpy(weight_n.astype(np.float32)).to(device),
        data.n_classes,
    )


# ------------------------------------------------------------------------------
# From stacked weights to heads on raw columns


def trained_heads(
    record: ChunkRecord, rows: dict[int, SplitRows], jobs: Sequence[TrainJob], options: TrainOptions
) -> list[TrainedHead]:
    """Return the outcome of a chunk's jobs, standardisation folded in."""
    # The first layer takes the standardisation in; a head that diverged has NaN for weights.
    kept = [part.cpu().double().numpy() for part in record.kept]
    curve_EMJ = np.stack(record.curve_EMJ)
    names = ("train_loss", *options.measured())
    heads = []
    for j, job in enumerate(jobs):
        split = rows[job.split]
        n_epochs = int(record.n_epochs_J[j])
        layers = [_fold(kept[0][j], split.mean_D, split.scale_D)]
        layers += [Layer(part[j][:, :-1].copy(), part[j][:, -1].copy()) for part in kept[1:]]
        if record.diverged_J[j]:
            layers = [Layer(np.full_like(part.weight_OI, np.nan), np.full_like(part.bias_O, np.nan)) for part in layers]
        curves = tuple(LearningCurve(name, curve_EMJ[:n_epochs, m, j].copy()) for m, name in enumerate(names))
        heads.append(
            TrainedHead(
                tuple(layers),
                curves,
                int(record.kept_epoch_J[j]),
                n_epochs,
                int(record.n_steps_J[j]),
                bool(record.diverged_J[j]),
            )
        )
    return heads


def _fold(weight_KV: Float, mean_D: Float, scale_D: Float) -> Layer:
    n_columns = len(mean_D)
    weight_KD = weight_KV[:, :n_columns] / scale_D
    return Layer(weight_KD, weight_KV[:, n_columns] - weight_KD @ mean_D)


def head_logits(head: TrainedHead, x_nD: NDArray[np.floating], activation: str = "relu") -> Float:
    """Return the logits of one head on raw rows."""
    out = x_nD.astype(np.float64)
    for number, layer in enumerate(head.layers):
        if number:
            out = activated(out, activation)
        out = out @ layer.weight_OI.T + layer.bias_O
    return np.asarray(out)
