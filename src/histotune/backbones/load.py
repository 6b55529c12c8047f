"""From a spec to a loaded backbone: device, precision, normalisation, named columns."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from histotune.backbones.engine import Engine, EngineConfig
from histotune.backbones.histogram import load_histogram
from histotune.backbones.spec import Backbone, BackboneSpec
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.tools.devices import ComputeDevice


def load_backbone(spec: BackboneSpec, device: ComputeDevice, precision: Literal["fp32", "bf16", "fp16"]) -> Backbone:
    """Load a backbone onto a device.

    Args:
        spec: The backbone.
        device: Where it runs.
        precision: Precision of its matrix products; outputs are float32 in any case.

    Returns:
        The backbone; its columns are the blocks ``cls`` and ``patch_mean`` for networks with a class token, ``pooled``
        for others.

    Raises:
        UserError: Missing or unfitting weights.
    """
    if spec.kind == "colour-histogram":
        return load_histogram(spec)
    if spec.kind == "external":
        raise UserError("imported embeddings have no network that could embed new images", value=spec.name,
                        fix="take a backbone that runs here, such as --backbone lite0")  # fmt: skip
    from histotune.backbones.network import build_network

    config = EngineConfig(device.kind, precision, spec.size_px, spec.mean, spec.std)
    engine = Engine(partial(build_network, spec), config)
    return Backbone(spec, engine.blocks, engine, engine.module, engine.reruns)
