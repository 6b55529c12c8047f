"""What an entry of the catalog states, and the shape of its network, built without memory for weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from histotune.backbones.entries import FIGURES, CatalogEntry
from histotune.backbones.model_files import timm_arguments, transformers_config, without_memory
from histotune.backbones.spec import BackboneSpec


def stated_figures(entry: CatalogEntry) -> tuple[str, ...]:
    """Return the figures that an entry states, each of which needs a source."""
    spec, o = entry.spec, entry.overlap
    loadable = entry.own_code is None and spec.kind != "colour-histogram"
    stated = {
        "hub": bool(spec.repository),
        "revision": bool(spec.revision),
        "gated": spec.gated,
        "params": entry.params_m is not None,
        "dim": entry.dim is not None,
        "registers": bool(entry.registers),
        "architecture": bool(spec.model_args),
        "normalisation": loadable,
        "size": loadable,
        "pooling": loadable and spec.default_pooling != ("pooled",),
        "mpp": bool(spec.training_mpp),
        "overlap": {o.tcga, o.camelyon16, o.breakhis} != {"unknown"},
    }
    return tuple(name for name in FIGURES if stated[name])


@dataclass(frozen=True)
class Shape:
    """What was counted.

    Attributes:
        params_m: Parameters in millions, without pooler.
        dim: Width of one column block.
        registers: Register tokens.
    """

    params_m: float
    dim: int
    registers: int


def measure_shape(spec: BackboneSpec, *, with_classifier: bool = False) -> Shape:
    """Build a backbone on torch's ``meta`` device, which takes no memory, and count."""

    with without_memory():
        if spec.kind == "transformers":
            return _transformers_shape(spec)
        import timm

        classes = {} if with_classifier else {"num_classes": 0}
        module = timm.create_model(spec.source.split(".")[0], **classes, **timm_arguments(spec, {}))
    dim = getattr(module, "head_hidden_size", None) or module.num_features
    registers = max(getattr(module, "num_prefix_tokens", 1) - 1, 0)  # the class token is no register
    return Shape(_n_params(module) / 1e6, int(dim), int(registers))


def _transformers_shape(spec: BackboneSpec) -> Shape:
    from transformers import AutoModel

    module = AutoModel.from_config(transformers_config(spec, None))
    registers = getattr(module.config, "num_register_tokens", 0)
    return Shape(_n_params(module) / 1e6, int(module.config.hidden_size), int(registers))


def _n_params(module: torch.nn.Module) -> int:
    return sum(tensor.numel() for name, tensor in module.named_parameters() if not name.startswith("pooler."))


def agrees(entry: CatalogEntry, shape: Shape) -> bool:
    """Return whether a measured shape has the figures that an entry cites.

    A parameter count agrees within one unit of the last digit cited: sources round and cut.
    """
    if entry.dim is None:
        return False
    registers_agree = entry.registers is None or shape.registers == entry.registers
    params_agree = entry.params_m is None or abs(shape.params_m - entry.params_m) <= entry.params_step_m
    return shape.dim == entry.dim and registers_agree and params_agree
