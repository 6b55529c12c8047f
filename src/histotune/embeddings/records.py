"""Embeddings of a tile set: one matrix, named column blocks, and the space they live in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.tools.errors import UserError, closest_name
from histotune.tools.files import hash_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from histotune.backbones.spec import ColumnBlock

EXTERNAL = "external"  # in the signature of a space whose rows were imported
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
        precision: ``fp32``, ``bf16`` or ``fp16``; ``unknown`` for external embeddings.
        signature: Library majors, device kind, and how rows are stored where not in float32, as canonical JSON.
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

    @property
    def stores_fp16(self) -> bool:
        """Whether rows are kept in float16 where that changes nothing that matters."""
        return '"storage": "fp16"' in self.signature

    @property
    def external(self) -> bool:
        """Whether the rows were imported: what made them is a claim that nobody here has checked."""
        return f'"{EXTERNAL}"' in self.signature


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
        n_equivalent: Rows computed in smaller batches than planned, since memory ran out: within 1e-5 relative of
            what the plan would have given in fp32, not equal to the last bit.
        precision_reason: Why they were computed in this precision: the check's figures.
        n_kept_fp32: Rows kept in float32 although the space stores float16.
    """

    matrix_ND: NDArray[np.float32] | NDArray[np.float16]
    blocks: tuple[ColumnBlock, ...]
    tile_ids: tuple[str, ...]
    space: EmbeddingSpace
    n_computed: int
    pixel_fingerprint: str
    unreadable: Mapping[str, str] = field(default_factory=dict)
    n_equivalent: int = 0
    precision_reason: str = ""
    n_kept_fp32: int = 0

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.tile_ids)

    @property
    def provenance(self) -> str:
        """Who made the rows: ``computed``, or ``external, unverified``."""
        return "external, unverified" if self.space.external else "computed"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know about how the rows were made; nothing where they were computed here, as planned."""
        notes = []
        if self.space.external:
            notes.append(
                f"EXTERNAL: the embeddings {self.space.backbone} were imported and are unverified: network, view and "
                "scale are claims of their files. Without the network there is no random-weight floor; the colour "
                "histogram was computed here."
            )
        if self.n_equivalent:
            notes.append(
                f"{self.n_equivalent:,} of {len(self):,} tiles were embedded with {self.space.backbone} in smaller "
                "batches than planned, since memory ran out: equivalent (within 1e-5 relative in fp32), not equal to "
                "the last bit."
            )
        if self.n_kept_fp32:
            notes.append(
                f"{self.n_kept_fp32:,} of {len(self):,} embeddings of {self.space.backbone} are stored in float32, not "
                "in float16 as asked for: rounding would cost their shards too much, or they are too few to tell."
            )
        return tuple(notes)

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
        tile_ids = tuple(self.tile_ids[row] for row in rows)
        return replace(self, matrix_ND=self.matrix_ND[rows], tile_ids=tile_ids)
