"""One part of PatchCamelyon as every copy hands it over: ids, places, labels, slides; no pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.groups import patch_camelyon_group_id
from histotune.datasets.pcam_files import SIDE_PX, SPEC
from histotune.datasets.tileset import tile_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.catalog import ChosenScale
# N tiles of a part


@dataclass(frozen=True)
class Part:
    """One part without its pixels.

    Attributes:
        name: ``train``, ``valid`` or ``test``; None where the copy has no official parts.
        tile_ids: Id per tile.
        paths: File per tile: an image, or the HDF5 or parquet file that holds it.
        rows: Row within that file per tile; None where every tile is a file of its own.
        labels_N: 0 or 1 per tile.
        slides: Slide per tile, None where unknown; None where the copy names no slides.
    """

    name: str | None
    tile_ids: pl.Series
    paths: pl.Series
    rows: NDArray[np.int64] | None
    labels_N: NDArray[np.int64]
    slides: list[str | None] | None

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.labels_N)

    @property
    def words(self) -> str:
        """The part as messages name it."""
        return "this copy" if self.name is None else f"part {self.name}"


@dataclass(frozen=True)
class Copy:
    """What one copy holds.

    Attributes:
        parts: Its parts.
        notes: What was skipped or assumed.
    """

    parts: tuple[Part, ...]
    notes: tuple[str, ...]


def numbered_ids(name: str, n_tiles: int) -> pl.Series:
    """Return the ids of a part whose tiles are known by their place, such as "train/0000012".

    The HDF5 and the parquet copy number their tiles alike, so that equal order means equal ids.
    """
    return f"{name}/" + pl.int_range(n_tiles, eager=True).cast(pl.String).str.zfill(7)


def part_table(part: Part, rows_N: NDArray[np.int64], scale: ChosenScale) -> pl.DataFrame:
    """Return some tiles of a part as a table of the tile schema.

    Args:
        part: The part.
        rows_N: Which of its tiles, by number within the part.
        scale: For the ``mpp`` columns.

    Returns:
        The table.
    """
    n = len(rows_N)
    unknown = pl.repeat(None, n, dtype=pl.String, eager=True)
    slides = unknown if part.slides is None else pl.Series(part.slides, dtype=pl.String)[rows_N]
    return tile_table(
        {
            "tile_id": part.tile_ids[rows_N],
            "path": part.paths[rows_N],
            "row": pl.repeat(None, n, dtype=pl.Int64, eager=True) if part.rows is None else part.rows[rows_N],
            "label": part.labels_N[rows_N],
            "group_id": slides.map_elements(patch_camelyon_group_id, return_dtype=pl.String),
            "slide_id": slides,
            "stain": pl.repeat(SPEC.stain, n, eager=True),
            "mpp": np.full(n, scale.mpp_by_magnification[""]),
            "mpp_source": pl.repeat(scale.source, n, eager=True),
            "mpp_factor": np.full(n, scale.factor),
            "width_px": np.full(n, SIDE_PX),
            "height_px": np.full(n, SIDE_PX),
            "split": pl.repeat(part.name, n, dtype=pl.String, eager=True),
        }
    )
