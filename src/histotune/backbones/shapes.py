"""A backbone's architecture at full size without its weights: what can be counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.backbones.arguments import timm_arguments, transformers_config

if TYPE_CHECKING:
    import torch

    from histotune.backbones.entry import CatalogEntry
    from histotune.backbones.spec import BackboneSpec


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
    """Build a backbone on torch's ``meta`` device, which takes no memory, and count.

    Args:
        spec: A catalog spec of kind ``lite0``, ``timm`` or ``transformers``.
        with_classifier: Count timm's classifier too, where a source does.

    Returns:
        Its shape.

    Raises:
        UserError: The installed libraries lack a layer.
    """
    from histotune.backbones.meta import without_memory

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

    Args:
        entry: The entry.
        shape: What was counted.

    Returns:
        True where every cited figure agrees; False where one does not, or none is cited.
    """
    if entry.dim is None:
        return False
    registers_agree = entry.registers is None or shape.registers == entry.registers
    params_agree = entry.params_m is None or abs(shape.params_m - entry.params_m) <= entry.params_step_m
    return shape.dim == entry.dim and registers_agree and params_agree
