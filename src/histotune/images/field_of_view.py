"""What scale tiles have and what the network sees of them: um per pixel and fields of view, per view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.images.geometry import view_geometry
from histotune.images.scale_text import text_table

if TYPE_CHECKING:
    from histotune.datasets.tileset import TileSet
    from histotune.images.config import ViewConfig

KEYS = ("magnification", "mpp", "mpp_source", "mpp_factor", "width_px", "height_px")


@dataclass(frozen=True)
class FieldOfView:
    """The scale of all tiles of one magnification, native scale and size; unknown figures are NaN.

    Attributes:
        magnification: Label; "unknown" without one.
        n_tiles: How many.
        width_px: Of the stored tile; 0 where unknown.
        height_px: Of the stored tile; 0 where unknown.
        mpp: Native um/px.
        mpp_source: Where that comes from: nominal, estimated, user, or "unknown".
        mpp_factor: Its multiplicative uncertainty, which every figure in um shares.
        tile_width_um: Field of the stored tile.
        tile_height_um: Field of the stored tile.
        input_x_mpp: um/px along x at the network's input.
        input_y_mpp: um/px along y.
        input_width_um: Field of tissue that the network sees; padding is none.
        input_height_um: Field that the network sees.
    """

    magnification: str
    n_tiles: int
    width_px: int
    height_px: int
    mpp: float
    mpp_source: str
    mpp_factor: float
    tile_width_um: float
    tile_height_um: float
    input_x_mpp: float
    input_y_mpp: float
    input_width_um: float
    input_height_um: float


def fields_of_view(tiles: TileSet, view: ViewConfig) -> tuple[FieldOfView, ...]:
    """Return scale and field of view for every kind of tile in a data set.

    Args:
        tiles: The data set.
        view: How its tiles reach the network.

    Returns:
        One record per magnification, native scale and tile size, coarsest label first.
    """
    number = pl.col("magnification").str.extract(r"^(\d+)").cast(pl.Int64)
    kinds = (
        tiles.table.with_row_index("first")
        .group_by(KEYS)
        .agg(pl.col("first").min(), n_tiles=pl.len())
        .sort(number, "magnification", "mpp", "width_px", "height_px", nulls_last=True)
    )
    geometry = view_geometry(tiles.take(kinds["first"].to_numpy().astype(np.int64)), view)
    return tuple(
        _field(row, mpp_2, um_2)
        for row, mpp_2, um_2 in zip(
            kinds.iter_rows(named=True), geometry.input_mpp_N2.tolist(), geometry.field_um_N2.tolist(), strict=True
        )
    )


def render_fields(tiles: TileSet, view: ViewConfig, backbone: str) -> str:
    """Write scale and field of view as plain text for the terminal.

    Args:
        tiles: The data set.
        view: How its tiles reach the network.
        backbone: Whose view that is.

    Returns:
        A table with a title.
    """
    title = f"Scale and field of view: input of {backbone} ({view.words}); um  are as sure as mpp_factor"
    header = (
        "magnification", "mpp", "mpp_source", "mpp_factor", "tile_px", "tile_um", "input_mpp (x, y)",
        "network_um", "tiles",
    )  # fmt: skip
    rows = [
        (
            field.magnification, field.mpp, field.mpp_source, field.mpp_factor,
            f"{field.width_px} x {field.height_px}" if field.width_px and field.height_px else "unknown",
            _pair(field.tile_width_um, field.tile_height_um, " x "),
            _pair(field.input_x_mpp, field.input_y_mpp, ", "),
            _pair(field.input_width_um, field.input_height_um, " x "),
            field.n_tiles,
        )
        for field in fields_of_view(tiles, view)
    ]  # fmt: skip
    return text_table(title, header, rows)


def _field(row: dict[str, object], input_mpp_2: list[float], field_um_2: list[float]) -> FieldOfView:
    mpp, factor = (float("nan") if row[name] is None else float(str(row[name])) for name in ("mpp", "mpp_factor"))
    width_px, height_px = (0 if row[name] is None else int(str(row[name])) for name in ("width_px", "height_px"))
    return FieldOfView(
        magnification=str(row["magnification"] or "unknown"),
        n_tiles=int(str(row["n_tiles"])),
        width_px=width_px,
        height_px=height_px,
        mpp=mpp,
        mpp_source=str(row["mpp_source"] or "unknown"),
        mpp_factor=factor,
        tile_width_um=mpp * width_px if width_px else float("nan"),
        tile_height_um=mpp * height_px if height_px else float("nan"),
        input_x_mpp=input_mpp_2[0],
        input_y_mpp=input_mpp_2[1],
        input_width_um=field_um_2[0],
        input_height_um=field_um_2[1],
    )


def _pair(first: float, second: float, joint: str) -> str:
    return "unknown" if np.isnan(first) or np.isnan(second) else f"{first:.4g}{joint}{second:.4g}"
