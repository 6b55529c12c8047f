"""Scored tiles that lie far outside of what trained a head: what it says of them rests on no example."""

# N tiles, n tiles of a block, D columns of the head's pooling

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.head import BLOCK_ROWS
from histotune.heads.solver.problems import divisors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.embeddings.space import Embeddings
    from histotune.heads.head import Head

FAR = 50.0
"""Deviations from the training mean beyond which a tile lies far outside, in any column."""


@dataclass(frozen=True)
class FarTiles:
    """How far the tiles that are scored lie from those that trained.

    Attributes:
        deviation_N: Largest distance of each tile from the training mean, over the columns, in what they were divided
            by; 0 where the head does not know its training columns.
        limit: From where on a tile counts as far outside.
        tile_ids: Their ids.
    """

    deviation_N: NDArray[np.float64]
    limit: float
    tile_ids: tuple[str, ...]

    @property
    def n_far(self) -> int:
        """Number of tiles far outside."""
        return int((self.deviation_N > self.limit).sum())

    def note(self) -> str:
        """Return the warning; empty where no tile lies far outside."""
        if not self.n_far:
            return ""
        first = int(np.argmax(self.deviation_N))
        farthest = FarthestTile(self.tile_ids[first], float(self.deviation_N[first]))
        return far_words(self.n_far, len(self.tile_ids), farthest, self.limit)


@dataclass(frozen=True)
class FarthestTile:
    """The tile that lies farthest out, and how far."""

    tile_id: str
    deviation: float


def far_words(n_far: int, n_tiles: int, farthest: FarthestTile, limit: float) -> str:
    """Return the warning of so many tiles far outside."""
    return (
        f"{n_far:,} of {n_tiles:,} scored tiles {'lies' if n_far == 1 else 'lie'} far outside of what trained this "
        f"head: up to |z| = {farthest.deviation:,.0f} in a column of their embedding ({farthest.tile_id}), and beyond "
        f"{limit:,.0f} what the head says rests on no example. Look at these tiles (blank, blurred, another stain or "
        "scale?), leave them out, or train on tiles like them."
    )


def join_far(parts: Sequence[FarTiles]) -> FarTiles:
    """Return what several heads were measured on, as one."""
    return FarTiles(
        np.concatenate([part.deviation_N for part in parts]),
        max(part.limit for part in parts),
        tuple(tile_id for part in parts for tile_id in part.tile_ids),
    )


def find_far(head: Head, embeddings: Embeddings, rows: NDArray[np.int64] | None = None) -> FarTiles:
    """Measure how far tiles lie from those that trained a head, in the columns that it reads.

    Args:
        head: The head; one of an earlier form knows nothing of its training columns, and no tile counts as far.
        embeddings: Tiles in the head's own space.
        rows: Which of them; None takes all.

    Returns:
        The largest deviation per tile.
    """
    # No training tile can lie further out than the square root of their number; held-out tiles that show what only one
    # of them shows lie as far.
    limit, rows = max(FAR, 2.0 * math.sqrt(head.n_tiles)), np.arange(len(embeddings)) if rows is None else rows
    tile_ids = tuple(embeddings.tile_ids[row] for row in rows.tolist())
    deviation_N = np.zeros(len(rows))
    if head.train_mean_D is None or head.train_std_D is None:
        return FarTiles(deviation_N, limit, tile_ids)
    varies_D = head.train_std_D > 0
    columns = np.asarray(head.columns)[varies_D]
    mean_D, scale_D = head.train_mean_D[varies_D], divisors(head.train_std_D)[varies_D]
    for start in range(0, len(rows) if len(columns) else 0, BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        block_nD = embeddings.matrix_ND[rows[part]][:, columns].astype(np.float64)
        deviation_N[part] = (np.abs(block_nD - mean_D) / scale_D).max(axis=1)
    return FarTiles(deviation_N, limit, tile_ids)
