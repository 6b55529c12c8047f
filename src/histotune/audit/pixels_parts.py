"""What single tiles tell: unreadable, blank, free of tissue, or stained unlike the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.audit.facts import count, frame_table, some
from histotune.audit.prints import STAIN
from histotune.audit.records import AuditFinding, AuditTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from histotune.audit.config import AuditConfig
    from histotune.audit.facts import Facts
    from histotune.audit.pixels import BadTile
    from histotune.audit.prints import Prints

MAD_TO_SIGMA = 0.6745  # of a normal distribution
ENOUGH_TISSUE = 0.05  # below this share of stained pixels a tile's stain is hardly measured
ENOUGH_GROUPS = 8
LEAST_MAD = 0.005  # of optical density, and of the shares of red and blue in it
TILES_PER_GROUP = 3  # a median of fewer tiles says more about the tiles than about the group
STAIN_WORDS = {"density": "density", "red_share": "red share", "blue_share": "blue share"}
# N tiles, F stain features


def pixel_findings(facts: Facts, prints: Prints, config: AuditConfig) -> Iterator[AuditFinding]:
    """Yield what single tiles and groups look like.

    Args:
        facts: The table of tiles.
        prints: Rows as in the table.
        config: Limits.

    Yields:
        Findings in a fixed order.
    """
    yield _blank(facts, prints, config)
    yield _stain_of_tiles(facts, prints, config)
    yield from _stain_of_groups(facts, prints, config)


def unreadable(bad: Sequence[BadTile], n_tiles: int) -> AuditFinding:
    """Judge tiles that can't be read; all are listed.

    Args:
        bad: Place and reason of each.
        n_tiles: Tiles of the data set.

    Returns:
        The finding.
    """
    if not bad:
        return AuditFinding("unreadable", "Unreadable tiles", "ok", f"All {count(n_tiles, 'tile')} can be read.")
    rows = tuple((tile.place, tile.reason) for tile in bad)
    return AuditFinding(
        "unreadable", "Unreadable tiles", "error",
        f"{count(len(bad), 'tile')} of {n_tiles:,} can't be read and "
        f"{'is' if len(bad) == 1 else 'are'} left out of everything else that looks at pixels.",
        n=len(bad), n_tiles=len(bad), advice="Copy these files again from their source, or remove them.",
        tables=(AuditTable("Unreadable tiles", ("where", "why"), rows),),
    )  # fmt: skip


def _blank(facts: Facts, prints: Prints, config: AuditConfig) -> AuditFinding:
    free_N = prints.read_N & ~prints.constant_N & (prints.tissue_N < config.tissue_free)
    constant_N = prints.read_N & prints.constant_N
    n_constant, n_free = int(constant_N.sum()), int(free_N.sum())
    if not n_constant + n_free:
        sentence = f"Every tile has tissue on at least {config.tissue_free:.1%} of its pixels."
        return AuditFinding("blank", "Blank tiles", "ok", sentence)
    found = [f"{count(n_constant, 'tile')} of one single colour"] if n_constant else []
    found += (
        [f"{count(n_free, 'tile')} with tissue on less than {config.tissue_free:.1%} of the pixels"] if n_free else []
    )
    hit = facts.table.filter(pl.Series(constant_N | free_N))
    classes = hit.group_by("class").agg(pl.len()).sort("len", "class", descending=[True, False])
    named = ", ".join(f"{name} {n:,}" for name, n in classes.iter_rows())
    return AuditFinding(
        "blank", "Blank tiles", "warning" if n_constant else "note",
        f"{' and '.join(found)} ({named}).",
        n=len(hit), n_tiles=len(hit), tile_ids=tuple(hit["tile_id"].head(config.max_listed).to_list()),
        advice="Look at them: a blank tile teaches a head what background is called, and counts in every score.",
        tables=(_per_group(facts, constant_N | free_N),) if hit["group_id"].null_count() < len(hit) else (),
    )  # fmt: skip


def _per_group(facts: Facts, hit_N: NDArray[np.bool_]) -> AuditTable:
    grouped = facts.table.with_columns(pl.Series("blank", hit_N)).filter(pl.col("group_id").is_not_null())
    counted = grouped.group_by("group_id").agg(blank=pl.col("blank").sum(), tiles=pl.len())
    ordered = counted.filter(pl.col("blank") > 0).sort("blank", "group_id", descending=[True, False])
    return frame_table("Groups with most blank tiles", ordered.head(50))


def _stain_of_tiles(facts: Facts, prints: Prints, config: AuditConfig) -> AuditFinding:
    finding_id, title = "stain-tiles", "Tiles of unusual stain"
    seen_N = prints.read_N & (prints.tissue_N >= ENOUGH_TISSUE)
    z_NF = robust_z(prints.stain_NF, seen_N, LEAST_MAD)
    worst_N = np.nan_to_num(np.abs(z_NF)).max(axis=1) * seen_N
    rows = np.flatnonzero(worst_N >= config.tile_z)
    if not len(rows):
        sentence = f"None of {count(int(seen_N.sum()), 'tile')} lies {config.tile_z:g} robust deviations out."
        return AuditFinding(finding_id, title, "ok", sentence)
    ordered = rows[np.lexsort((rows, -worst_N[rows]))]
    table = facts.table[ordered[: config.max_listed]].select("tile_id", "group_id", "class").with_columns(
        *_z_columns(z_NF[ordered[: config.max_listed]])
    )  # fmt: skip
    return AuditFinding(
        finding_id, title, "note",
        f"{count(len(rows), 'tile')} of {int(seen_N.sum()):,} {'lies' if len(rows) == 1 else 'lie'} "
        f"{config.tile_z:g} or more robust deviations from the data set's median in amount or hue of stain.",
        n=len(rows), n_tiles=len(rows), tile_ids=tuple(table["tile_id"].to_list()),
        advice="Look at them: ink, folds, blood, another stain, or a case that was prepared differently.",
        tables=(frame_table("Robust z of stain", table),),
    )  # fmt: skip


def _stain_of_groups(facts: Facts, prints: Prints, config: AuditConfig) -> Iterator[AuditFinding]:
    finding_id, title = "stain-groups", "Groups of unusual stain"
    seen_N = prints.read_N & (prints.tissue_N >= ENOUGH_TISSUE)
    features = {name: pl.Series(prints.stain_NF[:, place], dtype=pl.Float64) for place, name in enumerate(STAIN)}
    known = facts.table.with_columns(**features).filter(pl.Series(seen_N), pl.col("group_id").is_not_null())
    groups = known.group_by("group_id").agg(*(pl.col(name).median() for name in STAIN), tiles=pl.len())
    groups = groups.filter(pl.col("tiles") >= TILES_PER_GROUP).sort("group_id")
    if len(groups) < ENOUGH_GROUPS:
        return
    z_GF = robust_z(groups.select(STAIN).to_numpy(), np.ones(len(groups), np.bool_), LEAST_MAD)
    worst_G = np.nan_to_num(np.abs(z_GF)).max(axis=1)
    out = groups.select("group_id", "tiles").with_columns(*_z_columns(z_GF), pl.Series("worst", worst_G))
    out = out.filter(pl.col("worst") >= config.group_z).sort("worst", "group_id", descending=[True, False])
    if out.is_empty():
        sentence = f"None of {len(groups):,} groups has a median stain {config.group_z:g} robust deviations out."
        yield AuditFinding(finding_id, title, "ok", sentence)
        return
    hit = known.filter(pl.col("group_id").is_in(out["group_id"].to_list()))
    yield AuditFinding(
        finding_id, title, "note",
        f"{len(out):,} of {count(len(groups), 'group')} {'is' if len(out) == 1 else 'are'} stained unlike the others: "
        f"{some(out['group_id'].to_list())}.",
        n=len(out), n_tiles=len(hit), tile_ids=tuple(hit.unique("group_id", keep="first", maintain_order=True)
                                                     ["tile_id"].head(config.max_listed).to_list()),
        advice="See which side and class they fall on: a head can learn a stain in place of a disease.",
        tables=(frame_table("Robust z of the group's median stain", out.drop("worst")),),
    )  # fmt: skip


def robust_z(values_NF: NDArray[np.floating], seen_N: NDArray[np.bool_], least_mad: float = 0.0) -> NDArray[np.float64]:
    """Return deviations from the median in units of the scaled median absolute deviation.

    Args:
        values_NF: Features (N, F).
        seen_N: Rows that count for median and deviation.
        least_mad: Smaller deviations are taken for this one, so that a very even data set has no outliers nobody sees.

    Returns:
        float64 (N, F); 0 where a feature does not vary, NaN where it is NaN.
    """
    values = values_NF.astype(np.float64)
    if not seen_N.any():
        return np.zeros_like(values)
    deviation_NF = values - np.median(values[seen_N], axis=0)
    mad_F = np.maximum(np.median(np.abs(deviation_NF[seen_N]), axis=0), least_mad)
    z_NF: NDArray[np.float64] = np.where(mad_F > 0, MAD_TO_SIGMA * deviation_NF / np.where(mad_F > 0, mad_F, 1), 0.0)
    return z_NF


def _z_columns(z_NF: NDArray[np.float64]) -> list[pl.Series]:
    return [pl.Series(STAIN_WORDS[name], np.round(z_NF[:, place], 1)) for place, name in enumerate(STAIN)]
