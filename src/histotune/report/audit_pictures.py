"""The tiles that an audit speaks about, as small pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from histotune.images.decode import PixelReader, PixelSource
from histotune.report.pictures import jpeg_thumbnail
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from histotune.audit.records import Audit, AuditFinding
    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet
    from histotune.images.config import LoaderConfig

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
    """Read the tiles that the page shows; one that can't be read is left out, since the audit lists it.

    Args:
        audit: What was found.
        tiles: The audited tiles.
        split: The split that was checked; None shows the data set's own parts.
        loader: Limits on image size.

    Returns:
        Pictures in the order of the findings.
    """
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
