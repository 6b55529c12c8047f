"""How an image becomes the network's input, and at which scale the network then sees the tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.records import TileSet
    from histotune.images.config import ViewConfig
# H height, W width, S side of the view, N tiles


def apply_view(image_HWC: NDArray[np.uint8], view: ViewConfig) -> NDArray[np.uint8]:
    """Resize the short side to the network's input and crop the centre square.

    Equal, to the last bit, to torchvision's ``Resize(size, antialias=True)`` and ``CenterCrop(size)`` on a PIL image,
    which is what pathology foundation models document.

    Args:
        image_HWC: uint8 (H, W, 3).
        view: Size and filter.

    Returns:
        uint8 (size_px, size_px, 3), contiguous.

    Example:
        >>> from histotune.images.config import ViewConfig
        >>> apply_view(np.zeros((460, 700, 3), np.uint8), ViewConfig()).shape
        (224, 224, 3)
    """
    from PIL import Image

    height_px, width_px = image_HWC.shape[:2]
    size = resized_px(width_px, height_px, view.size_px)
    if size != (width_px, height_px):
        resample = Image.Resampling[view.interpolation.upper()]
        image_HWC = np.asarray(Image.fromarray(image_HWC).resize(size, resample))
    # Python's rounding of halves to even is torchvision's, so it is kept.
    left, top = round((size[0] - view.size_px) / 2), round((size[1] - view.size_px) / 2)
    return np.ascontiguousarray(image_HWC[top : top + view.size_px, left : left + view.size_px])


def resized_px(width_px: int, height_px: int, short_px: int) -> tuple[int, int]:
    """Return (width, height) after resizing the short side; the long side is truncated, as torchvision does it.

    Args:
        width_px: Width of the stored image.
        height_px: Height of the stored image.
        short_px: Short side wanted.

    Returns:
        Width and height in pixels.

    Example:
        >>> resized_px(700, 460, 224)
        (340, 224)
    """
    if width_px <= height_px:
        return short_px, int(short_px * height_px / width_px)
    return int(short_px * width_px / height_px), short_px


def input_mpp(tiles: TileSet, view: ViewConfig) -> NDArray[np.float64]:
    """Return the scale at which the network sees each tile: native mpp x source px / network px, per axis.

    The axes differ only by the truncation of the long side to whole pixels.

    Args:
        tiles: Tiles with ``mpp``, ``width_px`` and ``height_px``.
        view: The view.

    Returns:
        um/px (N, 2): along x, along y; NaN where mpp or size is unknown.
    """
    table = tiles.table.select(pl.col("mpp", "width_px", "height_px").cast(pl.Float64))
    mpp_N, width_N, height_N = (table[name].fill_null(float("nan")).to_numpy() for name in table.columns)
    result_N2 = np.full((len(tiles), 2), np.nan)
    known_N = np.isfinite(mpp_N) & (width_N > 0) & (height_N > 0)
    for row in np.flatnonzero(known_N):
        new_width, new_height = resized_px(int(width_N[row]), int(height_N[row]), view.size_px)
        result_N2[row] = mpp_N[row] * width_N[row] / new_width, mpp_N[row] * height_N[row] / new_height
    return result_N2
