"""The key of an embedding space: everything that changes an embedding (law 3)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from histotune.backbones.adapters import adapter_hash
from histotune.backbones.identity import weights_hash
from histotune.embeddings.records import EXTERNAL, EmbeddingSpace
from histotune.tools.devices import ComputeDevice, compute_signature
from histotune.tools.files import canonical_json, hash_bytes, hash_json
from histotune.tools.ranks import ProcessRank

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.backbones.spec import BackboneSpec
    from histotune.datasets.config import OnBadImage
    from histotune.embeddings.config import EmbeddingConfig, Storage
    from histotune.images.config import LoaderConfig, ViewConfig
    from histotune.images.hashes import HashIndex


PIPELINE = "2"  # raised whenever the code between a file's bytes and an embedding changes what comes out


def embedding_space(
    spec: BackboneSpec,
    view: ViewConfig,
    device: ComputeDevice,
    precision: Literal["fp32", "bf16", "fp16"],
    index: HashIndex | None = None,
    storage: Storage = "fp32",
) -> EmbeddingSpace:
    """Return the space that embeddings of these settings live in, without importing torch.

    Args:
        spec: The backbone.
        view: How an image becomes its input.
        device: Where it runs.
        precision: Precision of its matrix products.
        index: Remembers the hashes of weight files.
        storage: How rows are kept; part of the space where it is not fp32, so that rows of two roundings never mix.

    Returns:
        The space; its key is the SHA-256 of all other fields but the backbone's name.

    Raises:
        UserError: Weights or adapter are missing and can't be downloaded, or do not belong together.
    """
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
    """Return the space of imported embeddings: nothing is known about them but the files they came in.

    Args:
        name: Name of the backbone, for people.
        files_hash: Hash over the bytes of the files.

    Returns:
        The space; equal files give equal keys, whatever they are called.
    """
    unknown = canonical_json({"name": "unknown"})
    signature = canonical_json({EXTERNAL: "unverified"})
    space = EmbeddingSpace("", name, hash_bytes(EXTERNAL, files_hash), "", unknown, "unknown", signature, "{}")
    return with_key(space)


def with_key(space: EmbeddingSpace) -> EmbeddingSpace:
    """Return the space with the key that its other fields give.

    Args:
        space: A space; its key and its backbone's name do not count.

    Returns:
        The space with its key.
    """
    facts = asdict(space)
    name = facts.pop("backbone")
    facts.pop("key")
    return EmbeddingSpace(key=hash_json(facts), backbone=name, **facts)


# N tiles, B batch, S side, C channels, D columns
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
    """

    spec: BackboneSpec
    view: ViewConfig
    embedding: EmbeddingConfig
    loader: LoaderConfig
    cache: Path
    on_bad_image: OnBadImage = "fail"
    rank: ProcessRank = field(default_factory=ProcessRank)
