"""The key of an embedding space: everything that changes an embedding (law 3)."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from histotune.backbones.adapters import adapter_hash
from histotune.backbones.catalog import documented_view
from histotune.backbones.weights import weights_hash
from histotune.images.hashes import HashIndex
from histotune.images.view_checks import view_notes
from histotune.tools.devices import ComputeDevice, DeviceChoice, Precision, compute_signature
from histotune.tools.errors import UserError, closest_name
from histotune.tools.files import canonical_json, hash_bytes, hash_json
from histotune.tools.ranks import ProcessRank

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.backbones.spec import Backbone, BackboneSpec, ColumnBlock
    from histotune.datasets.config import OnBadImage
    from histotune.datasets.tileset import TileSet
    from histotune.images.config import LoaderConfig, ViewChoice, ViewConfig

# N tiles, D columns


PIPELINE = "2"  # raised whenever the code between a file's bytes and an embedding changes what comes out


def embedding_space(
    spec: BackboneSpec,
    view: ViewConfig,
    device: ComputeDevice,
    precision: Literal["fp32", "bf16", "fp16"],
    index: HashIndex | None = None,
    storage: Storage = "fp32",
) -> EmbeddingSpace:
    """Return the space that embeddings of these settings live in, without importing torch."""
    if spec.kind == "external":
        return external_space(spec.name, spec.revision)
    normalisation: dict[str, object] = {"mean": spec.mean, "std": spec.std}
    signature: dict[str, object] = {**compute_signature(device), "pipeline": PIPELINE}
    if spec.kind == "colour-histogram":  # numpy on raw pixels: neither the device nor torch has a say
        normalisation, signature, precision = {}, {"pipeline": PIPELINE}, "fp32"
    if storage != "fp32":
        signature["storage"] = storage
    space = EmbeddingSpace(
        key="",
        backbone=spec.name,
        weights_hash=weights_hash(spec, index),
        adapter_hash=adapter_hash(spec, index),
        view=canonical_json(view.identity()),
        precision=precision,
        signature=canonical_json(signature),
        normalisation=canonical_json(normalisation),
    )
    return with_key(space)


def external_space(name: str, files_hash: str) -> EmbeddingSpace:
    """Return the space of imported embeddings: nothing is known about them but the files they came in."""
    unknown = canonical_json({"name": "unknown"})
    signature = canonical_json({EXTERNAL: "unverified"})
    space = EmbeddingSpace("", name, hash_bytes(EXTERNAL, files_hash), "", unknown, "unknown", signature, "{}")
    return with_key(space)


def with_key(space: EmbeddingSpace) -> EmbeddingSpace:
    """Return the space with the key that its other fields give."""
    facts = asdict(space)
    name = facts.pop("backbone")
    facts.pop("key")
    return EmbeddingSpace(key=hash_json(facts), backbone=name, **facts)


@dataclass(frozen=True)
class EmbedRequest:
    """What to embed with, how, and where results are kept.

    Attributes:
        spec: The backbone.
        view: How an image becomes its input.
        embedding: Device, precision, batches, shards.
        loader: How pixels are read.
        cache: Root folder of the cache.
        on_bad_image: ``skip`` leaves out tiles that can't be read; ``fail`` lists them and stops.
        rank: Which of several processes this is; all of them must ask for the same.
        loaded: Keeps the network between requests that follow each other; None loads it for every request.
    """

    spec: BackboneSpec
    view: ViewConfig
    embedding: EmbeddingConfig
    loader: LoaderConfig
    cache: Path
    on_bad_image: OnBadImage = "fail"
    rank: ProcessRank = field(default_factory=ProcessRank)
    loaded: LoadedBackbone | None = field(default=None, repr=False, compare=False)

    @property
    def hashes(self) -> HashIndex:
        """The content hashes that its cache remembers."""
        return HashIndex(self.cache / "hashes.sqlite", rehash=self.loader.rehash)


@dataclass
class LoadedBackbone:
    """The network that was loaded last, kept for the next request that asks for the same.

    Attributes:
        backbone: The network; None before the first.
        asked: What it was loaded for.
    """

    backbone: Backbone | None = None
    asked: object = None


# ---- Embeddings ----


EXTERNAL = "external"  # in the signature of a space whose rows were imported


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
    def compatibility_key(self) -> str:
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
        sha256_N32: uint8; content hash of each row's tile. None where rows are known by no tile's bytes.
    """

    matrix_ND: NDArray[np.float32] | NDArray[np.float16]
    blocks: tuple[ColumnBlock, ...]
    tile_ids: tuple[str, ...]
    space: EmbeddingSpace
    n_computed: int = 0
    pixel_fingerprint: str = ""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    n_equivalent: int = 0
    precision_reason: str = ""
    n_kept_fp32: int = 0
    sha256_N32: NDArray[np.uint8] | None = field(default=None, compare=False)  # the fingerprint says the same

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
                raise UserError(
                    "unknown pooling block", value=name, allowed=", ".join(by_name), closest=closest_name(name, by_name)
                )
        return np.concatenate([np.arange(by_name[name].start, by_name[name].stop) for name in pooling])

    def take(self, rows: NDArray[np.int64]) -> Embeddings:
        """Return the rows at the given numbers, in that order."""
        tile_ids = tuple(self.tile_ids[row] for row in rows)
        sha256_N32 = None if self.sha256_N32 is None else self.sha256_N32[rows]
        return replace(self, matrix_ND=self.matrix_ND[rows], tile_ids=tile_ids, sha256_N32=sha256_N32)


# ---- Settings ----


Storage = Literal["fp32", "fp16"]
FIRST_BATCH = 32
"""What ``auto`` takes on CPUs, and where a search on a GPU begins."""


class EmbeddingConfig(BaseModel):
    """How embeddings are computed and kept.

    Attributes:
        device: ``auto`` takes a GPU where one can be used.
        precision: ``auto`` takes bf16 where fast, fp16 on Turing, fp32 otherwise.
        batch_size: Tiles per forward pass; halved when memory runs out. ``auto`` is 32 on CPUs; on GPUs it doubles
            while throughput gains and memory lasts, and is remembered.
        compile: ``auto`` compiles the network on GPUs where at least about 20,000 tiles are to be embedded.
        shard_tiles: Rows per shard, the unit of restart.
        threads: Compute threads; 0 leaves torch's choice.
        storage: ``fp16`` halves the room; a shard that would lose by it is kept in float32, with a note.
        wait_s: How long one of several processes waits for another that shows no sign of life, seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: DeviceChoice = "auto"
    precision: Precision = "auto"
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    shard_tiles: int = Field(512, ge=1)
    threads: int = Field(0, ge=0)
    storage: Storage = "fp32"
    wait_s: float = Field(300.0, gt=0)

    @property
    def first_batch_size(self) -> int:
        """The batch size as a number: 32 where it is still to be found."""
        return FIRST_BATCH if self.batch_size == "auto" else self.batch_size


# ---- The chosen view ----


LOG = logging.getLogger(__name__)


def chosen_view(choice: ViewChoice | None, spec: BackboneSpec) -> ViewConfig:
    """Return the backbone's documented view with the chosen fields changed."""
    documented = documented_view(spec)
    return documented if choice is None else choice.on(documented)


def with_view_notes(tiles: TileSet, view: ViewConfig) -> TileSet:
    """Return the tiles with what the view hides or adds in their notes, and log it; once for all that share a view."""
    new = [note for note in view_notes(tiles, view) if note not in tiles.notes]
    for note in new:
        LOG.info("%s: %s", tiles.name, note)
    return replace(tiles, notes=(*tiles.notes, *new))
