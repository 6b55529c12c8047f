"""Adapters as histotune writes them: peft's own files, and beside them what they belong to and how layers are named."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from histotune.backbones.adapters import SIDECAR
from histotune.backbones.identity import weights_hash
from histotune.tools.files import atomic_folder, write_json
from histotune.tools.provenance import library_version

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.backbones.spec import BackboneSpec
    from histotune.images.hashes import HashIndex


def save_adapter(model: Any, folder: Path, spec: BackboneSpec, index: HashIndex | None = None) -> None:  # noqa: ANN401
    """Save an adapter with the naming of its layers and the weights it was trained on.

    Args:
        model: A ``peft.PeftModel`` around the backbone's network.
        folder: Where it goes; appears when finished, replacing an older one.
        spec: The backbone without an adapter.
        index: Remembers the hashes of weight files.

    Raises:
        UserError: The disk is full, the folder can't be written, or the backbone's weights are gone.
    """
    repository = spec.repository if spec.weights == "pretrained" else ""
    for config in model.peft_config.values():  # never a path of this machine
        config.base_model_name_or_path = repository or spec.name.removeprefix("random/")
        config.revision = spec.revision or None
    base = {
        "name": spec.name,
        "repository": repository,
        "revision": spec.revision,
        "weights_hash": weights_hash(spec, index),
    }
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary, safe_serialization=True)
        (temporary / "README.md").unlink(missing_ok=True)  # peft's empty model card
        write_json(temporary / SIDECAR, {"format": 1, "naming": _naming(model, spec), "base": base})


def _naming(model: Any, spec: BackboneSpec) -> dict[str, object]:  # noqa: ANN401
    """Return how the adapted layers are called, block numbers left out, and by which library."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    network = model.base_model.model
    adapted = {re.sub(r"\.\d+\.", ".N.", name) for name, part in network.named_modules()
               if isinstance(part, BaseTunerLayer)}  # fmt: skip
    library = "transformers" if spec.kind == "transformers" else "timm"
    return {"library": library, "version": library_version(library), "layers": sorted(adapted)}
