"""The hash that says two backbones are the same; no deep-learning library is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.backbones.weights import locate_weights
from histotune.images.hashes import HashIndex
from histotune.tools.files import hash_bytes, hash_file, hash_json

if TYPE_CHECKING:
    from histotune.backbones.spec import BackboneSpec


def weights_hash(spec: BackboneSpec, index: HashIndex | None = None) -> str:
    """Return the SHA-256 that identifies a backbone's weights.

    Pretrained weights: over the bytes of the weight files and config.json, or over the constructor's arguments where
    the catalog gives them. Random weights: over kind, architecture, config.json or arguments, and seed. A name, a
    folder or a revision does not count: equal bytes are the same backbone. An adapter has a hash of its own.

    Args:
        spec: The backbone; hub files are found in the local cache and downloaded where absent.
        index: Remembers file hashes, so that a second run reads no weights.

    Returns:
        64 hexadecimal digits.

    Raises:
        UserError: Weights are missing and can't be downloaded.
    """
    found = locate_weights(spec)
    architecture = "" if spec.kind == "transformers" else spec.source  # config.json says it
    by_arguments = bool(spec.model_args) and (spec.kind == "timm" or found.config is None)
    if by_arguments:
        config = hash_json([list(spec.model_args), spec.layout])
    else:
        config = "" if found.config is None else hash_file(found.config)
    if spec.weights == "random":
        return hash_bytes("random", spec.kind, architecture, config, str(spec.seed))
    hashes = (index or HashIndex(None)).files(found.weights)
    names = tuple(path.name for path in found.weights)
    sharded = names if len(names) > 1 else ()
    return hash_bytes("pretrained", spec.kind, architecture, config, *sharded, *hashes)
