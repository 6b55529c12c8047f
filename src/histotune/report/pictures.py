"""The largest errors as small pictures."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.images.decode import read_pixels
from histotune.report.run_folder import Thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.findings import Scored
    from histotune.images.config import LoaderConfig

WIDTH_PX = 180


def largest_errors(
    scored: Sequence[Scored], tiles: Sequence[TileSet], loader: LoaderConfig, n_per_finding: int = 6
) -> tuple[Thumbnail, ...]:
    """Return the probe's most confident mistakes of each finding as JPEG thumbnails.

    Args:
        scored: Predictions of all arms; those of the probe are looked at.
        tiles: The data sets the tiles come from.
        loader: Limits on image size.
        n_per_finding: Pictures per finding, at most one per case.

    Returns:
        Thumbnails, the most confident mistake first within each finding.
    """
    thumbnails = []
    for item in scored:
        if item.arm != "probe":
            continue
        for row in _worst(item, n_per_finding).iter_rows(named=True):
            pixels = _pixels_of(row["tile_id"], tiles, loader)
            thumbnails.append(
                Thumbnail(
                    finding=item.finding,
                    tile_id=row["tile_id"],
                    domain=row["domain"],
                    group_id=row["group_id"] or "unknown",
                    y_true=item.predictions.class_names[row["y_true"]],
                    y_predicted=item.predictions.class_names[row["predicted"]],
                    probability=row["confidence"],
                    jpeg=jpeg_thumbnail(pixels),
                )
            )
    return tuple(thumbnails)


def _worst(item: Scored, n: int) -> pl.DataFrame:
    """Wrong predictions by falling confidence, one per group."""
    probability_NK, predicted_N = item.predictions.probability_NK, item.predictions.predicted_N
    table = item.predictions.table.select("tile_id", "domain", "group_id", "y_true").with_columns(
        pl.Series("predicted", predicted_N),
        pl.Series("confidence", probability_NK[np.arange(len(predicted_N)), predicted_N]),
    )
    wrong = table.filter(pl.col("predicted") != pl.col("y_true"))
    ordered = wrong.sort(["confidence", "tile_id"], descending=[True, False])
    return ordered.unique("group_id", keep="first", maintain_order=True).head(n)


def _pixels_of(tile_id: str, tiles: Sequence[TileSet], loader: LoaderConfig) -> NDArray[np.uint8]:
    for tile_set in tiles:
        row = tile_set.table.filter(pl.col("tile_id") == tile_id)
        if row.height:
            return read_pixels(row["path"][0], row["row"][0], loader)
    raise KeyError(tile_id)


def jpeg_thumbnail(pixels_HWC: NDArray[np.uint8]) -> bytes:
    """Return a tile as a small JPEG, 180 px wide.

    Args:
        pixels_HWC: uint8 RGB.

    Returns:
        The file's bytes.
    """
    from PIL import Image

    image = Image.fromarray(pixels_HWC)
    height_px = max(1, round(image.height * WIDTH_PX / image.width))
    stream = io.BytesIO()
    image.resize((WIDTH_PX, height_px), Image.Resampling.BILINEAR).save(stream, "JPEG", quality=80)
    return stream.getvalue()
