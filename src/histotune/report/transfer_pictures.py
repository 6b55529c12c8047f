"""Nearest neighbours across domains as pictures: target tiles and the source tiles the head takes them for."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from histotune.images.decode import read_pixels
from histotune.report.pictures import jpeg_thumbnail

if TYPE_CHECKING:
    from histotune.datasets.tileset import TileSet
    from histotune.images.config import LoaderConfig
    from histotune.transfer.case import Diagnosis, Neighbour, NeighbourRow


@dataclass(frozen=True)
class TilePicture:
    """A tile that is shown.

    Attributes:
        tile: Its id, group and label.
        cosine: Cosine to the target tile, 1 for itself.
        uri: JPEG as a data URI.
    """

    tile: Neighbour
    cosine: float
    uri: str


@dataclass(frozen=True)
class PictureRow:
    """A target tile and its nearest source tiles, as pictures."""

    row: NeighbourRow
    target: TilePicture
    nearest: tuple[TilePicture, ...]


@dataclass(frozen=True)
class CrossGallery:
    """All rows, and whose pictures they are.

    Attributes:
        rows: Confident errors, then blind picks.
        credits: Name, licence and citation of both data sets.
    """

    rows: tuple[PictureRow, ...]
    credits: tuple[str, ...]


def cross_gallery(found: Diagnosis, source: TileSet, target: TileSet, loader: LoaderConfig) -> CrossGallery:
    """Read the tiles that the diagnosis names and make thumbnails.

    Args:
        found: The diagnosis.
        source: Tiles of the source.
        target: Tiles of the target.
        loader: Limits on image size.

    Returns:
        The gallery.

    Raises:
        UserError: An image is gone, damaged or too large.
    """

    def picture(tile: Neighbour, tiles: TileSet, cosine: float) -> TilePicture:
        return TilePicture(tile, cosine, _uri(tile.tile_id, tiles, loader))

    rows = tuple(
        PictureRow(
            row,
            picture(row.tile, target, 1.0),
            tuple(picture(near, source, cosine) for near, cosine in zip(row.nearest, row.cosines, strict=True)),
        )
        for row in found.neighbours
    )
    credits = tuple(dict.fromkeys(f"{tiles.name}, {tiles.licence}. {tiles.citation}" for tiles in (target, source)))
    return CrossGallery(rows, credits)


def _uri(tile_id: str, tiles: TileSet, loader: LoaderConfig) -> str:
    row = tiles.table.filter(pl.col("tile_id") == tile_id)
    jpeg = jpeg_thumbnail(read_pixels(row["path"][0], row["row"][0], loader))
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
