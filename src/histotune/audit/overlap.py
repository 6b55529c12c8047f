"""Do two tiles show a piece of the same tissue? Answered by laying one over the other at every shift."""

# N tiles, M pairs, D columns, H height, W width, C channels

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.audit.duplicates import Copies, Pairs, connected
from histotune.audit.verdicts import count
from histotune.embeddings.gather import gather
from histotune.embeddings.store import Store, read_space
from histotune.images.decode import PixelReader, tile_sources
from histotune.images.hashes import HashIndex
from histotune.tools.progress import track
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.audit.pixels import Fingerprints
    from histotune.audit.verdicts import Facts
    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.space import EmbeddingSpace
    from histotune.embeddings.store import Manifest
    from histotune.images.config import LoaderConfig


LOG = logging.getLogger(__name__)
BLOCK_ROWS, BLOCK_COLUMNS = 1024, 8192  # of the similarity matrix at once: 32 MiB
MAX_PAIRS = 4000  # looked at pixel by pixel; those across sides and groups come first
NOT_NEIGHBOURS = ("colour-histogram", "random/")  # alike in these spaces says nothing about tissue
SIDE = 96  # both tiles are reduced so that the longer side is at most this
SMOOTH = 9  # fine structure is what differs from the mean over this many pixels
LEAST_SHARE = 0.2  # of the smaller tile; smaller overlaps are not told from chance
LEAST_CORRELATION = 0.6
FLAT = 1e-3


@dataclass(frozen=True)
class FieldOverlap:
    """The best way to lay two tiles over each other.

    Attributes:
        correlation: Of their fine structure where they overlap.
        share: Share of the smaller tile that overlaps.
    """

    correlation: float
    share: float

    @property
    def is_shared(self) -> bool:
        """Whether the two show the same tissue."""
        return self.correlation >= LEAST_CORRELATION and self.share >= LEAST_SHARE


def overlap(left_HWC: NDArray[np.uint8], right_HWC: NDArray[np.uint8]) -> FieldOverlap:
    """Find the shift at which two upright tiles of one scale agree best.

    Normalised cross-correlation over the overlap only (Padfield: Masked object registration in the Fourier domain,
    IEEE TIP 2012).
    """
    factor = max(1, -(-max(*left_HWC.shape[:2], *right_HWC.shape[:2]) // SIDE))
    left_HW, right_HW = _fine(left_HWC, factor), _fine(right_HWC, factor)
    shape = tuple(a + b - 1 for a, b in zip(left_HW.shape, right_HW.shape, strict=True))
    # Over the n overlapping pixels of each shift: (sum l r - sum l sum r / n) / sqrt((sum l^2 - (sum l)^2 / n) (sum r^2
    # - (sum r)^2 / n)), every sum being a correlation with the other picture, its square or a picture of ones.
    ones_left, ones_right = np.ones_like(left_HW), np.ones_like(right_HW)
    n_HW = np.maximum(_correlate(ones_left, ones_right, shape), 1.0)
    sum_left, sum_right = _correlate(left_HW, ones_right, shape), _correlate(ones_left, right_HW, shape)
    product = _correlate(left_HW, right_HW, shape) - sum_left * sum_right / n_HW
    energy_left = _correlate(left_HW**2, ones_right, shape) - sum_left**2 / n_HW
    energy_right = _correlate(ones_left, right_HW**2, shape) - sum_right**2 / n_HW
    share_HW = n_HW / min(left_HW.size, right_HW.size)
    usable = (share_HW >= LEAST_SHARE) & (energy_left > FLAT * n_HW) & (energy_right > FLAT * n_HW)
    if not usable.any():
        return FieldOverlap(0.0, 0.0)
    correlation_HW = np.where(usable, product / np.sqrt(np.where(usable, energy_left * energy_right, 1.0)), -1.0)
    best = int(correlation_HW.argmax())
    return FieldOverlap(float(correlation_HW.flat[best]), min(1.0, float(share_HW.flat[best])))


def _fine(pixels_HWC: NDArray[np.uint8], factor: int) -> NDArray[np.float64]:
    """Grey levels of the reduced tile less their local mean."""
    from PIL import Image
    from scipy.ndimage import uniform_filter

    grey_HW = np.asarray(Image.fromarray(pixels_HWC).convert("L").reduce(factor), np.float64)
    fine_HW: NDArray[np.float64] = grey_HW - uniform_filter(grey_HW, SMOOTH, mode="nearest")
    return fine_HW


def _correlate(
    left_HW: NDArray[np.float64], right_HW: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    from scipy.fft import irfft2, next_fast_len, rfft2

    padded = [next_fast_len(length, real=True) for length in shape]
    result_HW: NDArray[np.float64] = irfft2(rfft2(left_HW, padded) * rfft2(right_HW[::-1, ::-1], padded), padded)
    return result_HW[: shape[0], : shape[1]]


# ------------------------------------------------------------------------------
# Embedding neighbours: which tiles a backbone finds most alike, and whether they show a piece of the same tissue


@dataclass(frozen=True)
class CachedEmbeddings:
    """Embeddings that an earlier run left in the cache.

    Attributes:
        matrix_MD: float32 or float16, one row per found tile.
        rows: Row of each in the tile set.
        backbone: Whose embeddings they are.
    """

    matrix_MD: NDArray[np.float32] | NDArray[np.float16]
    rows: NDArray[np.int64]
    backbone: str


@dataclass(frozen=True)
class _Held:
    """What one embedding space holds of a tile set."""

    backbone: str
    store: Store
    manifests: dict[str, Manifest]
    held_N: NDArray[np.bool_]


def cached_embeddings(
    tiles: TileSet, readable_N: NDArray[np.bool_], cache: Path, *, rehash: bool = False
) -> CachedEmbeddings | None:
    """Find the embedding space of the cache that holds most of the tiles; nothing is computed."""
    spaces = _spaces(cache)
    rows = np.flatnonzero(readable_N)
    if not spaces or not len(rows):
        return None
    sources = tile_sources(tiles.take(rows))
    with PixelReader() as reader:
        content = HashIndex(cache / "hashes.sqlite", rehash=rehash).tiles(sources, reader)
    best = max(
        (_held(Store(cache, space), space, content) for space in spaces),
        key=lambda held: held.held_N.sum(),
        default=None,
    )
    if best is None or not best.held_N.any():
        return None
    gathered = gather(best.store, best.manifests, [content[place] for place in np.flatnonzero(best.held_N)])
    return None if gathered is None else CachedEmbeddings(gathered.matrix_ND, rows[best.held_N], best.backbone)


def nearest(
    matrix_ND: NDArray[np.float32] | NDArray[np.float16], group_N: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return each row's most similar other row, and its most similar row of another group.

    The similarity matrix is made in blocks and never kept, so memory does not grow with its size; time is quadratic.
    """
    # Cosines of a block of rows with a block of columns; a row is never its own neighbour, and the second search leaves
    # out its group as well.
    n = len(matrix_ND)
    starts = range(0, n, BLOCK_ROWS)  # float16 overflows when it is squared
    norms = [np.linalg.norm(matrix_ND[start : start + BLOCK_ROWS].astype(np.float32), axis=1) for start in starts]
    norms_N = np.maximum(np.concatenate(norms), 1e-12)
    best = np.full((2, n), -np.inf, np.float32)
    place = np.full((2, n), -1, np.int64)
    for start in track(range(0, n, BLOCK_ROWS), "comparing embeddings"):
        rows = np.arange(start, min(start + BLOCK_ROWS, n))
        left = matrix_ND[rows].astype(np.float32) / norms_N[rows, None]
        for first in range(0, n, BLOCK_COLUMNS):
            columns = np.arange(first, min(first + BLOCK_COLUMNS, n))
            cosine = left @ (matrix_ND[columns].astype(np.float32) / norms_N[columns, None]).T
            own = rows[(rows >= first) & (rows < columns[-1] + 1)]
            cosine[own - start, own - first] = -np.inf
            for kind in range(2):
                if kind:
                    cosine[group_N[rows, None] == group_N[columns]] = -np.inf
                nearest_column = cosine.argmax(axis=1)
                value = cosine[np.arange(len(rows)), nearest_column]
                better = value > best[kind, rows]
                best[kind, rows[better]] = value[better]
                place[kind, rows[better]] = columns[nearest_column[better]]
    i, j, cosine_M = np.tile(np.arange(n), 2), place.reshape(-1), best.reshape(-1)
    return i[j >= 0], j[j >= 0], cosine_M[j >= 0]


def overlapping_fields(
    facts: Facts, fingerprints: Fingerprints, embeddings: CachedEmbeddings, loader: LoaderConfig
) -> Copies:
    """Lay neighbours in embedding space over each other and join those that share tissue."""
    # Only so many pairs are looked at pixel by pixel, the gravest first; those that share tissue are joined.
    candidates = _candidates(facts, fingerprints, embeddings)
    looked_at = candidates.head(MAX_PAIRS)
    first_M, second_M = looked_at["first"].to_numpy(), looked_at["second"].to_numpy()
    overlaps = _overlaps(facts.tiles, first_M, second_M, loader)
    shared_M = np.array([found.is_shared for found in overlaps], np.bool_)
    pairs = Pairs(first_M[shared_M], second_M[shared_M], np.zeros(int(shared_M.sum()), np.int8))
    label_N, turned_N = connected([pairs], len(facts.table))
    n_rest = len(candidates) - len(looked_at)
    remark = f"Looked for among {count(len(looked_at), 'pair')} of neighbours by {embeddings.backbone}" + (
        f"; {n_rest:,} further pairs were not looked at." if n_rest else "."
    )
    cluster_N = np.where(np.bincount(label_N)[label_N] > 1, label_N, -1)
    return Copies(cluster_N, turned_N, len(embeddings.rows), remark)


def _candidates(facts: Facts, fingerprints: Fingerprints, embeddings: CachedEmbeddings) -> pl.DataFrame:
    """Neighbours of one magnification and different pixels: across sides first, then across groups, then by cosine."""
    # A tile of unknown group counts as a group of its own.
    group_N = facts.table["group_id"].fill_null(facts.table["tile_id"]).rank("dense").cast(pl.Int64).to_numpy()
    i, j, cosine_M = nearest(embeddings.matrix_MD, group_N[embeddings.rows])
    first_M, second_M = embeddings.rows[np.minimum(i, j)], embeddings.rows[np.maximum(i, j)]
    side, magnification = facts.table["side"], facts.table["magnification"]
    frame = pl.DataFrame({"first": first_M, "second": second_M, "cosine": cosine_M}).with_columns(
        sides=(side.gather(first_M) != side.gather(second_M)).fill_null(False),
        groups=pl.Series(group_N[first_M] != group_N[second_M]),
        scale=magnification.gather(first_M) == magnification.gather(second_M),
        pixels=pl.Series((fingerprints.digest_N2[first_M] != fingerprints.digest_N2[second_M]).any(axis=1)),
    )
    frame = frame.filter(pl.col("scale") & pl.col("pixels"))
    frame = frame.sort("sides", "groups", "cosine", "first", "second", descending=[True, True, True, False, False])
    return frame.unique(["first", "second"], keep="first", maintain_order=True)


def _overlaps(
    tiles: TileSet, first_M: NDArray[np.int64], second_M: NDArray[np.int64], loader: LoaderConfig
) -> list[FieldOverlap]:
    sources = tile_sources(tiles)
    with PixelReader(loader) as reader, ThreadPoolExecutor(loader.workers or cpu_count()) as pool:

        def look(pair: tuple[int, int]) -> FieldOverlap:
            """Lay the two tiles of a pair over each other."""
            return overlap(reader.pixels(sources[pair[0]]), reader.pixels(sources[pair[1]]))

        pairs = list(zip(first_M.tolist(), second_M.tolist(), strict=True))
        return list(track(pool.map(look, pairs), "laying neighbours over each other", total=len(pairs)))


def _held(store: Store, space: EmbeddingSpace, content: Sequence[str]) -> _Held:
    manifests = store.manifests()
    known = {one for manifest in manifests.values() for one in manifest.content}
    return _Held(space.backbone, store, manifests, np.array([one in known for one in content], np.bool_))


def _spaces(cache: Path) -> list[EmbeddingSpace]:
    """Embedding spaces of networks in the cache, by key; unreadable descriptions are passed over with a warning."""
    spaces = []
    for path in sorted((cache / "embeddings").glob("*/space.json")):
        space = read_space(path)
        if space is None:
            LOG.warning("an embedding space can't be read and is passed over: %s", path)
        elif not space.backbone.startswith(NOT_NEIGHBOURS):
            spaces.append(space)
    return spaces
