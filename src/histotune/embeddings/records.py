"""Embeddings of a tile set: one matrix, named column blocks, and the space they live in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from histotune.backbones.records import ColumnBlock
from histotune.errors import UserError, closest_name
from histotune.files import hash_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["ColumnBlock", "EmbeddingSpace", "Embeddings"]
# N tiles, D columns


@dataclass(frozen=True)
class EmbeddingSpace:
    """Where embeddings can be compared: same weights, adapter, view, precision and compute signature (law 3).

    Attributes:
        key: SHA-256 over everything below.
        backbone: Backbone name, for people.
        weights_hash: SHA-256 of the weights' bytes, or of the seed and architecture for random weights.
        adapter_hash: SHA-256 of the adapter; empty without one.
        view: The view's settings as canonical JSON.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        signature: Library majors and device kind as canonical JSON.
        normalisation: Mean and standard deviation as canonical JSON.
    """

    key: str
    backbone: str
    weights_hash: str
    adapter_hash: str
    view: str
    precision: str
    signature: str
    normalisation: str

    @property
    def meaning_key(self) -> str:
        """Hash of weights, adapter, view and normalisation: what embeddings mean, whatever computed them how exactly.

        A head may be carried between spaces of one meaning, such as from a GPU in bf16 to a CPU in fp32: the columns
        are the same up to rounding, which the precision check bounds.
        """
        return hash_bytes(self.weights_hash, self.adapter_hash, self.view, self.normalisation)


@dataclass(frozen=True)
class Embeddings:
    """One row per tile, in the tile set's order.

    Attributes:
        matrix_ND: float32 or float16; memory-mapped where it is large.
        blocks: Named column ranges.
        tile_ids: Tile id per row.
        space: The embedding space.
        n_computed: Rows that needed a forward pass this time; 0 on a warm run.
        pixel_fingerprint: Hash over the content hashes of the tiles, in tile-id order.
        unreadable: Tile id -> reason, for tiles left out because they can't be read.
    """

    matrix_ND: NDArray[np.float32] | NDArray[np.float16]
    blocks: tuple[ColumnBlock, ...]
    tile_ids: tuple[str, ...]
    space: EmbeddingSpace
    n_computed: int
    pixel_fingerprint: str
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.tile_ids)

    def columns(self, pooling: tuple[str, ...]) -> NDArray[np.int64]:
        """Return the column numbers of a pooling, which is a set of block names.

        Args:
            pooling: Block names such as ``("cls", "patch_mean")``.

        Returns:
            Column numbers in the given block order.

        Raises:
            UserError: A block does not exist in this backbone.
        """
        by_name = {block.name: block for block in self.blocks}
        for name in pooling:
            if name not in by_name:
                raise UserError("unknown pooling block", value=name, allowed=", ".join(by_name),
                                closest=closest_name(name, by_name))  # fmt: skip
        return np.concatenate([np.arange(by_name[name].start, by_name[name].stop) for name in pooling])

    def take(self, rows: NDArray[np.int64]) -> Embeddings:
        """Return the rows at the given numbers, in that order."""
        return Embeddings(
            self.matrix_ND[rows], self.blocks, tuple(self.tile_ids[row] for row in rows), self.space,
            self.n_computed, self.pixel_fingerprint,
        )  # fmt: skip
