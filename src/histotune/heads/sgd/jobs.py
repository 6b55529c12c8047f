"""What the batched loop is given and what it gives back."""

# N tiles, n tiles of a split, D columns, V columns with the bias, padded, C classes, L = C - 1 logits relative to class
# 0, B rows of a batch, J jobs of a chunk, S streams, T jobs per stream (or heads), O outputs, I inputs, E epochs

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.heads.config import Cosine, SgdSettings, Stopping
from histotune.heads.solver.problems import divisors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from histotune.heads.config import CurveMetric

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


BLOCK_ROWS = 8192
DENSE_BYTES = 2**31
"""Up to this size the training rows are kept in float32; beyond it every batch is read from the source."""
HELD_BYTES = 2**30
"""The same for held-out rows."""
WIDTH_MULTIPLE = 16
"""Rows start on a cache line: 16 floats."""
EPSILON = float(np.finfo(np.float64).eps)
CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 2**29}
"""Weights of one chunk: on a CPU they, their gradients and moments stay near the cores from step to step."""
MAX_STREAMS = 64


@dataclass(frozen=True)
class TrainSplit:
    """Which tiles train a head and which ones judge its epochs.

    Attributes:
        train_rows: Tiles it learns from.
        held_rows: Tiles its curves are measured on; none gives no curves.
        held_weight_n: Weight of each held-out tile in the log-loss; None weighs all alike.
    """

    train_rows: Int
    held_rows: Int = field(default_factory=lambda: np.zeros(0, np.int64))
    held_weight_n: Float | None = None


@dataclass(frozen=True)
class TrainData:
    """What all jobs share.

    Attributes:
        x_ND: Raw columns, any float type, in memory or mapped.
        y_N: Labels.
        n_classes: Number of classes.
        splits: Splits that jobs refer to by number.
        standardise: Whether each split's columns are standardised by its training tiles.
    """

    x_ND: NDArray[np.floating]
    y_N: Int
    n_classes: int
    splits: tuple[TrainSplit, ...]
    standardise: bool = True


@dataclass(frozen=True)
class TrainJob:
    """One head to train.

    Attributes:
        settings: How.
        split: On which split.
        seed: Of its initial weights and its batch order: jobs of one seed share both.
        stop_after: Epochs after which it ends, its schedule notwithstanding; None trains to the end.
    """

    settings: SgdSettings
    split: int = 0
    seed: int = 0
    stop_after: int | None = None


@dataclass(frozen=True)
class Layer:
    """One linear layer as torch.nn.Linear holds it.

    Attributes:
        weight_OI: A row per output.
        bias_O: One per output.
    """

    weight_OI: NDArray[np.floating]
    bias_O: NDArray[np.floating]


@dataclass(frozen=True)
class TrainOptions:
    """How the loop runs; none of it changes a head beyond rounding, save ``stopping``.

    Attributes:
        metrics: What is measured on the held-out tiles after every epoch.
        stopping: Which epoch's weights are kept.
        device: Where it runs.
        checkpoint: Folder of the state to go on from; None keeps none.
        checkpoint_every_s: Seconds between two states.
        order: Rows of an epoch in their order, given seed, epoch and number of rows; None shuffles by the seed.
        initial: Initial layers of a job; None draws torch.nn.Linear's distribution by the seed.
    """

    metrics: tuple[CurveMetric, ...] = ("log_loss",)
    stopping: Stopping = Stopping()  # noqa: RUF009  (frozen)
    device: Literal["cpu", "cuda"] = "cpu"
    checkpoint: Path | None = None
    checkpoint_every_s: float = 30.0
    order: Callable[[int, int, int], Int] | None = None
    initial: Callable[[TrainJob], tuple[Layer, ...]] | None = None

    def measured(self) -> tuple[CurveMetric, ...]:
        """Return the metrics with the monitored one among them."""
        monitor = self.stopping.monitor
        return self.metrics if monitor is None or monitor in self.metrics else (*self.metrics, monitor)


@dataclass(frozen=True)
class LearningCurve:
    """A metric after every epoch.

    Attributes:
        metric: Its name; ``train_loss`` is the loss that was minimised, averaged over the epoch's steps.
        value_E: One value per epoch that was trained.
    """

    metric: str
    value_E: Float


@dataclass(frozen=True)
class TrainedHead:
    """One job's outcome.

    Attributes:
        layers: One layer, or the hidden and the output layer, on raw columns (standardisation folded in), float64;
            NaN where it diverged.
        curves: The training loss, then the metrics.
        kept_epoch: Number of epochs behind the kept weights.
        n_epochs: Epochs begun.
        n_steps: Steps taken.
        diverged: Whether a loss or a weight left all bounds: such a head has no score.
    """

    layers: tuple[Layer, ...]
    curves: tuple[LearningCurve, ...]
    kept_epoch: int
    n_epochs: int
    n_steps: int
    diverged: bool

    def curve(self, metric: str) -> Float:
        """Return the values of one curve, one per epoch."""
        for curve in self.curves:
            if curve.metric == metric:
                return curve.value_E
        raise KeyError(metric)


# ------------------------------------------------------------------------------
# Rows of a split as the loop reads them: float32, standardised, a column of ones for the bias, padded in width


def padded_width(n_columns: int) -> int:
    """Return the width of a row: columns, the bias, and zeros up to a whole cache line."""
    return -(-(n_columns + 1) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


class SplitRows:
    """Training and held-out rows of one split.

    Args:
        data: The matrix and its splits.
        split: Number of the split.
        device: Where batches go.
    """

    def __init__(self, data: TrainData, split: int, device: str) -> None:
        self._data, self._split, self._device = data, data.splits[split], device
        n_columns = data.x_ND.shape[1]
        self._width = padded_width(n_columns)
        self.mean_D, self.scale_D = np.zeros(n_columns), np.ones(n_columns)
        if data.standardise:
            self.mean_D, std_D = column_moments(data.x_ND, self._split.train_rows)
            self.scale_D = divisors(std_D)
        self._held: list[Tensor] | None = None
        self._dense_nV: Tensor | None = None
        if len(self._split.train_rows) * self._width * 4 <= DENSE_BYTES:
            self._dense_nV = self._read(self._split.train_rows)

    def batch(self, index_B: Tensor, out_BV: Tensor) -> None:
        """Write some training rows."""
        import torch

        if self._dense_nV is not None:
            torch.index_select(self._dense_nV, 0, index_B, out=out_BV)
        else:
            out_BV.copy_(self._read(self._split.train_rows[index_B.cpu().numpy()]))

    def held_blocks(self) -> Iterator[Tensor]:
        """Yield the held-out rows, in order, in blocks (n, V)."""
        rows = self._split.held_rows
        if self._held is None and len(rows) * self._width * 4 <= HELD_BYTES:
            self._held = [self._read(rows[start : start + BLOCK_ROWS]) for start in range(0, len(rows), BLOCK_ROWS)]
        if self._held is not None:
            yield from self._held
            return
        for start in range(0, len(rows), BLOCK_ROWS):
            yield self._read(rows[start : start + BLOCK_ROWS])

    def _read(self, rows_n: Int) -> Tensor:
        import torch

        # Standardised in float64 before it is rounded, block by block; then a column of ones, and zeros up to the
        # width.
        out_nV = np.zeros((len(rows_n), self._width), np.float32)
        n_columns = len(self.mean_D)
        for start in range(0, len(rows_n), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            block = self._data.x_ND[rows_n[part]]
            if self._data.standardise:
                out_nV[part, :n_columns] = (block.astype(np.float64) - self.mean_D) / self.scale_D
            else:
                out_nV[part, :n_columns] = block
        out_nV[:, n_columns] = 1.0
        return torch.from_numpy(out_nV).to(self._device)


def column_moments(x_ND: NDArray[np.floating], rows: Int) -> tuple[Float, Float]:
    """Return mean and standard deviation per column, in float64, streamed; constant columns have deviation 0."""
    blocks = [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]
    mean_D = np.sum([x_ND[block].sum(axis=0, dtype=np.float64) for block in blocks], axis=0) / len(rows)
    square_D = np.sum([((x_ND[block].astype(np.float64) - mean_D) ** 2).sum(axis=0) for block in blocks], axis=0)
    variance_D = square_D / len(rows)
    # Constant up to rounding, as scikit-learn's scaler judges it.
    bound_D = len(rows) * EPSILON * variance_D + (len(rows) * mean_D * EPSILON) ** 2
    return mean_D, np.where(variance_D <= bound_D, 0.0, np.sqrt(variance_D))


# ------------------------------------------------------------------------------
# Metrics of many heads on the same held-out tiles at once


@dataclass(frozen=True)
class HeldOut:
    """Labels of held-out tiles.

    Attributes:
        y_n: Labels.
        weight_n: Weights of the log-loss, summing to 1.
        n_classes: Number of classes.
    """

    y_n: Tensor
    weight_n: Tensor
    n_classes: int


def measure(z_TLn: Tensor, held: HeldOut, metrics: Sequence[CurveMetric]) -> Tensor:
    """Return metrics of every head."""
    import torch

    z_TCn = torch.nn.functional.pad(z_TLn, (0, 0, 1, 0))
    counts_TCC = _confusion(z_TCn, held) if set(metrics) & {"balanced_accuracy", "macro_f1", "accuracy"} else None
    values = []
    for metric in metrics:
        if metric == "log_loss":
            values.append(_log_loss(z_TCn, held))
        elif metric == "auroc":
            values.append(_auroc(z_TCn, held))
        else:
            assert counts_TCC is not None
            values.append(_from_counts(counts_TCC, metric))
    return torch.stack(values) if values else z_TLn.new_empty(0, len(z_TLn))


def _log_loss(z_TCn: Tensor, held: HeldOut) -> Tensor:
    import torch

    own_Tn = z_TCn.gather(1, held.y_n.expand(len(z_TCn), 1, -1))[:, 0]
    return (torch.logsumexp(z_TCn, 1) - own_Tn) @ held.weight_n


def _confusion(z_TCn: Tensor, held: HeldOut) -> Tensor:
    """Return counts (T, true, predicted)."""
    import torch

    n_classes = held.n_classes
    code_Tn = held.y_n * n_classes + z_TCn.argmax(1)
    counts = torch.zeros(len(z_TCn), n_classes**2, dtype=z_TCn.dtype, device=z_TCn.device)
    return counts.scatter_add_(1, code_Tn, torch.ones_like(code_Tn, dtype=z_TCn.dtype)).view(-1, n_classes, n_classes)


def _from_counts(counts_TCC: Tensor, metric: CurveMetric) -> Tensor:
    hit_TC = counts_TCC.diagonal(dim1=1, dim2=2)
    true_TC, guessed_TC = counts_TCC.sum(2), counts_TCC.sum(1)
    if metric == "accuracy":
        return hit_TC.sum(1) / true_TC.sum(1)
    if metric == "balanced_accuracy":
        return _mean_where(hit_TC / true_TC.clamp(min=1), true_TC > 0)
    return _mean_where(2 * hit_TC / (true_TC + guessed_TC).clamp(min=1), true_TC + guessed_TC > 0)


def _mean_where(value_TC: Tensor, counted_TC: Tensor) -> Tensor:
    return (value_TC * counted_TC).sum(1) / counted_TC.sum(1)


def _auroc(z_TCn: Tensor, held: HeldOut) -> Tensor:
    """Mean over classes of one against the rest (class 1 alone in binary tasks), ties half, from mid-ranks."""
    import torch

    # Mid-rank of a score: (tiles below + tiles not above + 1) / 2. Ranks of a class less n (n + 1) / 2 are its wins
    # over the rest, ties half (Mann-Whitney's U); classes without a pair are left out of the mean.
    binary = held.n_classes == 2
    score_TCn = z_TCn[:, 1:] if binary else torch.softmax(z_TCn, 1)
    is_Cn = torch.stack([held.y_n == label for label in ([1] if binary else range(held.n_classes))])
    sorted_TCn = score_TCn.sort(dim=2).values
    score_TCn = score_TCn.contiguous()
    below = torch.searchsorted(sorted_TCn, score_TCn)
    upto = torch.searchsorted(sorted_TCn, score_TCn, right=True)
    rank_TCn = (below + upto + 1).double() / 2
    n_own, n_rest = is_Cn.sum(1).double(), (~is_Cn).sum(1).double()
    wins_TC = (rank_TCn * is_Cn).sum(2) - n_own * (n_own + 1) / 2
    both = (n_own > 0) & (n_rest > 0)
    value_TC = torch.where(both, wins_TC / (n_own * n_rest).clamp(min=1), torch.zeros_like(wins_TC))
    mean_T = value_TC.sum(1) / both.sum()
    return torch.where(torch.isfinite(z_TCn).all(2).all(1), mean_T, torch.nan).to(z_TCn.dtype)


# ------------------------------------------------------------------------------
# Which jobs step together: equal shapes and optimisers, equal lengths of an epoch, few enough to stay in cache


@dataclass(frozen=True)
class Chunk:
    """Jobs that step together.

    Attributes:
        job_ST: Job numbers; the jobs of a row share split and seed, and so their batches.
    """

    job_ST: Int


def plan_chunks(data: TrainData, jobs: Sequence[TrainJob], device: str) -> list[Chunk]:
    """Deal all jobs into chunks."""
    # Jobs of one split and seed see the same batches: a stream. Streams as long as one another, with as many jobs and
    # the same stepping, fill a chunk up to its bytes.
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
