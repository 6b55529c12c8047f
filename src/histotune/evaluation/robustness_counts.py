"""Neighbours of the same class at another site against neighbours of another class at the same site.

numpy alone, so that a warm run that scores a handful of cells imports no network library; the caller bounds the number
of tiles, and the similarities are made in blocks.
"""

# N tiles, D columns, J neighbours kept, G groups, B tiles of a block

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Matrix = NDArray[np.floating[Any]]
    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

BLOCK_ROWS = 512
NO_NEIGHBOUR = -1


@dataclass(frozen=True)
class Square:
    """Tiles of two classes at two sites.

    Attributes:
        x_ND: Embeddings.
        class_N: Class per tile, 0 or 1.
        site_N: Site per tile, 0 or 1.
        group_N: Group per tile, from 0; a tile of unknown group has one of its own.
    """

    x_ND: Matrix
    class_N: Int
    site_N: Int
    group_N: Int


@dataclass(frozen=True)
class Tally:
    """Counts behind one index; sums of tallies give the index of several squares together.

    Attributes:
        same_class: Neighbours of the same class at the other site ("SO").
        same_site: Neighbours of the other class at the same site ("OS").
        same_class_G: The first without each group, as queries and as neighbours.
        same_site_G: The second without each group.
        random_same_class: What the first would be on average if neighbours were drawn blindly.
        random_same_site: The same for the second.
    """

    same_class: float
    same_site: float
    same_class_G: Float
    same_site_G: Float
    random_same_class: float
    random_same_site: float

    @property
    def index(self) -> float:
        """The robustness index; NaN where there is no neighbour of either kind."""
        return _share(self.same_class, self.same_site)

    @property
    def index_G(self) -> Float:
        """The index without each group."""
        total_G = self.same_class_G + self.same_site_G
        return np.asarray(np.divide(self.same_class_G, total_G, out=np.full_like(total_G, np.nan), where=total_G > 0))

    @property
    def chance(self) -> float:
        """The index of blindly drawn neighbours: one half where groups hold one class and one site each."""
        return _share(self.random_same_class, self.random_same_site)


def tally_square(square: Square, k: int, n_groups: int) -> Tally:
    """Count the two kinds among the k nearest neighbours of every tile, whole and without each group.

    The robustness index of Koemen et al. (PathoROB, arXiv 2507.17845) is R_k = SO / (SO + OS), both summed over all
    tiles' k nearest neighbours; a tile's own slide (here: its group) gives no neighbours. Rows of L2-normalised
    embeddings are compared, for which Euclidean distance and cosine order alike.

    Args:
        square: The tiles, in an order that does not depend on the files' (equally near tiles come in row order).
        k: Neighbours per tile.
        n_groups: Number of groups, of which some may hold no tile here.

    Returns:
        The counts.
    """
    largest = int(np.bincount(square.group_N).max())
    near_NJ = nearest_of_other_groups(square.x_ND, square.group_N, k + largest)  # enough when any group is left out
    real_NJ = near_NJ >= 0
    same_class_NJ = real_NJ & (square.class_N[near_NJ] == square.class_N[:, None])
    same_site_NJ = real_NJ & (square.site_N[near_NJ] == square.site_N[:, None])
    kinds_2NJ = np.stack([same_class_NJ & ~same_site_NJ, ~same_class_NJ & same_site_NJ])
    whole_2N = (kinds_2NJ & _first(real_NJ, k)).sum(axis=2)
    near_group_NJ = np.where(real_NJ, square.group_N[near_NJ], NO_NEIGHBOUR)
    without_2G = np.repeat(whole_2N.sum(axis=1, dtype=np.float64)[:, None], n_groups, axis=1)
    for group in np.unique(square.group_N):
        own_N = square.group_N == group
        touched_N = (near_group_NJ[:, :k] == group).any(axis=1) & ~own_N
        allowed_nJ = real_NJ[touched_N] & (near_group_NJ[touched_N] != group)
        moved_2 = (kinds_2NJ[:, touched_N] & _first(allowed_nJ, k)).sum(axis=(1, 2))
        without_2G[:, group] += moved_2 - whole_2N[:, own_N | touched_N].sum(axis=1)
    same_class, same_site = (float(n) for n in whole_2N.sum(axis=1))
    random_same_class, random_same_site = _random_counts(square, k)
    return Tally(same_class, same_site, without_2G[0], without_2G[1], random_same_class, random_same_site)


def sum_tallies(tallies: Sequence[Tally]) -> Tally:
    """Return the counts of several squares together; their groups are numbered alike."""
    return Tally(
        sum(tally.same_class for tally in tallies),
        sum(tally.same_site for tally in tallies),
        np.sum([tally.same_class_G for tally in tallies], axis=0),
        np.sum([tally.same_site_G for tally in tallies], axis=0),
        sum(tally.random_same_class for tally in tallies),
        sum(tally.random_same_site for tally in tallies),
    )


def nearest_of_other_groups(x_ND: Matrix, group_N: Int, n_kept: int) -> Int:
    """Return each tile's nearest tiles of other groups by cosine, nearest first; equally near ones in row order.

    Args:
        x_ND: Embeddings.
        group_N: Group per tile.
        n_kept: Neighbours kept at most.

    Returns:
        Rows (N, J); -1 where fewer are allowed.
    """
    length_N1 = np.maximum(np.linalg.norm(x_ND.astype(np.float32), axis=1, keepdims=True), 1e-30)
    unit_ND = x_ND.astype(np.float32) / length_N1
    n_kept = min(n_kept, len(unit_ND))
    blocks = []
    for start in range(0, len(unit_ND), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        far_BN = -(unit_ND[rows] @ unit_ND.T)
        far_BN[group_N[rows, None] == group_N[None, :]] = np.inf
        chosen_BJ = np.sort(np.argpartition(far_BN, n_kept - 1, axis=1)[:, :n_kept], axis=1)
        far_BJ = np.take_along_axis(far_BN, chosen_BJ, axis=1)
        order_BJ = np.argsort(far_BJ, axis=1, kind="stable")
        near_BJ = np.take_along_axis(chosen_BJ, order_BJ, axis=1)
        near_BJ[np.isinf(np.take_along_axis(far_BJ, order_BJ, axis=1))] = NO_NEIGHBOUR
        blocks.append(near_BJ)
    return np.concatenate(blocks)


def _first(allowed_NJ: NDArray[np.bool_], k: int) -> NDArray[np.bool_]:
    """Return which of the allowed neighbours are the k nearest."""
    return allowed_NJ & (np.cumsum(allowed_NJ, axis=1) <= k)


def _random_counts(square: Square, k: int) -> tuple[float, float]:
    """Return both counts as they would be on average with neighbours drawn blindly from the allowed tiles."""
    cell_N = 2 * square.class_N + square.site_N
    own_G4 = np.zeros((int(square.group_N.max()) + 1, 4))
    np.add.at(own_G4, (square.group_N, cell_N), 1.0)
    allowed_N4 = own_G4.sum(axis=0) - own_G4[square.group_N]
    n_allowed_N = allowed_N4.sum(axis=1)
    per_tile_N = np.minimum(k, n_allowed_N) / np.maximum(n_allowed_N, 1.0)
    rows_N = np.arange(len(cell_N))
    same_class_N = allowed_N4[rows_N, 2 * square.class_N + 1 - square.site_N]
    same_site_N = allowed_N4[rows_N, 2 * (1 - square.class_N) + square.site_N]
    return float((per_tile_N * same_class_N).sum()), float((per_tile_N * same_site_N).sum())


def _share(first: float, second: float) -> float:
    return first / (first + second) if first + second > 0 else float("nan")
