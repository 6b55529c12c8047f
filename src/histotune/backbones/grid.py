"""The vectors at places of the image whose average a network gives, so that a linear head can be read place by place.

A pooled block is ``shift + mean over places of grid``. That holds for patch tokens behind a class token and for average
pooling. Where a LayerNorm follows the pooling it holds with the standard deviation of the pooled vector taken as a
number: LN(m) = (m - mean(m)) gain / sd(m) + bias, and m - mean(m) is an average over places. Anything else (attention
pooling, a layer with an activation behind the pooling) is refused: no share of it belongs to a place.
"""

# B batch, S side, C channels, T tokens, D columns, h rows and w columns of the grid, P pixels

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from numpy.typing import NDArray

    from histotune.backbones.spec import Backbone


CELLS = 16
"""Cells along a side of the colour histogram's grid, or fewer where the side is no multiple."""
N_BINS, BIN_SHIFT = 32, 3
MAX_NORMS = 6  # the last norms of a network that may be the one behind its pooling
TOLERANCE = 1e-4
"""Relative distance up to which an average counts as what the network gives: fp32 sums in another order stay far below,
another way of pooling lies far above."""
NORM_CONSTANT = "the standard deviation in the LayerNorm behind the pooling is taken as a number of this tile"


@dataclass(frozen=True)
class GridOutputs:
    """What a network gives for some inputs, the averaged block as a grid.

    Attributes:
        fixed: Blocks that belong to no place of the image by name, float64 (B, D): ``cls``.
        averaged: Name of the block that is an average: ``patch_mean`` or ``pooled``.
        grid_BhwD: float64; its mean over places, plus the shift, is the block.
        shift_BD: float64; 0 but behind a LayerNorm.
        note: What is taken as a number of this tile; empty where nothing is.
    """

    fixed: dict[str, NDArray[np.float64]]
    averaged: str
    grid_BhwD: NDArray[np.float64]
    shift_BD: NDArray[np.float64]
    note: str = ""

    @property
    def pooled_BD(self) -> NDArray[np.float64]:
        """The averaged block."""
        return np.asarray(self.shift_BD + self.grid_BhwD.mean(axis=(1, 2)))


def grid_outputs(backbone: Backbone, pixels_BSSC: NDArray[np.uint8]) -> GridOutputs:
    """Run a network and return the vectors that it averages.

    Args:
        backbone: Loaded in fp32.
        pixels_BSSC: uint8 network inputs (B, S, S, 3).

    Returns:
        The blocks; register tokens are left out as the backbone leaves them out.

    Raises:
        UserError: The network's pooled block is no average of a grid.
        ValueError: The network is not in fp32.
    """
    if backbone.module is None:
        return _histogram_grid(pixels_BSSC)
    import torch

    module: Any = backbone.module
    if any(part.dtype != torch.float32 for part in module.parameters()):
        raise ValueError("a map needs its network in fp32")
    with torch.inference_mode():
        x_BCSS = _normalised(backbone, pixels_BSSC)
        if backbone.spec.kind == "transformers":
            return _transformers_grid(module, x_BCSS, backbone)
        return _timm_grid(module, x_BCSS, backbone)


def _normalised(backbone: Backbone, pixels_BSSC: NDArray[np.uint8]) -> torch.Tensor:
    """Return pixels as the engine normalises them."""
    import torch

    device = next(iter(backbone.module.parameters())).device  # type: ignore[union-attr]  # it is there
    mean, std = (
        torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (backbone.spec.mean, backbone.spec.std)
    )
    x_BCSS = torch.from_numpy(np.array(pixels_BSSC)).to(device).permute(0, 3, 1, 2).contiguous()
    return x_BCSS.float().div_(255).sub_(mean).div_(std)


def _timm_grid(module: Any, x_BCSS: torch.Tensor, backbone: Backbone) -> GridOutputs:  # noqa: ANN401
    from histotune.backbones.model_files import has_class_token

    features = module.forward_features(x_BCSS)
    if has_class_token(module):
        return _token_grid(features, module.num_prefix_tokens, backbone)
    pooled_BD = module.forward_head(features, pre_logits=True)
    prefix = getattr(module, "num_prefix_tokens", 0)
    return _pooled_grid(module, features[:, prefix:] if features.ndim == 3 else features, pooled_BD, backbone)


def _transformers_grid(module: Any, x_BCSS: torch.Tensor, backbone: Backbone) -> GridOutputs:  # noqa: ANN401
    blocks = {block.name for block in backbone.blocks}
    answer = module(pixel_values=x_BCSS)
    features = answer.last_hidden_state
    if "cls" in blocks:
        n_patches = (x_BCSS.shape[2] // module.config.patch_size) * (x_BCSS.shape[3] // module.config.patch_size)
        return _token_grid(features, features.shape[1] - n_patches, backbone)
    pooled_BD = getattr(answer, "pooler_output", None)
    if pooled_BD is None:
        pooled_BD = features.mean(dim=(2, 3)) if features.ndim == 4 else features.mean(dim=1)
    return _pooled_grid(module, features, pooled_BD.flatten(1), backbone)


def _token_grid(tokens_BTD: torch.Tensor, n_prefix: int, backbone: Backbone) -> GridOutputs:
    """Return the class token and the patch tokens, which lie row by row."""
    grid = _square(tokens_BTD[:, n_prefix:])
    if grid is None:
        raise _refused(backbone, f"its {tokens_BTD.shape[1] - n_prefix} patch tokens are no square grid")
    grid_BhwD = _numbers(grid)
    shift_BD = np.zeros((len(grid_BhwD), grid_BhwD.shape[-1]))
    return GridOutputs({"cls": _numbers(tokens_BTD[:, 0])}, "patch_mean", grid_BhwD, shift_BD)


def _pooled_grid(module: Any, features: torch.Tensor, pooled_BD: torch.Tensor, backbone: Backbone) -> GridOutputs:  # noqa: ANN401
    """Find out how a pooled block follows from the features before it, by what the network itself gives."""
    wanted_BD = _numbers(pooled_BD)
    for grid_BhwD in _layouts(features, wanted_BD.shape[1]):
        found = GridOutputs({}, "pooled", grid_BhwD, np.zeros_like(wanted_BD))
        if _equal(found.pooled_BD, wanted_BD):
            return found
        for norm in _norms(module, wanted_BD.shape[1]):
            found = _before_norm(grid_BhwD, norm)
            if _equal(found.pooled_BD, wanted_BD):
                return found
    raise _refused(backbone, "its embedding is no average over the places of the image")


def _layouts(features: torch.Tensor, n_columns: int) -> Iterator[NDArray[np.float64]]:
    """Yield the features with their columns last, in every way in which they may lie."""
    if features.ndim == 3 and features.shape[2] == n_columns:
        grid = _square(features)
        if grid is not None:
            yield _numbers(grid)
    if features.ndim == 4 and features.shape[1] == n_columns:
        yield _numbers(features.permute(0, 2, 3, 1))
    if features.ndim == 4 and features.shape[3] == n_columns:
        yield _numbers(features)


def _square(tokens_BTD: torch.Tensor) -> torch.Tensor | None:
    side = isqrt(tokens_BTD.shape[1])
    return tokens_BTD.reshape(len(tokens_BTD), side, side, -1) if side**2 == tokens_BTD.shape[1] else None


def _norms(module: Any, n_columns: int) -> list[Any]:  # noqa: ANN401
    """Return the last norms of a network over so many columns."""
    import torch

    found = [part for part in module.modules() if isinstance(part, torch.nn.LayerNorm)]
    return [part for part in found if tuple(part.normalized_shape) == (n_columns,)][-MAX_NORMS:]


def _before_norm(grid_BhwD: NDArray[np.float64], norm: Any) -> GridOutputs:  # noqa: ANN401
    """Return the grid whose average a LayerNorm gives, its standard deviation taken as a number."""
    # m: the pooled vector of a tile. LN(m) = (m - mean(m)) gain / sqrt(var(m) + eps) + bias.
    sd_B1 = np.sqrt(grid_BhwD.mean(axis=(1, 2)).var(axis=1, keepdims=True) + norm.eps)
    n_columns = grid_BhwD.shape[-1]
    gain_D = np.ones(n_columns) if norm.weight is None else _numbers(norm.weight)
    shift_D = np.zeros(n_columns) if norm.bias is None else _numbers(norm.bias)
    centred_BhwD = grid_BhwD - grid_BhwD.mean(axis=-1, keepdims=True)
    scaled_BhwD = centred_BhwD * (gain_D / sd_B1)[:, None, None, :]
    return GridOutputs({}, "pooled", scaled_BhwD, np.broadcast_to(shift_D, (len(grid_BhwD), n_columns)), NORM_CONSTANT)


def _equal(found_BD: NDArray[np.float64], wanted_BD: NDArray[np.float64]) -> bool:
    return bool(np.linalg.norm(found_BD - wanted_BD) <= TOLERANCE * np.linalg.norm(wanted_BD))


def _numbers(values: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(values.detach().cpu().double().numpy())


def _histogram_grid(pixels_BSSC: NDArray[np.uint8]) -> GridOutputs:
    """Return the colour histogram of every cell; the cells are equally large: their average is the image's."""
    n_images, side = pixels_BSSC.shape[:2]
    n_cells = next(n for n in range(min(CELLS, side), 0, -1) if side % n == 0)
    cell = side // n_cells
    bins = (pixels_BSSC >> BIN_SHIFT).reshape(n_images, n_cells, cell, n_cells, cell, 3)
    bins_BhwPC = bins.transpose(0, 1, 3, 2, 4, 5).reshape(n_images, n_cells, n_cells, cell**2, 3)
    parts = [(bins_BhwPC[..., channel, None] == np.arange(N_BINS)).mean(axis=3) for channel in range(3)]
    grid_BhwD = np.concatenate(parts, axis=-1)
    return GridOutputs({}, "pooled", grid_BhwD, np.zeros((n_images, 3 * N_BINS)))


def _refused(backbone: Backbone, why: str) -> UserError:
    return UserError(
        f"no exact map of this backbone can be drawn: {why}",
        value=backbone.spec.name,
        allowed="networks with patch tokens and a class token, or with average pooling (then a LayerNorm at most)",
        fix="train the head on such a backbone, as --backbone lite0 or a DINOv2 is",
    )
