"""Cross-entropy of many heads at once, and its derivative by logit."""

# S streams of batches, T jobs per stream, B rows of a batch, K classes, L = K - 1 logits relative to class 0

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


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
    """Return the targets of a batch, as torch.nn.functional.cross_entropy defines smoothing and class weights.

    Args:
        one_hot_SKB: Labels.
        settings: Smoothing and weights.

    Returns:
        Targets per job.
    """
    if settings.plain:
        mass = one_hot_SKB[:, None]
        return Targets(mass, mass.new_ones(1, 1, 1), mass.new_full((1, 1), float(mass.shape[-1])))
    n_classes = one_hot_SKB.shape[1]
    smoothing, weight = settings.smoothing_ST[:, :, None, None], settings.weight_STK[..., None]
    own = weight * one_hot_SKB[:, None]
    mass = own * (1.0 - smoothing) + weight * (smoothing / n_classes)
    return Targets(mass, mass.sum(2), own.sum((2, 3)))


def loss_and_slope(z_STLB: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Return every job's mean loss and its derivative by relative logit.

    Args:
        z_STLB: Logits minus class 0's; overwritten.
        targets: Of the batch.

    Returns:
        Loss (S, T) and slope (S, T, L, B).
    """
    import torch

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
