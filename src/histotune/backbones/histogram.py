"""The colour histogram as a backbone: numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray  # noqa: TC002

from histotune.backbones.spec import Backbone, BackboneSpec, ColumnBlock

N_BINS = 32
# B batch, S side, C channels, D columns


def load_histogram(spec: BackboneSpec) -> Backbone:
    """Return the colour histogram as a backbone with the block ``pooled``, 96 columns."""
    return Backbone(spec, (ColumnBlock("pooled", 0, 3 * N_BINS),), colour_fractions)


def colour_fractions(pixels_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the fraction of pixels in each of 32 equal bins, channel by channel.

    Args:
        pixels_BSSC: uint8 (B, S, S, 3).

    Returns:
        float32 (B, 96): red, green, blue; each channel sums to 1.
    """
    bins_BPC = (pixels_BSSC >> 3).reshape(len(pixels_BSSC), -1, 3)  # 256 / 32 = 8 grey levels per bin
    counts = [[np.bincount(tile_PC[:, channel], minlength=N_BINS) for channel in range(3)] for tile_PC in bins_BPC]
    counts_BD = np.asarray(counts, dtype=np.float64).reshape(-1, 3 * N_BINS)
    return (counts_BD / bins_BPC.shape[1]).astype(np.float32)
