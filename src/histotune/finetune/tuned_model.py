"""A backbone and its head as one model: logits of images, and the head of the probe that it starts from."""

# B batch, D columns, K classes, J logits of the head: 1 for two classes, else K

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from histotune.heads.solver.problems import divisors
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.backbones.network import Network
    from histotune.heads.head import Head

    Float = NDArray[np.float64]


@dataclass(frozen=True)
class LinearHead:
    """A linear head in raw columns, as a probe saves it.

    Attributes:
        weight_KD: Weights; row 0 is zero for two classes.
        bias_K: Biases.
        mean_D: Mean of each column over the training tiles.
        std_D: What each column was divided by.
        blocks: Names of the column blocks, in order.
    """

    weight_KD: Float
    bias_K: Float
    mean_D: Float
    std_D: Float
    blocks: tuple[str, ...]


def head_of_probe(head: Head) -> LinearHead:
    """Return the linear head that training starts from: the probe's, its logits divided by its temperature.

    No ranking and no calibrated probability changes. A head with a weak penalty shouts, and its large weights would
    tear the backbone's features apart within the first epoch.
    """
    if head.hidden is not None or head.train_mean_D is None or head.train_std_D is None:
        raise UserError(
            "fine-tuning starts at a linear probe",
            value=head.family,
            allowed="logistic, ridge",
            fix="leave out --set sweep.family=...",
        )
    weight_KD, bias_K = (values / head.calibration.temperature for values in (head.weight_KD, head.bias_K))
    return LinearHead(weight_KD, bias_K, head.train_mean_D, divisors(head.train_std_D), head.pooling)


class TunedModel(torch.nn.Module):
    """Logits of a network's outputs under a linear head that is trained in standardised columns.

    The head is kept as z = (x - mean) / std with weights w' = w std and biases b' = b + w mean: the same logits, but
    a step of one rate moves every column alike.

    Args:
        network: Maps its input (pixels or tokens) to named outputs.
        start: The probe's head.
        dtype: Of the head and its columns.
    """

    mean_D: torch.Tensor
    std_D: torch.Tensor

    def __init__(self, network: Network, start: LinearHead, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.backbone = network.module
        self._outputs, self._blocks = network.outputs, start.blocks
        self._binary = len(start.weight_KD) == 2
        # two classes: one logit, that of class 1 less that of class 0, so that the softmax has no idle direction
        weight_JD, bias_J = start.weight_KD, start.bias_K
        if self._binary:
            weight_JD, bias_J = weight_JD[1:] - weight_JD[:1], bias_J[1:] - bias_J[:1]
        self.register_buffer("mean_D", torch.from_numpy(start.mean_D).to(dtype))
        self.register_buffer("std_D", torch.from_numpy(start.std_D).to(dtype))
        self.weight = torch.nn.Parameter(torch.from_numpy(weight_JD * start.std_D).to(dtype))
        self.bias = torch.nn.Parameter(torch.from_numpy(bias_J + weight_JD @ start.mean_D).to(dtype))

    def columns(self, x: torch.Tensor) -> torch.Tensor:
        """Return the columns that the head reads (B, D), in the head's precision."""
        outputs = self._outputs(x)
        return torch.cat([outputs[name] for name in self._blocks], dim=1).to(self.mean_D.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K)."""
        x_BD = self.columns(x)
        with torch.autocast(x_BD.device.type, enabled=False):
            logit_BJ = torch.nn.functional.linear((x_BD - self.mean_D) / self.std_D, self.weight, self.bias)
        return torch.cat([torch.zeros_like(logit_BJ), logit_BJ], dim=1) if self._binary else logit_BJ

    def head(self) -> LinearHead:
        """Return the trained head in raw columns, standardisation folded in: w = w' / std, b = b' - w mean."""
        mean_D, std_D = (one.detach().cpu().double().numpy() for one in (self.mean_D, self.std_D))
        weight_JD = self.weight.detach().cpu().double().numpy() / std_D
        bias_J = self.bias.detach().cpu().double().numpy() - weight_JD @ mean_D
        if self._binary:
            weight_JD, bias_J = np.vstack([np.zeros_like(weight_JD), weight_JD]), np.r_[0.0, bias_J]
        return LinearHead(weight_JD, bias_J, mean_D, std_D, self._blocks)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return 2 if self._binary else len(self.bias)

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names of the head's own parameters."""
        return ("weight", "bias")
