"""From pairs of copies to clusters, and from clusters to a verdict: within a group, across groups, across sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.audit.facts import UNLABELLED, count
from histotune.audit.near import UPRIGHT, comparable, find_near
from histotune.audit.records import AuditFinding, Cluster, Verdict
from histotune.tools.progress import track

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from histotune.audit.config import AuditConfig
    from histotune.audit.facts import Facts
    from histotune.audit.near import Pairs
    from histotune.audit.prints import Prints

MAX_PAIRS = 500_000  # more are folded into clusters as they come, so that many copies of one tile can't fill memory
SHOWN_PER_CLUSTER = 20
COPY_ADVICE: dict[Verdict, str] = {
    "error": "Keep one copy of each, or move all copies to one side, before anything is scored.",
    "warning": "Look at them: either one case was filed under two ids (join the groups), or copies should be dropped.",
    "note": "Intervals over groups allow for copies; anything counted over tiles has the smaller n.",
}
FIELD_ADVICE: dict[Verdict, str] = {
    "error": "Move all tiles of a field to one side before anything is scored.",
    "warning": "Look at them: one case was probably filed under two ids; join its groups.",
    "note": "Neighbouring fields overlap, so tiles of a group are less than independent; intervals over groups allow "
    "for it.",
}
# N tiles, M pairs


@dataclass(frozen=True)
class Copies:
    """Which tiles show the same thing.

    Attributes:
        cluster_N: Number of the cluster of each tile; -1 where it has no copy.
        turned_N: Whether a tile matched mirrored or turned.
        n_looked_at: Tiles that could be compared.
        remark: What was left out, a sentence; may be empty.
    """

    cluster_N: NDArray[np.int64]
    turned_N: NDArray[np.bool_]
    n_looked_at: int
    remark: str = ""


@dataclass(frozen=True)
class Kind:
    """How a kind of copies is named.

    Attributes:
        id: Finding id.
        title: Finding title.
        what: Such as "tiles with equal pixels".
        whole: Whether a cluster is one picture, so that all but one of its tiles add nothing.
    """

    id: str
    title: str
    what: str
    whole: bool = True


FIELDS = Kind("overlapping-fields", "Overlapping fields", "tiles that show a piece of the same tissue", whole=False)
EXACT = Kind("exact-duplicates", "Exact duplicates", "tiles with equal pixels")
NEAR = Kind("near-duplicates", "Near duplicates", "tiles that show the same picture")


def exact_copies(prints: Prints) -> Copies:
    """Group tiles whose decoded pixels are equal; constant tiles are copies of nothing.

    Args:
        prints: Of all tiles.

    Returns:
        The clusters.
    """
    rows = np.flatnonzero(prints.read_N & ~prints.constant_N)
    cluster_N = np.full(len(prints), -1, np.int64)
    if len(rows):
        _, inverse, counts = np.unique(prints.digest_N2[rows], axis=0, return_inverse=True, return_counts=True)
        inverse = inverse.reshape(-1)
        cluster_N[rows] = np.where(counts[inverse] > 1, inverse, -1)
    n_constant = int((prints.read_N & prints.constant_N).sum())
    return Copies(cluster_N, np.zeros(len(prints), np.bool_), len(rows), _left_out(n_constant, "constant"))


def near_copies(prints: Prints, exact: Copies, config: AuditConfig) -> Copies:
    """Group tiles that show the same picture with other pixels; exact copies join the cluster of their twin.

    Args:
        prints: Of all tiles.
        exact: Clusters of equal pixels; one tile of each is compared.
        config: How alike is alike.

    Returns:
        Clusters that hold at least two different pixel contents.
    """
    content_N = _content(exact.cluster_N)
    first_rows = np.unique(content_N, return_index=True)[1]
    rows = first_rows[prints.read_N[first_rows]]
    rows = rows[comparable(prints.thumb_NTT[rows])]
    batches = find_near(prints.thumb_NTT[rows], config.near_bits, config.near_correlation, config.orientations)
    label_M, turned_M = connected(track(batches, "looking for near duplicates"), len(rows))
    cluster_of_content = np.full(int(content_N.max(initial=0)) + 1, -1, np.int64)
    turned_of_content = np.zeros(len(cluster_of_content), np.bool_)
    sizes = np.bincount(label_M, minlength=1)
    cluster_of_content[content_N[rows]] = np.where(sizes[label_M] > 1, label_M, -1) if len(rows) else -1
    turned_of_content[content_N[rows]] = turned_M
    looked_at = np.zeros(len(cluster_of_content), np.bool_)
    looked_at[content_N[rows]] = True
    n_looked_at = int(looked_at[content_N].sum())
    n_flat = int(prints.read_N.sum()) - n_looked_at
    return Copies(
        cluster_of_content[content_N],
        turned_of_content[content_N],
        n_looked_at,
        _left_out(n_flat, "too flat to compare"),
    )


def connected(batches: Iterable[Pairs], n: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Join pairs into clusters.

    Args:
        batches: Pairs of rows.
        n: Number of rows.

    Returns:
        Cluster number per row, and whether the row matched another one mirrored or turned.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    label_N = np.arange(n)
    turned_N = np.zeros(n, np.bool_)
    kept: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def fold() -> NDArray[np.int64]:
        first_M, second_M = (np.concatenate(column) for column in zip(*kept, strict=True))
        graph = coo_array((np.ones(len(first_M), np.int8), (label_N[first_M], label_N[second_M])), shape=(n, n))
        folded: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)[label_N]
        return folded

    for pairs in batches:
        kept.append((pairs.first_M, pairs.second_M))
        aside_M = pairs.orientation_M != UPRIGHT
        turned_N[pairs.first_M[aside_M]] = turned_N[pairs.second_M[aside_M]] = True
        if sum(len(first_M) for first_M, _ in kept) > MAX_PAIRS:
            label_N = fold()
            kept.clear()
    return (fold() if kept else label_N), turned_N


def duplicate_finding(facts: Facts, copies: Copies, kind: Kind, max_listed: int) -> AuditFinding:
    """Judge clusters of copies: a note within a group, a warning across groups, an error across sides.

    Args:
        facts: Groups, sides and classes.
        copies: The clusters, rows as in the facts.
        kind: How they are named.
        max_listed: Clusters and tiles listed.

    Returns:
        The finding, with the effective n.
    """
    clusters = _judged(facts, copies)
    if clusters.is_empty():
        sentence = f"None among {count(copies.n_looked_at, 'tile')}. {copies.remark}".strip()
        return AuditFinding(kind.id, kind.title, "ok", sentence)
    n_tiles = int(clusters["tiles"].sum())
    verdict = _verdict(clusters, kind)
    sentences = (
        f"{count(len(clusters), 'cluster')} of {kind.what} ({count(n_tiles, 'tile')}): {_where(clusters)}.",
        _effective(len(facts.table), n_tiles - len(clusters)) if kind.whole else "",
        _contradictions(clusters) if kind.whole else "",
        copies.remark,
    )
    copied = facts.table["tile_id"].filter(pl.Series(copies.cluster_N >= 0))
    return AuditFinding(
        id=kind.id,
        title=kind.title,
        verdict=verdict,
        sentence=" ".join(sentence for sentence in sentences if sentence),
        n=len(clusters),
        n_tiles=n_tiles,
        tile_ids=tuple(copied.head(max_listed).to_list()),
        advice=(COPY_ADVICE if kind.whole else FIELD_ADVICE)[verdict],
        clusters=tuple(
            Cluster(tuple(ids), n, _cluster_note(sides, groups, turned))
            for ids, n, sides, groups, turned in clusters.head(max_listed)
            .select("ids", "tiles", "sides", "groups", "turned")
            .iter_rows()
        ),
    )


def _verdict(clusters: pl.DataFrame, kind: Kind) -> Verdict:
    if (clusters["sides"] > 1).any():
        return "error"
    contradicting = kind.whole and (clusters["labels"] > 1).any()
    return "warning" if contradicting or (clusters["groups"] > 1).any() else "note"


def _content(cluster_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number contents: copies share one number, every other tile has its own."""
    alone = cluster_N < 0
    content_N = cluster_N.copy()
    content_N[alone] = cluster_N.max(initial=-1) + 1 + np.arange(int(alone.sum()))
    return content_N


def _judged(facts: Facts, copies: Copies) -> pl.DataFrame:
    """One row per cluster, the gravest and largest first."""
    own = pl.coalesce("group_id", pl.concat_str(pl.lit("tile:"), "tile_id"))  # an unknown group is nobody else's
    rows = facts.table.select(
        "tile_id", "side", "class", own.alias("group"), pl.col("group_id").is_null().alias("lost")
    )
    rows = rows.with_columns(pl.Series("cluster", copies.cluster_N), pl.Series("turned", copies.turned_N))
    clusters = (
        rows.filter(pl.col("cluster") >= 0)
        .group_by("cluster")
        .agg(
            tiles=pl.len(),
            sides=pl.col("side").drop_nulls().n_unique(),
            groups=pl.col("group").n_unique(),
            lost=pl.col("lost").any(),
            labels=pl.col("class").filter(pl.col("class") != UNLABELLED).n_unique(),
            turned=pl.col("turned").any(),
            ids=pl.col("tile_id").sort().head(SHOWN_PER_CLUSTER),
        )
        .with_columns(pl.col("ids").list.first().alias("first"))
    )
    grave = [pl.col("sides") > 1, pl.col("groups") > 1, pl.col("tiles"), pl.col("first")]
    return clusters.sort(grave, descending=[True, True, True, False])


def _where(clusters: pl.DataFrame) -> str:
    across_sides = clusters["sides"] > 1
    across_groups = ~across_sides & (clusters["groups"] > 1)
    lost = across_groups & clusters["lost"]
    counts = {
        "across sides of the split": int(across_sides.sum()),
        "across groups": int((across_groups & ~lost).sum()),
        "of unknown groups": int(lost.sum()),
        "within one group": int((~across_sides & ~across_groups).sum()),
    }
    return ", ".join(f"{n:,} {words}" for words, n in counts.items() if n)


def _effective(n: int, n_surplus: int) -> str:
    return f"Counting each picture once, the effective n is {n - n_surplus:,} of {n:,}."


def _contradictions(clusters: pl.DataFrame) -> str:
    n = int((clusters["labels"] > 1).sum())
    return f"{count(n, 'cluster')} {'carries' if n == 1 else 'carry'} two different classes." if n else ""


def _left_out(n: int, reason: str) -> str:
    return f"{count(n, 'tile')} {'is' if n == 1 else 'are'} {reason} and left out." if n else ""


def _cluster_note(n_sides: int, n_groups: int, turned: bool) -> str:
    where = f"{n_sides} sides" if n_sides > 1 else f"{n_groups} groups" if n_groups > 1 else "one group"
    return where + (", mirrored or turned" if turned else "")
