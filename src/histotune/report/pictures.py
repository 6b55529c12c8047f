"""The largest errors as small pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.images.decode import PixelReader, PixelSource, read_pixels
from histotune.report.run_folder import Thumbnail
from histotune.tools.errors import UserError
from histotune.tools.marks import PROBE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from histotune.audit.verdicts import Audit, AuditFinding
    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.findings import Scored
    from histotune.images.config import LoaderConfig
    from histotune.transfer.case import Diagnosis, Neighbour


WIDTH_PX = 180


def largest_errors(
    scored: Sequence[Scored], tiles: Sequence[TileSet], loader: LoaderConfig, n_per_finding: int = 6
) -> tuple[Thumbnail, ...]:
    """Return the probe's most confident mistakes of each finding as JPEG thumbnails."""
    thumbnails = []
    for item in scored:
        if item.arm != PROBE:
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
                    head_id=row["head_id"],
                )
            )
    return tuple(thumbnails)


def _worst(item: Scored, n: int) -> pl.DataFrame:
    """Wrong predictions by falling confidence, one per group."""
    probability_NK, predicted_N = item.predictions.probability_NK, item.predictions.predicted_N
    table = item.predictions.table.select("tile_id", "domain", "group_id", "y_true", "head_id").with_columns(
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
    """Return a tile as a small JPEG, 180 px wide."""
    from PIL import Image

    image = Image.fromarray(pixels_HWC)
    height_px = max(1, round(image.height * WIDTH_PX / image.width))
    stream = io.BytesIO()
    image.resize((WIDTH_PX, height_px), Image.Resampling.BILINEAR).save(stream, "JPEG", quality=80)
    return stream.getvalue()


# ------------------------------------------------------------------------------
# The tiles that an audit speaks about, as small pictures.


PICTURED = ("exact-duplicates", "near-duplicates", "overlapping-fields", "blank", "stain-tiles", "stain-groups")
N_CLUSTERS, N_PER_CLUSTER, N_TILES = 8, 4, 12


@dataclass(frozen=True)
class AuditPicture:
    """One tile of a finding.

    Attributes:
        finding: Id of the finding.
        cluster: Number of its cluster, from 1; 0 for a tile that stands alone.
        tile_id: The tile.
        where: Its group and side, in words.
        jpeg: The picture as JPEG bytes.
    """

    finding: str
    cluster: int
    tile_id: str
    where: str
    jpeg: bytes


def audit_pictures(audit: Audit, tiles: TileSet, split: Split | None, loader: LoaderConfig) -> tuple[AuditPicture, ...]:
    """Read the tiles that the page shows; one that can't be read is left out, since the audit lists it."""
    wanted = [item for finding in audit.findings if finding.id in PICTURED for item in _shown(finding)]
    ids = list(dict.fromkeys(tile_id for _, _, tile_id in wanted))
    shown = tiles.where(pl.col("tile_id").is_in(ids))
    sides = shown.table["split"].to_list() if split is None else split.side_of_tiles(shown)
    rows = {row["tile_id"]: {**row, "side": side} for row, side in zip(shown.table.to_dicts(), sides, strict=True)}
    pictures, jpegs = [], dict[str, bytes]()
    with PixelReader(loader) as reader:
        for finding_id, cluster, tile_id in wanted:
            row = rows[tile_id]
            try:
                if tile_id not in jpegs:
                    jpegs[tile_id] = jpeg_thumbnail(reader.pixels(PixelSource(Path(row["path"]), row["row"])))
            except UserError:
                continue
            where = f"group {row['group_id'] or 'unknown'}" + (f", side {row['side']}" if row["side"] else "")
            pictures.append(AuditPicture(finding_id, cluster, tile_id, where, jpegs[tile_id]))
    return tuple(pictures)


def _shown(finding: AuditFinding) -> Iterator[tuple[str, int, str]]:
    if finding.verdict == "ok":
        return
    for number, cluster in enumerate(finding.clusters[:N_CLUSTERS], 1):
        for tile_id in cluster.tile_ids[:N_PER_CLUSTER]:
            yield finding.id, number, tile_id
    if not finding.clusters:
        for tile_id in finding.tile_ids[:N_TILES]:
            yield finding.id, 0, tile_id


# ------------------------------------------------------------------------------
# Nearest neighbours across domains as pictures: target tiles and the source tiles the head takes them for.


@dataclass(frozen=True)
class CrossGallery:
    """The JPEGs of the tiles that a diagnosis names, by their ids, and whose pictures they are.

    Attributes:
        target: Confident errors, then blind picks.
        source: The tiles nearest to them.
        credits: Name, licence and citation of both data sets.
    """

    target: dict[str, bytes]
    source: dict[str, bytes]
    credits: tuple[str, ...]


def cross_gallery(found: Diagnosis, source: TileSet, target: TileSet, loader: LoaderConfig) -> CrossGallery:
    """Read the tiles that the diagnosis names and make thumbnails."""

    def pictures(shown: Iterable[Neighbour], tiles: TileSet) -> dict[str, bytes]:
        """Return the thumbnails of some tiles by their ids."""
        return {tile.tile_id: jpeg_thumbnail(_pixels_of(tile.tile_id, (tiles,), loader)) for tile in shown}

    nearest = (near for row in found.neighbours for near in row.nearest)
    credits = tuple(dict.fromkeys(f"{tiles.name}, {tiles.licence}. {tiles.citation}" for tiles in (target, source)))
    return CrossGallery(pictures((row.tile for row in found.neighbours), target), pictures(nearest, source), credits)
