"""From pairs of copies to clusters, and from clusters to a verdict: within a group, across groups, across sides."""

# N tiles, M pairs, T side of the thumbnail, L frequencies per axis, B bits, Q parts, S pixels of a part

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.audit.pixels import THUMB
from histotune.audit.verdicts import IN_FILES, UNLABELLED, AuditFinding, Cluster, Verdict, count
from histotune.tools.progress import track

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from histotune.audit.pixels import Fingerprints
    from histotune.audit.verdicts import AuditConfig, Facts


LOW = 8  # frequencies per axis in the hash
PART = 4  # a thumbnail has 4 x 4 parts of this side
BANDS, BAND_BITS = 4, 16
CANDIDATES = 1_000_000  # compared at once
FLAT_LEVELS = 1.0  # standard deviation of a part in grey levels; below it rounding drowns what is there
LEAST_PARTS = 8  # of 16 parts must not be flat: one tissue edge crosses about five, and look-alikes share edges
AGREEING = 0.75  # share of these parts that must agree
UPRIGHT = 0
N_ORIENTATIONS = 8  # bit 0 mirrors left-right, bit 1 top-bottom, bit 2 transposes first
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
class CopyKind:
    """How a kind of copies is named.

    Attributes:
        id: Finding id.
        title: Finding title.
        what: Such as "tiles with equal pixels".
        whole: Whether a cluster is one picture, so that all but one of its tiles add nothing.
        limit: What a search for this kind can't find, a sentence; may be empty.
    """

    id: str
    title: str
    what: str
    whole: bool = True
    limit: str = ""


FIELDS = CopyKind("overlapping-fields", "Overlapping fields", "tiles that show a piece of the same tissue", whole=False)
EXACT = CopyKind("exact-duplicates", "Exact duplicates", "tiles with equal pixels")
NEAR = CopyKind(
    "near-duplicates",
    "Near duplicates",
    "tiles that show the same picture",
    limit="Copies that were zoomed, cropped, or turned by other than quarter turns are not found by this search.",
)


def exact_copies(fingerprints: Fingerprints) -> Copies:
    """Group tiles whose decoded pixels are equal; constant tiles are copies of nothing."""
    rows = np.flatnonzero(fingerprints.read_N & ~fingerprints.constant_N)
    cluster_N = np.full(len(fingerprints), -1, np.int64)
    if len(rows):
        _, inverse, counts = np.unique(fingerprints.digest_N2[rows], axis=0, return_inverse=True, return_counts=True)
        inverse = inverse.reshape(-1)
        cluster_N[rows] = np.where(counts[inverse] > 1, inverse, -1)
    n_constant = int((fingerprints.read_N & fingerprints.constant_N).sum())
    return Copies(cluster_N, np.zeros(len(fingerprints), np.bool_), len(rows), _left_out(n_constant, "constant"))


def near_copies(fingerprints: Fingerprints, exact: Copies, config: AuditConfig) -> Copies:
    """Group tiles that show the same picture with other pixels; exact copies join the cluster of their twin."""
    # One tile stands for all its exact copies; what is found of it then holds for them too, by the number of the
    # content.
    content_N = _content(exact.cluster_N)
    first_rows = np.unique(content_N, return_index=True)[1]
    rows = first_rows[fingerprints.read_N[first_rows]]
    rows = rows[comparable(fingerprints.thumb_NTT[rows])]
    batches = find_near(fingerprints.thumb_NTT[rows], config.near_bits, config.near_correlation, config.orientations)
    label_M, turned_M = connected(track(batches, "looking for near duplicates"), len(rows))
    cluster_of_content = np.full(int(content_N.max(initial=0)) + 1, -1, np.int64)
    turned_of_content = np.zeros(len(cluster_of_content), np.bool_)
    sizes = np.bincount(label_M, minlength=1)
    cluster_of_content[content_N[rows]] = np.where(sizes[label_M] > 1, label_M, -1) if len(rows) else -1
    turned_of_content[content_N[rows]] = turned_M
    looked_at = np.zeros(len(cluster_of_content), np.bool_)
    looked_at[content_N[rows]] = True
    n_looked_at = int(looked_at[content_N].sum())
    n_flat = int(fingerprints.read_N.sum()) - n_looked_at
    return Copies(
        cluster_of_content[content_N],
        turned_of_content[content_N],
        n_looked_at,
        _left_out(n_flat, "too flat to compare"),
    )


def connected(batches: Iterable[Pairs], n: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Join pairs into clusters."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    label_N = np.arange(n)
    turned_N = np.zeros(n, np.bool_)
    kept: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def fold() -> NDArray[np.int64]:
        """Return the parts that the pairs so far connect, as one label per tile."""
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


def duplicate_finding(facts: Facts, copies: Copies, kind: CopyKind) -> AuditFinding:
    """Judge clusters of copies: a note within a group, a warning across groups, an error across sides."""
    # One finding for all clusters of a kind, its verdict that of the gravest.
    clusters = _judged(facts, copies)
    if clusters.is_empty():
        return _none_found(copies, kind)
    n, n_tiles = len(facts.table), int(clusters["tiles"].sum())
    verdict = _verdict(clusters, kind)
    sentences = (
        f"{count(len(clusters), 'cluster')} of {kind.what} ({count(n_tiles, 'tile')}): {_where(clusters)}.",
        f"Counting each picture once, the effective n is {n - n_tiles + len(clusters):,} of {n:,}."
        if kind.whole
        else "",
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
        tile_ids=tuple(copied.head(facts.max_listed).to_list()),
        advice=(COPY_ADVICE if kind.whole else FIELD_ADVICE)[verdict],
        clusters=tuple(
            Cluster(tuple(ids), n, _cluster_note(sides, groups, turned))
            for ids, n, sides, groups, turned in clusters.head(facts.max_listed)
            .select("ids", "tiles", "sides", "groups", "turned")
            .iter_rows()
        ),
        every=_every_copy(facts, copies, clusters),
    )


def _none_found(copies: Copies, kind: CopyKind) -> AuditFinding:
    """Say that no copies were found, and what such a search can't find; of one tile there is nothing to compare."""
    if copies.n_looked_at < 2:
        sentence = f"Not checked, because fewer than two tiles could be compared. {copies.remark}".strip()
        return AuditFinding(kind.id, kind.title, "not checked", sentence)
    sentence = f"None among {count(copies.n_looked_at, 'tile')}. {copies.remark} {kind.limit}"
    return AuditFinding(kind.id, kind.title, "ok", " ".join(sentence.split()))


def _every_copy(facts: Facts, copies: Copies, clusters: pl.DataFrame) -> pl.DataFrame | None:
    """Return all copies, a row each with the number of its cluster, where the lists hold only some of them."""
    most = facts.max_listed
    if max(len(clusters), int(clusters["tiles"].sum())) <= most and (clusters["tiles"] <= SHOWN_PER_CLUSTER).all():
        return None
    order = clusters.select("cluster", place=pl.int_range(1, pl.len() + 1))
    rows = facts.table.select(one for one in IN_FILES if one in facts.table.columns)
    found = rows.with_columns(pl.Series("cluster", copies.cluster_N)).join(order, on="cluster", how="inner")
    return found.sort("place", "tile_id").select("place", *rows.columns).rename({"place": "cluster"})


def _verdict(clusters: pl.DataFrame, kind: CopyKind) -> Verdict:
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
    # A tile of unknown group counts as a group of its own; null sides and unlabelled tiles count for none.
    own = pl.coalesce("group_id", pl.concat_str(pl.lit("tile:"), "tile_id"))
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


def _contradictions(clusters: pl.DataFrame) -> str:
    n = int((clusters["labels"] > 1).sum())
    return f"{count(n, 'cluster')} {'carries' if n == 1 else 'carry'} two different classes." if n else ""


def _left_out(n: int, reason: str) -> str:
    return f"{count(n, 'tile')} {'is' if n == 1 else 'are'} {reason} and left out." if n else ""


def _cluster_note(n_sides: int, n_groups: int, turned: bool) -> str:
    where = f"{n_sides} sides" if n_sides > 1 else f"{n_groups} groups" if n_groups > 1 else "one group"
    return where + (", mirrored or turned" if turned else "")


# ------------------------------------------------------------------------------
# Near duplicates: perceptual hashes found by multi-index hashing, then confirmed on thumbnails. A hash is the signs of
# the 63 lowest frequencies of a tile's thumbnail. Brightness, contrast, stain strength and JPEG leave signs alone;
# mirroring changes the sign of odd frequencies and transposing swaps them, so that the hashes of all eight orientations
# follow from one by moving bits. Two hashes that differ in at most 7 of 64 bits agree, up to one bit, in one of four
# bands of 16 bits, so only tiles that share such a band are compared (Norouzi, Punjani, Fleet: Fast search in Hamming
# space with multi-index hashing, CVPR 2012). That is exact, and far from quadratic


@dataclass(frozen=True)
class Pairs:
    """Pairs of tiles, each once, the lower row first.

    Attributes:
        first_M: Row of one tile.
        second_M: Row of the other, larger than ``first_M``.
        orientation_M: How the first is turned to match the second, 0 to 7; 0 is upright.
    """

    first_M: NDArray[np.int64]
    second_M: NDArray[np.int64]
    orientation_M: NDArray[np.int8]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.first_M)


def spectrum(thumb_NTT: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the two-dimensional cosine transform of thumbnails, orthonormal, float32 (N, 16, 16)."""
    # DCT-II: B_kx = sqrt(2 / T) cos(pi k (x + 1/2) / T), its first row over sqrt(2); the spectrum is B x B^t.
    place = np.arange(THUMB) + 0.5
    basis_TT = np.cos(np.pi / THUMB * np.outer(np.arange(THUMB), place)) * np.sqrt(2 / THUMB)
    basis_TT[0] /= np.sqrt(2)
    basis_TT = basis_TT.astype(np.float32)
    result_NTT: NDArray[np.float32] = basis_TT @ thumb_NTT.astype(np.float32) @ basis_TT.T
    return result_NTT


def turn(spectrum_NLL: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """Return the spectrum of the mirrored or turned tile."""
    turned_NLL = spectrum_NLL.swapaxes(1, 2) if orientation & 4 else spectrum_NLL
    return turned_NLL * _turn_signs(spectrum_NLL.shape[1], orientation)


def turn_pixels(thumb_NTT: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return mirrored or turned thumbnails; see :func:`turn`."""
    turned_NTT = thumb_NTT.swapaxes(1, 2) if orientation & 4 else thumb_NTT
    turned_NTT = turned_NTT[:, :, ::-1] if orientation & 1 else turned_NTT
    return turned_NTT[:, ::-1] if orientation & 2 else turned_NTT


def comparable(thumb_NTT: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return whether each thumbnail has enough structure, in enough places, to be told from others, (N,)."""
    enough_N = np.empty(len(thumb_NTT), np.bool_)
    for start in range(0, len(thumb_NTT), 16_384):
        parts_NQS = _parts(thumb_NTT[start : start + 16_384])
        textured_NQ = (parts_NQS**2).mean(axis=2) >= FLAT_LEVELS**2
        enough_N[start : start + 16_384] = textured_NQ.sum(axis=1) >= LEAST_PARTS
    return enough_N


def perceptual_hashes(thumb_NTT: NDArray[np.uint8], orientation: int = UPRIGHT) -> NDArray[np.uint64]:
    """Return the 64-bit hash of each thumbnail as it looks in an orientation."""
    hashes_N = np.empty(len(thumb_NTT), np.uint64)
    for start in range(0, len(thumb_NTT), 16_384):
        # Signs of the low frequencies as bits; the mean (frequency 0, 0) carries none.
        low_NLL = turn(spectrum(thumb_NTT[start : start + 16_384])[:, :LOW, :LOW], orientation)
        bits_NB = (low_NLL > 0).reshape(len(low_NLL), LOW * LOW)
        bits_NB[:, 0] = False
        packed = np.packbits(bits_NB, axis=1, bitorder="little")
        hashes_N[start : start + 16_384] = packed.view("<u8")[:, 0]
    return hashes_N


def near_pairs(
    hashes_N: NDArray[np.uint64], turned_N: NDArray[np.uint64], max_bits: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield all (i, j), i < j, where the turned hash of i and the hash of j differ in at most ``max_bits`` bits."""
    # At most 7 different bits leave one of four bands with at most one: that band is equal, or equal but for one bit.
    masks = np.array([0, *(1 << bit for bit in range(BAND_BITS))] if max_bits >= BANDS else [0], np.int64)
    for band in range(BANDS):
        keys_N = _band(hashes_N, band)
        order_N = np.argsort(keys_N, kind="stable")
        first_of_key = np.searchsorted(keys_N[order_N], np.arange(2**BAND_BITS + 1))
        wanted_N = _band(turned_N, band)
        for mask in masks:
            yield from _compare(hashes_N, turned_N, max_bits, order_N, first_of_key, wanted_N ^ mask)


def confirmed(
    thumb_NTT: NDArray[np.uint8],
    first_M: NDArray[np.int64],
    second_M: NDArray[np.int64],
    orientation: int,
    correlation: float,
) -> NDArray[np.bool_]:
    """Say which pairs show the same picture: nearly every part of the thumbnails must agree by itself.

    Look-alike tissue agrees in its outline, which dominates a correlation over the whole; it does not agree in each
    of sixteen parts whose own means are taken off.
    """
    # Correlation of each part of both thumbnails, the parts' means taken off; parts flat in either one do not count.
    left_MQS, right_MQS = _parts(turn_pixels(thumb_NTT[first_M], orientation)), _parts(thumb_NTT[second_M])
    energy_left_MQ, energy_right_MQ = (left_MQS**2).mean(axis=2), (right_MQS**2).mean(axis=2)
    used_MQ = (energy_left_MQ >= FLAT_LEVELS**2) & (energy_right_MQ >= FLAT_LEVELS**2)
    scale_MQ = np.sqrt(np.where(used_MQ, energy_left_MQ * energy_right_MQ, 1))
    agree_MQ = used_MQ & ((left_MQS * right_MQS).mean(axis=2) >= correlation * scale_MQ)
    n_used_M = used_MQ.sum(axis=1)
    result_M: NDArray[np.bool_] = (n_used_M >= LEAST_PARTS) & (agree_MQ.sum(axis=1) >= AGREEING * n_used_M)
    return result_M


def find_near(thumb_NTT: NDArray[np.uint8], max_bits: int, correlation: float, orientations: bool) -> Iterator[Pairs]:
    """Yield confirmed pairs of near duplicates, each once, a batch at a time."""
    hashes_N = perceptual_hashes(thumb_NTT)
    for orientation in range(N_ORIENTATIONS if orientations else 1):
        turned_N = hashes_N if orientation == UPRIGHT else perceptual_hashes(thumb_NTT, orientation)
        for first_M, second_M in near_pairs(hashes_N, turned_N, max_bits):
            kept = confirmed(thumb_NTT, first_M, second_M, orientation, correlation)
            n_kept = int(kept.sum())
            if n_kept:
                yield Pairs(first_M[kept], second_M[kept], np.full(n_kept, orientation, np.int8))


def _compare(
    hashes_N: NDArray[np.uint64],
    turned_N: NDArray[np.uint64],
    max_bits: int,
    order_N: NDArray[np.int64],
    first_of_key: NDArray[np.int64],
    wanted_N: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Compare every tile with those whose band has the wanted key, a bounded number of pairs at a time."""
    # The tiles with a key lie side by side in order_N. Pairs are written row by row: the row repeated as often as it
    # has candidates, and each candidate's place by counting on from the row's first.
    starts_N, counts_N = first_of_key[wanted_N], first_of_key[wanted_N + 1] - first_of_key[wanted_N]
    ends_N = np.cumsum(counts_N)
    row = 0
    while row < len(wanted_N):
        before = ends_N[row] - counts_N[row]
        stop = max(row + 1, int(np.searchsorted(ends_N, before + CANDIDATES, side="right")))
        first_M = np.repeat(np.arange(row, stop), counts_N[row:stop])
        offset_M = np.arange(len(first_M)) - np.repeat(
            ends_N[row:stop] - counts_N[row:stop] - before, counts_N[row:stop]
        )
        second_M = order_N[starts_N[first_M] + offset_M]
        near_M = first_M < second_M
        first_M, second_M = first_M[near_M], second_M[near_M]
        near_M = np.bitwise_count(turned_N[first_M] ^ hashes_N[second_M]) <= max_bits
        yield first_M[near_M], second_M[near_M]
        row = stop


def _band(hashes_N: NDArray[np.uint64], band: int) -> NDArray[np.int64]:
    return ((hashes_N >> np.uint64(band * BAND_BITS)) & np.uint64(2**BAND_BITS - 1)).astype(np.int64)


def _turn_signs(length: int, orientation: int) -> NDArray[np.float32]:
    odd = np.where(np.arange(length) % 2 == 1, -1, 1).astype(np.float32)
    even = np.ones(length, np.float32)
    return np.outer(odd if orientation & 2 else even, odd if orientation & 1 else even)


def _parts(thumb_NTT: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Cut thumbnails into 16 parts and take each part's mean off, (N, 16, 16)."""
    n_parts = THUMB // PART
    cut = thumb_NTT.astype(np.float32).reshape(len(thumb_NTT), n_parts, PART, n_parts, PART).swapaxes(2, 3)
    parts_NQS = cut.reshape(len(thumb_NTT), n_parts * n_parts, PART * PART)
    centred_NQS: NDArray[np.float32] = parts_NQS - parts_NQS.mean(axis=2, keepdims=True)
    return centred_NQS
