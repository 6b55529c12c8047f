"""torch.optim's own kernels on stacked weights in units of the learning rate; weight decay is each job's own."""

# S streams, T jobs per stream, X all weights of a job in one tensor

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from histotune.heads.sgd.config import SgdSettings


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
        """Decay the weights, or add the decay to the gradients.

        Args:
            scaled: Weights divided by learning rates; changed in place.
            gradients: By weight; changed in place.
            factor: The schedule's factor of the learning rate.
        """
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
    """Return the state before the first step.

    Args:
        scaled: Stacked weights.
        settings: Any job's; all of a stack share their optimiser.
    """
    import torch

    zeros = [torch.zeros_like(part) for part in scaled]
    if settings.optimizer == "SGD":
        return OptimiserState(zeros if settings.momentum else [], [])
    return OptimiserState(zeros, [torch.zeros_like(part) for part in scaled])


def take_step(
    scaled: list[Tensor], gradients: list[Tensor], state: OptimiserState, settings: SgdSettings, factor: float
) -> None:
    """Move all weights by one step.

    Args:
        scaled: Weights divided by learning rates; changed in place.
        gradients: By weight, decay included where it belongs to the gradient.
        state: Changed in place.
        settings: Optimiser, betas, momentum.
        factor: The schedule's factor of the learning rate, in these units the learning rate itself.
    """
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
        scaled, gradients, state.first, state.second, [], state.counters(), fused=True, amsgrad=False, beta1=beta1,
        beta2=beta2, lr=factor, weight_decay=0.0, eps=settings.eps, maximize=False,
    )  # fmt: skip


def _sgd_step(
    scaled: list[Tensor], gradients: list[Tensor], state: OptimiserState, settings: SgdSettings, factor: float
) -> None:
    """Momentum as torch.optim.SGD: buffer = momentum * buffer + gradient, which from zeros equals its first step."""
    from torch.optim.sgd import sgd

    buffers: list[Tensor | None] = list(state.first) if state.first else [None] * len(scaled)
    sgd(
        scaled, gradients, buffers, fused=True, weight_decay=0.0, momentum=settings.momentum, lr=factor,
        dampening=0.0, nesterov=settings.nesterov, maximize=False,
    )  # fmt: skip
