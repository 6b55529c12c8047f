"""A draw of tiles spread over groups: many groups with few tiles each before few groups with many."""

# N tiles, n drawn

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.tools.files import hash_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Int = NDArray[np.int64]


def spread_order(tile_ids: Sequence[str], groups: Sequence[str], seed: int) -> Int:
    """Return rows in an order whose every beginning is spread over groups as evenly as their sizes allow.

    Each group deals out one tile per round; who comes first follows hashes of the tile ids, so that the order of the
    rows changes nothing and another seed draws other tiles.

    Args:
        tile_ids: Id per tile (N).
        groups: Group key per tile (N), as :func:`~histotune.datasets.splits.split.tile_groups` gives it.
        seed: Seed of the draw.

    Returns:
        Row numbers (N).

    Example:
        >>> order = spread_order(["a", "b", "c"], ["g", "g", "h"], 0)
        >>> {["g", "g", "h"][row] for row in order[:2]} == {"g", "h"}
        True
    """
    keys = [hash_bytes("spread", str(seed), tile_id.encode("utf-8", "surrogateescape")) for tile_id in tile_ids]
    n_dealt: dict[str, int] = {}
    rounds = [0] * len(keys)
    for row in sorted(range(len(keys)), key=keys.__getitem__):
        rounds[row] = n_dealt.get(groups[row], 0)
        n_dealt[groups[row]] = rounds[row] + 1
    return np.array(sorted(range(len(keys)), key=lambda row: (rounds[row], keys[row])), dtype=np.int64)
