"""How far a tile lies from those that trained a head: the distance to its k-th nearest, with a false-alarm rate.

The distance to the k-th nearest training embedding tells odd inputs from usual ones without a guess about the shape of
the training data (Sun et al., ICML 2022). Columns are divided as the head divides them. From where on a tile counts as
far is found on the training tiles themselves, each measured against the tiles of other groups alone: of tiles of new
groups like these, the stated share raises a false alarm, every group weighing the same.
"""

# N tiles, n tiles of the sample, q queries of a block, D columns of the head's pooling

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.conformal import group_quantile, group_share, groups_left_out, spread_over_groups
from histotune.heads.solver.problems import divisors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.embeddings.space import Embeddings
    from histotune.heads.head import Head

    Float = NDArray[np.float64]


MAX_SAMPLE_TILES = 2_000
MAX_SAMPLE_BYTES = 16 * 2**20  # of float16
NEAREST = 10
FALSE_ALARMS = 0.05
QUERY_ROWS = 1024
LARGEST = 60_000.0  # float16 ends at 65,504; what lies as far out is far whatever its number


@dataclass(frozen=True)
class TrainingSample:
    """Some training tiles in the columns that the head reads, and how far apart their groups lie.

    Attributes:
        scaled_nD: float16; less the training mean, divided as the head divides.
        group_n: int32; number of each tile's group.
        distance_n: float32; root mean square difference per column to the k-th nearest tile of other groups.
        k: Which neighbour is measured.
        sha256_n32: uint8; content hash of each tile; empty where unknown.
    """

    scaled_nD: NDArray[np.float16]
    group_n: NDArray[np.int32]
    distance_n: NDArray[np.float32]
    k: int
    sha256_n32: NDArray[np.uint8]

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.group_n.max()) + 1


@dataclass(frozen=True)
class NearTile:
    """A training tile near to another tile.

    Attributes:
        sha256: Content hash of its file, which finds it among the training tiles; empty where unknown.
        distance: Root mean square difference per column.
        group: Number of its group within the sample.
    """

    sha256: str
    distance: float
    group: int


@dataclass(frozen=True)
class DistanceRule:
    """From where on a tile counts as far from training.

    Attributes:
        limit: The distance.
        false_alarms: Share of tiles of new groups like the training groups that lie beyond it, as asked for.
        measured: Share on groups that were left out when the limit was found.
        n_tiles: Tiles of the sample.
        n_groups: Their groups.
    """

    limit: float
    false_alarms: float
    measured: float
    n_tiles: int
    n_groups: int

    def note(self, n_far: int, n_all: int, farthest: str) -> str:
        """Return what is to be said of so many far tiles; empty where there is none."""
        if not n_far:
            return ""
        lie = "lies" if n_far == 1 else "lie"
        return (
            f"{n_far:,} of {n_all:,} images {lie} far from what trained this head (farthest: {farthest}). Of images "
            f"like its training groups {100 * self.measured:.1f} % would (measured on {self.n_groups:,} groups held "
            f"out in turn, {self.n_tiles:,} tiles). Look at them: blank, blurred, another stain, organ or scale?"
        )


def training_sample(
    head: Head, embeddings: Embeddings, rows: NDArray[np.int64], groups: tuple[str, ...], rng: np.random.Generator
) -> TrainingSample | None:
    """Draw up to 2,000 training tiles, as many of every group, and measure how far each lies from other groups.

    Args:
        head: The head, which knows mean and deviation of its training columns.
        embeddings: All tiles.
        rows: Those that trained.
        groups: Group key per tile of the embeddings.
        rng: Draws the tiles.

    Returns:
        The sample; None where the head knows nothing of its training columns, or there is only one group.
    """
    if head.train_mean_D is None or head.train_std_D is None:
        return None
    _, every_n = np.unique([groups[row] for row in rows], return_inverse=True)
    n_most = min(MAX_SAMPLE_TILES, MAX_SAMPLE_BYTES // (2 * len(head.columns)))
    kept = spread_over_groups(every_n, n_most, rng)
    rows, group_n = rows[kept], _numbered(every_n[kept])
    n_others = len(rows) - int(np.bincount(group_n).max())
    if n_others < 1:
        return None
    scaled_nD = scaled_columns(head, embeddings.matrix_ND[rows])
    k = min(NEAREST, n_others)
    distance_n = nearest_distances(scaled_nD, scaled_nD, k, group_n, group_n)
    sha256_N32 = embeddings.sha256_N32
    sha256_n32 = np.empty((0, 32), np.uint8) if sha256_N32 is None else sha256_N32[rows]
    return TrainingSample(scaled_nD, group_n, distance_n.astype(np.float32), k, np.ascontiguousarray(sha256_n32))


def _numbered(every_n: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the groups that are left, numbered from 0."""
    numbers_n: NDArray[np.int32] = np.unique(every_n, return_inverse=True)[1].astype(np.int32)
    return numbers_n


def sample_distances(head: Head, sample: TrainingSample, embeddings: Embeddings) -> Float:
    """Return how far every tile lies from those of a sample.

    Args:
        head: The head that the sample belongs to.
        sample: Its training tiles.
        embeddings: Tiles in the head's own space.

    Returns:
        Root mean square difference per column to the k-th nearest tile of the sample.
    """
    out_N = np.empty(len(embeddings))
    for start in range(0, len(embeddings), QUERY_ROWS):
        part = slice(start, start + QUERY_ROWS)
        out_N[part] = nearest_distances(scaled_columns(head, embeddings.matrix_ND[part]), sample.scaled_nD, sample.k)
    return out_N


def nearest_tiles(
    head: Head, sample: TrainingSample, embeddings: Embeddings, n_most: int = 3
) -> list[tuple[NearTile, ...]]:
    """Return the nearest tiles of a sample for every tile, nearest first, by the distance that tells what is far.

    Args:
        head: The head that the sample belongs to.
        sample: Its training tiles.
        embeddings: A few tiles in the head's own space.
        n_most: How many of the sample for each.

    Returns:
        For every tile the nearest of the sample.
    """
    query, pool = (one.astype(np.float32) for one in (scaled_columns(head, embeddings.matrix_ND), sample.scaled_nD))
    square_q, square_n = (np.einsum("nd,nd->n", one, one, dtype=np.float64) for one in (query, pool))
    apart_qn = square_q[:, None] - 2.0 * (query @ pool.T).astype(np.float64) + square_n
    distance_qn = np.sqrt(np.maximum(apart_qn, 0.0) / query.shape[1])
    order_qk = np.argsort(distance_qn, axis=1, kind="stable")[:, :n_most]
    names = [bytes(one).hex() for one in sample.sha256_n32] or [""] * len(pool)
    return [
        tuple(NearTile(names[row], float(distance_n[row]), int(sample.group_n[row])) for row in rows)
        for rows, distance_n in zip(order_qk, distance_qn, strict=True)
    ]


def scaled_columns(head: Head, matrix_ND: NDArray[np.floating]) -> NDArray[np.float16]:
    """Return the columns that a head reads, less the training mean and divided as the head divides them."""
    assert head.train_mean_D is not None and head.train_std_D is not None
    columns = np.asarray(head.columns)
    scaled_ND = (matrix_ND[:, columns].astype(np.float64) - head.train_mean_D) / divisors(head.train_std_D)
    return np.asarray(scaled_ND.clip(-LARGEST, LARGEST).astype(np.float16))


def nearest_distances(
    query_ND: NDArray[np.float16],
    sample_nD: NDArray[np.float16],
    k: int,
    query_group_N: NDArray[np.int32] | None = None,
    group_n: NDArray[np.int32] | None = None,
) -> Float:
    """Return the distance of every query to its k-th nearest tile of a sample, those of its own group left out."""
    # |q - s|^2 = |q|^2 - 2 q s + |s|^2, in float32 with float64 norms; both are centred, so that few digits are lost.
    sample = sample_nD.astype(np.float32)
    square_n = np.einsum("nd,nd->n", sample, sample, dtype=np.float64)
    out_N = np.empty(len(query_ND))
    for start in range(0, len(query_ND), QUERY_ROWS):
        part = slice(start, start + QUERY_ROWS)
        query = query_ND[part].astype(np.float32)
        square_q = np.einsum("qd,qd->q", query, query, dtype=np.float64)
        apart_qn = square_q[:, None] - 2.0 * (query @ sample.T).astype(np.float64) + square_n
        if query_group_N is not None and group_n is not None:
            apart_qn[query_group_N[part, None] == group_n] = np.inf
        out_N[part] = np.partition(apart_qn, k - 1, axis=1)[:, k - 1]
    return np.asarray(np.sqrt(np.maximum(out_N, 0.0) / query_ND.shape[1]))


def distance_rule(sample: TrainingSample, false_alarms: float = FALSE_ALARMS) -> DistanceRule:
    """Find from where on a tile counts as far, and measure how many tiles of held-out groups would.

    Args:
        sample: Training tiles.
        false_alarms: Share of tiles of new groups like these that may lie beyond.

    Returns:
        The limit of all groups; measured with that of the other groups, every group in turn.
    """
    value_n, group_n, n_groups = sample.distance_n.astype(np.float64), sample.group_n, sample.n_groups
    beyond_n = np.zeros(len(value_n), dtype=np.bool_)
    for left_out_n in groups_left_out(group_n, n_groups):
        limit = group_quantile(value_n[~left_out_n], group_n[~left_out_n], 1.0 - false_alarms)
        beyond_n[left_out_n] = value_n[left_out_n] > limit
    limit = group_quantile(value_n, group_n, 1.0 - false_alarms)
    return DistanceRule(limit, false_alarms, group_share(beyond_n, group_n), len(value_n), n_groups)
