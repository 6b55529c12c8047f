"""A backbone, its view and its head as one torch module, from stored pixels to calibrated logits.

The view is Pillow's resize as products of matrices, equal to the last bit, so that whoever runs an exported model
needs no image library of the same version, or none at all. :class:`AnySizeView` builds its matrices from the size of
the images that it is given, by tensor operations alone: an exported graph takes images of every size.
:class:`FixedSizeView` holds the matrices of one size, in float32.
"""

# B batch, H height, W width, S side of the network's input, C channels, I in, O out, D columns, K classes

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import PIL
import torch

from histotune.images.device_resize import (
    PRECISION_BITS,
    SPLIT_BITS,
    fixed_weights,
    passes_vertical_first,
    split_weights,
)
from histotune.images.views import place

if TYPE_CHECKING:
    from histotune.backbones.network import Network
    from histotune.backbones.spec import BackboneSpec
    from histotune.deploy.folded_head import FoldedHead
    from histotune.images.config import ViewConfig

ONE = 1 << PRECISION_BITS


class PixelModel(torch.nn.Module):
    """Calibrated logits of images.

    Args:
        network: The backbone with named outputs.
        view: Maps what comes in to grey levels of the network's input (B, 3, S, S), 0 to 255.
        spec: Its normalisation.
        head: On all columns of the backbone.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: Network, view: torch.nn.Module, spec: BackboneSpec, head: FoldedHead) -> None:
        super().__init__()
        self.view, self.backbone, self.head = view, network.module, torch_head(head)
        self._outputs = network.outputs
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K); their softmax is the calibrated probability."""
        x_BCSS = (self.view(pixels).float() / 255 - self.mean) / self.std
        return self.head(torch.cat(list(self._outputs(x_BCSS).values()), dim=1))  # type: ignore[no-any-return]


class WithProbabilities(torch.nn.Module):
    """A model that gives probabilities beside the logits.

    Args:
        model: Gives logits (B, K).
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and probabilities, both (B, K)."""
        logit_BK = self.model(pixels)
        return logit_BK, torch.softmax(logit_BK, dim=1)


def torch_head(head: FoldedHead) -> torch.nn.Module:
    """Return a head as torch's own layers, in float32."""
    last = _linear(head.weight_KD, head.bias_K)
    if head.hidden_weight_HD is None or head.hidden_bias_H is None:
        return last
    activation = torch.nn.ReLU() if head.activation == "relu" else torch.nn.GELU()
    return torch.nn.Sequential(_linear(head.hidden_weight_HD, head.hidden_bias_H), activation, last)


def _linear(weight_OI: np.ndarray, bias_O: np.ndarray) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight_OI.shape[1], weight_OI.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight_OI))
        layer.bias.copy_(torch.from_numpy(bias_O))
    return layer


# ---- The view for images of every size, and for those of one size ----


class AnySizeView(torch.nn.Module):
    """Pillow's resize, then a crop or a padding, as matrices made from the size of the images, in float64.

    The pass along y comes first where the installed Pillow has it so: that shows where a first pass overshoots.

    Args:
        view: Any but ``tiles``.
        mpp: Scale of the images, um/px, for views with ``target_mpp``.
    """

    rows_S: torch.Tensor
    pad: torch.Tensor

    def __init__(self, view: ViewConfig, mpp: float | None = None) -> None:
        super().__init__()
        self._view = view
        self._has_order = passes_vertical_first((9, 9), (9, 1), int(PIL.__version__.split(".")[0]))
        self._factor = None if view.target_mpp is None or mpp is None else mpp / view.target_mpp
        self.register_buffer("rows_S", torch.arange(view.size_px, dtype=torch.float64))
        self.register_buffer("pad", torch.tensor(view.pad_rgb, dtype=torch.float64).view(1, 3, 1, 1))

    def forward(self, pixels_BHWC: torch.Tensor) -> torch.Tensor:
        """Return grey levels of the network's input (B, 3, S, S) from uint8 pixels (B, H, W, 3)."""
        x_BCHW = pixels_BHWC.permute(0, 3, 1, 2).to(torch.float64)
        # Sizes as tensors, counted along each axis: a graph made from these operations takes any size.
        ones_W, ones_H = torch.ones_like(x_BCHW[0, 0, 0]), torch.ones_like(x_BCHW[0, 0, :, 0])
        width, height = ones_W.sum(), ones_H.sum()
        along_x_SW, seen_x_S = self._axis(torch.cumsum(ones_W, 0) - 1, width, height)
        along_y_SH, seen_y_S = self._axis(torch.cumsum(ones_H, 0) - 1, height, width)
        x_BCSS = self._passes(x_BCHW, along_x_SW, along_y_SH, self._vertical_first(width, height))
        return torch.where((seen_y_S[:, None] & seen_x_S[None, :])[None, None], x_BCSS, self.pad)

    def _vertical_first(self, width: torch.Tensor, height: torch.Tensor) -> torch.Tensor:
        """Return whether Pillow resizes along y first, as ``images.device_resize.passes_vertical_first`` has it."""
        if not self._has_order:
            return torch.zeros_like(width, dtype=torch.bool)
        fewer_rows, fewer_columns = height - self._resized(height, width), width - self._resized(width, height)
        return (fewer_rows > 0) & (fewer_rows > 2 * fewer_columns)

    def _passes(
        self, x_BCHW: torch.Tensor, along_x_SW: torch.Tensor, along_y_SH: torch.Tensor, vertical_first: torch.Tensor
    ) -> torch.Tensor:
        """Resize along both axes; in an exported graph the order is a branch of its own."""
        if torch.compiler.is_exporting():
            branches = (_vertical_then_horizontal, _horizontal_then_vertical)
            both: torch.Tensor = torch.cond(vertical_first, *branches, (x_BCHW, along_x_SW, along_y_SH))
            return both
        passes = _vertical_then_horizontal if bool(vertical_first) else _horizontal_then_vertical
        return passes(x_BCHW, along_x_SW, along_y_SH)

    def _axis(
        self, index_I: torch.Tensor, side: torch.Tensor, other: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return Pillow's weights of one axis in fixed point (S, I), and which rows lie in the image (S,)."""
        resized = self._resized(side, other)
        # The crop begins at half the difference, halves to even; the smaller half of a padding comes first.
        half = torch.floor(torch.abs(resized - self._view.size_px) / 2)
        odd = torch.abs(resized - self._view.size_px) - 2 * half
        to_even = half + odd * (half - 2 * torch.floor(half / 2))
        row_S = self.rows_S + torch.where(resized >= self._view.size_px, to_even, -half)
        # Row o is a weighted mean about (o + 0.5) I / O, over 1 (bilinear) or 2 (bicubic) pixels of the coarser image.
        scale = side / resized
        stretch = torch.clamp(scale, min=1.0)
        support = (1.0 if self._view.interpolation == "bilinear" else 2.0) * stretch
        centre_S1 = ((row_S + 0.5) * scale)[:, None]
        first_S1 = torch.clamp(torch.floor(centre_S1 - support + 0.5), min=0.0)
        last_S1 = torch.minimum(torch.floor(centre_S1 + support + 0.5), side)
        weight_SI = self._kernel((index_I[None] - centre_S1 + 0.5) * (1.0 / stretch))
        weight_SI = torch.where((index_I[None] >= first_S1) & (index_I[None] < last_S1), weight_SI, 0.0)
        total_S1 = weight_SI.sum(dim=1, keepdim=True)
        weight_SI = weight_SI / torch.where(total_S1 == 0, 1.0, total_S1) * ONE
        weight_SI = torch.trunc(weight_SI + torch.where(weight_SI < 0, -0.5, 0.5))
        is_seen_S = (row_S >= 0) & (row_S < resized)
        return torch.where(is_seen_S[:, None], weight_SI, 0.0), is_seen_S

    def _resized(self, side: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return a side after resizing, as ``images.views.resized_sizes`` has it."""
        view = self._view
        if self._factor is not None:
            length = torch.sqrt(side * other) if view.name == "square" else side
            return torch.clamp(torch.floor(self._factor * length + 0.5), min=1.0)
        if view.name == "letterbox":
            return torch.clamp(torch.floor(view.size_px / torch.maximum(side, other) * side + 0.5), min=1.0)
        if not view.scaled_px:
            return side
        if view.name == "square":
            return torch.full_like(side, view.scaled_px)
        return torch.floor(view.scaled_px * side / torch.minimum(side, other))

    def _kernel(self, x: torch.Tensor) -> torch.Tensor:
        """Return the triangle, or Keys' cubic with a = -0.5, written as Pillow writes them."""
        x = torch.abs(x)
        if self._view.interpolation == "bilinear":
            return torch.clamp(1.0 - x, min=0.0)
        near = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * -0.5
        return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))


class FixedSizeView(torch.nn.Module):
    """The same for square images of one size, given as values from 0 to 1 (B, 3, T, T); float32, exact.

    Args:
        view: Any but ``tiles``.
        tile_px: Side T of the images.
        mpp: Their scale, um/px, for views with ``target_mpp``.
    """

    high_SI: torch.Tensor
    low_SI: torch.Tensor
    outside_SS: torch.Tensor
    pad: torch.Tensor

    def __init__(self, view: ViewConfig, tile_px: int, mpp: float | None = None) -> None:
        super().__init__()
        resized_px = None if view.target_mpp is None or mpp is None else _side(mpp / view.target_mpp * tile_px)
        placement = place(tile_px, tile_px, view, None if resized_px is None else (resized_px, resized_px))
        (start_px, _), side_px = placement.corners_px[0], placement.resized_px[0]
        rows_S = np.arange(view.size_px) + start_px
        seen_S = (rows_S >= 0) & (rows_S < side_px)
        weights = split_weights(fixed_weights(tile_px, side_px, view.interpolation))
        for name, part_OI in (("high_SI", weights.high_OI), ("low_SI", weights.low_OI)):
            picked_SI = part_OI[np.clip(rows_S, 0, side_px - 1)] * seen_S[:, None]
            self.register_buffer(name, torch.from_numpy(picked_SI.astype(np.float32)))
        self.register_buffer("outside_SS", torch.from_numpy(~(seen_S[:, None] & seen_S[None, :])))
        self.register_buffer("pad", torch.tensor(view.pad_rgb, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, x_BCTT: torch.Tensor) -> torch.Tensor:
        """Return grey levels of the network's input (B, 3, S, S)."""
        x_BCTT = torch.round(x_BCTT * 255.0)
        x_BCTS = self._pass(x_BCTT @ self.high_SI.T, x_BCTT @ self.low_SI.T)
        x_BCSS = self._pass(self.high_SI @ x_BCTS, self.low_SI @ x_BCTS)
        return torch.where(self.outside_SS, self.pad, x_BCSS)

    def _pass(self, high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        """Put the parts together, round and clip to 8 bits: whole numbers below 2^32 in int64, which is exact."""
        total = high.to(torch.int64) * (1 << SPLIT_BITS) + low.to(torch.int64) + (1 << (PRECISION_BITS - 1))
        return torch.clamp(total >> PRECISION_BITS, 0, 255).to(torch.float32)


def _side(length_px: float) -> int:
    return max(int(np.floor(length_px + 0.5)), 1)


def _rounded(x: torch.Tensor) -> torch.Tensor:
    """Round and clip to 8 bits as Pillow does after each pass; sums of whole numbers below 2^53 are exact."""
    return torch.clamp(torch.floor((x + ONE // 2) / ONE), 0, 255)


def _horizontal_then_vertical(x_BCHW: torch.Tensor, along_x_SW: torch.Tensor, along_y_SH: torch.Tensor) -> torch.Tensor:
    return _rounded(along_y_SH @ _rounded(x_BCHW @ along_x_SW.T))


def _vertical_then_horizontal(x_BCHW: torch.Tensor, along_x_SW: torch.Tensor, along_y_SH: torch.Tensor) -> torch.Tensor:
    return _rounded(_rounded(along_y_SH @ x_BCHW) @ along_x_SW.T)
