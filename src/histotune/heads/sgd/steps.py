"""Many heads of one shape as stacked tensors: their logits and gradients are a few large products.

Weights are stored divided by their job's learning rate. Adam's and momentum's steps are proportional to the learning
rate, so that in these units every job takes the same step and one call of torch.optim's kernel serves them all.
A softmax sees only differences of logits: those to class 0 are computed, and class 0's gradient is minus the others'.
"""

# S streams of batches, T jobs per stream, B rows of a batch, V columns with the bias (padded), K output rows (classes),
# L = K - 1 logits relative to class 0, H hidden units, G = H + 1 with the bias, X all weights of a job in one tensor,
# O outputs, I inputs

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from histotune.heads.config import Hold, WarmUp
from histotune.heads.sgd.jobs import Layer, n_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from histotune.heads.config import SchedulePiece, SgdSettings
    from histotune.heads.sgd.jobs import TrainJob


WEIGHTS, ORDER = 1, 2
"""Streams of random numbers."""


class Stack(Protocol):
    """Stacked heads.

    Attributes:
        scaled: Weights divided by learning rates; every tensor begins with axes S and T.
        lr_ST: Learning rates.
    """

    scaled: list[Tensor]
    lr_ST: Tensor

    def logits(self, x_SBV: Tensor) -> Tensor:
        """Return logits relative to class 0 (S, T, L, B), remembering what :meth:`gradients` needs."""

    def gradients(self, slope_STLB: Tensor, x_SBV: Tensor) -> list[Tensor]:
        """Return the gradient by weight, one tensor for each of ``scaled``; the same buffers every time."""


def make_stack(scaled: list[Tensor], lr_ST: Tensor, activation: Literal["relu", "gelu"]) -> Stack:
    """Return linear heads for one tensor, small MLPs for two."""
    return LinearStack(scaled, lr_ST) if len(scaled) == 1 else MlpStack(scaled, lr_ST, activation)


class LinearStack:
    """Linear heads."""

    def __init__(self, scaled: list[Tensor], lr_ST: Tensor) -> None:
        self.scaled, self.lr_ST = scaled, lr_ST
        self._gradient: Tensor | None = None

    def logits(self, x_SBV: Tensor) -> Tensor:
        """See :class:`Stack`."""
        return _project(_relative(self.scaled[0]), x_SBV).mul_(self.lr_ST[:, :, None, None])

    def gradients(self, slope_STLB: Tensor, x_SBV: Tensor) -> list[Tensor]:
        """See :class:`Stack`."""
        import torch

        if self._gradient is None:
            self._gradient = torch.empty_like(self.scaled[0])
        _fill_absolute(self._gradient, _collect(slope_STLB, x_SBV))
        return [self._gradient]


class MlpStack:
    """Heads with one hidden layer."""

    def __init__(self, scaled: list[Tensor], lr_ST: Tensor, activation: Literal["relu", "gelu"]) -> None:
        self.scaled, self.lr_ST, self._activation = scaled, lr_ST, activation
        self._gradients: list[Tensor] = []
        self._before_STHB: Tensor | None = None
        self._after_STGB: Tensor | None = None

    def logits(self, x_SBV: Tensor) -> Tensor:
        """See :class:`Stack`."""
        import torch

        lr = self.lr_ST[:, :, None, None]
        self._before_STHB = _project(self.scaled[0], x_SBV).mul_(lr)
        after = activate(self._before_STHB, self._activation)
        self._after_STGB = torch.nn.functional.pad(after, (0, 0, 0, 1), value=1.0)
        return torch.matmul(_relative(self.scaled[1]), self._after_STGB).mul_(lr)

    def gradients(self, slope_STLB: Tensor, x_SBV: Tensor) -> list[Tensor]:
        """See :class:`Stack`."""
        import torch

        # Backpropagation: output gradient = slope . after^t; through the output weights without their bias (W x
        # learning rate, as weights are stored divided by it) and the activation's slope to the hidden layer.
        before, after = self._before_STHB, self._after_STGB
        assert before is not None and after is not None
        self._gradients = self._gradients or [torch.empty_like(part) for part in self.scaled]
        hidden, output = self._gradients
        _fill_absolute(output, torch.matmul(slope_STLB, after.transpose(2, 3)))
        weight = _relative(self.scaled[1])[..., :-1]
        back = torch.matmul(weight.transpose(2, 3), slope_STLB).mul_(self.lr_ST[:, :, None, None])
        back = _activation_slope(before, back, self._activation)
        hidden.copy_(_collect(back, x_SBV))
        return self._gradients


def activate(before: Tensor, activation: Literal["relu", "gelu"]) -> Tensor:
    """Return the activation of the hidden layer; GELU is the exact one, as torch.nn.GELU's default."""
    import torch

    return torch.relu(before) if activation == "relu" else torch.nn.functional.gelu(before)


def _activation_slope(before: Tensor, back: Tensor, activation: Literal["relu", "gelu"]) -> Tensor:
    import torch

    if activation == "relu":
        return back.mul_(before > 0)
    return torch.ops.aten.gelu_backward(back, before)  # type: ignore[no-any-return]


def _relative(weight_STKX: Tensor) -> Tensor:
    """Return output rows minus row 0; a single row is relative already."""
    if weight_STKX.shape[2] == 1:
        return weight_STKX
    return weight_STKX[:, :, 1:] - weight_STKX[:, :, :1]


def _project(weight_STYV: Tensor, x_SBV: Tensor) -> Tensor:
    """Return (S, T, Y, B): one product per stream for all its jobs."""
    import torch

    n_streams, n_jobs, rows, width = weight_STYV.shape
    flat = weight_STYV.reshape(n_streams, n_jobs * rows, width)
    return torch.bmm(flat, x_SBV.transpose(1, 2)).view(n_streams, n_jobs, rows, -1)


def _collect(slope_STYB: Tensor, x_SBV: Tensor) -> Tensor:
    """Return (S, T, Y, V): slopes summed over the rows of the batch."""
    import torch

    n_streams, n_jobs, rows, n_batch = slope_STYB.shape
    flat = torch.bmm(slope_STYB.reshape(n_streams, n_jobs * rows, n_batch), x_SBV)
    return flat.view(n_streams, n_jobs, rows, -1)


def _fill_absolute(out_STKX: Tensor, relative_STLX: Tensor) -> None:
    """Write the gradient of every output row: class 0's is minus the sum of the others'."""
    import torch

    if out_STKX.shape[2] == 1:
        out_STKX.copy_(relative_STLX)
        return
    out_STKX[:, :, 1:] = relative_STLX
    torch.sum(relative_STLX, 2, out=out_STKX[:, :, 0]).neg_()


# ------------------------------------------------------------------------------
# Cross-entropy of many heads at once, and its derivative by logit


@dataclass(frozen=True)
class LossSettings:
    """How each job's loss differs from plain cross-entropy.

    Attributes:
        smoothing_ST: Label smoothing.
        weight_STK: Weight of every class.
        plain: Whether no job smooths or weighs.
    """

    smoothing_ST: Tensor
    weight_STK: Tensor
    plain: bool


@dataclass(frozen=True)
class Targets:
    """A batch's labels as a loss sees them; the jobs' axis has length 1 where all jobs see the same.

    Attributes:
        mass_STKB: Target per class.
        total_STB: Sum of the targets over the classes.
        norm_ST: What the summed loss is divided by: the rows' class weights.
    """

    mass_STKB: Tensor
    total_STB: Tensor
    norm_ST: Tensor


def make_targets(one_hot_SKB: Tensor, settings: LossSettings) -> Targets:
    """Return the targets of a batch, as torch.nn.functional.cross_entropy defines smoothing and class weights."""
    if settings.plain:
        mass = one_hot_SKB[:, None]
        return Targets(mass, mass.new_ones(1, 1, 1), mass.new_full((1, 1), float(mass.shape[-1])))
    # Smoothing e: target of class k is w_k ((1 - e) [k is the label] + e / K); the mean divides by the labels' weights.
    n_classes = one_hot_SKB.shape[1]
    smoothing, weight = settings.smoothing_ST[:, :, None, None], settings.weight_STK[..., None]
    own = weight * one_hot_SKB[:, None]
    mass = own * (1.0 - smoothing) + weight * (smoothing / n_classes)
    return Targets(mass, mass.sum(2), own.sum((2, 3)))


def loss_and_slope(z_STLB: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Return every job's mean loss and its derivative by relative logit."""
    import torch

    # With targets m of sum M: loss = M log sum exp z - sum_k m_k z_k, z_0 = 0, and its derivative M softmax(z) - m,
    # over the rows' summed class weights; z's memory is reused for the slope.
    total, norm = targets.total_STB[:, :, None], targets.norm_ST
    mass = targets.mass_STKB[:, :, 1:]
    if z_STLB.shape[2] == 1:
        loss = (torch.nn.functional.softplus(z_STLB) * total - z_STLB * mass).sum((2, 3))
        slope = z_STLB.sigmoid_()
    else:
        log_norm = torch.logsumexp(torch.nn.functional.pad(z_STLB, (0, 0, 1, 0)), 2, keepdim=True)
        loss = ((log_norm * total).sum(2) - (z_STLB * mass).sum(2)).sum(2)
        slope = z_STLB.sub_(log_norm).exp_()
    slope = slope.mul_(total).sub_(mass).div_(norm[:, :, None, None])
    return loss / norm, slope


# ------------------------------------------------------------------------------
# torch.optim's own kernels on stacked weights in units of the learning rate; weight decay is each job's own


@dataclass(frozen=True)
class Decay:
    """Weight decay of every job.

    Attributes:
        kind: ``decoupled`` shrinks weights (Loshchilov & Hutter, arXiv 1711.05101), ``gradient`` adds to gradients.
        rate_ST: Learning rate times weight decay.
        any: Whether any job decays.
    """

    kind: Literal["decoupled", "gradient"]
    rate_ST: Tensor
    any: bool

    def apply(self, scaled: list[Tensor], gradients: list[Tensor], factor: float) -> None:
        """Decay the weights, or add the decay to the gradients."""
        if not self.any:
            return
        for weight, gradient in zip(scaled, gradients, strict=True):
            weight_STX = weight.flatten(2)
            if self.kind == "decoupled":
                weight_STX.mul_(1.0 - factor * self.rate_ST[:, :, None])
            else:
                gradient.flatten(2).addcmul_(weight_STX, self.rate_ST[:, :, None])


@dataclass
class OptimiserState:
    """Moments of the stacked weights.

    Attributes:
        first: Running mean of the gradients, or momentum's buffer.
        second: Running mean of their squares; empty for SGD.
        n_steps: Steps taken.
    """

    first: list[Tensor]
    second: list[Tensor]
    n_steps: int = 0
    _counters: list[Tensor] = field(default_factory=list)

    def counters(self) -> list[Tensor]:
        """Return the step counters that torch's kernel advances, one per tensor."""
        import torch

        if not self._counters:
            self._counters = [
                torch.tensor(float(self.n_steps), dtype=torch.float32, device=part.device) for part in self.first
            ]
        return self._counters


def new_state(scaled: list[Tensor], settings: SgdSettings) -> OptimiserState:
    """Return the state before the first step."""
    import torch

    zeros = [torch.zeros_like(part) for part in scaled]
    if settings.optimizer == "SGD":
        return OptimiserState(zeros if settings.momentum else [], [])
    return OptimiserState(zeros, [torch.zeros_like(part) for part in scaled])


def take_step(
    scaled: list[Tensor], gradients: list[Tensor], state: OptimiserState, settings: SgdSettings, factor: float
) -> None:
    """Move all weights by one step."""
    if settings.optimizer == "SGD":
        _sgd_step(scaled, gradients, state, settings, factor)
    else:
        _adam_step(scaled, gradients, state, settings, factor)
    state.n_steps += 1


def _adam_step(
    scaled: list[Tensor], gradients: list[Tensor], state: OptimiserState, settings: SgdSettings, factor: float
) -> None:
    """Kingma & Ba, arXiv 1412.6980; the decay is :class:`Decay`'s, so that Adam and AdamW are one kernel."""
    from torch.optim.adam import adam

    beta1, beta2 = settings.betas
    adam(
        scaled,
        gradients,
        state.first,
        state.second,
        [],
        state.counters(),
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=factor,
        weight_decay=0.0,
        eps=settings.eps,
        maximize=False,
    )


def _sgd_step(
    scaled: list[Tensor], gradients: list[Tensor], state: OptimiserState, settings: SgdSettings, factor: float
) -> None:
    """Momentum as torch.optim.SGD: buffer = momentum * buffer + gradient, which from zeros equals its first step."""
    from torch.optim.sgd import sgd

    buffers: list[Tensor | None] = list(state.first) if state.first else [None] * len(scaled)
    sgd(
        scaled,
        gradients,
        buffers,
        fused=True,
        weight_decay=0.0,
        momentum=settings.momentum,
        lr=factor,
        dampening=0.0,
        nesterov=settings.nesterov,
        maximize=False,
    )


# ------------------------------------------------------------------------------
# Learning-rate schedules: the product of pieces, each a factor of the step or of the epoch


@dataclass(frozen=True)
class Clock:
    """Where a training stands.

    Attributes:
        step: Steps done.
        epoch: Epochs done.
        n_steps: Steps of the whole training.
        n_epochs: Epochs of the whole training.
    """

    step: int
    epoch: int
    n_steps: int
    n_epochs: int


def lr_factor(schedule: Sequence[SchedulePiece], clock: Clock) -> float:
    """Return what multiplies the learning rate in the coming step.

    Example:
        >>> from histotune.heads.config import Hold
        >>> round(lr_factor((Hold(),), Clock(0, 4, 100, 10)), 3), lr_factor((Hold(),), Clock(0, 5, 100, 10))
        (0.333, 1.0)
    """
    factor = 1.0
    for piece in schedule:
        done, total = (clock.step, clock.n_steps) if piece.unit == "step" else (clock.epoch, clock.n_epochs)
        factor *= _piece_factor(piece, done, total)
    return factor


def _piece_factor(piece: SchedulePiece, done: int, total: int) -> float:
    if isinstance(piece, Hold):
        return piece.factor if done < piece.length else 1.0
    if isinstance(piece, WarmUp):
        return piece.start + (1.0 - piece.start) * min(done, piece.length) / piece.length
    share = min(max(done - piece.after, 0) / max(total - piece.after, 1), 1.0)
    return piece.final + (1.0 - piece.final) * (1.0 + math.cos(math.pi * share)) / 2.0


# ------------------------------------------------------------------------------
# Initial weights and batch orders: torch.nn.Linear's distribution and shuffled epochs, each from a seed of its own


def shuffled_order(seed: int, epoch: int, n_rows: int) -> NDArray[np.int64]:
    """Return the rows of an epoch in their order; the same at any time for the same arguments."""
    return np.random.default_rng((ORDER, seed, epoch)).permutation(n_rows)


def linear_layers(job: TrainJob, n_columns: int, n_classes: int) -> tuple[Layer, ...]:
    """Return initial layers: weights and biases uniform within 1 / sqrt(inputs), as torch.nn.Linear draws them."""
    rng = np.random.default_rng((WEIGHTS, job.seed))
    outputs, hidden = n_outputs(job.settings, n_classes), job.settings.hidden_units
    if not hidden:
        return (_draw(rng, outputs, n_columns),)
    return _draw(rng, hidden, n_columns), _draw(rng, outputs, hidden)


def _draw(rng: np.random.Generator, n_out: int, n_in: int) -> Layer:
    bound = 1.0 / np.sqrt(n_in)
    weight_OI = rng.uniform(-bound, bound, (n_out, n_in)).astype(np.float32)
    return Layer(weight_OI, rng.uniform(-bound, bound, n_out).astype(np.float32))
